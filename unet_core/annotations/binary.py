"""Binary masks: background is 0, objects anything else; each connected part (over faces) is an object."""

from __future__ import annotations

from unet_core.annotations.boundaries import read
from unet_core.annotations.labels import find

__all__ = ["find", "read"]
