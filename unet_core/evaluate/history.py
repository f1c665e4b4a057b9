"""What earlier evaluations gave: one line for each, with a table of its images, so that any two can be compared."""

from __future__ import annotations

import functools
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from unet_core.digest import hash_of_file
from unet_core.evaluate.bootstrap import Sums, differences, score
from unet_core.files import write_atomic, write_changed
from unet_core.sealed import keep_aside, seal, unseal_lines

logger = logging.getLogger(__name__)

# The main measures, with the score where the images add up to nothing.
MEASURES = {
    "iou": 1.0,
    "dice": 1.0,
    "seg": float("nan"),
    "ap50": 1.0,
    "ap75": 1.0,
    "pixel_error": 0.0,
    "rand_error": 0.0,
    "class_ap50": 1.0,
}
# Data sets of one class, and lines of former versions, do without.
OF_CLASSES = {"class_ap50"}
KEYS = ["sample", "split", "truth"]


def sums_of(images: pd.DataFrame, end: str = "") -> dict[str, Sums]:
    """Main measures as sums over images.

    Parameters
    ----------
    images : DataFrame
        One row per image, with the columns ``<measure>_over`` and ``<measure>_under``: each measure is the sum of the
        one divided by the sum of the other. A measure of classes may be missing.
    end : str
        Ending of the names of the columns.
    """
    here = [name for name in MEASURES if name not in OF_CLASSES or f"{name}_over{end}" in images]
    columns = {name: [images[f"{name}_{part}{end}"].to_numpy(float) for part in ("over", "under")] for name in here}
    return {name: Sums(over, under, MEASURES[name]) for name, (over, under) in columns.items()}


def compare(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Change of the main measures on the images that both have, with the same annotation.

    Parameters
    ----------
    before, after : DataFrame
        Tables of images, as for `sums_of`, with `sample`, `split` and `truth` (the digest of the annotation).

    Returns
    -------
    DataFrame
        split, measure, n_images, before, after, difference, and the ends low and high of its 95 % interval (paired
        bootstrap over images; missing where there is one image).
    """
    both = before.merge(after, on=KEYS, suffixes=("_before", "_after")).sort_values(KEYS)
    rows = []
    for split, images in both.groupby("split"):
        old, new = (sums_of(images, end) for end in ("_before", "_after"))
        old, new = ({name: sums[name] for name in sums if name in old and name in new} for sums in (old, new))
        for name, interval in differences(old, new).items():
            values = {"before": score(old[name]), "after": score(new[name])}
            ends = interval._asdict() if interval else {"low": None, "high": None}
            change = {"difference": values["after"] - values["before"]}
            rows.append({"split": split, "measure": name, "n_images": len(images)} | values | change | ends)
    columns = ["split", "measure", "n_images", "before", "after", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype({"low": float, "high": float})


def read_history(path: Path) -> list[dict[str, Any]]:
    """Evaluations of a model on a data set, the latest last; damaged lines are left out, which is told.

    Parameters
    ----------
    path : Path
        ``<results>/evaluate/history/<model>/<data set>.jsonl``.

    Returns
    -------
    list of dict
        time, digest, weights (digest of the model), scores by split, change by split and measure since the line before,
        and images, the checksum of the table of images, which lines of former versions do not have.
    """
    found, damaged = _lines(path)
    if damaged:
        _tell(f"{path}: {damaged} of {len(found) + damaged} lines are damaged: those evaluations are left out")
    return found


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Evaluations, and how many other lines there are, which are damaged."""
    lines, damaged = unseal_lines(path)
    found = [line for line in lines if all(isinstance(line.get(key), str) for key in ("time", "digest", "weights"))]
    return found, damaged + len(lines) - len(found)


@functools.cache
def _tell(text: str) -> None:
    """Warn, but once in a job: a history is read several times."""
    logger.warning("evaluate: %s", text)


def read_images(path: Path, digest: str) -> pd.DataFrame | None:
    """Table of the images of one evaluation; None where it is gone or damaged, the latter of which is told."""
    table, wanted = _images(path, digest), [line.get("images") for line in _lines(path)[0] if line["digest"] == digest]
    try:
        if wanted and wanted[-1] not in (None, hash_of_file(table)):
            raise ValueError("its checksum is another one")
        images = pd.read_csv(table, dtype=dict.fromkeys(KEYS, str), keep_default_na=False)
        wanted_columns = {f"{name}_{part}" for name in {*MEASURES} - OF_CLASSES for part in ("over", "under")}
        if not {*KEYS} | wanted_columns <= {*images.columns}:
            raise ValueError("columns are missing")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _tell(f"{table} is damaged ({error}): nothing is compared with that evaluation")
        return None
    return images


def keep_evaluation(path: Path, images: pd.DataFrame, scores: dict[str, Any], weights: str, digest: str) -> None:
    """Add an evaluation to the history, unless it is the latest there.

    Parameters
    ----------
    path : Path
        ``<results>/evaluate/history/<model>/<data set>.jsonl``; the table of images goes to ``<data set>/<digest>.csv``
        beside it.
    images : DataFrame
        As for `compare`.
    scores : dict
        Scores by split.
    weights : str
        Digest of the model.
    digest : str
        Of all that determines the scores.
    """
    earlier = read_history(path)
    damaged = _lines(path)[1]
    last = earlier[-1] if earlier else None
    text = images.to_csv(index=False).encode()
    if last is None or last["digest"] != digest:
        before = read_images(path, last["digest"]) if last else None
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "digest": digest,
            "weights": weights,
            "scores": scores,
        }
        entry["change"] = {} if before is None else _by_split(compare(before, images))
        write_atomic(_images(path, digest), text)
        earlier.append(entry | {"images": hash_of_file(_images(path, digest))})
    elif read_images(path, digest) is None:
        write_atomic(_images(path, digest), text)
        earlier[-1] = last | {"images": hash_of_file(_images(path, digest))}
    content = "".join(f"{seal(line)}\n" for line in earlier).encode()
    if damaged:
        logger.warning("evaluate: %s is written without its damaged lines, and kept as %s", path, keep_aside(path).name)
    # Written whole: a line that was cut short would spoil the next one too.
    write_changed(path, content)


def _images(path: Path, digest: str) -> Path:
    return path.with_suffix("") / f"{digest}.csv"


def _by_split(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Split -> measure -> its change, None for what has no value."""
    found: dict[str, dict[str, Any]] = {}
    for record in table.astype(object).where(table.notna(), None).to_dict("records"):
        row = {str(key): value for key, value in record.items()}
        found.setdefault(row.pop("split"), {})[row.pop("measure")] = row
    return found
