"""The users' interface: every option, its default and its limits.

`config.yaml` is tested against the models below; they are the only definition of an option.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = r"^[\w-]+$"
Name = Annotated[str, Field(pattern=NAME, description="letters, digits, '_' and '-'")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Training target of pixels that are neither learnt nor scored.
IGNORE = 255


class ConfigError(ValueError):
    """The configuration or the files that it names are wrong; the message lists all that was found."""


class _Section(BaseModel):
    """Frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PixelSize(_Section):
    """Physical size of a pixel."""

    z: Positive = Field(1.0, description="micrometres")
    y: Positive = Field(1.0, description="micrometres")
    x: Positive = Field(1.0, description="micrometres")


class Annotation(_Section):
    """One source of annotations of a data set."""

    format: Literal["labels", "ctc", "rle", "masks", "boundaries", "coco", "imagej", "geojson", "labelme", "cvat", "aperio"] = Field(
        description="labels: one label image per image; ctc: a Cell Tracking Challenge folder; rle: a Kaggle table of "
        "run-lengths; masks: one mask image per object; boundaries: membranes 0, interiors 255; coco: one COCO JSON file; "
        "imagej: ImageJ ROIs (.roi, RoiSet.zip); geojson: polygons as QuPath exports them; "
        "labelme: LabelMe JSON; cvat: XML of CVAT for images; aperio: ImageScope XML"
    )
    path: str = Field(description="file, folder or pattern; {stem} stands for the image's file name without its ending")
    class_: str | None = Field(
        None, alias="class", description="class of these objects; default: what the annotation calls them, or the first of `classes`"
    )
    ignore: bool = Field(False, description="these objects mark areas that are neither learnt nor scored")
    ignore_label: int | None = Field(None, ge=1, description="value in the label images that marks ignored pixels")

    @model_validator(mode="after")
    def _ignore_label_needs_labels(self) -> Annotation:
        if self.ignore_label is not None and self.format not in ("labels", "boundaries"):
            raise ValueError(f"ignore_label has no meaning for format {self.format}: only for labels and boundaries")
        return self


class Split(_Section):
    """Which annotated samples are kept from training: a share by hash of the name, or name patterns."""

    test: Fraction | list[str] = Field(0.2, description="share, or list of sample names (* matches)")
    validation: Fraction | list[str] = Field(0.1, description="share, or list of sample names (* matches)")

    @model_validator(mode="after")
    def _shares_leave_some(self) -> Split:
        shares = sum(part for part in (self.test, self.validation) if not isinstance(part, list))
        if shares > 1:
            raise ValueError(f"the shares of test and validation add up to {shares}; at most 1")
        return self


class Weights(_Section):
    """Border weight maps (paper, equation 2)."""

    w0: NonNegative = Field(10.0, description="height of the border term (paper: 10)")
    sigma: Positive = Field(5.0, description="width of the border term in pixels along x (paper: about 5)")
    separation: NonNegative = Field(2.0, description="width of the background ridge cut between touching objects, pixels along x")
    tolerance: Positive = Field(1e-4, description="border terms below this are stored as 0")


class Dataset(_Section):
    """Images of one kind, with or without annotations."""

    images: str | list[str] = Field(description="file, pattern or list; for HDF5 and OME-Zarr also path:internal/path")
    axes: str = Field("yx", description="axes of one file, of t c z y x; each t is a sample of its own")
    channels: list[Annotated[int, Field(ge=0)]] | None = Field(None, min_length=1, description="channels to use; default: all")
    pixel_size: PixelSize = PixelSize()
    in_place: Literal["auto", "always", "never"] = Field(
        "auto", description="read images where they lie instead of copying them; auto: those of more than 1 GiB, if parts can be read"
    )
    annotations: list[Annotation] = Field(default=[], description="none: the data set is only segmented")
    classes: list[Name] = Field(default=["cell"], min_length=1, max_length=254, description="names of the object classes")
    unmatched: Literal["error", "allow"] = Field(
        "error", description="images without annotation (in ctc these are normal) and annotations without image"
    )
    split: Split = Split()
    weights: dict[str, Any] = Field(default={}, description="keys of the section weights that differ for this data set")

    @field_validator("axes")
    @classmethod
    def _axes_are_known(cls, axes: str) -> str:
        if set(axes) - set("tczyx") or len(set(axes)) < len(axes) or not set("yx") <= set(axes):
            raise ValueError("must be letters of t c z y x, each at most once, with y and x among them")
        return axes

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, classes: list[str]) -> list[str]:
        if len(set(classes)) < len(classes):
            raise ValueError("each class may be named only once")
        return classes

    @model_validator(mode="after")
    def _names_agree(self) -> Dataset:
        for annotation in self.annotations:
            if annotation.class_ is not None and annotation.class_ not in self.classes:
                raise ValueError(f"annotation class {annotation.class_!r} is not among classes: {', '.join(self.classes)}")
        if self.channels is not None and "c" not in self.axes:
            raise ValueError("channels needs an axis c in axes")
        return self


