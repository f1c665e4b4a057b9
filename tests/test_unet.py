"""The network is the paper's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from unet_core.unet import UNet, halo, input_size, output_size, wider


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


@pytest.mark.parametrize(("size", "nearest"), [(571, "556 and 572 px"), (189, "188 and 204 px"), (180, r"188 px \(the smallest\)")])
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


@pytest.mark.parametrize("network", [{}, {"up_kernel": 3}, {"final_kernel": 3}, {"up_kernel": 3, "final_kernel": 3, "norm": "batch"}])
def test_what_two_overlapping_tiles_say_of_the_same_pixels_is_the_same(network: dict[str, Any]) -> None:
    """With padding anywhere, pixels near the border of a tile would differ."""
    net = small(2, width=4, **network)
    margin, size = halo(2, net.wider), input_size(16, 2, net.wider)
    image = torch.randn(1, 1, size + 16, size + 16)
    with torch.inference_mode():
        whole = net(image)
        for y, x in ((0, 0), (4, 12), (16, 16)):
            tile = net(image[..., y : y + size, x : x + size])
            torch.testing.assert_close(tile, whole[..., y : y + size - 2 * margin, x : x + size - 2 * margin], atol=1e-5, rtol=1e-5)


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
