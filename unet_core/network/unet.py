"""The U-Net of Ronneberger, Fischer and Brox (2015), of any depth and width, for planes or for volumes.

For volumes it is that of Cicek et al. (2016).

Along each axis by itself a U-Net is described by its number of poolings and by what its kernels need beside (`Axis`).
That of volumes may begin with flat levels, whose kernels and poolings act in planes alone: along z it is a U-Net of
less depth.

Shape suffixes: N tile, C channel, K class, Y X pixels (``image_NCYX``); in 3D there is a Z before them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:  # this file alone is enough to build the network, also outside of this package
    from unet_core.config.options import Network

Tensor = torch.Tensor


class Axis(NamedTuple):
    """What a network does along one axis: poolings, and what its kernels need beside `halo` of so many; see `wider`."""

    depth: int
    wider: int = 0

    @property
    def step(self) -> int:
        """Pixels that are pooled together."""
        return int(2**self.depth)


class Shape(NamedTuple):
    """What a network does along each axis."""

    z: Axis
    y: Axis
    x: Axis

    @property
    def halo(self) -> tuple[int, int, int]:
        """Context that the network needs on each side of an output voxel."""
        return halo(*self.z), halo(*self.y), halo(*self.x)

    @property
    def steps(self) -> tuple[int, int, int]:
        """Voxels that are pooled together; results do not depend on boxes that start at multiples of these."""
        return self.z.step, self.y.step, self.x.step


# Along z a 2D network does nothing: output and input have the same size, whatever it is.
NO_POOLING = Axis(0, -2)


def wider(depth: int, up_kernel: int, final_kernel: int) -> int:
    """Context that other kernels than the paper's need on each side of an output pixel, beside `halo` of their depth.

    An up-convolution of 3x3 and stride 2 loses a pixel on each side, at the resolution of its output; a last
    convolution of 3x3 one at full resolution.

    Examples
    --------
    >>> wider(4, up_kernel=2, final_kernel=1), wider(3, up_kernel=3, final_kernel=3)
    (0, 8)
    """
    return (2**depth - 1) * (up_kernel == 3) + (final_kernel - 1) // 2


def shape(depth: int, up_kernel: int = 2, final_kernel: int = 1, dimensions: int = 2, flat_levels: int = 0) -> Shape:
    """What decides the sizes of tiles; parameters as of `UNet`.

    Examples
    --------
    >>> shape(4, dimensions=3, flat_levels=2).halo
    (20, 92, 92)
    """
    plane = Axis(depth, wider(depth, up_kernel, final_kernel))
    if dimensions == 2:
        return Shape(NO_POOLING, plane, plane)
    left = depth - flat_levels
    return Shape(Axis(left, wider(left, up_kernel, 1 if flat_levels else final_kernel)), plane, plane)


def shape_of(network: Network) -> Shape:
    """`shape` of a network whose `flat_levels` are decided."""
    flat = network.flat_levels if isinstance(network.flat_levels, int) else 0
    return shape(network.depth, network.up_kernel, network.final_kernel, network.dimensions, flat)


def sides(tile: int | Sequence[int]) -> tuple[int, int, int]:
    """Extent of a tile along z, y, x: that of a 2D network is a square, given by its side.

    Examples
    --------
    >>> sides(572), sides([116, 132, 132])
    ((1, 572, 572), (116, 132, 132))
    """
    z, y, x = (1, tile, tile) if isinstance(tile, int) else tile
    return z, y, x


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
    copy of the contracting level, and two 3x3 convolutions. A 1x1 convolution gives the class scores. In 3D all of them
    act along z too, except those of the flat levels.

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
    dimensions : {2, 3}
        3: for volumes; tiles have a Z before Y and X.
    flat_levels : int
        Of a network for volumes, the first levels whose kernels and poolings act in planes alone, at most `depth`.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, figure 1 and section 3. Cicek, Abdulkadir, Lienkamp,
    Brox, Ronneberger: 3D U-Net, MICCAI 2016. Flat levels: Isensee et al.: nnU-Net, Nature Methods 18 (2021).
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
        dimensions: int = 2,
        flat_levels: int = 0,
    ) -> None:
        super().__init__()
        if dimensions == 3 and not 0 <= flat_levels <= depth:
            raise ValueError(f"flat_levels is {flat_levels}, but must be 0 to {depth}, the depth")
        self.depth, self.wider = depth, wider(depth, up_kernel, final_kernel)
        self.shape = shape(depth, up_kernel, final_kernel, dimensions, flat_levels)
        layers = _LAYERS[dimensions]

        def extent(side: int, level: int) -> tuple[int, ...]:
            """Of a kernel or a pooling between a level and the next, along each axis."""
            return (side, side) if dimensions == 2 else (1 if level < flat_levels else side, side, side)

        widths = [width * 2**level for level in range(depth + 1)]
        pair = functools.partial(_conv_pair, layers, norm=norm, norm_first=norm_position == "before_relu")
        levels = range(depth + 1)
        self.down = nn.ModuleList(pair(([channels, *widths][n], widths[n]), extent(3, n)) for n in levels)
        back = range(depth - 1, -1, -1)
        self.up = nn.ModuleList(_up_convolution(layers, widths[n], extent(2, n), extent(up_kernel, n)) for n in back)
        self.merge = nn.ModuleList(pair((2 * widths[n], widths[n]), extent(3, n)) for n in back)
        self.head = layers.conv(width, classes, kernel_size=extent(final_kernel, 0))
        self.pools = nn.ModuleList(layers.pool(extent(2, n)) for n in range(depth))
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
            Scores, shape (N, K, Y - 2 halo, X - 2 halo), the halo of each axis.
        """
        copies = []
        x = image_NCYX
        for level, convs in enumerate(self.down):
            x = convs(x if level == 0 else self.pools[level - 1](x))
            if level >= self.depth - 1:
                x = self.dropout(x)
            copies.append(x)
        x = copies.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([_crop_to(copies.pop(), x), x], dim=1))
        return self.head(x)


