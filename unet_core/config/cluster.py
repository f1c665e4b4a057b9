"""Where blocks are worked on: the section ``dask``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from unet_core.config.datasets import Positive
from unet_core.config.section import Section, override


class Slurm(Section):
    """Worker jobs that a step submits to SLURM."""

    partition: str | None = Field(None, description="null: the default one")
    account: str | None = Field(None, description="null: yours")
    cores: int = Field(8, ge=1, description="cores of a worker job, which works on as many blocks at once")
    memory_gb: Positive = Field(32.0, description="memory of a worker job")
    gpus: int = Field(0, ge=0, description="GPUs of a worker job")
    minutes: int = Field(240, ge=5, description="time limit of a worker job; it is replaced by a new one in good time")
    minimum: int = Field(1, ge=0, description="worker jobs at least")
    maximum: int = Field(10, ge=1, description="worker jobs at most")
    interface: str | None = Field(None, description="network between the nodes, as ib0; null: the default one")
    options: list[str] = Field(default=[], description="more options of sbatch, as in [--qos=long]")

    @model_validator(mode="after")
    def _in_order(self) -> Slurm:
        if self.minimum > self.maximum:
            raise ValueError("minimum must not be above maximum")
        return self


class Tls(Section):
    """Certificates for a scheduler that runs already."""

    ca: str | None = Field(None, description="file of the certificate authority")
    certificate: str | None = Field(None, description="file of the certificate")
    key: str | None = Field(None, description="file of its key")


class Dask(Section):
    """How blocks are worked on."""

    cluster: Annotated[str, Field(pattern=r"^(local|slurm|tls://.+:[0-9]+)$")] = Field(
        "local",
        description="local: in the job itself; slurm: in worker jobs that it submits; tls://host:port: "
        "by a scheduler that runs already",
    )
    workers: int | Literal["auto"] = Field(
        "auto", description="local: blocks in work at once; auto: the threads of the job"
    )
    slurm: Slurm = Slurm()
    steps: dict[Literal["groundtruth", "weights", "predict", "instances", "evaluate"], dict[str, Any]] = Field(
        default={}, description="keys of slurm that differ for a step, as in {predict: {gpus: 1}}"
    )
    tls: Tls = Tls()

    @model_validator(mode="after")
    def _steps_fit(self) -> Dask:
        for step in self.steps:
            self.slurm_of(step)
        if self.cluster.startswith("tls:") and None in (self.tls.ca, self.tls.certificate, self.tls.key):
            raise ValueError("tls needs ca, certificate and key for a scheduler that runs already")
        return self

    def slurm_of(self, step: str) -> Slurm:
        """Section `slurm` with the step's own keys."""
        own = {str(name): keys for name, keys in self.steps.items()}
        return override(self.slurm, own.get(step, {}))

    @field_validator("workers")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if value != "auto" and int(value) < 1:
            raise ValueError("must be at least 1, or auto")
        return value
