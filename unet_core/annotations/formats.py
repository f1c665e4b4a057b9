"""The modules that read the annotation formats, by the names that a configuration gives these."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from unet_core.config.formats import DESCRIPTIONS


def module_of(name: str) -> ModuleType:
    """Module that reads a format; imported when it is asked for.

    Every process of Snakemake reads the rules, those of jobs too: libraries of formats that no data set has would cost
    each of them seconds.

    Parameters
    ----------
    name : str
        What the configuration calls the format.
    """
    return import_module(DESCRIPTIONS[name].module)
