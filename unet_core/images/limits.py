"""How many bytes of pixels a file may claim, so that a small damaged or malicious one does not take all memory."""

from __future__ import annotations

# Bytes that may be asked for whatever the size of a file.
FLOOR = 2**24
# Bytes of pixels that a byte of a file may stand for where nothing else is known.
MAX_COMPRESSION_RATIO = 2000
# Bytes that one strip or tile may claim where it stands for more bytes per byte than that.
MAX_DENSE_BYTES = 2**30
# For codecs that write pictures of one value in a few bytes, whatever their size.
UNLIMITED = 2**24
# The most that a byte stands for, by the number of the compression in TIFF. Measured with all zeros, 8192 x 8192,
# uint8 (in brackets), or what the format can reach at most.
RATIOS = {
    1: 1,
    2: 8 * 2000,  # CCITT run-lengths of bits (1000 pixels)
    3: 8 * 2000,  # CCITT group 3 (785 pixels)
    4: UNLIMITED,  # CCITT group 4: a bit for a row
    5: 2600,  # LZW: the longest string has 3840 bytes, its code 12 bits (1334)
    6: 1100,  # JPEG: a bit for a block of 8 x 8 (510)
    7: 1100,
    8: 1100,  # deflate (989)
    22610: MAX_COMPRESSION_RATIO,  # JPEG XR (681; uint16: 1354)
    32773: 70,  # PackBits (64)
    32946: 1100,  # deflate
    33003: UNLIMITED,  # JPEG 2000 (197379)
    33004: UNLIMITED,
    33005: UNLIMITED,
    33007: 1100,  # JPEG
    34712: UNLIMITED,  # JPEG 2000
    34887: UNLIMITED,  # LERC (958698)
    34892: 1100,  # JPEG
    34925: 7500,  # LZMA (6781)
    34926: 35000,  # Zstandard: a block of 128 KiB takes 4 bytes (32498)
    34927: UNLIMITED,  # WebP
    34933: 1100,  # PNG (1026)
    34934: MAX_COMPRESSION_RATIO,
    50000: 35000,
    50001: UNLIMITED,
    50002: UNLIMITED,  # JPEG XL (5340, at small effort)
    50013: 1100,
    52546: UNLIMITED,
}


def check_file(claimed: int, size: int, ratio: int = MAX_COMPRESSION_RATIO) -> None:
    """Raise an error if headers claim more bytes of pixels than a file can hold, before memory is asked for.

    Parameters
    ----------
    claimed : int
        Bytes of all pixels as they are stored: eight pixels of a bit are a byte.
    size : int
        Bytes of the file.
    ratio : int
        The most that a byte of it stands for.

    Raises
    ------
    ValueError
        If it is more.
    """
    if claimed > max(FLOOR, ratio * size):
        raise ValueError(f"its header claims {claimed} bytes of pixels, but the file has {size}")


def check_part(claimed: int, size: int, ratio: int) -> None:
    """Raise an error if a strip or tile of `size` bytes claims more than it can hold, or more than one may ask for."""
    if claimed > max(FLOOR, min(ratio * size, max(MAX_COMPRESSION_RATIO * size, MAX_DENSE_BYTES))):
        raise ValueError(f"its header claims {claimed} bytes of pixels for a part of {size} bytes")
