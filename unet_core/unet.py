"""The U-Net of Ronneberger, Fischer and Brox (2015), of any depth and width.

Shape suffixes: N tile, C channel, K class, Y X pixels (``image_NCYX``).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:  # this file alone is enough to build the network, also outside of this package
    from unet_core.config import Network

Tensor = torch.Tensor


def wider(depth: int, up_kernel: int, final_kernel: int) -> int:
    """Context that other kernels than the paper's need on each side of an output pixel, beside `halo` of their depth.

    An up-convolution of 3x3 and stride 2 loses a pixel on each side, at the resolution of its output; a last convolution
    of 3x3 one at full resolution.

    Examples
    --------
    >>> wider(4, up_kernel=2, final_kernel=1), wider(3, up_kernel=3, final_kernel=3)
    (0, 8)
    """
    return (2**depth - 1) * (up_kernel == 3) + (final_kernel - 1) // 2


def shape_of(network: Network) -> tuple[int, int]:
    """Depth of a network, and what its kernels need beside: what decides the sizes of tiles."""
    return network.depth, wider(network.depth, network.up_kernel, network.final_kernel)


def halo(depth: int, wider: int = 0) -> int:
    """Context that the network needs on each side of an output pixel.

    Parameters
    ----------
    depth : int
        Number of 2x2 max poolings.
    wider : int
        What other kernels than the paper's need beside that; see `wider`.

    Returns
    -------
    int
        Pixels lost on each side by the unpadded convolutions; 92 for the paper's depth of 4.
    """
    return 2 * (3 * 2**depth - 2) + wider


def input_size(output: int, depth: int, wider: int = 0) -> int:
    """Side of the smallest input tile whose output is at least `output` pixels wide.

    Every pooling must meet an even size, so that input + 4 is a multiple of ``2**depth``.

    Parameters
    ----------
    output : int
        Wanted side of the output in pixels, at least 1.
    depth, wider : int
        As in `halo`.

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
    return math.ceil((output + 2 * halo(depth, wider) + 4) / step) * step - 4


def output_size(size: int, depth: int, wider: int = 0) -> int:
    """Side of the output for an input tile of side `size`.

    Parameters
    ----------
    size : int
        Side of the input in pixels.
    depth, wider : int
        As in `halo`.

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
    lost = 2 * halo(depth, wider)
    if (size + 4) % 2**depth or size <= lost:
        above = input_size(max(1, size - lost), depth, wider)
        below = above - 2**depth
        nearest = f"{below} and {above} px" if below > lost else f"{above} px (the smallest)"
        raise ValueError(f"a U-Net of depth {depth} cannot take a tile of {size} px; the nearest sizes are {nearest}")
    return size - lost


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
    norm : {"none", "batch", "instance"}
        Normalisation at each 3x3 convolution; the paper has none.
    norm_position : {"before_relu", "after_relu"}
        Where it acts.
    up_kernel : {2, 3}
        Side of the up-convolutions; of those of 3x3 only pixels are kept that see all of their inputs.
    final_kernel : {1, 3}
        Side of the last convolution.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, figure 1 and section 3.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        depth: int,
        width: int,
        dropout: float,
        norm: str,
        norm_position: str = "before_relu",
        up_kernel: int = 2,
        final_kernel: int = 1,
    ) -> None:
        super().__init__()
        self.depth, self.wider = depth, wider(depth, up_kernel, final_kernel)
        widths = [width * 2**level for level in range(depth + 1)]
        pair = functools.partial(_conv_pair, norm=norm, norm_first=norm_position == "before_relu")
        self.down = nn.ModuleList(pair(c_in, c_out) for c_in, c_out in zip([channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(_up_convolution(2 * c, c, up_kernel) for c in reversed(widths[:-1]))
        self.merge = nn.ModuleList(pair(2 * c, c) for c in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, kernel_size=final_kernel)
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


class SameSizeUNet(UNet):
    """U-Net whose output is as large as its input, which it mirrors beyond its edges: for tools that know only such networks.

    In tiles that start at multiples of ``2**depth`` and overlap by `halo` or more on each side it gives the values of the whole image.
    """

    def forward(self, image_NCYX: Tensor) -> Tensor:
        """Class scores (before the softmax) of each pixel.

        Parameters
        ----------
        image_NCYX : Tensor
            Images, each side at least `halo` plus ``2**(depth + 1)`` pixels.

        Returns
        -------
        Tensor
            Scores, shape (N, K, Y, X).
        """
        before = halo(self.depth, self.wider)
        height, width = image_NCYX.shape[2:]
        below, right = (input_size(n, self.depth, self.wider) - n - before for n in (height, width))
        padded = nn.functional.pad(image_NCYX, (before, right, before, below), mode="reflect")
        scores: Tensor = super().forward(padded)
        return scores[:, :, :height, :width]


def _conv_pair(c_in: int, c_out: int, norm: str, norm_first: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (c_in, c_out):
        # The bias of a convolution right before a normalisation is cancelled by it.
        layers.append(nn.Conv2d(c, c_out, kernel_size=3, bias=norm == "none" or not norm_first))
        relu = nn.ReLU(inplace=True)
        if norm == "none":
            layers.append(relu)
        else:
            normalise = nn.BatchNorm2d(c_out) if norm == "batch" else nn.InstanceNorm2d(c_out, affine=True)
            layers += [normalise, relu] if norm_first else [relu, normalise]
    return nn.Sequential(*layers)


def _up_convolution(c_in: int, c_out: int, kernel: int) -> nn.ConvTranspose2d:
    if kernel == 2:
        return nn.ConvTranspose2d(c_in, c_out, kernel_size=2, stride=2)
    # n pixels become 2n; the outermost ones are left out, since on one side they do not see all of their inputs.
    return nn.ConvTranspose2d(c_in, c_out, kernel_size=3, stride=2, padding=2, output_padding=1)


def _crop_to(copy_NCYX: Tensor, x_NCYX: Tensor) -> Tensor:
    """Centre of the contracting path's copy, as large as `x_NCYX`."""
    y, x = ((a - b) // 2 for a, b in zip(copy_NCYX.shape[2:], x_NCYX.shape[2:], strict=True))
    return copy_NCYX[:, :, y : y + x_NCYX.shape[2], x : x + x_NCYX.shape[3]]


def _init_gaussian(module: nn.Module) -> None:
    """Gaussian weights with standard deviation sqrt(2 / N), N the incoming nodes of one neuron (paper, section 3)."""
    incoming: float
    if isinstance(module, nn.Conv2d):
        incoming = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
    elif isinstance(module, nn.ConvTranspose2d):
        # On average; with equal kernel and stride each output pixel sees one input pixel.
        incoming = module.in_channels * module.kernel_size[0] * module.kernel_size[1] / (module.stride[0] * module.stride[1])
    else:
        return
    nn.init.normal_(module.weight, std=math.sqrt(2 / incoming))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
