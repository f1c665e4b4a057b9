"""All annotation formats, by the name that a configuration gives them."""

from unet_core.annotations import (
    aperio,
    binary,
    boundaries,
    cellpose,
    coco,
    colours,
    ctc,
    cvat,
    geojson,
    ilastik,
    imagej,
    labelme,
    labels,
    masks,
    napari,
    rle,
)

FORMATS = {
    "labels": labels,
    "binary": binary,
    "colours": colours,
    "ctc": ctc,
    "rle": rle,
    "masks": masks,
    "boundaries": boundaries,
    "coco": coco,
    "imagej": imagej,
    "geojson": geojson,
    "labelme": labelme,
    "cvat": cvat,
    "aperio": aperio,
    "napari": napari,
    "ilastik": ilastik,
    "cellpose": cellpose,
}
