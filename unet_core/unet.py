"""The U-Net of Ronneberger, Fischer and Brox (2015), of any depth and width.

Shape suffixes: N tile, C channel, K class, Y X pixels (``image_NCYX``).
"""

from __future__ import annotations

import math

import torch
from torch import nn

Tensor = torch.Tensor


def halo(depth: int) -> int:
    """Context that the network needs on each side of an output pixel.

    Parameters
    ----------
    depth : int
        Number of 2x2 max poolings.

    Returns
    -------
    int
        Pixels lost on each side by the unpadded convolutions; 92 for the paper's depth of 4.
    """
    return 2 * (3 * 2**depth - 2)


def input_size(output: int, depth: int) -> int:
    """Side of the smallest input tile whose output is at least `output` pixels wide.

    Every pooling must meet an even size, so that input + 4 is a multiple of ``2**depth``.

    Parameters
    ----------
    output : int
        Wanted side of the output in pixels, at least 1.
    depth : int
        Number of 2x2 max poolings.

    Returns
    -------
    int
        Side of the input in pixels.

    Examples
    --------
    >>> input_size(388, depth=4)
    572
    >>> input_size(1, depth=4)
    188
    """
    step = 2**depth
    return math.ceil((output + 2 * halo(depth) + 4) / step) * step - 4


def output_size(size: int, depth: int) -> int:
    """Side of the output for an input tile of side `size`.

    Parameters
    ----------
    size : int
        Side of the input in pixels.
    depth : int
        Number of 2x2 max poolings.

    Returns
    -------
    int
        Side of the output in pixels.

    Raises
    ------
    ValueError
        If the network cannot take an input of that size.

    Examples
    --------
    >>> output_size(572, depth=4)
    388
    """
    if (size + 4) % 2**depth or size <= 2 * halo(depth):
        above = input_size(max(1, size - 2 * halo(depth)), depth)
        below = above - 2**depth
        nearest = f"{below} and {above} px" if below > 2 * halo(depth) else f"{above} px (the smallest)"
        raise ValueError(f"a U-Net of depth {depth} cannot take a tile of {size} px; the nearest sizes are {nearest}")
    return size - 2 * halo(depth)


class UNet(nn.Module):
    """U-Net with unpadded convolutions.

    Each level of the contracting path has two unpadded 3x3 convolutions with ReLU and a 2x2 max pooling, and the number
    of channels doubles; each level of the expanding path has a 2x2 up-convolution that halves the channels, the cropped
    copy of the contracting level, and two 3x3 convolutions. A 1x1 convolution gives the class scores.

    Parameters
    ----------
    channels : int
        Image channels.
    classes : int
        Classes, background included.
    depth : int
        Number of poolings (paper: 4).
    width : int
        Channels of the first level (paper: 64).
    dropout : float
        Probability of dropout after the last two levels of the contracting path.
    norm : {"none", "batch"}
        Normalisation after each 3x3 convolution; the paper has none.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, figure 1 and section 3.
    """

    def __init__(self, channels: int, classes: int, *, depth: int, width: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.depth = depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_conv_pair(c_in, c_out, norm) for c_in, c_out in zip([channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, kernel_size=2, stride=2) for c in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_conv_pair(2 * c, c, norm) for c in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.apply(_init_gaussian)

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """Class scores (before the softmax) of the centre of each tile.

        Parameters
        ----------
        image_NCYX : Tensor
            Tiles; their sides must be sizes that `output_size` accepts.

        Returns
        -------
        Tensor
            Scores, shape (N, K, Y - 2 halo, X - 2 halo).
        """
        copies = []
        x = image_NCYX
        for level, convs in enumerate(self.down):
            x = convs(x if level == 0 else self.pool(x))
            if level >= self.depth - 1:
                x = self.dropout(x)
            copies.append(x)
        x = copies.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([_crop_to(copies.pop(), x), x], dim=1))
        return self.head(x)


def _conv_pair(c_in: int, c_out: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (c_in, c_out):
        # The bias of a convolution before batch normalisation is cancelled by it.
        layers.append(nn.Conv2d(c, c_out, kernel_size=3, bias=norm == "none"))
        if norm == "batch":
            layers.append(nn.BatchNorm2d(c_out))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _crop_to(copy_NCYX: Tensor, x_NCYX: Tensor) -> Tensor:
    """Centre of the contracting path's copy, as large as `x_NCYX`."""
    y, x = ((a - b) // 2 for a, b in zip(copy_NCYX.shape[2:], x_NCYX.shape[2:], strict=True))
    return copy_NCYX[:, :, y : y + x_NCYX.shape[2], x : x + x_NCYX.shape[3]]


def _init_gaussian(module: nn.Module) -> None:
    """Gaussian weights with standard deviation sqrt(2 / N), N the incoming nodes of one neuron (paper, section 3)."""
    if isinstance(module, nn.Conv2d):
        incoming = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
    elif isinstance(module, nn.ConvTranspose2d):
        # Kernel and stride are equal: each output pixel sees one input pixel.
        incoming = module.in_channels
    else:
        return
    nn.init.normal_(module.weight, std=math.sqrt(2 / incoming))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
