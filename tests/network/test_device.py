"""A job that asked for GPUs computes on them, or ends and says why; without such a wish the CPU will do."""

from __future__ import annotations

import socket

import pytest
import torch

from unet_core.gpus import ALLOW_CPU, ASKED
from unet_core.network.device import SHOWN, device, require_gpus
from unet_core.runtime import UserError

CPU = torch.device("cpu")
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU.\nMore."


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A node without GPUs, with a torch for CPUs, in a job that asked for one."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    for name in ("cuda", "hip", "xpu"):
        monkeypatch.setattr(torch.version, name, None, raising=False)
    for name in (ALLOW_CPU, *SHOWN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(ASKED, "1")
    return monkeypatch


def test_the_cpu_will_do_where_no_gpu_was_asked_for(node: pytest.MonkeyPatch) -> None:
    for nothing in ("0", ""):
        node.setenv(ASKED, nothing)
        assert device() == CPU
    node.delenv(ASKED)
    assert device() == CPU


def test_the_cpu_may_be_allowed(node: pytest.MonkeyPatch) -> None:
    node.setenv(ALLOW_CPU, "1")
    assert device() == CPU
    node.setenv(ALLOW_CPU, "0")
    with pytest.raises(UserError):
        device()


def test_a_build_for_cpus_is_told(node: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as raised:
        device()
    said = str(raised.value)
    assert f"the job asked for 1 GPU on each node, but on {socket.gethostname()} torch sees none" in said
    assert f"torch {torch.__version__} is a build for CPUs alone; install one" in said
    assert all(way in said for way in ("gpu: 0", "gres", "dask.slurm.gpus: 0", f"{ALLOW_CPU}=1"))


@pytest.mark.parametrize("shown", ["", "NoDevFiles"])
def test_gpus_that_slurm_does_not_show_are_told(node: pytest.MonkeyPatch, shown: str) -> None:
    node.setattr(torch.version, "cuda", "12.8")
    node.setenv("CUDA_VISIBLE_DEVICES", shown)
    with pytest.raises(UserError, match=f"it is shown none \\(CUDA_VISIBLE_DEVICES='{shown}'\\)"):
        device()


def test_what_torch_says_of_a_node_without_a_driver_is_told(node: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError(NO_DRIVER)

    node.setattr(torch.version, "cuda", "12.8")
    node.setattr(torch.cuda, "init", init)
    with pytest.raises(UserError) as raised:
        device()
    said = str(raised.value)
    assert f"torch {torch.__version__} (CUDA 12.8) says: Found no NVIDIA driver" in said and "More" not in said
    assert "CUDA_VISIBLE_DEVICES is not set" in said


def test_fewer_gpus_than_asked_for_are_refused_before_processes_start(node: pytest.MonkeyPatch) -> None:
    node.setenv(ASKED, "4")
    node.setenv("CUDA_VISIBLE_DEVICES", "0")
    node.setenv(ALLOW_CPU, "1")  # which is for nodes without any
    for seen in (4, 5):
        node.setattr(torch.accelerator, "device_count", lambda seen=seen: seen)
        require_gpus()
    node.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"asked for 4 GPUs .* torch sees 1 \(CUDA_VISIBLE_DEVICES='0'\)"):
        require_gpus()
