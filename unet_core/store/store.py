"""Results in Zarr v3 as OME-NGFF 0.5: one multiscale image per result, with its digest beside it.

An image grows block by block.

A result is a folder ``<store>.zarr/<sample>[/labels/<name>]``. It is *never run* (no folder), *unfinished* (its digest
stands in the attributes, ``done`` is false), or *done*. Blocks write whole shards, and a shard appears whole or not at
all (written aside and renamed), so an unfinished result goes on where it was: a shard of the finest level that exists
is a block that is done. Blocks without any object have shards too.

A folder has one digest for its whole life, and a *generation* that no other folder has. A result of another digest is a
new folder, made aside and renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unet_core.files import make_folders, name_below, open_folder, temporary_path, write_atomic
from unet_core.images.in_place import InPlace
from unet_core.runtime import UserError, versions
from unet_core.store.ngff import METADATA_FILE, NGFF_VERSION, multiscale, read_group, write_array, write_group
from unet_core.store.removal import move_to_trash
from unet_core.store.result import (
    BLOCK,
    CHUNK,
    GONE,
    Kind,
    Overtaken,
    Result,
    Spec,
    made_anew,
    open_for_writing,
    pass_refusal,
    store_of,
)

__all__ = ["BLOCK", "CHUNK", "Kind", "Result", "Spec"]

# Looks at a result that other runs begin or replace at the same moment.
MAX_ATTEMPTS = 20
LABELS = ("instances", "classes", "ignore")


def begin(path: Path, digest: str, spec: Spec, provenance: dict[str, Any], keep: bool = False) -> Result:
    """Open a result for writing: go on with an unfinished one of the same digest, replace any other.

    Parameters
    ----------
    path : Path
        Folder of the result, below a store.
    digest : str
        Hash of all that determines the result.
    spec : Spec
        Shape, type and blocks.
    provenance : dict
        Step, configuration and inputs, kept in the attributes beside the versions of the software.
    keep : bool
        Take over the blocks of another digest, if shape, type and blocks are the same, and label images below: the step
        looks at each of the blocks itself, and `Result.has_block` does not say that it is done.

    Returns
    -------
    Result
        Of the folder that stands there now.
    """
    for _ in range(MAX_ATTEMPTS):
        if (result := _begin(path, digest, spec, provenance, keep)) is not None:
            return result
    raise _again_and_again(path)


def _begin(path: Path, digest: str, spec: Spec, provenance: dict[str, Any], keep: bool) -> Result | None:
    """As `begin`; None where another run came between, so that one has to look again."""
    if (result := _begun(path, digest, spec)) is not None:
        return result

    def fill(folder: int) -> None:
        arrays = [_create_level(folder, spec, level) for level in range(spec.levels)]
        unet = _attributes(digest, spec.kind, provenance, done=False, details={}, arrays=arrays)
        write_group(Path(), {"ome": _ome(path, spec), "unet": unet}, folder)
        if keep:
            _take_over_blocks(path, folder, spec)

    if not _replace(path, fill, keep, lambda found: _begun(found, digest, spec) is not None):
        return None
    return _begun(path, digest, spec)


def _begun(path: Path, digest: str, spec: Spec) -> Result | None:
    """The result of this digest; None if there is none, it is damaged, or another run has just taken it away."""
    with contextlib.suppress(UserError):
        result = Result(path)
        if result.digest == digest and result.levels >= spec.levels:
            return result
    return None


def _attributes(digest: str, kind: Kind, provenance: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Our attributes of a new folder."""
    made = {"provenance": provenance | {"versions": versions()}}
    return {"digest": digest, "generation": uuid.uuid4().hex, "kind": kind} | more | made


def _replace(path: Path, fill: Callable[[int], None], labels: bool, wanted: Callable[[Path], bool]) -> bool:
    """Put a new folder in place of a result; False where another run came between.

    Parameters
    ----------
    path : Path
        Folder of the result.
    fill : callable
        Called with the descriptor of the new folder, which is made aside, so that other runs see all of it or nothing.
    labels : bool
        Whether the label images below, which are results of their own, stay what they are.
    wanted : callable
        Whether a folder that was just taken away is what another run has put there meanwhile, and we want too.
    """
    temporary = temporary_path(path)
    left: list[Path] = [temporary]
    try:
        _make_parents(path)
        temporary.mkdir()
        with open_folder(temporary) as folder:
            fill(folder)
        if wanted(path):
            return False
        if trash := move_to_trash(path):
            left.append(trash)
            if wanted(trash):
                with contextlib.suppress(OSError):
                    trash.rename(path)
                    left.remove(trash)
                    return False
            if labels:
                with contextlib.suppress(FileNotFoundError):
                    (trash / "labels").rename(temporary / "labels")
        temporary.rename(path)
        left.remove(temporary)
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, *GONE):
            name_below(error, path)
            raise
        return False  # another run was faster, or took away a folder above
    finally:
        for folder_left in left:
            shutil.rmtree(folder_left, ignore_errors=True)  # another run may be cleaning up