class Model(_Section):
    """A named U-Net: what it learns from and what it is applied to."""

    train_on: list[str] = Field(default=[], description="data sets; default: the one of the model's name")
    predict_on: list[str] = Field(default=[], description="data sets; default: those of train_on")
    path: str | None = Field(None, description="folder of a model trained elsewhere or earlier: no training")
    plan: dict[str, Any] = Field(default={}, description="keys of the section plan that differ for this model")
    train: dict[str, Any] = Field(default={}, description="keys of the section train that differ for this model")
    predict: dict[str, Any] = Field(default={}, description="keys of the section predict that differ for this model")
    instances: dict[str, Any] = Field(default={}, description="keys of the section instances that differ for this model")


class Groundtruth(_Section):
    """Conversion of images and annotations."""

    overlaps: Literal["error", "later", "smaller", "ignore"] = Field(
        "error", description="pixels of several objects: stop, the later or the smaller object wins, or ignore them"
    )


class Plan(_Section):
    """What is decided from the data."""

    normalisation: Literal["percentile", "mean_std"] = Field(
        "percentile", description="percentile: low..high percentile of the sample to 0..1; mean_std: mean 0, deviation 1"
    )
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = Field(
        (1.0, 99.0), description="low and high percentile"
    )
    class_weights: Literal["balanced", "none"] | list[NonNegative] = Field(
        "balanced", description="w_c: balanced = inverse class frequency over the training split; none = 1; or a list"
    )
    memory_gb: Positive | Literal["auto"] = Field(
        "auto", description="memory for prediction (of the GPU, if any); auto: half of the machine"
    )

    @field_validator("percentiles")
    @classmethod
    def _in_order(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        if percentiles[0] >= percentiles[1]:
            raise ValueError("the low percentile must be below the high one")
        return percentiles


class Network(_Section):
    """Shape of the U-Net."""

    depth: int = Field(4, ge=1, le=7, description="number of 2x2 poolings (paper: 4)")
    width: int = Field(64, ge=1, le=1024, description="channels of the first level (paper: 64)")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="dropout at the end of the contracting path")
    norm: Literal["none", "batch", "instance"] = Field(
        "none",
        description="normalisation at each 3x3 convolution (paper: none); instance: by each tile, so that results depend on its size",
    )
    norm_position: Literal["before_relu", "after_relu"] = Field("before_relu", description="where it acts; PyTorch tutorials: after_relu")
    up_kernel: Literal[2, 3] = Field(2, description="side of the up-convolutions, of stride 2 (paper: 2)")
    final_kernel: Literal[1, 3] = Field(1, description="side of the last convolution (paper: 1)")


class Augment(_Section):
    """Random variations of the training tiles."""

    rotation: bool = Field(True, description="rotation by any angle")
    flip: bool = Field(True, description="mirroring along y and x")
    scale: Annotated[float, Field(ge=1, le=4)] = Field(1.0, description="scaling between 1/scale and scale")
    elastic_sigma: NonNegative = Field(10.0, description="standard deviation of the displacements in pixels (paper: 10)")
    elastic_grid: int = Field(3, ge=2, le=32, description="nodes of the displacement grid per axis (paper: 3)")
    contrast: NonNegative = Field(0.2, description="gray values: contrast factor up to exp(+-contrast)")
    brightness: NonNegative = Field(0.1, description="gray values: shift up to +-brightness (normalised units)")
    gamma: NonNegative = Field(0.2, description="gray values: exponent up to exp(+-gamma)")
    noise: NonNegative = Field(0.05, description="gray values: Gaussian noise of up to this deviation (normalised units)")
    blur: Annotated[float, Field(ge=0, le=20)] = Field(0.0, description="gray values: Gaussian blur of up to this deviation in pixels")


class Train(_Section):
    """Training."""

    preset: Literal["paper2015", "modern", "small", "tutorial"] | None = Field(
        None, description="other values for the options below, each of which may still be set; docs/training.md has the table"
    )
    network: Network = Network()
    tile: int | Literal["auto"] = Field("auto", description="side of the input tile in pixels; auto: by the plan, about 572 at most")
    batch: int = Field(1, ge=1, description="tiles per step, of all GPUs together (paper: 1)")
    accumulate: int = Field(1, ge=1, description="passes of `batch` tiles whose gradients are added up for one step")
    foreground: Fraction = Field(0.0, description="share of tiles that are centred on a pixel of an object")
    sampling: Literal["proportional", "balanced"] = Field(
        "proportional", description="tiles from each data set: as its annotated pixels, or balanced = the same number"
    )
    steps: int | Literal["auto"] = Field("auto", description="steps of the optimiser; auto: by the plan")
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="sgd, with momentum (paper), or adamw, which learns in fewer steps")
    learning_rate: Positive = Field(0.001, description="step size of the optimiser; 0.002 is usual for adamw")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.99, description="momentum of sgd (paper: 0.99)")
    weight_decay: NonNegative = Field(0.0, description="sgd: L2 penalty; adamw: decay in each step, as a share of the learning rate")
    schedule: Literal["constant", "poly"] = Field("poly", description="poly: learning rate falls as (1 - step/steps)^0.9")
    warmup: int = Field(100, ge=0, description="steps over which the learning rate rises from 0")
    clip: NonNegative = Field(0.0, description="largest norm of the gradient; 0: no limit")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="arithmetic of the network; float16: with a loss that is scaled up"
    )
    compile: bool = Field(False, description="compile the network (torch.compile): minutes at the start, then faster steps on a GPU")
    validate_every: int = Field(500, ge=1, description="steps between validations (and checkpoints)")
    best_by: Literal["loss", "iou", "seg", "ap50"] = Field(
        "loss", description="which validation score chooses the best checkpoint; iou, seg and ap50 at probability 0.5"
    )
    patience: int = Field(0, ge=0, description="stop after so many validations without a better one; 0: never")
    start: str = Field(
        "previous",
        min_length=1,
        description="first weights: previous = of this model, if only annotations were added since, else new; new; or a model's folder",
    )
    freeze: list[Literal["contracting", "expanding", "output"]] = Field(
        default=[], description="parts of the network that keep the weights that training starts from"
    )
    seed: int = Field(0, ge=0, description="of all random numbers")
    augment: Augment = Augment()

    @field_validator("tile", "steps")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if value != "auto" and int(value) < 1:
            raise ValueError("must be at least 1, or auto")
        return value


