"""Learning curves while training runs: scalars for TensorBoard, and a line of the log."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from unet_core.files import naming

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

logger = logging.getLogger(__name__)

FOLDER = "tensorboard"


@contextmanager
def live_curves(folder: Path, step: int) -> Iterator[EventsWriter]:
    """An event file that ``tensorboard --logdir <results>/train`` shows while it grows.

    Parameters
    ----------
    folder : Path
        The model's folder; the files go into ``tensorboard/`` in it.
    step : int
        Steps done: curves of an earlier run are kept up to there.
    """
    events = folder / FOLDER
    if step == 0:
        shutil.rmtree(events, ignore_errors=True)
    events.mkdir(parents=True, exist_ok=True)
    # Both take half a second to import, and jobs with nothing to do need them not. The writer for general use has a
    # thread and a queue, on which training would wait for ever after the disk was full.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    # Names of files tell seconds only: without the step a run that goes on at once would overwrite the file before.
    with naming(events):
        writer = EventsWriter(str(events / "events"), filename_suffix=f".{step}")
    if step:  # what was shown of later steps goes
        start = SessionLog(status=SessionLog.START)
        for event in (Event(step=step + 1, file_version="brain.Event:2"), Event(step=step + 1, session_log=start)):
            writer.write_event(event)
    try:
        yield writer
    finally:
        with contextlib.suppress(OSError):  # all is written already, or the error is told
            writer.close()


def show(writer: EventsWriter, entry: dict[str, float], folder: Path) -> None:
    """Add the scores of a validation to the curves of the model in a folder."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    with naming(folder / FOLDER):
        for name, value in entry.items():
            if name != "step":
                summary = scalar(name, value)
                writer.write_event(Event(step=int(entry["step"]), wall_time=time.time(), summary=summary))
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
