"""Where the packaged folders are: task_scripts, deployments and docker, from a wheel as from a checkout."""

from __future__ import annotations

from pathlib import Path

from pyanamo_core.errors import NotFound

_PACKAGE = Path(__file__).resolve().parent


class ResourceMissing(NotFound):
    """The packaged folder or file {name} is in neither {packaged} nor {checkout}. Install PyAnamo again."""


def resource(name: str) -> Path:
    """Path of a packaged folder, or of a file in one, e.g. `task_scripts` or `docker/gatk/jars.lock`.

    A wheel carries them below pyanamo_core/packaged; in a checkout they lie at its root.

    Raises:
        ResourceMissing: in neither place.
    """
    packaged, checkout = _PACKAGE / "packaged" / name, _PACKAGE.parent / name
    for place in (packaged, checkout):
        if place.exists():
            return place
    raise ResourceMissing(name=name, packaged=packaged, checkout=checkout)