class SameSizeUNet(UNet):
    """U-Net whose output is as large as its input, for tools that know only such networks.

    It mirrors the input beyond its edges.

    In tiles that start at multiples of ``2**depth`` and overlap by `halo` or more on each side it gives the values of
    the whole image.
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


class _Layers(NamedTuple):
    """Kinds of layers for planes or volumes."""

    conv: Any
    up: Any
    pool: Any
    norms: dict[str, Any]


_LAYERS = {
    2: _Layers(nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}),
    3: _Layers(nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d, {"batch": nn.BatchNorm3d, "instance": nn.InstanceNorm3d}),
}


def _conv_pair(
    layers: _Layers, channels: tuple[int, int], kernel: tuple[int, ...], norm: str, norm_first: bool
) -> nn.Sequential:
    pair: list[nn.Module] = []
    c_out = channels[1]
    for c in channels:
        # The bias of a convolution right before a normalisation is cancelled by it.
        pair.append(layers.conv(c, c_out, kernel_size=kernel, bias=norm == "none" or not norm_first))
        relu = nn.ReLU(inplace=True)
        if norm == "none":
            pair.append(relu)
        else:
            normalise = layers.norms[norm](c_out, affine=True)
            pair += [normalise, relu] if norm_first else [relu, normalise]
    return nn.Sequential(*pair)


def _up_convolution(layers: _Layers, c_out: int, stride: tuple[int, ...], kernel: tuple[int, ...]) -> nn.Module:
    # With 3 pixels n become 2n; the outermost ones are left out, since on one side they do not see all of their inputs.
    padding, more = tuple(2 * (k == 3) for k in kernel), tuple(int(k == 3) for k in kernel)
    layer: nn.Module = layers.up(
        2 * c_out, c_out, kernel_size=kernel, stride=stride, padding=padding, output_padding=more
    )
    return layer


def _crop_to(copy_NCYX: Tensor, x_NCYX: Tensor) -> Tensor:
    """Centre of the contracting path's copy, as large as `x_NCYX`."""
    starts = [(a - b) // 2 for a, b in zip(copy_NCYX.shape[2:], x_NCYX.shape[2:], strict=True)]
    centre = tuple(slice(a, a + n) for a, n in zip(starts, x_NCYX.shape[2:], strict=True))
    return copy_NCYX[(slice(None), slice(None), *centre)]


def _init_gaussian(module: nn.Module) -> None:
    """Gaussian weights with standard deviation sqrt(2 / N), N the incoming nodes of one neuron (paper, section 3)."""
    incoming: float
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        incoming = module.in_channels * math.prod(module.kernel_size)
    elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        # On average; with equal kernel and stride each output pixel sees one input pixel.
        incoming = module.in_channels * math.prod(module.kernel_size) / math.prod(module.stride)
    else:
        return
    nn.init.normal_(module.weight, std=math.sqrt(2 / incoming))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
