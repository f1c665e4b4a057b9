"""The annotation formats: what each is, and what the options of a source mean for it.

This table is the one place that says it. The check of the configuration, the comments of ``config.yaml``, the table in
``docs/annotations.md`` and the modules that read the formats (`unet_core.annotations.formats`) follow from it.
"""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """An annotation format as users see it.

    Attributes
    ----------
    name : str
        What the configuration calls it.
    summary : str
        What it is, in a few words.
    path : str
        A path as a source of this format may have it.
    classes : str
        Where the classes of its objects stand; empty if it has none, so that a source has one class.
    note : str
        What else one has to know to choose it.
    reader : str
        The module of `unet_core.annotations` that reads it; empty: the one with its name.
    ignore_label : bool
        Whether a value of its images may mark pixels to ignore.
    in_pieces : bool
        Whether its files are images whose values are the numbers of the objects, so that large ones are read in pieces.
    sparse : bool
        Whether most images are usually without annotation.
    drawn : bool
        Whether its objects are read one by one, so that those that cannot be read may be left out.
    refused : tuple of (str, str)
        Ending of paths that are not read though a tool writes them for this format, and what is told then.
    """

    name: str
    summary: str
    path: str
    classes: str = ""
    note: str = ""
    reader: str = ""
    ignore_label: bool = False
    in_pieces: bool = False
    sparse: bool = False
    drawn: bool = False
    refused: tuple[str, str] | None = None

    @property
    def module(self) -> str:
        """Full name of the module that reads it."""
        return f"unet_core.annotations.{self.reader or self.name}"


_FORMATS = (
    Format(
        "labels",
        "one label image per image",
        "masks/{stem}.tif",
        note="also .npy; a file without {stem}: a page per image",
        ignore_label=True,
        in_pieces=True,
    ),
    Format("binary", "masks whose parts are objects", "masks/{stem}.png", ignore_label=True),
    Format(
        "colours", "masks of classes", "masks/{stem}.png", classes='classes: {"#ff0000": cell} is the table of colours'
    ),
    Format(
        "ctc",
        "a Cell Tracking Challenge folder",
        "01_GT",
        note="frames without a mask are not annotated",
        sparse=True,
    ),
    Format("rle", "a Kaggle table of run-lengths", "train.csv", drawn=True),
    Format("masks", "one mask image per object", "data/{stem}/masks/*.png"),
    Format("boundaries", "membranes 0, interiors 255", "membranes.tif", reader="binary", ignore_label=True),
    Format(
        "coco",
        "one COCO JSON file",
        "annotations.json",
        classes="category names are classes",
        note="iscrowd is ignored",
        drawn=True,
    ),
    Format(
        "imagej",
        "ImageJ ROIs (.roi, RoiSet.zip)",
        "rois/{stem}.zip",
        classes='classes: {"1": cell} names groups',
        note="or rois/{stem}/*.roi",
        drawn=True,
    ),
    Format(
        "geojson",
        "polygons as QuPath exports them",
        "qupath/{stem}.geojson",
        classes="classifications are classes",
        note="Ignore* is ignored",
        drawn=True,
    ),
    Format("labelme", "LabelMe JSON", "labelme/{stem}.json", classes="labels are classes", drawn=True),
    Format("cvat", "XML of CVAT for images", "annotations.xml", classes="labels are classes", drawn=True),
    Format("aperio", "ImageScope XML", "xml/{stem}.xml", classes="names of layers are classes", drawn=True),
    Format("napari", "CSV of a shapes layer", "shapes/{stem}.csv", drawn=True),
    Format(
        "ilastik",
        "HDF5 exports of ilastik",
        "ilastik/{stem}_Object Identities.h5",
        classes='with classes: {"1": cell} values are classes',
    ),
    Format(
        "yolo",
        "YOLO segmentation, text files",
        "labels/{stem}.txt",
        classes='classes: {"0": cell} names the numbers',
        note="polygons, no boxes",
        drawn=True,
    ),
    Format(
        "matlab",
        "MATLAB files with labels (.mat)",
        "Labels/{stem}.mat",
        classes='with classes: {"1": cell} types or values are classes',
        note="or {stem}.mat:name of the array",
    ),
    Format(
        "cellpose",
        "Cellpose's _cp_masks images",
        "cellpose/{stem}_cp_masks.png",
        reader="labels",
        ignore_label=True,
        in_pieces=True,
        refused=(
            ".npy",
            "_seg.npy is a pickle, which is not read, as it may run any code; in Cellpose choose "
            "'Save masks as PNG/tif' (or run it with --save_tif), and set path to {stem}_cp_masks.png or .tif",
        ),
    ),
)

DESCRIPTIONS = {described.name: described for described in _FORMATS}
