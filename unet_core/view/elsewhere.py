"""How other tools open the stores of a sample."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from urllib.parse import quote

from unet_core.report.gallery import Places
from unet_core.runtime import UserError
from unet_core.store.store import read_attributes

PORT = 8000
NEUROGLANCER = "https://neuroglancer-demo.appspot.com/#!"


def stores_of(places: Places, sample: str) -> dict[str, Path]:
    """Folders of what is there of a sample, each an image of OME-Zarr: what it is -> where it lies."""
    truth = places.results / "groundtruth" / f"{places.dataset}.zarr" / sample
    folders = {"image": truth, "truth": truth / "labels" / "instances"}
    for name, step in (("result", "instances"), ("probabilities", "predict")):
        folders[name] = places.results / step / places.model / f"{places.dataset}.zarr" / sample
    found = {name: (path, read_attributes(path)) for name, path in folders.items()}
    return {name: path for name, (path, seen) in found.items() if seen.get("done") and "reference" not in seen}


def instructions(places: Places, sample: str) -> str:
    """What to do in napari without this command, in Fiji and in Neuroglancer, with paths and addresses.

    Raises
    ------
    UserError
        If nothing is there of the sample.
    """
    root = Path(os.path.abspath(places.results))  # noqa: PTH100
    ours = stores_of(places._replace(results=root), sample)
    listed_stores = {name: str(path) for name, path in ours.items()}
    image = root / "groundtruth" / f"{places.dataset}.zarr" / sample
    if reference := read_attributes(image).get("reference"):
        # The user's own file, or a URL.
        file = reference["file"]
        listed_stores = {"image": file if "://" in file else os.path.abspath(file)} | listed_stores  # noqa: PTH100
    if not listed_stores:
        raise UserError(f"{image} is missing; run snakemake again to make it")
    width = max(map(len, listed_stores))
    lines = [f"{sample} of data set {places.dataset}" + (f", model {places.model}" if places.model else "") + ":"]
    lines += [f"  {name:<{width}}  {path}" for name, path in listed_stores.items()]
    # The plugin opens the labels below an image with it.
    listed = " ".join(shlex.quote(str(path)) for name, path in ours.items() if name != "truth" or "image" not in ours)
    served = f"npx http-server {shlex.quote(str(root))} --cors -a 127.0.0.1 -p {PORT}"
    lines += [
        "",
        "napari with its plugin for OME-Zarr (the truth comes with the image):",
        "  pip install 'napari[pyqt6]' 'napari-ome-zarr>=0.10'",
        f"  napari --plugin napari-ome-zarr {listed}",
        "",
        "Fiji (its N5 plugins read Zarr 3 since 2026; older ones say 'No container exists': Help > Update...):",
        "  File > Import > HDF5/N5/Zarr/OME-NGFF ..., one of the paths above, then 'Detect datasets'",
        "",
        "Neuroglancer (a browser reads no files: the first line serves the results to this machine, until Ctrl-C):",
        f"  {served}",
        f"  {neuroglancer_address(ours, root)}",
    ]
    return "\n".join(lines)


def neuroglancer_address(stores: dict[str, Path], root: Path) -> str:
    """Address of Neuroglancer with a layer for each store, as a server of the folder `root` gives them."""
    layers = []
    for name, path in stores.items():
        place = quote(path.relative_to(root).as_posix())
        kind = "segmentation" if name in ("truth", "result") else "image"
        layers.append({"type": kind, "name": name, "source": f"zarr3://http://localhost:{PORT}/{place}"})
    state = {"layers": layers, "layout": "xy"}
    return NEUROGLANCER + quote(json.dumps(state, ensure_ascii=False), safe="")
