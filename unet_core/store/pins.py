"""What a step reads of another step's results: the same from the first block to the last.

A result that is made from two generations of another one would be called done with the digest of one of them. So a step
*pins* what it reads: the digest must be that of the stamp when work on a sample begins, and the folder still the same
right before what was made from it counts as done. Results from before there were generations count by digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from unet_core.images.in_place import InPlace
from unet_core.runtime import UserError
from unet_core.store.result import Result, repair
from unet_core.store.store import LABELS, read_attributes


class Pin(NamedTuple):
    """One generation of a result that is done; use `pin`.

    Attributes
    ----------
    path : Path
        Folder of the result.
    digest, generation : str, str or None
        Which one it was when it was pinned.
    stamp : Path
        The file that says so.
    """

    path: Path
    digest: str
    generation: str | None
    stamp: Path

    def open(self) -> Result:
        """The result, opened.

        Raises
        ------
        UserError
            If it is missing, or was made anew since it was pinned.
        """
        result = Result(self.path)
        self._compare(result.digest, result.generation)
        return result

    def open_image(self) -> Result | InPlace:
        """As `open`, for an image that may stay where it lies."""
        attributes = read_attributes(self.path)
        if "reference" not in attributes:
            return self.open()
        self._compare(attributes.get("digest"), attributes.get("generation"))
        return InPlace(attributes["reference"])

    def check(self) -> None:
        """Raise a `UserError` if the result was made anew since it was pinned."""
        attributes = read_attributes(self.path)
        self._compare(attributes.get("digest"), attributes.get("generation"))

    def _compare(self, *found: Any) -> None:
        if found != (self.digest, self.generation):
            raise _made_anew(self.path, self.stamp)


def pin(path: Path, digest: str, stamp: Path) -> Pin:
    """Pin a result.

    Parameters
    ----------
    path : Path
        Folder of the result.
    digest : str
        Which one it is to be.
    stamp : Path
        The file that says so, for messages.

    Raises
    ------
    UserError
        If it is not there, not done, or another one.
    """
    attributes = read_attributes(path)
    if not attributes:
        raise UserError(f"{path} is missing or damaged; {repair(path)}")
    if attributes.get("digest") != digest or not attributes.get("done"):
        raise _made_anew(path, stamp)
    return Pin(path, digest, attributes.get("generation"), stamp)


def pin_labels(store: Path, sample: str, digest: str, stamp: Path) -> tuple[Pin, Pin, Pin]:
    """Pin instances, classes and ignore mask of a sample, in the store of the step groundtruth."""
    instances, classes, ignore = (pin(store / sample / "labels" / name, digest, stamp) for name in LABELS)
    return instances, classes, ignore


def pin_weights(store: Path, sample: str, digest: str, stamp: Path) -> tuple[Pin, Pin]:
    """Pin target and border term of a sample, in the store of the step weights."""
    return pin(store / sample / "labels" / "target", digest, stamp), pin(store / sample, digest, stamp)


def _made_anew(path: Path, stamp: Path) -> UserError:
    # No run sees by itself that a store was exchanged, as for one of a backup; without the stamp its step looks at it.
    return UserError(
        f"{path} is not what {stamp} says: another run makes it anew, or has; run snakemake again, "
        f"and if it says so again, delete {stamp} before the next run"
    )
