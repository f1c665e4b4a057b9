"""Stitched tiles are the whole image in one piece."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ArraySource
from unet_core.blocks import Box, Grid
from unet_core.network.model import network_function
from unet_core.network.tiles import mirror, predict_box, read_mirrored, tiling
from unet_core.network.unet import NO_POOLING, UNet, halo, input_size


def random_net(depth: int, channels: int = 1, norm: str = "none", **network: Any) -> UNet:
    torch.manual_seed(depth)
    net = UNet(channels, 3, depth=depth, width=3, dropout=0.5, norm=norm, **network)
    if norm == "batch":
        axes = net.shape[1:] if net.shape.z == NO_POOLING else net.shape
        net.train()(torch.randn(2, channels, *(input_size(8, *axis) for axis in axes)))
    return net.eval()


def in_one_piece(net: UNet, image_CZYX: np.ndarray) -> np.ndarray:
    """The network on each whole plane, or a 3D one on the whole volume, mirrored as far as it needs."""
    flat = net.shape.z == NO_POOLING
    axes, extent = (net.shape[1:], image_CZYX.shape[2:]) if flat else (net.shape, image_CZYX.shape[1:])
    pads = [(halo(*axis), input_size(n, *axis) - n - halo(*axis)) for n, axis in zip(extent, axes, strict=True)]
    padded = np.pad(image_CZYX, [(0, 0)] * (4 - len(pads)) + pads, mode="reflect").astype(np.float32)
    inside = (slice(None), slice(None), *(slice(n) for n in extent))
    with torch.inference_mode():
        if flat:
            return (
                net(torch.from_numpy(padded.transpose(1, 0, 2, 3))).softmax(dim=1)[inside].numpy().transpose(1, 0, 2, 3)
            )
        return net(torch.from_numpy(padded)[None]).softmax(dim=1)[inside][0].numpy()


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
@settings(deadline=None)
def test_mirror_equals_reflection_by_numpy(size: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    assert mirror(np.arange(-before, size + after), size).tolist() == expected.tolist()


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
        result = predict_box(
            ArraySource(image), Box((0, 0, 0), (1, *shape)), function, shape=net.shape, largest=largest, batch=3
        )
        assert result.shape == expected.shape
        assert np.abs(result - expected).max() <= 1e-5


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_blocks_of_a_volume_equal_the_whole_with_two_channels_and_normalisation(norm: str) -> None:
    net = random_net(2, channels=2, norm=norm)
    image = np.random.default_rng(1).integers(0, 255, (2, 3, 50, 41)).astype(np.uint8)
    offset, scale = [100.0, 20.0], [0.01, 0.02]
    normalised = (image.astype(np.float32) - np.array(offset, np.float32)[:, None, None, None]) * np.array(
        scale, np.float32
    )[:, None, None, None]
    expected = in_one_piece(net, normalised)
    function = network_function(net, offset, scale, "float32")
    for block, batch in [((1, 16, 16), 1), ((2, 24, 48), 2), ((3, 64, 64), 5)]:
        stitched = np.zeros_like(expected)
        for box in Grid((3, 50, 41), block):
            stitched[(slice(None), *box.slices)] = predict_box(
                ArraySource(image), box, function, shape=net.shape, largest=input_size(12, 2), batch=batch
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
        result = predict_box(
            ArraySource(image), Box((0, 0, 0), (1, *shape)), function, shape=net.shape, largest=largest
        )
        assert np.abs(result - expected).max() <= 1e-5


def volume_net(depth: int, flat: int, channels: int = 1, norm: str = "none", kernel: int = 2) -> UNet:
    return random_net(depth, channels, norm, dimensions=3, flat_levels=flat, up_kernel=kernel)


@pytest.mark.parametrize(("depth", "flat", "kernel"), [(1, 0, 2), (2, 0, 2), (2, 1, 3), (2, 2, 2)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 20), (9, 14, 7)])
def test_a_stitched_volume_equals_one_piece_for_any_size_and_tile(
    depth: int, flat: int, kernel: int, shape: tuple[int, ...]
) -> None:
    net = volume_net(depth, flat, kernel=kernel)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    function, expected = network_function(net, [0.0], [1.0], "float32"), in_one_piece(net, image)
    for output in (net.shape.steps, (8, 12, 4), (100, 100, 100)):
        largest = [input_size(max(n, axis.step), *axis) for n, axis in zip(output, net.shape, strict=True)]
        result = predict_box(
            ArraySource(image), Box((0, 0, 0), shape), function, shape=net.shape, largest=largest, batch=3
        )
        assert result.shape == expected.shape and np.abs(result - expected).max() <= 1e-5


@given(
    st.tuples(st.integers(1, 20), st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(4, 9), st.integers(4, 12), st.integers(4, 12)),
    st.integers(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_blocks_of_any_volume_equal_one_piece(
    shape: tuple[int, int, int], groups: tuple[int, int, int], output: tuple[int, int, int], flat: int
) -> None:
    net = volume_net(1, flat, channels=2, norm="batch")
    image = np.random.default_rng(1).integers(0, 255, (2, *shape)).astype(np.uint8)
    offset, scale = np.array([100.0, 20.0], np.float32), np.array([0.01, 0.02], np.float32)
    expected = in_one_piece(net, (image - offset[:, None, None, None]) * scale[:, None, None, None])
    function = network_function(net, offset.tolist(), scale.tolist(), "float32")
    largest = [input_size(max(n, axis.step), *axis) for n, axis in zip(output, net.shape, strict=True)]
    # Blocks start at whole groups of pooled voxels, along z too.
    z, y, x = (4 * n * step for n, step in zip(groups, net.shape.steps, strict=True))
    stitched = np.zeros_like(expected)
    for box in Grid(shape, (z, y, x)):
        part = predict_box(ArraySource(image), box, function, shape=net.shape, largest=largest)
        stitched[(slice(None), *box.slices)] = part
    assert np.abs(stitched - expected).max() <= 1e-5


@pytest.mark.parametrize("copies", ["flips", "dihedral"])
@pytest.mark.parametrize("flat", [0, 1])
def test_the_mean_over_copies_of_a_volume_does_not_depend_on_tiles(copies: str, flat: int) -> None:
    net, image = volume_net(1, flat), np.random.default_rng(0).normal(size=(1, 6, 11, 11)).astype(np.float32)
    function = network_function(net, [0.0], [1.0], "float32", copies)
    pads = [
        (halo(*axis), input_size(n, *axis) - n - halo(*axis))
        for n, axis in zip(image.shape[1:], net.shape, strict=True)
    ]
    padded = torch.from_numpy(np.pad(image, [(0, 0), *pads], mode="reflect"))
    scores = []
    for quarter in range(4) if copies == "dihedral" else (0, 2):
        for mirrored in [(), (1,), (3,), (1, 3)]:
            with torch.inference_mode():
                result = net(torch.rot90(padded, quarter, (2, 3)).flip(mirrored)[None].contiguous()).softmax(dim=1)[0]
            scores.append(torch.rot90(result.flip(mirrored), -quarter, (2, 3)).numpy())
    expected = np.mean(scores, axis=0)[:, :6, :11, :11]
    for output in ((4, 4, 4), (20, 8, 12)):
        largest = [input_size(n, *axis) for n, axis in zip(output, net.shape, strict=True)]
        result = predict_box(
            ArraySource(image), Box((0, 0, 0), (6, 11, 11)), function, shape=net.shape, largest=largest
        )
        assert np.abs(result - expected).max() <= 1e-5


def test_volumes_are_mirrored_at_their_own_edges_alone() -> None:
    """A block inside sees what is around it, also along z."""
    net = volume_net(1, 0)
    image = np.random.default_rng(3).normal(size=(1, 40, 24, 24)).astype(np.float32)
    source, box = ArraySource(image), Box((16, 8, 8), (20, 12, 12))
    predict_box(
        source, box, network_function(net, [0.0], [1.0], "float32"), shape=net.shape, largest=[input_size(4, 1)] * 3
    )
    assert source.boxes == [box.grow((8, 8, 8))]


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
