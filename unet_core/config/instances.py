"""How objects are made of probabilities."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unet_core.config.datasets import NEW, NonNegative
from unet_core.config.section import Section

Auto = Literal["auto"]
Threshold = Annotated[float, Field(gt=0, lt=1)]
LeastSize = Annotated[int, Field(ge=0)]


class Instances(Section):
    """Objects from probabilities; auto: what is best on samples for validation, or held out by folds."""

    threshold: Threshold | Auto = Field(0.5, description="foreground probability of an object's pixels, or auto")
    min_size: LeastSize | Auto = Field(
        0,
        description="objects of fewer pixels are removed before holes are filled, pieces of a split joined; or auto",
    )
    fill: Literal["none", "planes", "volume"] = Field(
        "none",
        description="holes become part of the object around them; planes: those that are closed in a z plane; volume: "
        "in 3D",
    )
    split: NonNegative | Auto | None = Field(
        None,
        description="cut objects (up to 67 million voxels) at necks narrower by twice this many pixels, as in 0.5; "
        "null: never; or auto",
    )
    split_by: Literal["distance", "probability"] = Field(
        "distance",
        description="probability: split is the least fall of the probability (0..1) between two parts, as in 0.2",
    )
    connectivity: Literal["faces", "full"] = Field("faces", description="neighbours: sharing a face, or a corner too")
    measure: list[Literal["shape", "intensity"]] = Field(
        default=["shape", "intensity"],
        json_schema_extra=NEW,
        description="more columns in the tables of objects; shape: axes, perimeter, ...; intensity: gray values",
    )
    best_by: Literal["ap", "seg"] = Field(
        "ap", json_schema_extra=NEW, description="what auto is chosen by: mean of AP at IoU 0.5 and 0.75, or SEG"
    )

    @property
    def is_tuned(self) -> bool:
        """Whether some of it is chosen by validation."""
        return "auto" in (self.threshold, self.min_size, self.split)


class FixedInstances(Instances):
    """The same with numbers for what was auto."""

    threshold: Threshold = 0.5
    min_size: LeastSize = 0
    split: NonNegative | None = None
