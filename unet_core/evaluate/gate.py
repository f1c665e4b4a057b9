"""The gate: a retrained model that is worse than the one it replaces is not applied to data sets without annotation."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from unet_core.config.folds import HELD_OUT_SPLIT
from unet_core.config.options import Evaluate
from unet_core.evaluate.history import compare, read_history, read_images
from unet_core.files import write_atomic
from unet_core.runtime import UserError, read_json, write_stamp
from unet_core.sealed import seal, unseal

logger = logging.getLogger(__name__)

# What is compared, on images that were not trained on: foreground, outlines, objects, their classes.
GATED_MEASURES, GATED_SPLITS = ("iou", "seg", "ap50", "class_ap50"), ("test", HELD_OUT_SPLIT)


def check_gate(cfg: Evaluate, *, model: Path, evaluations: dict[str, Path], history: Path, stamp: Path) -> None:
    """Compare a model with the one that was accepted before it, and accept it or stop.

    Both are compared on the same images, which neither was trained on.

    It is refused if a measure of a data set is lower by more than the margin, and the 95 % interval of the difference
    (paired bootstrap over images) lies below 0; with a single image the difference alone decides.

    Parameters
    ----------
    cfg : Evaluate
        `gate` and `gate_margin`.
    model : Path
        Stamp of the step train.
    evaluations : dict
        Data set -> stamp of the step evaluate.
    history : Path
        ``<results>/evaluate/history/<model>``; gets ``accepted.json``.
    stamp : Path
        The output file.

    Raises
    ------
    UserError
        With the table, if the model is worse.
    """
    weights, accepted = read_json(model)["weights"], _accepted(history, read_json(model)["weights"], list(evaluations))
    changes = _changes(evaluations, history, accepted) if accepted not in (None, weights) else pd.DataFrame()
    worse = changes[(changes["difference"] < -cfg.gate_margin) & ~(changes["high"] >= 0)] if len(changes) else changes
    if cfg.gate and len(worse):
        # From now on it is known which model is to be reached again, whatever is trained until then.
        _accept(history, str(accepted))
        shown = changes.to_string(index=False, float_format="%.3f", na_rep="-")
        raise UserError(
            f"model {history.name} is worse than the one it replaces: {_list(worse)} fell by more than "
            "evaluate.gate_margin = "
            f"{cfg.gate_margin:g} on the same images. Data sets without annotation are not segmented with "
            f"it.\n{shown}\n"
            "Look at the annotations and options that changed since. To go on with the new model: "
            "snakemake --config gate=off"
        )
    if len(changes):
        logger.info(
            "gate: model %s is %s\n%s",
            history.name,
            "accepted, though worse" if len(worse) else "accepted",
            changes.to_string(),
        )
    else:
        why = (
            "the one that was accepted"
            if accepted == weights
            else "accepted: no other one was scored on the same images"
        )
        logger.info("gate: model %s is %s", history.name, why)
    _accept(history, weights)
    write_stamp(stamp, {"step": "gate", "weights": weights})


def _accepted(history: Path, weights: str, datasets: list[str]) -> str | None:
    """Weights of the model to compare with: the one accepted last, or else the latest other one that was scored."""
    path = history / "accepted.json"
    try:
        return str(unseal(path.read_bytes())["weights"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError) as error:
        logger.warning(
            "gate: %s is damaged (%s): model %s is compared with the latest other one that was scored",
            *(path, error, history.name),
        )
    lines = [
        line for name in datasets for line in read_history(history / f"{name}.jsonl") if line["weights"] != weights
    ]
    return max(lines, key=lambda line: line["time"])["weights"] if lines else None


def _accept(history: Path, weights: str) -> None:
    write_atomic(history / "accepted.json", (seal({"weights": weights}) + "\n").encode())


def _changes(evaluations: dict[str, Path], history: Path, accepted: str | None) -> pd.DataFrame:
    """Change of the gated measures in each data set.

    It is taken on the images for tests or cross-validation that both models were scored on.
    """
    tables = []
    for name, stamp in evaluations.items():
        path = history / f"{name}.jsonl"
        digests = [line["digest"] for line in read_history(path) if line["weights"] == accepted]
        before = read_images(path, digests[-1]) if digests else None
        after = read_images(path, read_json(stamp).get("digest", ""))
        if before is not None and after is not None:
            change = compare(before, after)
            tables.append(
                change[change["split"].isin(GATED_SPLITS) & change["measure"].isin(GATED_MEASURES)].assign(dataset=name)
            )
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    return table[["dataset", *(column for column in table.columns if column != "dataset")]]


def _list(worse: pd.DataFrame) -> str:
    return ", ".join(
        f"{measure} on {dataset}" for measure, dataset in zip(worse["measure"], worse["dataset"], strict=True)
    )
