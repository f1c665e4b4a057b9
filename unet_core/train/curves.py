"""Learning curves while training runs: scalars for TensorBoard, and a line of the log."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

logger = logging.getLogger(__name__)

FOLDER = "tensorboard"


@contextmanager
def live_curves(folder: Path, step: int) -> Iterator[SummaryWriter]:
    """Event files that ``tensorboard --logdir <results>/train`` shows while they grow.

    Parameters
    ----------
    folder : Path
        The model's folder; the files go into ``tensorboard/`` in it.
    step : int
        Steps done: curves of an earlier run are kept up to there.
    """
    if step == 0:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    # Names of files tell seconds only: without the step a run that goes on at once would overwrite the file before.
    from tensorboardX import SummaryWriter  # takes half a second, and jobs with nothing to do need it not

    writer = SummaryWriter(str(folder / FOLDER), purge_step=step + 1 if step else None, filename_suffix=f".{step}")
    try:
        yield writer
    finally:
        writer.close()


def show(writer: SummaryWriter, entry: dict[str, float]) -> None:
    """Add the scores of a validation to the curves."""
    for name, value in entry.items():
        if name != "step":
            writer.add_scalar(name, value, int(entry["step"]))
    writer.flush()


def log_entry(entry: dict[str, float], steps: int, per_second: float) -> None:
    """Write the scores of a validation, with speed and time left, as one line of the log."""
    scores = ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in entry.items()
        if name not in ("step", "learning_rate")
    )
    left = (steps - entry["step"]) / per_second if per_second else 0.0
    hours, minutes = divmod(round(left / 60), 60)
    logger.info(
        "train: step %d of %d, %s; %.3g steps/s, %d:%02d h left",
        entry["step"],
        steps,
        scores,
        per_second,
        hours,
        minutes,
    )
