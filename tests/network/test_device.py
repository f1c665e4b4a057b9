"""A job that asked for GPUs computes on them, or ends and says why; without such a wish the CPU will do."""

from __future__ import annotations

import socket

import pytest
import torch

from unet_core.gpus import ALLOW_CPU, ASKED
from unet_core.network.device import INDICES, SHOWN, device, environments_of_gpus, require_gpus
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


@pytest.fixture
def workstation(node: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that has four GPUs of NVIDIA."""
    node.setattr(torch.accelerator, "is_available", lambda: True)
    node.setattr(torch.accelerator, "device_count", lambda: 4)
    node.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    for name in ("LOCAL_RANK", *INDICES["hip"], *INDICES["xpu"]):
        node.delenv(name, raising=False)
    return node


@pytest.mark.parametrize(
    ("shown", "asked", "expected"),
    [
        (None, 4, ["0", "1", "2", "3"]),
        (None, 2, ["0", "1"]),
        ("2,3,5,7", 4, ["2", "3", "5", "7"]),
        ("7, 5, 3, 2", 2, ["7", "5"]),
        ("GPU-8f3a,GPU-11c0,GPU-5d2e,GPU-9999", 3, ["GPU-8f3a", "GPU-11c0", "GPU-5d2e"]),
    ],
)
def test_each_process_of_a_job_is_shown_one_gpu(
    workstation: pytest.MonkeyPatch, shown: str | None, asked: int, expected: list[str]
) -> None:
    if shown is not None:
        workstation.setenv("CUDA_VISIBLE_DEVICES", shown)
    environments = environments_of_gpus({"gpu": asked})
    assert list(environments) == [f"cuda:{n}" for n in range(asked)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments.values()] == expected
    for environment in environments.values():  # there it is the only one, and all that is asked for
        with workstation.context() as process:
            process.setattr(torch.accelerator, "device_count", lambda: 1)
            process.setenv("LOCAL_RANK", "3")  # of whatever has started the job
            for name, value in environment.items():
                process.setenv(name, value)
            require_gpus()
            assert device() == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("kind", "before", "name", "expected"),
    [
        ("hip", {}, "HIP_VISIBLE_DEVICES", ["0", "1"]),
        ("hip", {"ROCR_VISIBLE_DEVICES": "2,3,4,5"}, "HIP_VISIBLE_DEVICES", ["0", "1"]),  # counted among those
        ("hip", {"HIP_VISIBLE_DEVICES": "2,3,4,5"}, "HIP_VISIBLE_DEVICES", ["2", "3"]),
        ("hip", {"CUDA_VISIBLE_DEVICES": "2,3,4,5"}, "CUDA_VISIBLE_DEVICES", ["2", "3"]),
        ("xpu", {"ZE_AFFINITY_MASK": "3,2,1,0"}, "ZE_AFFINITY_MASK", ["3", "2"]),
    ],
)
def test_gpus_of_other_makers_have_variables_of_their_own(
    workstation: pytest.MonkeyPatch, kind: str, before: dict[str, str], name: str, expected: list[str]
) -> None:
    if kind == "hip":
        workstation.setattr(torch.version, "hip", "6.4")
    else:
        workstation.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    for variable, value in before.items():
        workstation.setenv(variable, value)
    environments = environments_of_gpus({"gpu": 2})
    assert [one[name] for one in environments.values()] == expected
    assert all(set(one) == {name, ASKED, "LOCAL_RANK"} for one in environments.values())


def test_one_process_will_do_for_one_gpu_and_where_the_cpu_is_allowed(workstation: pytest.MonkeyPatch) -> None:
    for resources in ({}, {"gpu": 0}, {"gpu": 1}, {"gres": "gpu:a100:1"}, {"gres": "shard:4"}):
        assert environments_of_gpus(resources) == {}
    assert len(environments_of_gpus({"gres": "gpu:a100:3"})) == 3
    workstation.setattr(torch.accelerator, "is_available", lambda: False)
    workstation.setattr(torch.accelerator, "device_count", lambda: 0)
    workstation.setenv(ALLOW_CPU, "1")
    assert environments_of_gpus({"gpu": 4}) == {}


def test_a_job_with_fewer_gpus_than_it_asked_for_starts_no_process(workstation: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the job asked for 8 GPUs on each node, .* torch sees 4"):
        environments_of_gpus({"gres": "gpu:8"})
