"""Which blocks show nothing and are left out of prediction."""

from __future__ import annotations

from pydantic import Field, model_validator

from unet_core.config.datasets import NEW
from unet_core.config.section import Section


class Skip(Section):
    """Blocks without anything in them, by their gray values."""

    below: float | None = Field(
        None, allow_inf_nan=False, json_schema_extra=NEW, description="empty: all gray values are below this"
    )
    above: float | None = Field(
        None, allow_inf_nan=False, json_schema_extra=NEW, description="empty: all gray values are above this"
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Skip:
        if (self.below is None) == (self.above is None):
            raise ValueError(
                "one of below and above is needed, as in {below: 12} (of a model that differs: {below: null, above: 3})"
            )
        return self
