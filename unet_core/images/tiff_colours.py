"""What the values of a TIFF file mean: palettes, colours, and whether 0 is white."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unet_core.images.source import RefusedError, Source, with_values
from unet_core.images.tiff_pages import JPEG

if TYPE_CHECKING:
    import tifffile

WHITE_IS_ZERO, PALETTE, SEPARATED, YCBCR = 0, 3, 5, 6
# Values of the tag PhotometricInterpretation whose colours are not converted.
UNKNOWN_COLOURS = {
    SEPARATED: "CMYK",
    YCBCR: "YCbCr",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "those of a sensor's filters (CFA)",
    32844: "LogL",
    32845: "LogLuv",
}
# Those of the standard where a file has none.
LUMA = (0.299, 0.587, 0.114)


def with_meaning(path: Path, source: Source, page: tifffile.TiffPage, stored: bool) -> Source:
    """View of the pixels of a file with what its header says about them applied.

    Parameters
    ----------
    path : Path
        The file, for messages.
    source : Source
        Values as they are stored.
    page : TiffPage
        With the header.
    stored : bool
        Whether they are wanted as they are.

    Returns
    -------
    Source
        With a last axis c where palettes become colours.

    Raises
    ------
    RefusedError
        If values are complex numbers, or an image has colours that are not converted, or says that its floating-point
        0 is white.
    """
    if source.dtype.kind not in "buif":
        raise RefusedError(f"{path}: pixels of type {source.dtype}; needed are integers or floating-point numbers")
    kind = int(page.photometric)
    if kind == WHITE_IS_ZERO:
        source = source._replace(white_is_zero=True)
    if stored:
        return source
    if kind == WHITE_IS_ZERO:
        return _inverted(path, source, page)
    if kind == PALETTE:
        # Where the header counts the channels, colours are how one is shown.
        told = page.is_imagej or page.is_ome or page.is_lsm or page.parent.is_imagej or page.parent.is_ome
        return source if told else _in_colours(source, page)
    if kind == YCBCR and page.compression in JPEG:
        return source  # the decoder converts it
    if kind == YCBCR and _is_usual_ycbcr(source, page):
        return source._replace(read=lambda box: _rgb(source.read((*box[:-1], slice(0, 3, 1))))[..., box[-1]])
    if kind in UNKNOWN_COLOURS:
        raise RefusedError(f"{path}: its colours are {UNKNOWN_COLOURS[kind]}, which are not read; save it as RGB")
    return source


def _inverted(path: Path, source: Source, page: tifffile.TiffPage) -> Source:
    dtype = source.dtype.newbyteorder("=")
    if source.dtype.kind == "b":
        return source  # masks of bits: tifffile writes them with this header, and True for what is meant
    if source.dtype.kind == "i":
        return with_values(source, np.invert, dtype)
    if source.dtype.kind == "f":
        raise RefusedError(
            f"{path}: its header says that 0 is white, which says nothing of floating-point numbers; "
            "save it with 0 as black"
        )
    bits = page.bitspersample
    most = dtype.type(2 ** (max(bits) if isinstance(bits, tuple) else int(bits)) - 1)
    return with_values(source, lambda values: most - values, dtype)


def _in_colours(source: Source, page: tifffile.TiffPage) -> Source:
    """Colours of a palette, or gray values where all of them are gray."""
    colours = np.asarray(page.colormap)  # channels, entries
    if colours.max(initial=0) > 255:
        colours = colours >> 8
    table = colours.astype(np.uint8).T
    if (table == table[:, :1]).all():
        return with_values(source, lambda values: table[values, 0], np.uint8)
    return with_values(source, lambda values: table[values], np.uint8, 3)


def _is_usual_ycbcr(source: Source, page: tifffile.TiffPage) -> bool:
    """Whether colours are those of JPEG, decoded already but not converted."""
    subsampling = page.tags.valueof(530) or (1, 1)
    reference = page.tags.valueof(532)
    ends = [] if reference is None else [float(a) / b for a, b in zip(reference[::2], reference[1::2], strict=True)]
    usual = not ends or ends == [0, 255, 128, 255, 128, 255]
    compressed = int(page.compression) in (33003, 33004, 33005, 34712) or tuple(subsampling) == (1, 1)
    return source.axes.endswith("s") and source.shape[-1] == 3 and source.dtype == np.uint8 and usual and compressed


def _rgb(ycbcr: np.ndarray) -> np.ndarray:
    """RGB of YCbCr, along the last axis, as in JPEG."""
    luma, blue, red = (ycbcr[..., i].astype(np.float32) - (128 if i else 0) for i in range(3))
    red_share, green_share, blue_share = LUMA
    r = luma + 2 * (1 - red_share) * red
    b = luma + 2 * (1 - blue_share) * blue
    g = (luma - red_share * r - blue_share * b) / green_share
    return np.clip(np.rint(np.stack([r, g, b], axis=-1)), 0, 255).astype(np.uint8)
