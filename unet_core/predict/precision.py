"""In which arithmetic samples are predicted: chosen once for all workers, and kept where a sample is half done."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from unet_core.config.options import Predict
from unet_core.engine import Engine
from unet_core.network.device import device
from unet_core.network.precision import Choice, choose
from unet_core.store.store import read_attributes

logger = logging.getLogger(__name__)


def precision_of(
    cfg: Predict, dimensions: int, pending: Sequence[tuple[Path, str]], engine: Engine
) -> list[dict[str, str]]:
    """Arithmetic of samples that are not done: what was chosen (`chosen`), and for which `device`.

    It is measured in one worker and holds for all blocks, whichever workers compute them. What is half done goes on as
    it was begun, wherever the run goes on: each sample says it in its provenance.

    Parameters
    ----------
    cfg : Predict
        Options.
    dimensions : {2, 3}
        Of the network.
    pending : sequence of (Path, str)
        Folder of each sample's result, and the digest that is wanted.
    engine : Engine
        Where blocks are worked on.
    """
    begun = [_begun_in(path, wanted) for path, wanted in pending]
    chosen: dict[str, str] = {}
    if cfg.precision != "auto" or not all(begun):
        ((_, choice),) = engine.run(functools.partial(_choose, cfg=cfg), [dimensions], 1, "precision")
        choice.tell("predict")
        chosen = {"chosen": choice.chosen, "device": choice.device}
    for before, device_before in sorted({(one["chosen"], one["device"]) for one in begun if one and one != chosen}):
        logger.info("predict: what is half done in %s (begun on %s) goes on so", before, device_before)
    return [one or chosen for one in begun]


def _begun_in(path: Path, wanted: str) -> dict[str, str]:
    """What a result of this digest says of its arithmetic; empty if there is none."""
    attributes = read_attributes(path)
    found = attributes.get("provenance", {}).get("precision") if attributes.get("digest") == wanted else None
    return dict(found or {})


def _choose(dimensions: int, cfg: Predict) -> Choice:
    return choose(cfg.precision, "predict", dimensions, device())
