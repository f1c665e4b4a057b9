"""The network is the paper's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unet_core.unet import UNet, halo, input_size, output_size


def small(depth: int, width: int = 2, norm: str = "none") -> UNet:
    torch.manual_seed(0)
    return UNet(1, 2, depth=depth, width=width, dropout=0.0, norm=norm).eval()


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


def test_dropout_acts_in_training_alone() -> None:
    net = UNet(1, 2, depth=1, width=4, dropout=0.5, norm="none")
    image = torch.randn(1, 1, 44, 44)
    assert not torch.equal(net.train()(image), net(image))
    assert torch.equal(net.eval()(image), net(image))
