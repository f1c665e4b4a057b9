"""Values of the section train for common purposes: what a preset does not name stays at its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unet_core.config.options import Train
from unet_core.config.section import merge

PRESETS: dict[str, dict[str, Any]] = {
    # Ronneberger, Fischer, Brox 2015, and nothing else. The paper names no flips, no schedule, and neither gamma nor
    # noise.
    "paper2015": {
        "network": {"depth": 4, "width": 64, "dropout": 0.5, "norm": "none", "up_kernel": 2, "final_kernel": 1},
        "tile": 572,
        "batch": 1,
        "optimiser": "sgd",
        "momentum": 0.99,
        "schedule": "constant",
        "warmup": 0,
        "augment": {"flip": False, "scale": 1.0, "elastic_sigma": 10.0, "elastic_grid": 3, "gamma": 0.0, "noise": 0.0},
    },
    # For a GPU: normalisation, AdamW with a schedule, more variation, low precision where the device is faster in it.
    "modern": {
        "network": {"width": 32, "dropout": 0.0, "norm": "batch"},
        "batch": 4,
        "foreground": 0.33,
        "optimiser": "adamw",
        "learning_rate": 0.002,
        "weight_decay": 0.01,
        "clip": 1.0,
        "precision": "auto",
        "augment": {"scale": 1.25, "noise": 0.1, "blur": 1.0},
    },
    # For a few CPU cores: minutes to an hour.
    "small": {
        "network": {"depth": 3, "width": 16, "dropout": 0.0, "norm": "batch"},
        "tile": 292,
        "batch": 4,
        "optimiser": "adamw",
        "learning_rate": 0.005,
        "validate_every": 250,
        "augment": {"scale": 1.25, "elastic_sigma": 5.0},
    },
    # What tutorials of PyTorch teach, but unpadded.
    "tutorial": {
        "network": {
            "depth": 3,
            "width": 32,
            "dropout": 0.0,
            "norm": "batch",
            "norm_position": "after_relu",
            "up_kernel": 3,
            "final_kernel": 3,
        },
        "batch": 4,
        "optimiser": "adamw",
        "learning_rate": 0.001,
        "schedule": "constant",
        "augment": {"elastic_sigma": 0.0},
    },
}


def with_preset(own: Mapping[str, Any], *, of_a_model: bool = False) -> dict[str, Any]:
    """The keys of a section train, with those of its preset where it does not set them itself.

    Parameters
    ----------
    own : mapping
        What stands in the configuration.
    of_a_model : bool
        A preset that is named for a model counts from the defaults; nothing of the common section train is left.

    Returns
    -------
    dict
        Unchecked, but for the preset's name: with an unknown one the keys as they were. For a 3D network without the
        preset's tile, which is one of 2D.
    """
    name = own.get("preset")
    if not isinstance(name, str) or name not in PRESETS:
        return dict(own)
    base = Train().model_dump() if of_a_model else {}
    network = own.get("network")
    volumes = isinstance(network, Mapping) and network.get("dimensions") == 3
    preset = {key: value for key, value in PRESETS[name].items() if not (volumes and key == "tile")}
    return merge(merge(base, preset), own)
