"""A small threaded HTTP/1.1 server for a WSGI application, which keeps connections open.

werkzeug's own closes each connection after its answer; a pilot makes thousands of small calls, so here they stay open.
Bodies are buffered (on disk above 16 MiB) before the application sees them.
"""

from __future__ import annotations

import io
import logging
import socket
import tempfile
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit

from pyanamo_core.local.front import AnswerLostError, Application

SPOOL_BYTES: Final = 16 * 2**20
IDLE_SECONDS: Final = 300
log = logging.getLogger(__name__)


class Server(ThreadingHTTPServer):
    """Serves one application on 127.0.0.1."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, port: int, application: Application | None = None) -> None:
        self.application = application
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""
        log.debug("connection of %s", client_address, exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One connection: request after request until somebody closes it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024
    timeout = IDLE_SECONDS
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle_one_request(self) -> None:
        """As the base class, but for all methods alike."""
        try:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or len(self.raw_requestline) > 65536:
                self.close_connection = True
                return
            if self.parse_request():
                self._answer()
                self.wfile.flush()
        except (TimeoutError, ConnectionError, AnswerLostError):
            self._hang_up()

    def handle_expect_100(self) -> bool:
        """Say at once that the body may come: boto3 waits a second for that before each upload."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _hang_up(self) -> None:
        self.close_connection = True
        # Nothing that is buffered may still go out when the connection is closed.
        self.wfile = io.BytesIO()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self) -> None:
        application = self.server.application
        if application is None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        with self._read_body() as body:
            told: list[tuple[str, list[tuple[str, str]]]] = []

            def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
                told[:] = [(status, headers)]

            environ = self._environ(body)
            try:
                answer = application(environ, start_response)
                data = b"".join(answer)
            except AnswerLostError:
                raise
            except Exception:  # moto broke: say so as a server does, and go on
                log.exception("%s %s", self.command, self.path)
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
                return
            self._write(*told[0], data)

    def _read_body(self) -> IO[bytes]:
        body: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
        for piece in self._pieces():
            body.write(piece)
        body.seek(0)
        return body

    def _pieces(self) -> Iterable[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self.rfile.read(min(left, 1 << 20))
            if not piece:
                raise ConnectionError
            left -= len(piece)
            yield piece

    def _environ(self, body: IO[bytes]) -> dict[str, Any]:
        url = urlsplit(self.path if "://" in self.path else f"//host{self.path}")
        body.seek(0, io.SEEK_END)
        length = body.tell()
        body.seek(0)
        environ: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": body,
            "wsgi.input_terminated": True,
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(url.path, "latin-1"),
            "QUERY_STRING": url.query,
            "REQUEST_URI": self.path,
            "RAW_URI": self.path,
            "REMOTE_ADDR": self.client_address[0],
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self.server.server_address[1]),
            "SERVER_PROTOCOL": self.request_version,
        }
        for name, value in self.headers.items():
            key = name.upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = f"HTTP_{key}"
            if key == "HTTP_TRANSFER_ENCODING":
                continue  # the body has been put together already
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        environ["CONTENT_LENGTH"] = str(length)
        return environ

    def _write(self, status: str, headers: list[tuple[str, str]], data: bytes) -> None:
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        bodiless = self.command == "HEAD" or int(code) in (204, 304) or int(code) < 200
        for name, value in headers:
            if name.lower() == "content-length" and self.command != "HEAD":
                continue
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        if not bodiless:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not bodiless:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""
