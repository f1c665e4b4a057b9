"""Objects of a piece in memory are those that the oracle of the step makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.instances.test_step import OPTIONS, all_in_one_piece, in_raster_order, smooth_probabilities
from unet_core.config.instances import FixedInstances, Instances
from unet_core.instances.whole import label_objects


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30)),
    OPTIONS, st.sampled_from([0, 0.5]), st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_objects_are_those_of_the_oracle(shape: Any, cfg: Instances, background: float, seed: int) -> None:
    stored = smooth_probabilities(shape, 0.7, seed, background)
    labels = label_objects(stored, FixedInstances.model_validate(cfg.model_dump()), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(in_raster_order(labels), all_in_one_piece(stored.astype(np.float32) / 255, cfg))
