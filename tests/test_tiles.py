"""Stitched tiles are the whole image in one piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ArraySource
from unet_core.blocks import Box, Grid
from unet_core.model import network_function
from unet_core.tiles import predict_box, read_mirrored, tiling
from unet_core.unet import UNet, halo, input_size


def random_net(depth: int, channels: int = 1, norm: str = "none") -> UNet:
    torch.manual_seed(depth)
    net = UNet(channels, 3, depth=depth, width=3, dropout=0.5, norm=norm)
    if norm == "batch":
        net.train()(torch.randn(2, channels, input_size(8, depth), input_size(8, depth)))
    return net.eval()


def in_one_piece(net: UNet, image_CZYX: np.ndarray) -> np.ndarray:
    """The network on each whole plane, mirrored as far as it needs."""
    depth, (height, width) = net.depth, image_CZYX.shape[2:]
    sides = [input_size(n, depth) for n in (height, width)]
    pads = [(halo(depth), side - n - halo(depth)) for side, n in zip(sides, (height, width), strict=True)]
    padded = np.pad(image_CZYX, [(0, 0), (0, 0), *pads], mode="reflect")
    with torch.inference_mode():
        scores = net(torch.from_numpy(padded.transpose(1, 0, 2, 3)).float())
    return scores.softmax(dim=1).numpy().transpose(1, 0, 2, 3)[:, :, :height, :width]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(-30, 30), st.integers(0, 25)), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_mirrored_box_is_a_part_of_the_padded_array(axes: list[tuple[int, int, int]]) -> None:
    shape = tuple(n for n, _, _ in axes)
    array = np.arange(np.prod(shape)).reshape(shape)
    box = Box(tuple(a for _, a, _ in axes), tuple(a + extent + 1 for _, a, extent in axes))
    pad = 70
    expected = np.pad(array, pad, mode="reflect")
    moved = Box(tuple(a + pad for a in box.start), tuple(b + pad for b in box.stop))
    np.testing.assert_array_equal(read_mirrored(ArraySource(array), box), expected[moved.slices])


def test_only_the_needed_part_is_read() -> None:
    source = ArraySource(np.zeros((1, 1000, 1000)))
    read_mirrored(source, Box((0, -5, 500), (1, 20, 510)))
    assert source.boxes == [Box((0, 0, 500), (1, 20, 510))]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 7), (33, 64), (61, 50)])
def test_stitched_equals_whole_for_any_size_and_tile(depth: int, shape: tuple[int, int]) -> None:
    net = random_net(depth)
    image = np.random.default_rng(0).normal(size=(1, 1, *shape)).astype(np.float32)
    function = network_function(net, [0.0], [1.0], "float32")
    expected = in_one_piece(net, image)
    for largest in (input_size(2**depth, depth), input_size(20, depth), input_size(300, depth)):
        result = predict_box(ArraySource(image), Box((0, 0, 0), (1, *shape)), function, depth=depth, largest=largest, batch=3)
        assert result.shape == expected.shape
        assert np.abs(result - expected).max() <= 1e-5


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_blocks_of_a_volume_equal_the_whole_with_two_channels_and_normalisation(norm: str) -> None:
    net = random_net(2, channels=2, norm=norm)
    image = np.random.default_rng(1).integers(0, 255, (2, 3, 50, 41)).astype(np.uint8)
    offset, scale = [100.0, 20.0], [0.01, 0.02]
    normalised = (image.astype(np.float32) - np.array(offset, np.float32)[:, None, None, None]) * np.array(scale, np.float32)[
        :, None, None, None
    ]
    expected = in_one_piece(net, normalised)
    function = network_function(net, offset, scale, "float32")
    for block, batch in [((1, 16, 16), 1), ((2, 24, 48), 2), ((3, 64, 64), 5)]:
        stitched = np.zeros_like(expected)
        for box in Grid((3, 50, 41), block):
            stitched[(slice(None), *box.slices)] = predict_box(
                ArraySource(image), box, function, depth=2, largest=input_size(12, 2), batch=batch
            )
        assert np.abs(stitched - expected).max() <= 1e-5


@pytest.mark.parametrize("copies", ["none", "flips", "dihedral"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (61, 50)])
def test_the_mean_over_copies_does_not_depend_on_tiles(copies: str, shape: tuple[int, int]) -> None:
    net, image = random_net(2), np.random.default_rng(0).normal(size=(1, 1, *shape)).astype(np.float32)
    function = network_function(net, [0.0], [1.0], "float32", copies)
    # An independent mean: the whole image, padded to a square that suits the network, turned and turned back by torch.
    side = input_size(max(shape), 2)
    padded = np.pad(image, [(0, 0), (0, 0), *((halo(2), side - n - halo(2)) for n in shape)], mode="reflect")[:, 0]
    turns = {"none": [(0, False)], "flips": [(0, False), (2, False), (0, True), (2, True)]}.get(copies)
    scores = []
    for quarter, flip in turns or [(q, f) for q in range(4) for f in (False, True)]:
        turned = torch.rot90(torch.from_numpy(padded), quarter, (1, 2))
        turned = turned.flip(2) if flip else turned
        with torch.inference_mode():
            result = net(turned[None].contiguous()).softmax(dim=1)[0]
        scores.append(torch.rot90(result.flip(2) if flip else result, -quarter, (1, 2)).numpy())
    expected = np.mean(scores, axis=0)[:, None, : shape[0], : shape[1]]
    for largest in (input_size(4, 2), input_size(20, 2), side):
        result = predict_box(ArraySource(image), Box((0, 0, 0), (1, *shape)), function, depth=2, largest=largest)
        assert np.abs(result - expected).max() <= 1e-5


@given(st.integers(1, 3000), st.integers(1, 700), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_tiles_cover_what_is_wanted_and_are_no_larger_than_allowed(wanted: int, output: int, depth: int) -> None:
    largest = input_size(max(output, 2**depth), depth)
    tiles = tiling(wanted, largest, depth)
    assert tiles.count * tiles.stride >= wanted > (tiles.count - 1) * tiles.stride
    assert tiles.stride % 2**depth == 0 and tiles.side <= largest


def test_a_tile_without_useful_output_is_refused() -> None:
    with pytest.raises(ValueError, match="too small for depth 4"):
        tiling(10, largest=188, depth=4)
