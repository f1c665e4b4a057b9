"""The modules that read the annotation formats, by the names that a configuration gives these."""

from importlib import import_module

from unet_core.config.formats import DESCRIPTIONS

FORMATS = {name: import_module(described.module) for name, described in DESCRIPTIONS.items()}
