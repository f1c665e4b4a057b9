"""The users' interface: every option, its default and its limits.

`config.yaml` is tested against the models below; they are the only definition of an option.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from unet_core.config.cluster import Dask
from unet_core.config.datasets import NEW, Dataset, Fraction, Name, NonNegative, Positive, Weights
from unet_core.config.instances import Instances
from unet_core.config.section import Section, override
from unet_core.config.skip import Skip


def _sides(tile: int | list[int] | str) -> int | list[int] | str:
    extent = [tile] * 3 if isinstance(tile, int) else tile
    if isinstance(extent, list) and (len(extent) != 3 or min(extent) < 1):
        raise ValueError("must be at least 1, or in 3D [z, y, x], each at least 1, or auto")
    return tile


# Extent of a tile in pixels: its side, or in 3D along z, y, x.
Tile = Annotated[int | list[int] | Literal["auto"], AfterValidator(_sides)]

# Number of folds, or name patterns of the samples of each.
Folds = Annotated[int, Field(ge=2)] | Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=2)]


class Model(Section):
    """A named U-Net, or the mean of several: what it learns from and what it is applied to."""

    train_on: list[str] = Field(default=[], description="data sets; default: the one of the model's name")
    predict_on: list[str] = Field(default=[], description="data sets; default: those of train_on")
    path: str | None = Field(None, description="folder of a model trained elsewhere or earlier: no training")
    folds: Folds | None = Field(
        None,
        description="cross-validation: so many networks, each validated on another part of the samples for training "
        "and validation, and the model is their mean; or for each part a list of sample names (* matches)",
    )
    ensemble: list[str] = Field(
        default=[], description="names of other models: this one is their mean, without training"
    )
    plan: dict[str, Any] = Field(default={}, description="keys of the section plan that differ for this model")
    train: dict[str, Any] = Field(default={}, description="keys of the section train that differ for this model")
    predict: dict[str, Any] = Field(default={}, description="keys of the section predict that differ for this model")
    instances: dict[str, Any] = Field(
        default={}, description="keys of the section instances that differ for this model"
    )


class Groundtruth(Section):
    """Conversion of images and annotations."""

    overlaps: Literal["error", "later", "smaller", "ignore"] = Field(
        "error", description="pixels of several objects: stop, the later or the smaller object wins, or ignore them"
    )
    overlap_tolerance: Fraction = Field(
        0.25,
        description="with overlaps: error, objects may share up to this part of the smaller one's pixels, "
        "which gets them; a warning tells how many do",
        json_schema_extra={"since": "0.2.0"},
    )


class Plan(Section):
    """What is decided from the data."""

    normalisation: Literal["percentile", "mean_std"] = Field(
        "percentile",
        description="percentile: low..high percentile of the sample to 0..1; mean_std: mean 0, deviation 1",
    )
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = Field(
        (1.0, 99.0), description="low and high percentile"
    )
    least_extent: NonNegative | Literal["auto"] = Field(
        "auto",
        json_schema_extra=NEW,
        description="least range of gray values to stretch; auto: that of training; 0: none",
    )
    class_weights: Literal["balanced", "none"] | list[NonNegative] = Field(
        "balanced", description="w_c: balanced = inverse class frequency over the training split; none = 1; or a list"
    )
    memory_gb: Positive | Literal["auto"] = Field(
        "auto",
        description="memory for prediction (of the GPU, if any); auto: half of the machine, less where a job has less",
    )

    @field_validator("percentiles")
    @classmethod
    def _in_order(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        if percentiles[0] >= percentiles[1]:
            raise ValueError("the low percentile must be below the high one")
        return percentiles


class Network(Section):
    """Shape of the U-Net."""

    depth: int = Field(4, ge=1, le=7, description="number of 2x2 poolings (paper: 4)")
    width: int = Field(64, ge=1, le=1024, description="channels of the first level (paper: 64)")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="dropout at the end of the contracting path")
    norm: Literal["none", "batch", "instance"] = Field(
        "none",
        description="normalisation at each 3x3 convolution (paper: none); instance: by each tile, "
        "so that results depend on its size",
    )
    norm_position: Literal["before_relu", "after_relu"] = Field(
        "before_relu", description="where it acts; PyTorch tutorials: after_relu"
    )
    up_kernel: Literal[2, 3] = Field(2, description="side of the up-convolutions, of stride 2 (paper: 2)")
    final_kernel: Literal[1, 3] = Field(1, description="side of the last convolution (paper: 1)")
    dimensions: Literal[2, 3] = Field(
        2, description="2: volumes plane by plane; 3: kernels and poolings along z too (Cicek et al. 2016)"
    )
    flat_levels: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="3D: so many first levels act in planes alone, for voxels longer along z; auto: by the plan"
    )

    @model_validator(mode="after")
    def _levels_are_there(self) -> Network:
        if isinstance(self.flat_levels, int) and self.flat_levels > self.depth:
            raise ValueError(f"flat_levels is {self.flat_levels}, but must be {self.depth} (depth) at most")
        return self


class Augment(Section):
    """Random variations of the training tiles."""

    rotation: bool = Field(True, description="rotation by any angle")
    flip: bool = Field(True, description="mirroring along y and x, of 3D tiles along z too")
    scale: Annotated[float, Field(ge=1, le=4)] = Field(1.0, description="scaling between 1/scale and scale")
    elastic_sigma: NonNegative = Field(
        10.0, description="standard deviation of the displacements in pixels (paper: 10)"
    )
    elastic_grid: int = Field(3, ge=2, le=32, description="nodes of the displacement grid per axis (paper: 3)")
    contrast: NonNegative = Field(0.2, description="gray values: contrast factor up to exp(+-contrast)")
    brightness: NonNegative = Field(0.1, description="gray values: shift up to +-brightness (normalised units)")
    gamma: NonNegative = Field(0.2, description="gray values: exponent up to exp(+-gamma)")
    noise: NonNegative = Field(
        0.05, description="gray values: Gaussian noise of up to this deviation (normalised units)"
    )
    blur: Annotated[float, Field(ge=0, le=20)] = Field(
        0.0, description="gray values: Gaussian blur of up to this deviation in pixels"
    )


class Train(Section):
    """Training."""

    preset: Literal["paper2015", "modern", "small", "tutorial"] | None = Field(
        None,
        description="other values for the options below, each of which may still be set; "
        "docs/training.md has the table",
    )
    network: Network = Network()
    tile: Tile = Field(
        "auto", description="side of the input tile in pixels, in 3D [z, y, x]; auto: by the plan, about 572 at most"
    )
    batch: int = Field(1, ge=1, description="tiles per step, of all GPUs together (paper: 1)")
    accumulate: int = Field(1, ge=1, description="passes of `batch` tiles whose gradients are added up for one step")
    foreground: Fraction = Field(0.0, description="share of tiles that are centred on a pixel of an object")
    sampling: Literal["proportional", "balanced"] = Field(
        "proportional", description="tiles from each data set: as its annotated pixels, or balanced = the same number"
    )
    steps: int | Literal["auto"] = Field("auto", description="steps of the optimiser; auto: by the plan")
    optimiser: Literal["sgd", "adamw"] = Field(
        "sgd", description="sgd, with momentum (paper), or adamw, which learns in fewer steps"
    )
    learning_rate: Positive = Field(0.001, description="step size of the optimiser; 0.002 is usual for adamw")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.99, description="momentum of sgd (paper: 0.99)")
    weight_decay: NonNegative = Field(
        0.0, description="sgd: L2 penalty; adamw: decay in each step, as a share of the learning rate"
    )
    schedule: Literal["constant", "poly"] = Field(
        "poly", description="poly: learning rate falls as (1 - step/steps)^0.9"
    )
    warmup: int = Field(100, ge=0, description="steps over which the learning rate rises from 0")
    clip: NonNegative = Field(0.0, description="largest norm of the gradient; 0: no limit")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="arithmetic of the network; auto: bfloat16 (on GPUs before Ampere float16) where a measurement "
        "says that it is faster on the device, else float32; float16: with a loss that is scaled up",
    )
    compile: bool = Field(
        False, description="compile the network (torch.compile): minutes at the start, then faster steps on a GPU"
    )
    validate_every: int = Field(500, ge=1, description="steps between validations (and checkpoints)")
    best_by: Literal["loss", "iou", "seg", "ap50"] = Field(
        "loss", description="which validation score chooses the best checkpoint; iou, seg and ap50 at probability 0.5"
    )
    patience: int = Field(0, ge=0, description="stop after so many validations without a better one; 0: never")
    start: str = Field(
        "previous",
        min_length=1,
        description="first weights: previous = of this model, if only annotations were added since, else new; new; "
        "or a model's folder",
    )
    freeze: list[Literal["contracting", "expanding", "output"]] = Field(
        default=[], description="parts of the network that keep the weights that training starts from"
    )
    seed: int = Field(0, ge=0, description="of all random numbers")
    augment: Augment = Augment()

    @field_validator("steps")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if value != "auto" and int(value) < 1:
            raise ValueError("must be at least 1, or auto")
        return value

    @model_validator(mode="after")
    def _tile_fits(self) -> Train:
        if self.tile != "auto" and isinstance(self.tile, int) != (self.network.dimensions == 2):
            needed = "one side" if self.network.dimensions == 2 else "[z, y, x]"
            raise ValueError(f"tile is {self.tile}, but a {self.network.dimensions}D network takes {needed}, or auto")
        if isinstance(self.tile, list) and self.tile[1] != self.tile[2]:
            raise ValueError(f"tile is {self.tile}, but y and x must be the same: tiles are rotated")
        return self


class Predict(Section):
    """Overlap-tile inference."""

    tile: Tile = Field(
        "auto", description="largest side of the input tile in pixels, in 3D [z, y, x]; auto: by plan and measurement"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="arithmetic of the network; auto: what a measurement finds faster on the device"
    )
    average: Literal["none", "flips", "dihedral"] = Field(
        "none",
        description="mean over mirrored copies; flips: 4; dihedral: 8, rotated by 90 degrees too; in 3D, also along z, "
        "8 and 16",
    )
    dtype: Literal["uint8", "float16", "float32", "mask"] = Field(
        "uint8",
        description="how probabilities are stored; uint8: 0..255; mask: not at all, "
        "but where they are above instances.threshold",
    )
    splits: list[Literal["train", "validation", "test", "unannotated"]] = Field(
        default=["train", "validation", "test", "unannotated"], min_length=1, description="which samples are segmented"
    )
    skip: Skip | None = Field(
        None,
        json_schema_extra=NEW,
        description="blocks that are background without asking the network: {below: 12}: where all gray values "
        "(of the file, in means of 4x4 pixels) are below 12; {above: 240}: above 240; null: none",
    )


class Evaluate(Section):
    """Scores."""

    splits: list[Literal["train", "validation", "test", "cross-validation"]] = Field(
        default=["test", "cross-validation"],
        min_length=1,
        description="which samples are scored; cross-validation: of models with folds, "
        "by the network that has not seen them",
    )
    thresholds: list[Annotated[float, Field(ge=0.5, lt=1)]] = Field(
        default=[0.5, 0.6, 0.7, 0.75, 0.8, 0.9],
        description="IoU thresholds of AP, F1, PQ and the like, each at least 0.5, 0.5 and 0.75 among them",
    )
    boundary_tolerance: NonNegative | None = Field(
        None, description="micrometres within which boundaries agree (boundary_f1); null: 2 pixels along x"
    )
    gate: bool = Field(
        True,
        description="a retrained model that is worse is not applied to data sets without annotation; off for one run: "
        "--config gate=off",
    )
    gate_margin: Fraction = Field(
        0.05, description="worse: iou, seg or ap50 fell by more than this on the same images (test, cross-validation)"
    )

    @field_validator("thresholds")
    @classmethod
    def _has_the_usual(cls, thresholds: list[float]) -> list[float]:
        if not {0.5, 0.75} <= set(thresholds):
            raise ValueError("must contain 0.5 and 0.75: the table has columns for them")
        return sorted(set(thresholds))


class Report(Section):
    """Tables and pictures."""

    previews: int = Field(
        3, ge=1, le=50, description="samples shown per model and data set, from worst to best, beside the ten worst"
    )


def _not_empty(names: dict[str, Any]) -> dict[str, Any]:
    if not names:
        raise ValueError("at least one is needed")
    return names


class Config(Section):
    """The whole of `config.yaml`."""

    results: str = Field("results", min_length=1, description="folder of everything that is made")
    datasets: Annotated[dict[Name, Dataset], AfterValidator(_not_empty)]
    models: dict[Name, Model] = Field(default={}, description="default: one model per annotated data set")
    groundtruth: Groundtruth = Groundtruth()
    weights: Weights = Weights()
    plan: Plan = Plan()
    train: Train = Train()
    predict: Predict = Predict()
    instances: Instances = Instances()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    dask: Dask = Dask()

    def weights_of(self, dataset: str) -> Weights:
        """Section `weights` with the data set's own keys."""
        return override(self.weights, self.datasets[dataset].weights)

    def model_of(self, network: str) -> Model:
        """The model that a network is, or is a fold of: names of models hold no dot."""
        return self.models[network.partition(".")[0]]

    def networks_of(self, model: str) -> list[str]:
        """Networks whose mean a model is.

        These are its folds, or the networks of the models of its ensemble; a model without either has one network of
        its name.
        """
        own = self.models[model]
        if own.ensemble:
            return [network for name in own.ensemble for network in self.networks_of(name)]
        count = own.folds if isinstance(own.folds, int) else len(own.folds or [])
        return [f"{model}.fold{number}" for number in range(1, count + 1)] or [model]

    @property
    def networks(self) -> list[str]:
        """All networks: each is planned and trained, or was trained elsewhere."""
        return [
            network for name, model in self.models.items() if not model.ensemble for network in self.networks_of(name)
        ]

    def fold_of(self, network: str) -> tuple[int, Folds] | None:
        """Number of the fold that a network is validated on, with the folds of its model; None without folds."""
        folds = self.model_of(network).folds
        return (int(network.rpartition(".fold")[2]), folds) if folds else None

    def datasets_of(self, network: str) -> list[str]:
        """Data sets that a network is trained on or applied to, alone or in an ensemble."""
        own, name = self.model_of(network), network.partition(".")[0]
        ensembles = [model.predict_on for model in self.models.values() if name in model.ensemble]
        return list(
            dict.fromkeys([*own.train_on, *own.predict_on, *(dataset for names in ensembles for dataset in names)])
        )

    def train_of(self, network: str) -> Train:
        """Section `train` with the model's own keys."""
        return override(self.train, self.model_of(network).train)

    def plan_of(self, network: str) -> Plan:
        """Section `plan` with the model's own keys."""
        return override(self.plan, self.model_of(network).plan)

    def predict_of(self, model: str) -> Predict:
        """Section `predict` with the model's own keys."""
        return override(self.predict, self.model_of(model).predict)

    def instances_of(self, model: str) -> Instances:
        """Section `instances` with the model's own keys."""
        return override(self.instances, self.models[model].instances)

    def tuned_by(self, model: str) -> list[str]:
        """Annotated data sets by which a model's auto options are chosen: it is applied to them, and learns from them.

        A model that was trained elsewhere learns from none: all of them count.
        """
        learnt = {name for network in self.networks_of(model) for name in self.model_of(network).train_on}
        own = [name for name in self.models[model].predict_on if self.datasets[name].annotations]
        return [name for name in own if name in learnt or not learnt]

    def mask_threshold(self, model: str) -> float | None:
        """Threshold of the masks that `predict` stores instead of probabilities; None where it stores these."""
        threshold = self.instances_of(model).threshold
        return float(threshold) if self.predict_of(model).dtype == "mask" else None
