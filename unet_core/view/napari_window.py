"""Samples in napari: one at a time, by keys."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from unet_core.runtime import UserError
from unet_core.view.layers import Layers

NEXT_KEY, PREVIOUS_KEY = "PageDown", "PageUp"
INSTALL = "install it: .venv/bin/pip install --constraint constraints.txt --editable '.[view]'"


class Browser:
    """Shows the layers of one sample after the other.

    What is switched on and off stays so for the next sample.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Where they are shown: ``napari.Viewer`` is one, and has a window.
    samples : sequence of str
        Their names.
    layers_of : callable
        The layers of a sample.
    start : int
        Number of the first one to be shown.
    """

    def __init__(self, viewer: Any, samples: Sequence[str], layers_of: Callable[[str], Layers], start: int = 0) -> None:
        self.viewer, self.samples, self._layers_of, self.position = viewer, samples, layers_of, start
        viewer.bind_key(NEXT_KEY, lambda _: self.move(1), overwrite=True)
        viewer.bind_key(PREVIOUS_KEY, lambda _: self.move(-1), overwrite=True)
        self.show()

    def move(self, by: int) -> None:
        """Show the sample that lies so many places farther; after the last one comes the first."""
        self.position = (self.position + by) % len(self.samples)
        self.show()

    def show(self) -> None:
        """Replace all layers by those of the present sample."""
        sample = self.samples[self.position]
        made = self._layers_of(sample)
        visible = {_kind_of(layer.name): layer.visible for layer in self.viewer.layers}
        self.viewer.layers.clear()
        for layer in made.layers:
            shown = layer.shown | ({"visible": v} if (v := visible.get(_kind_of(layer.name))) is not None else {})
            several = len(layer.levels) > 1
            added = getattr(self.viewer, f"add_{layer.kind}")(
                layer.levels if several else layer.levels[0],
                multiscale=several,
                name=layer.name,
                scale=layer.scale,
                units=("um",) * len(layer.scale),
                **shown,
            )
            if layer.contour:
                added.contour = layer.contour
        self.viewer.title = f"{sample} ({self.position + 1} of {len(self.samples)})"
        self.viewer.scale_bar.visible = True
        self.viewer.status = "; ".join(made.absent)
        self.viewer.reset_view()


def _kind_of(name: str) -> str:
    """Name of a layer without what differs from sample to sample."""
    return name.partition(" (")[0]


def open_window(samples: Sequence[str], layers_of: Callable[[str], Layers], start: int) -> None:
    """Open a window and wait until it is closed.

    Raises
    ------
    UserError
        If napari has nothing to draw a window with.
    """
    import napari  # an extra

    try:
        viewer = napari.Viewer()
    except ImportError as error:
        raise UserError(f"napari cannot open a window ({error}); {INSTALL}") from None
    Browser(viewer, samples, layers_of, start)
    napari.run()


def why_no_window() -> str:
    """Why a window cannot be opened here, and what to do; empty where it can."""
    if importlib.util.find_spec("napari") is None:
        return f"napari is not installed; {INSTALL}"
    # Without a screen Qt ends the process.
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
    if sys.platform.startswith("linux") and not screen:
        return "there is no screen here; log in with one, or copy the results to a machine that has one"
    return ""
