"""The local cloud: a WSGI front over moto's server, and AWS Batch as processes of this machine.

`up`, `status`, `env` and `down` are the command's; `ensure_compute` makes a queue and a job definition in it.
"""

from pyanamo_core.local.cloud import LocalCloud, Options, down, env, export_lines, status, up

__all__ = ["LocalCloud", "Options", "down", "env", "export_lines", "status", "up"]
