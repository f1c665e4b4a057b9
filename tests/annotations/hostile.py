"""Reads one hostile annotation in a process that may use 1 GiB beside what it starts with.

Prints the error that the reader gives; any other end is a fault.
"""

from __future__ import annotations

import resource
from pathlib import Path

from unet_core.annotations.formats import module_of
from unet_core.annotations.layer import Image, Images, Told
from unet_core.config.datasets import Annotation

SHAPE = (1, 40, 50)


def main(name: str, file: str) -> None:
    """Find and read the annotation of image `a`."""
    with open("/proc/self/statm", encoding="ascii") as status:
        used = int(status.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
    images: Images = [Image("a")]
    try:
        module_of(name).find(file, images)
        files = (Path(file),)
        for layer in module_of(name).read(
            files, images[0], SHAPE, Annotation.model_validate({"format": name, "path": file})
        ):
            assert isinstance(layer, Told) or layer.position.size <= SHAPE[1] * SHAPE[2]
    except ValueError as error:
        print(f"ValueError: {error}")
