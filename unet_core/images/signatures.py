"""Whether a file still is what it was when it was looked at, without reading it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unet_core.digest import digest
from unet_core.images import zarr_images
from unet_core.images.readers import FILE_TYPES, is_url, path_of
from unet_core.patterns import ending_of


def kind_of(path: Path) -> str:
    """Kind of a file, as `FILE_TYPES` has it; empty if it is none of an image."""
    return FILE_TYPES.get(ending_of(path).lower(), "")


def signature_of(path: Path, internal: str = "") -> Any:
    """What tells cheaply whether a file may have changed: size and time; of Zarr see `zarr_images.looks_of`.

    Raises
    ------
    OSError
        If it is not there.
    """
    status = path.stat()
    if path.is_dir():
        return digest(zarr_images.looks_of(path, internal)) if kind_of(path) == "Zarr" else ""
    return [status.st_size, status.st_mtime_ns]


def changed(looks: Iterable[Sequence[Any]]) -> list[str]:
    """Files that do not look any more as they did; `FileHashes.looks` says how they did."""
    found = []
    for file, internal, seen in looks:
        path = path_of(file)
        with contextlib.suppress(OSError):
            if is_url(path) or signature_of(path, internal) == seen:
                continue
        found.append(file)
    return found
