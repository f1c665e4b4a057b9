"""Models that are the mean of several networks.

Each network of such a model is a member. The members are the networks of the folds of a cross-validation
(`config.folds`), or those of the models that the option ensemble lists.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from unet_core.digest import digest
from unet_core.runtime import UserError, read_json, write_stamp

logger = logging.getLogger(__name__)


def members_of(model: Path) -> dict[str, dict[str, str]]:
    """Networks whose mean a model is, from the stamp of the step train.

    A dict: name -> folder (`model`) and digest (`weights`).
    """
    stamp = read_json(model)
    found = stamp.get("members", {model.stem: stamp})
    return {
        name: entry | {"model": str(_folder(model.with_name(f"{name}.json"), entry))} for name, entry in found.items()
    }


def _folder(stamp: Path, entry: dict[str, str]) -> Path:
    """Folder of a network: if it was trained here, beside its stamp, wherever the results have been moved to."""
    own = read_json(stamp) if stamp.is_file() else {}
    return stamp.with_suffix("") if own.get("digest") else Path(entry["model"])


def write_ensemble(members: Sequence[Path], stamp: Path) -> None:
    """Write the stamp of a model that is the mean of several networks, after a look at whether they agree.

    Parameters
    ----------
    members : sequence of Path
        Stamps of the step train.
    stamp : Path
        The output file.

    Raises
    ------
    UserError
        If they have different classes, or images of a different number of channels.
    """
    found = {path.stem: {key: read_json(path)[key] for key in ("model", "weights")} for path in members}
    described = {path.stem: read_json(_folder(path, found[path.stem]) / "model.json") for path in members}
    for key in ("classes", "channels"):
        if len({str(description[key]) for description in described.values()}) > 1:
            listed = "; ".join(f"{name} has {description[key]}" for name, description in described.items())
            raise UserError(
                f"the models of the ensemble {stamp.stem} must have the same {key}, but {listed}; "
                "leave out those that differ"
            )
    weights = digest([entry["weights"] for entry in found.values()])
    logger.info("train: %s is the mean of %s", stamp.stem, ", ".join(found))
    write_stamp(stamp, {"step": "train", "weights": weights, "members": found})