class Predict(_Section):
    """Overlap-tile inference."""

    tile: int | Literal["auto"] = Field("auto", description="largest side of the input tile in pixels; auto: by the plan")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic of the network")
    average: Literal["none", "flips", "dihedral"] = Field(
        "none", description="mean over mirrored copies of each tile; flips: 4 copies; dihedral: 8, rotated by 90 degrees too"
    )
    dtype: Literal["uint8", "float16", "float32"] = Field("uint8", description="how probabilities are stored; uint8: 0..255")
    splits: list[Literal["train", "validation", "test", "unannotated"]] = Field(
        default=["train", "validation", "test", "unannotated"], min_length=1, description="which samples are segmented"
    )


class Instances(_Section):
    """Objects from probabilities."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="foreground probability of an object's pixels")
    split: NonNegative | None = Field(
        None, description="cut objects (up to 67 million voxels) at necks narrower by twice this many pixels, as in 0.5; null: never"
    )
    min_size: int = Field(0, ge=0, description="objects of fewer pixels are removed")
    connectivity: Literal["faces", "full"] = Field("faces", description="neighbours: sharing a face, or a corner too")


class Evaluate(_Section):
    """Scores."""

    splits: list[Literal["train", "validation", "test"]] = Field(default=["test"], min_length=1, description="which samples are scored")
    thresholds: list[Annotated[float, Field(ge=0.5, lt=1)]] = Field(
        default=[0.5, 0.6, 0.7, 0.75, 0.8, 0.9],
        description="IoU thresholds of AP, F1, PQ and the like, each at least 0.5, 0.5 and 0.75 among them",
    )

    @field_validator("thresholds")
    @classmethod
    def _has_the_usual(cls, thresholds: list[float]) -> list[float]:
        if not {0.5, 0.75} <= set(thresholds):
            raise ValueError("must contain 0.5 and 0.75: the table has columns for them")
        return sorted(set(thresholds))


class Report(_Section):
    """Tables and pictures."""

    previews: int = Field(3, ge=1, le=50, description="samples shown per model and data set")


class Slurm(_Section):
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


class Tls(_Section):
    """Certificates for a scheduler that runs already."""

    ca: str | None = Field(None, description="file of the certificate authority")
    certificate: str | None = Field(None, description="file of the certificate")
    key: str | None = Field(None, description="file of its key")


class Dask(_Section):
    """How blocks are worked on."""

    cluster: Annotated[str, Field(pattern=r"^(local|slurm|tls://.+:[0-9]+)$")] = Field(
        "local",
        description="local: in the job itself; slurm: in worker jobs that it submits; tls://host:port: by a scheduler that runs already",
    )
    workers: int | Literal["auto"] = Field("auto", description="local: blocks in work at once; auto: the threads of the job")
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


def _not_empty(names: dict[str, Any]) -> dict[str, Any]:
    if not names:
        raise ValueError("at least one is needed")
    return names


class Config(_Section):
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

    def train_of(self, model: str) -> Train:
        """Section `train` with the model's own keys."""
        return override(self.train, self.models[model].train)

    def plan_of(self, model: str) -> Plan:
        """Section `plan` with the model's own keys."""
        return override(self.plan, self.models[model].plan)

    def predict_of(self, model: str) -> Predict:
        """Section `predict` with the model's own keys."""
        return override(self.predict, self.models[model].predict)

    def instances_of(self, model: str) -> Instances:
        """Section `instances` with the model's own keys."""
        return override(self.instances, self.models[model].instances)


def override(section: Any, own: Mapping[str, Any]) -> Any:
    """A section with some of its keys replaced."""
    return type(section).model_validate(merge(section.model_dump(), own)) if own else section


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `own`, also inside of nested sections."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
