"""What a data set is: the options of its images, annotations, splits and weight maps.

`options.py` has the models of all other sections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from unet_core.config.formats import DESCRIPTIONS
from unet_core.config.section import Section

NAME_PATTERN = r"^[\w-]+$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, description="letters, digits, '_' and '-'")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Options that came after release 0.1.0; see `Section`.
NEW: dict[str, Any] = {"since": "0.2.0"}
# Training target of pixels that are neither learnt nor scored.
IGNORE = 255


# One of the names in the table, which a type checker cannot know.
if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[*DESCRIPTIONS]


class ConfigError(ValueError):
    """The configuration or the files that it names are wrong; the message lists all that was found."""


class PixelSize(Section):
    """Physical size of a pixel; what is left out is taken from the files of the images, or 1 where these do not say."""

    z: Positive | None = Field(None, description="micrometres")
    y: Positive | None = Field(None, description="micrometres")
    x: Positive | None = Field(None, description="micrometres")


class Annotation(Section):
    """One source of annotations of a data set."""

    format: FormatName = Field(
        description="; ".join(f"{described.name}: {described.summary}" for described in DESCRIPTIONS.values())
    )
    path: str = Field(description="file, folder or pattern; {stem} stands for the image's file name without its ending")
    class_: str | None = Field(
        None,
        alias="class",
        description="class of these objects; default: what the annotation calls them, or the first of `classes`",
    )
    classes: dict[str, str] = Field(
        default={},
        description="what the annotation calls a class: the data set's name for it, or ignore, "
        "or background (left out)",
    )
    ignore: bool = Field(False, description="these objects mark areas that are neither learnt nor scored")
    region: bool = Field(
        False, description="these objects are the areas that were annotated; outside nothing is learnt or scored"
    )
    ignore_label: int | None = Field(
        None, description="value in the label images that marks ignored pixels: any whole number, as -1"
    )
    background: int | None = Field(
        None,
        json_schema_extra=NEW,
        description="value in the label images or masks that is background; default: 0",
    )
    threshold: float | None = Field(
        None,
        allow_inf_nan=False,
        json_schema_extra=NEW,
        description="format binary: pixels above are object; default: all that are not background",
    )
    connectivity: Literal[4, 6, 8, 26] = Field(
        4,
        json_schema_extra=NEW,
        description="masks: 4 (or 6): pixels that share a side (face) are one object; 8 (or 26): also over corners",
    )
    border: NonNegative = Field(
        0.0, description="pixels on either side of the objects' outlines that are neither learnt nor scored"
    )
    margin: int = Field(
        0,
        ge=0,
        json_schema_extra=NEW,
        description="pixels along y and x from the border of the image within which only some objects were annotated: "
        "where none is, nothing is learnt or scored",
    )
    slices: list[Annotated[int, Field(ge=0)]] | Literal["painted"] | None = Field(
        None,
        description="z planes (from 0) that were annotated, or painted: those with objects; the others are ignored",
    )
    samples: list[str] = Field(
        default=["*"], min_length=1, description="names of the samples that this source annotates (* matches)"
    )
    replaces: bool = Field(
        False,
        json_schema_extra=NEW,
        description="where this source has a sample, no other source of objects counts for it: for corrections",
    )
    broken: Literal["error", "skip"] = Field(
        "error",
        description="objects that cannot be read: error, or skip, which leaves them out with a warning",
        json_schema_extra={"since": "0.2.0"},
    )
    runs: Literal["columns", "rows"] | None = Field(
        None,
        description="whether run-lengths of format rle go down the columns or along the rows; default: rows where the "
        "table has the columns annotation, width and height, else columns",
        json_schema_extra={"since": "0.2.0"},
    )

    @field_validator("classes")
    @classmethod
    def _colours_in_lower_case(cls, classes: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        """Colours are the same in upper and lower case; other names of classes are not."""
        if info.data.get("format") != "colours":
            return classes
        lower = {key.lower(): name for key, name in classes.items()}
        if len(lower) < len(classes):
            raise ValueError("a colour stands there twice, in upper and in lower case")
        return lower

    @model_validator(mode="after")
    def _keys_agree(self) -> Annotation:
        if self.ignore + self.region + (self.class_ is not None) + bool(self.classes) > 1:
            raise ValueError("of ignore, region, class and classes a source may have one")
        if self.replaces and (self.ignore or self.region):
            raise ValueError("replaces is for sources of objects: areas to ignore and regions always count")
        described = DESCRIPTIONS[self.format]
        if self.ignore_label is not None and not described.ignore_label:
            *most, last = (one.name for one in DESCRIPTIONS.values() if one.ignore_label)
            raise ValueError(
                f"ignore_label has no meaning for format {self.format}: only for {', '.join(most)} and {last}"
            )
        if self.background is not None and not described.ignore_label:
            raise ValueError(f"background has no meaning for format {self.format}: only for label images and masks")
        if self.threshold is not None and self.format not in ("binary", "boundaries"):
            raise ValueError(f"threshold has no meaning for format {self.format}: only for binary and boundaries")
        if self.threshold is not None and self.background is not None:
            raise ValueError("threshold and background exclude each other: what is not above a threshold is background")
        if self.connectivity != 4 and self.format not in ("binary", "boundaries", "colours"):
            raise ValueError(
                f"connectivity has no meaning for format {self.format}: only for binary, boundaries and colours"
            )
        if self.broken != "error" and not described.drawn:
            names = ", ".join(one.name for one in DESCRIPTIONS.values() if one.drawn)
            raise ValueError(f"broken has no meaning for format {self.format}: only for {names}")
        if self.runs is not None and self.format != "rle":
            raise ValueError(f"runs has no meaning for format {self.format}: only for rle")
        if described.refused and self.path.endswith(described.refused[0]):
            raise ValueError(f"path {self.path!r}: {described.refused[1]}")
        return self


class Split(Section):
    """Which annotated samples are kept from training: a share by hash of the name, or name patterns."""

    group: str = Field(
        "file",
        json_schema_extra=NEW,
        description="samples that are never divided by shares or folds: file = those of one file, as frames of a film; "
        "sample = each may go anywhere; or a pattern with {group}, as in {group}_* for names, or */{group}/* for paths",
    )

    test: Fraction | list[str] = Field(0.2, description="share, or list of sample names (* matches)")
    validation: Fraction | list[str] = Field(0.1, description="share, or list of sample names (* matches)")

    @field_validator("group")
    @classmethod
    def _group_is_known(cls, group: str) -> str:
        if group not in ("file", "sample") and group.count("{group}") != 1:
            raise ValueError("must be file, sample, or a pattern with {group}, as in {group}_*")
        return group

    @model_validator(mode="after")
    def _shares_leave_some(self) -> Split:
        shares = sum(part for part in (self.test, self.validation) if not isinstance(part, list))
        if shares > 1:
            raise ValueError(f"the shares of test and validation add up to {shares}; at most 1")
        return self


class Weights(Section):
    """Border weight maps (paper, equation 2)."""

    w0: NonNegative = Field(10.0, description="height of the border term (paper: 10)")
    sigma: Positive = Field(5.0, description="width of the border term in pixels along x (paper: about 5)")
    separation: NonNegative = Field(
        2.0,
        description="width of the background ridge cut between touching objects, pixels along x, but at least a voxel; "
        "0: none",
    )
    inside: Literal["none", "object", "border"] = Field(
        "none",
        description="border term inside objects: none; object: at distance 0 from the object itself; border: "
        "from its border",
    )
    near: NonNegative = Field(
        0.0, description="height of a weight of background near objects (Fiji plugin: 0.9, with class_weights [0.1, 1])"
    )
    near_sigma: Positive = Field(10.0, description="width of that weight, in pixels along x (Fiji plugin: 10)")
    tolerance: Positive = Field(1e-4, description="border terms below this are stored as 0")
    dtype: Literal["float16", "float32"] = Field("float32", description="how border terms are stored")

    @model_validator(mode="after")
    def _fits_the_type(self) -> Weights:
        if self.dtype == "float16" and self.w0 + self.near > 65504:
            raise ValueError("w0 and near are too high for dtype float16 (65504 at most); use float32")
        return self


def _in_order(span: tuple[int, int]) -> tuple[int, int]:
    if span[0] >= span[1]:
        raise ValueError("the first pixel must be below the end, which is not part of it")
    return span


# First pixel along an axis, and the first one behind the end.
Span = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], AfterValidator(_in_order)]


class Extent(Section):
    """A box of pixels; along an axis that is left out it has all of the image."""

    z: Span | None = Field(None, json_schema_extra=NEW, description="first plane, and the first one behind the end")
    y: Span | None = Field(None, json_schema_extra=NEW, description="first pixel, and the first one behind the end")
    x: Span | None = Field(None, json_schema_extra=NEW, description="first pixel, and the first one behind the end")

    @model_validator(mode="after")
    def _says_something(self) -> Extent:
        if not (self.z or self.y or self.x):
            raise ValueError("at least one of z, y and x is needed, as in {y: [0, 4096], x: [1000, 3000]}")
        return self


class Dataset(Section):
    """Images of one kind, with or without annotations."""

    images: str | list[str] = Field(
        description="file, pattern or list; for HDF5 and OME-Zarr also path:internal/path; "
        "OME-Zarr also s3://bucket/a.zarr"
    )
    axes: str | None = Field(
        None,
        description="axes of one file, of t c z y x; each t is a sample of its own; default: what the first file says, "
        "else yx",
    )
    channels: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="channels to use; default: all"
    )
    pixel_size: PixelSize = PixelSize()
    in_place: Literal["auto", "always", "never"] = Field(
        "auto",
        description="read images where they lie instead of copying them; auto: those of more than 1 GiB, "
        "if parts can be read",
    )
    annotations: list[Annotation] = Field(default=[], description="none: the data set is only segmented")
    classes: list[Name] = Field(
        default=["cell"], min_length=1, max_length=254, description="names of the object classes"
    )
    unmatched: Literal["error", "allow"] = Field(
        "error", description="images without annotation (in ctc these are normal) and annotations without image"
    )
    sources: Literal["all", "first"] = Field(
        "all",
        description="of several sources: all together, or of each sample the first that has it (areas to ignore always "
        "count)",
    )
    region: list[Extent] = Field(
        default=[],
        json_schema_extra=NEW,
        description="boxes of pixels outside of which all is background and the network is not asked, of data sets "
        "without annotations; several: where any of them is; default: all of each image",
    )
    split: Split = Split()
    weights: dict[str, Any] = Field(default={}, description="keys of the section weights that differ for this data set")

    @field_validator("axes")
    @classmethod
    def _axes_are_known(cls, axes: str | None) -> str | None:
        if axes is not None and (set(axes) - set("tczyx") or len(set(axes)) < len(axes) or not set("yx") <= set(axes)):
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
                raise ValueError(
                    f"annotation class {annotation.class_!r} is not among classes: {', '.join(self.classes)}"
                )
            for name in set(annotation.classes.values()) - {*self.classes, "ignore", "background"}:
                raise ValueError(
                    f"annotation class {name!r} is not among classes: {', '.join(self.classes)}, ignore, background"
                )
        if self.region and self.annotations:
            raise ValueError(
                "region has no meaning with annotations: objects outside of it would be scored as missed; "
                "name the images in a data set without annotations too, with the region, and in predict_on of the model"
            )
        if self.channels is not None and self.axes is not None and "c" not in self.axes:
            raise ValueError("channels needs an axis c in axes")
        return self