def _take_over_blocks(path: Path, folder: int, spec: Spec) -> None:
    """Give the shards of a result second names (hard links) below another folder, if the result would be like it.

    All are those of one folder, also where another run replaces it meanwhile. A shard is only ever replaced, never
    changed where it stands: what becomes of one name is nothing to the other.
    """
    try:
        with open_folder(path) as old:
            if not _is_like(path, old, spec):
                return
            for level in range(spec.levels):
                for place, _, names, here in os.fwalk(str(level), dir_fd=old):
                    make_folders(Path(place), folder)
                    for name in names:
                        if not name.startswith(".") and name != METADATA_FILE:
                            with contextlib.suppress(FileNotFoundError):
                                _take_over(name, here, Path(place) / name, folder)
    except OSError as error:
        if error.errno not in GONE:
            raise


def _take_over(name: str, here: int, target: Path, folder: int) -> None:
    try:
        os.link(name, target, src_dir_fd=here, dst_dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError:  # not every file system has links
        with open(name, "rb", opener=lambda file, flags: os.open(file, flags, dir_fd=here)) as file:  # noqa: PTH123
            write_atomic(target, file.read(), durable=False, folder=folder)


def _is_like(path: Path, folder: int, spec: Spec) -> bool:
    """Whether an opened result has the shape, type, blocks and resolutions that one of `spec` would have."""
    try:
        found = Result(path, folder)
        metadata = read_group(Path(), folder)["ome"]
    except (UserError, OSError, LookupError, ValueError) as error:
        pass_refusal(error, path)
        return False
    wanted = (spec.grid, np.dtype(spec.dtype), spec.channels, spec.levels, spec.separator)
    same = (found.grid, found.dtype, found.channels, found.levels, found.separator) == wanted
    return same and metadata == _ome(path, spec)


def write_reference(
    path: Path, digest: str, reference: dict[str, Any], details: dict[str, Any], provenance: dict[str, Any]
) -> None:
    """Note where an image lies instead of copying it, as a result that is done.

    What else stands in the result's folder is deleted; labels stay where such a note stood before.

    Parameters
    ----------
    path : Path
        Folder of the result.
    digest : str
        Hash of all that determines the image.
    reference : dict
        What `in_place.InPlace` needs.
    details : dict
        What the step counted in it.
    provenance : dict
        As in `begin`.
    """
    unet = _attributes(digest, "image", provenance, done=True, reference=reference, details=details)

    def there(found: Path) -> bool:
        attributes = read_attributes(found)
        return (attributes.get("digest"), attributes.get("reference")) == (digest, reference)

    for _ in range(MAX_ATTEMPTS):
        labels = "reference" in read_attributes(path)
        if _replace(path, lambda folder: write_group(Path(), {"unet": unet}, folder), labels, there) or there(path):
            return
    raise _again_and_again(path)


def _again_and_again(path: Path) -> Overtaken:
    return Overtaken(f"other runs replace {path} again and again; let one of them end, then run again")


def open_image_of(store: Path, sample: str) -> Result | InPlace:
    """Image of a sample, from the store of the step groundtruth or from where it lies."""
    reference = read_attributes(store / sample).get("reference")
    return InPlace(reference) if reference else Result(store / sample)


def finish(
    path: Path,
    digest: str,
    details: dict[str, Any],
    channels: list[dict[str, Any]] | None = None,
    generation: str | None = None,
) -> None:
    """Mark a result as done, and keep what the step counted in it.

    Parameters
    ----------
    path : Path
        Folder of the result.
    digest : str
        What the caller computed.
    details : dict
        What it counted.
    channels : list of dict, optional
        How viewers should show its channels (OME-NGFF, ``omero``).
    generation : str, optional
        Of the folder from `begin` (`Result.generation`). One who took over blocks of another digest must name it: it
        has looked at the blocks of that folder alone. Others need not, where a folder is new or has their digest: all
        blocks in it were written for that digest, whichever run wrote them, and one that is missing is noticed.

    Raises
    ------
    UserError
        If the result was begun anew, before or meanwhile, or has gaps.
    """
    with open_for_writing(path, digest, generation) as (folder, attributes):
        unet = attributes["unet"]
        if "reference" not in unet and (gap := next(Result(path, folder).missing_blocks(folder), None)) is not None:
            raise Overtaken(
                f"{path}: block {gap} is gone (another run began it anew, or its file was deleted); run snakemake again"
            )
        if path.parent.name == "labels":
            with open_folder(Path(".."), folder) as labels:
                _list_labels(labels)
        if channels:
            attributes["ome"]["omero"] = {"channels": channels}
        write_group(Path(), attributes | {"unet": unet | {"done": True, "details": details}}, folder)
        if not os.path.samestat(os.fstat(folder), path.stat()):
            raise made_anew(path)


def details_if_done(path: Path, digest: str) -> dict[str, Any] | None:
    """What was counted in a finished result of that digest; None if there is none, or a shard of it is missing."""
    try:
        with open_folder(path) as folder:
            unet = read_group(Path(), folder)["unet"]
            if unet["digest"] != digest or not unet["done"]:
                return None
            whole = "reference" in unet or next(Result(path, folder).missing_blocks(folder), None) is None
            return unet["details"] if whole else None
    except (OSError, LookupError, ValueError) as error:  # a description is gone
        pass_refusal(error, path)
        return None


def read_attributes(path: Path) -> dict[str, Any]:
    """Our attributes of a result (digest, done, kind, details, provenance); empty if there is no result."""
    try:
        return read_group(path)["unet"]
    except (OSError, LookupError, ValueError) as error:
        pass_refusal(error, path)
        return {}


def open_labels(store: Path, sample: str) -> tuple[Result, Result, Result]:
    """Instances, classes and ignore mask of a sample, from the store of the step groundtruth."""
    instances, classes, ignore = (Result(store / sample / "labels" / name) for name in LABELS)
    return instances, classes, ignore


def open_weights(store: Path, sample: str) -> tuple[Result, Result]:
    """Target and border term of a sample, from the store of the step weights."""
    return Result(store / sample / "labels" / "target"), Result(store / sample)


def _make_parents(path: Path) -> None:
    """Make each folder between the store and the result a Zarr group."""
    store = store_of(path)
    parts = path.relative_to(store).parts
    for depth in range(len(parts)):
        folder = store.joinpath(*parts[:depth])
        if not (folder / "zarr.json").is_file():
            write_group(folder, {})


def restore_group(folder: Path) -> None:
    """Write the description of a folder between a store and its results again, if it is damaged or missing."""
    with open_folder(folder) as opened:
        if folder.name == "labels" and folder.parent != store_of(folder):
            _list_labels(opened)
        else:
            write_group(Path(), {}, opened)


def _list_labels(folder: int) -> None:
    """List the label images in an opened folder, as OME-NGFF wants.

    It looks again after it has written, so that of two runs at once the one that writes last has seen both images.
    """
    while True:
        with os.scandir(folder) as entries:
            here = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        wanted = {"version": NGFF_VERSION, "labels": here}
        attributes: dict[str, Any] = {}
        with contextlib.suppress(LookupError, ValueError, FileNotFoundError):
            attributes = read_group(Path(), folder)
        if attributes.get("ome") == wanted:
            return
        write_group(Path(), attributes | {"ome": wanted}, folder)


def _ome(path: Path, spec: Spec) -> dict[str, Any]:
    return multiscale(path.name, spec.levels, spec.pixel_size, spec.channels is not None, spec.kind == "labels")


def _create_level(folder: int, spec: Spec, level: int) -> int:
    y, x = (-(-n // 2**level) for n in spec.shape[1:])
    z, by, bx = spec.grid.block
    lead, names = ((spec.channels,), ["c"]) if spec.channels is not None else ((), [])
    shards, chunks = (*lead, z, by >> level, bx >> level), (*(1 for _ in lead), 1, CHUNK >> level, CHUNK >> level)
    shape, axes = (*lead, spec.shape[0], y, x), [*names, "z", "y", "x"]
    return write_array(Path(str(level)), shape, shards, chunks, spec.dtype, axes, folder, spec.separator)
