"""Look at results: ``python -m unet_core view [RESULTS] [MODEL] [DATASET] [SAMPLE]``.

With napari (the extra ``view``) it opens a window with all layers of the sample; without it, or without a screen, it
says how other tools open the stores.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from unet_core.report.gallery import Places
from unet_core.runtime import UserError, read_json
from unet_core.view.elsewhere import instructions
from unet_core.view.layers import Layers, layers_of
from unet_core.view.napari_window import NEXT_KEY, PREVIOUS_KEY, open_window, why_no_window

# Names that a message lists.
MAX_NAMES = 20


class Chosen(NamedTuple):
    """What is to be looked at: the samples of a data set, the first one to be shown, and the names of its classes."""

    places: Places
    samples: list[str]
    start: int
    classes: list[str]


def choose(results: Path, model: str | None = None, dataset: str | None = None, sample: str | None = None) -> Chosen:
    """Find what is to be looked at.

    Parameters
    ----------
    results : Path
        Folder of all results.
    model, dataset, sample : str, optional
        Names; without one, the first there is. Of the data sets those that the model was applied to come first.
        Without any model, images and annotations are shown alone.

    Raises
    ------
    UserError
        If there is nothing of that name; the message lists the names there are.
    """
    stamps = sorted(path for path in (results / "groundtruth").glob("[!.]*.json") if not path.stem.endswith(".files"))
    datasets = [path.stem for path in stamps]
    if not datasets:
        raise UserError(f"{results} has no data sets; name the folder of results (by default 'results')")
    applied = sorted({(path.parent.name, path.stem) for path in results.glob("predict/*/[!.]*.json")})
    applied = [(own, name) for own, name in applied if name in datasets]
    models = list(dict.fromkeys(own for own, _ in applied))
    own = _named("model", model, models) if model or models else ""
    mine = [name for by, name in applied if by == own]
    name = _named("data set", dataset, [*mine, *(one for one in datasets if one not in mine)])
    stamp = read_json(results / "groundtruth" / f"{name}.json")
    # A name is a folder in the store; what a stamp from elsewhere says must not lead out of it.
    samples = [one for one in stamp["samples"] if one and Path(one).name == one and not one.startswith(".")]
    first = _named("sample", sample, samples)
    return Chosen(Places(results, own, name), samples, samples.index(first), stamp["classes"])


def _named(what: str, wanted: str | None, names: Iterable[str]) -> str:
    """The name that is wanted, or else the first."""
    listed = list(names)
    if wanted in listed:
        return wanted
    if wanted is None and listed:
        return listed[0]
    if not listed:
        raise UserError(f"there is no {what}" + (f" {wanted!r}" if wanted else "") + "; run snakemake first")
    more = f" and {len(listed) - MAX_NAMES} more" if len(listed) > MAX_NAMES else ""
    raise UserError(f"there is no {what} {wanted!r}; there are {', '.join(listed[:MAX_NAMES])}{more}")


def _told_layers(sample: str, places: Places, classes: list[str]) -> Layers:
    """Layers of a sample; what is not there is told in the terminal."""
    made = layers_of(places, sample, classes)
    print(f"view: {sample}" + "".join(f"\n  {line}" for line in made.absent), flush=True)
    return made


def main(arguments: list[str]) -> None:
    """Read the command line, and show the samples."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_core view",
        description="Images, annotations, objects, probabilities and errors of a data set in napari, sample by sample.",
    )
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="by default 'results'")
    for name in ("model", "dataset", "sample"):
        parser.add_argument(name, nargs="?", help="by default the first")
    parser.add_argument(
        "--paths", action="store_true", help="do not open a window; say how other tools open the sample"
    )
    asked = parser.parse_args(arguments)
    try:
        chosen = choose(asked.results, asked.model, asked.dataset, asked.sample)
        if asked.paths or (why := why_no_window()):
            if not asked.paths:
                print(f"view: {why}.\nOther tools open the same stores:\n")
            print(instructions(chosen.places, chosen.samples[chosen.start]))
            return
        print(f"view: {NEXT_KEY} and {PREVIOUS_KEY} show the next and the previous of {len(chosen.samples)} samples")
        show = functools.partial(_told_layers, places=chosen.places, classes=chosen.classes)
        open_window(chosen.samples, show, chosen.start)
    except UserError as error:
        sys.exit(f"view: {error}")
