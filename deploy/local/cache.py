"""The user's cache folder: tools that were downloaded or built once, for all homes."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.local.home import make_folder_once
from deploy.local.lock import Tell, exclusive


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """``backcast`` in the user's folder for caches; deleting it costs time, never data."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "backcast"


def cached(name: str, make: Callable[[Path], None], tell: Tell) -> Path:
    """The cached folder ``name``; filled by ``make`` if it is missing, by one process at a time.

    ``name`` contains the version and whatever else decides about the contents.
    """
    folder = cache_folder() / name
    if not folder.exists():
        with exclusive(cache_folder() / f"{name}.lock", tell):
            make_folder_once(folder, make)
    return folder
