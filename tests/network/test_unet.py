"""The network is the paper's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from unet_core.network.unet import UNet, halo, input_size, output_size, wider


def small(depth: int, width: int = 2, norm: str = "none", **network: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(1, 2, depth=depth, width=width, dropout=0.0, norm=norm, **network).eval()


def test_paper_network_has_31_030_658_parameters_and_23_convolutions() -> None:
    net = UNet(1, 2, depth=4, width=64, dropout=0.5, norm="none")
    assert sum(p.numel() for p in net.parameters()) == 31_030_658
    assert sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in net.modules()) == 23
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.ConvTranspose2d)] == [512, 256, 128, 64]


def test_paper_tile_of_572_gives_388() -> None:
    with torch.inference_mode():
        assert small(4)(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_sizes_are_those_of_the_network_and_no_smaller_input_would_do(depth: int) -> None:
    net = small(depth)
    for wanted in (1, 2, 7, 2**depth, 2**depth + 1):
        size = input_size(wanted, depth)
        with torch.inference_mode():
            assert net(torch.zeros(1, 1, size, size)).shape[-1] == output_size(size, depth) >= wanted
        smaller = size - 2**depth
        assert smaller <= 2 * halo(depth) or output_size(smaller, depth) < wanted


@pytest.mark.parametrize(
    ("size", "nearest"), [(571, "556 and 572 px"), (189, "188 and 204 px"), (180, r"188 px \(the smallest\)")]
)
def test_a_size_that_the_network_cannot_take_is_refused_with_the_nearest_sizes(size: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"cannot take a tile of {size} px; the nearest sizes are {nearest}"):
        output_size(size, depth=4)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_an_output_pixel_sees_all_of_its_receptive_field_and_nothing_else(norm: str) -> None:
    net = small(2, width=8, norm=norm)
    image = torch.randn(1, 1, 84, 84, requires_grad=True)
    out = net(image)
    y = x = 8  # a multiple of 2**depth: the first pixel of a group of pooled pixels
    out[0, :, y, x].abs().sum().backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    rows = torch.nonzero(seen.any(dim=1)).flatten()
    assert rows.min() >= y and rows.max() < y + 2 * halo(2) + 2**2


def test_weights_are_gaussian_with_deviation_sqrt_of_2_over_incoming_nodes() -> None:
    net = UNet(1, 2, depth=3, width=32, dropout=0.0, norm="none")
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            incoming = module.in_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / incoming) ** 0.5, rel=0.03)
        if isinstance(module, nn.ConvTranspose2d) and module.weight.numel() > 10_000:
            assert module.weight.std().item() == pytest.approx((2 / module.in_channels) ** 0.5, rel=0.03)


@pytest.mark.parametrize(("up_kernel", "final_kernel"), [(3, 1), (2, 3), (3, 3)])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_sizes_are_right_for_other_kernels_too(depth: int, up_kernel: int, final_kernel: int) -> None:
    net = small(depth, up_kernel=up_kernel, final_kernel=final_kernel)
    more = wider(depth, up_kernel, final_kernel)
    assert net.wider == more > 0
    for wanted in (1, 6, 2**depth + 1):
        size = input_size(wanted, depth, more)
        with torch.inference_mode():
            assert net(torch.zeros(1, 1, size, size)).shape[-1] == output_size(size, depth, more) >= wanted
        smaller = size - 2**depth
        assert smaller <= 2 * halo(depth, more) or output_size(smaller, depth, more) < wanted


@pytest.mark.parametrize(
    "network", [{}, {"up_kernel": 3}, {"final_kernel": 3}, {"up_kernel": 3, "final_kernel": 3, "norm": "batch"}]
)
def test_what_two_overlapping_tiles_say_of_the_same_pixels_is_the_same(network: dict[str, Any]) -> None:
    """With padding anywhere, pixels near the border of a tile would differ."""
    net = small(2, width=4, **network)
    margin, size = halo(2, net.wider), input_size(16, 2, net.wider)
    image = torch.randn(1, 1, size + 16, size + 16)
    with torch.inference_mode():
        whole = net(image)
        for y, x in ((0, 0), (4, 12), (16, 16)):
            tile = net(image[..., y : y + size, x : x + size])
            torch.testing.assert_close(
                tile, whole[..., y : y + size - 2 * margin, x : x + size - 2 * margin], atol=1e-5, rtol=1e-5
            )


def test_up_convolution_of_3x3_is_that_of_the_tutorials_without_the_pixels_at_the_edge() -> None:
    ours = small(1, up_kernel=3).up[0]
    theirs = nn.ConvTranspose2d(4, 2, kernel_size=3, stride=2, padding=1, output_padding=1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x)[..., 1:-1, 1:-1])


def test_normalisation_stands_where_it_was_asked_for() -> None:
    def kinds(**network: Any) -> list[str]:
        return [type(layer).__name__ for layer in small(1, **network).down[0]]

    assert kinds() == ["Conv2d", "ReLU"] * 2
    assert kinds(norm="batch") == ["Conv2d", "BatchNorm2d", "ReLU"] * 2
    assert kinds(norm="instance") == ["Conv2d", "InstanceNorm2d", "ReLU"] * 2
    assert kinds(norm="batch", norm_position="after_relu") == ["Conv2d", "ReLU", "BatchNorm2d"] * 2


def test_dropout_acts_in_training_alone() -> None:
    net = UNet(1, 2, depth=1, width=4, dropout=0.5, norm="none")
    image = torch.randn(1, 1, 44, 44)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))


def test_the_3d_tile_of_cicek_et_al_gives_theirs() -> None:
    """132 x 132 x 116 voxels to 44 x 44 x 28, in their figure 2."""
    net = small(3, dimensions=3)
    with torch.inference_mode():
        assert net(torch.zeros(1, 1, 116, 132, 132)).shape == (1, 2, 28, 44, 44)


@pytest.mark.parametrize(
    "kernels", [{}, {"up_kernel": 3}, {"final_kernel": 3, "norm": "batch"}, {"up_kernel": 3, "final_kernel": 3}]
)
@pytest.mark.parametrize("flat", [0, 1, 2])
def test_sizes_along_each_axis_are_those_of_the_network(flat: int, kernels: dict[str, Any]) -> None:
    net = small(2, dimensions=3, flat_levels=flat, **kernels)
    for wanted in ((1, 1, 1), (2, 7, 4), (5, 4, 9)):
        sides = [input_size(n, *axis) for n, axis in zip(wanted, net.shape, strict=True)]
        with torch.inference_mode():
            found = net(torch.zeros(1, 1, *sides)).shape[2:]
        assert list(found) == [output_size(n, *axis) for n, axis in zip(sides, net.shape, strict=True)]
        assert all(0 <= n - w < axis.step for n, w, axis in zip(found, wanted, net.shape, strict=True))


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_an_output_voxel_sees_its_receptive_field_and_nothing_else(flat: int) -> None:
    net = small(2, width=8, dimensions=3, flat_levels=flat)
    sides = [input_size(9, *axis) for axis in net.shape]
    image = torch.randn(1, 1, *sides, requires_grad=True)
    place = (4, 4, 8)  # multiples of what is pooled together
    net(image)[(0, slice(None), *place)].abs().sum().backward()
    assert image.grad is not None
    for axis, (at, along) in enumerate(zip(place, net.shape, strict=True)):
        others = [n for n in range(3) if n != axis]
        seen = torch.nonzero((image.grad[0, 0] != 0).any(dim=others[1]).any(dim=others[0])).flatten()
        assert seen.min() >= at and seen.max() < at + 2 * halo(*along) + along.step


def test_a_network_whose_levels_are_all_flat_but_the_last_has_planes_apart_where_its_kernels_are() -> None:
    """With weights only in the middle plane of its kernels, it is the 2D network on each plane."""
    flat, plane = small(2, width=3, dimensions=3, flat_levels=2), small(2, width=3)
    weights = {}
    for name, tensor in plane.state_dict().items():
        wanted = flat.state_dict()[name]
        weights[name] = torch.zeros_like(wanted)
        weights[name][(slice(None), slice(None), wanted.shape[2] // 2) if wanted.dim() == 5 else ...] = tensor
    flat.load_state_dict(weights)
    image = torch.randn(1, 1, 7, 60, 60)
    with torch.inference_mode():
        found = flat(image)
        expected = torch.stack([plane(image[:, :, z]) for z in range(2, 5)], dim=2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_more_flat_levels_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="flat_levels is 3, but must be 0 to 2, the depth"):
        small(2, dimensions=3, flat_levels=3)


def test_weights_in_3d_have_the_same_law() -> None:
    net = UNet(1, 2, depth=2, width=32, dropout=0.0, norm="none", dimensions=3, flat_levels=1)
    for name, incoming in (("down.2.2", 128 * 27), ("down.0.2", 32 * 9), ("up.0", 128), ("up.1", 64)):
        module = net.get_submodule(name)
        assert module.weight.std().item() == pytest.approx((2 / incoming) ** 0.5, rel=0.05), name


def test_names_of_weights_are_those_of_2d_networks_of_before() -> None:
    names = list(small(2, norm="batch").state_dict())
    assert names[:4] == ["down.0.0.weight", "down.0.1.weight", "down.0.1.bias", "down.0.1.running_mean"]
    assert {name.split(".")[0] for name in names} == {"down", "up", "merge", "head"}
    assert names == list(small(2, norm="batch", dimensions=3).state_dict())
