"""A step whose results change gets another version, and what changes no result keeps the old one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from tests import method as fixed
from unet_core import method
from unet_core.config.datasets import Weights
from unet_core.config.instances import Instances
from unet_core.config.section import Section
from unet_core.digest import digest
from unet_core.engine import Engine
from unet_core.instances.step import objects_digest
from unet_core.weights.step import weight_map_digest

RECORD = json.loads(fixed.RECORD.read_text(encoding="utf-8"))
HOW = """
The results of the step {step} for fixed data are not those that are recorded for version {version} of its method:
  {places}
If that is meant, raise the number of {step} in unet_core/method.py, so that all users' results are made again, and run
'python -m tests.method {step}'. If not, what you changed changes results."""


@pytest.mark.parametrize("step", fixed.STEPS)
def test_results_are_those_that_are_recorded_for_the_version(step: str, tmp_path: Path, engine: Engine) -> None:
    known = RECORD[step]
    assert known["version"] == method.VERSIONS[step], f"run 'python -m tests.method {step}'"
    found = fixed.differences(known["made"], fixed.made_by(step, tmp_path, engine))
    assert not found, HOW.format(step=step, version=known["version"], places="\n  ".join(found[:10]))


@pytest.mark.parametrize(
    ("step", "target", "change"),
    [
        ("weights", "unet_core.store.result.halve_labels", lambda array: array[:, ::2, ::2]),
        ("plan", "unet_core.plan.step.PASSES_PER_PIXEL", 201),
        ("instances", "unet_core.instances.step.VALUE_OF_ONE", {"uint8": 254.0}),
        ("ensemble", "unet_core.network.ensemble.digest", lambda *values: digest(*values, 1)),
    ],
)
def test_a_changed_result_is_found(
    step: str, target: str, change: Any, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, change)
    assert fixed.differences(RECORD[step]["made"], fixed.made_by(step, tmp_path, engine))


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ({"a": 1}, {"a": 1}, False),
        ({"a": 1}, {"a": 2}, True),
        ({"a": 1}, {}, True),
        ([1.0, 2.0], [1.0001, 2.0], False),
        ([1.0, 2.0], [1.01, 2.0], True),
        ([1.0], [1.0, 2.0], True),
        (0.0, 0, False),
        ("a", "b", True),
        (None, 0, True),
        (True, 1, True),
    ],
)
def test_numbers_may_differ_in_their_last_digits_and_nothing_else(one: Any, other: Any, differ: bool) -> None:
    assert bool(fixed.differences(one, other)) == differ


def test_an_outline_sees_a_rounding_of_all_values_and_one_value_among_few() -> None:
    values = np.linspace(0, 255, 5000)
    assert fixed.differences(fixed.outline(values), fixed.outline(np.floor(values)))
    values = np.arange(50.0)
    assert fixed.differences(fixed.outline(values), fixed.outline(np.where(values == 7, 9, values)))


@pytest.mark.parametrize("step", method.VERSIONS)
def test_a_raised_version_is_another_method(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [method.method(step)]
    for _ in range(2):
        monkeypatch.setitem(method.VERSIONS, step, method.VERSIONS[step] + 1)
        names.append(method.method(step))
    assert len(set(names)) == 3 and all(name for name in names)


def test_results_of_release_0_1_0_keep_their_digests(tmp_path: Path) -> None:
    """These digests were computed by the code of that release; they change with the version of a method alone.

    Weights of version 2 are those of version 1 where voxels do not lie farther apart than half of a ridge; objects are
    where no split can leave pieces that are too small.
    """
    labels = np.ones((2, 3, 4), np.uint32)
    for name, planes in (("near", 1.0), ("far", 1.5)):
        fixed.put(tmp_path / "cells.zarr" / name / "labels" / "instances", labels, "labels", (planes, 1, 1))
    assert (method.VERSIONS["weights"], method.VERSIONS["instances"]) == (2, 2)
    maps = [weight_map_digest("labels", Weights(), tmp_path / "cells.zarr", name) for name in ("near", "far")]
    assert maps[0] == "a62140fa520330cb81fb" != maps[1]
    objects = [
        objects_digest("probabilities", Instances(split=split, min_size=size), ["cell"])
        for split, size in ((None, 0), (None, 20), (0.5, 1), (0.5, 20))
    ]
    assert objects[:3] == ["f8e83c424a1db1440ff9", "ca7c6fdd12f053adf7b3", "b284455b154810fc4241"]
    assert objects[3] != "c21ce585bd7815cadd13"


class Newer(Weights):
    """Weights with an option that came later."""

    later: float = Field(1.0, description="new", json_schema_extra={"since": "9.9.9"})


def test_an_option_that_came_later_changes_no_digest_where_it_has_its_default() -> None:
    assert Newer().model_dump() == Newer(later=1.0).model_dump() == Weights().model_dump()
    assert Newer(later=2.0).model_dump() == Weights().model_dump() | {"later": 2.0}
    assert Newer.model_validate(Newer(later=2.0).model_dump(mode="json")) == Newer(later=2.0)


@pytest.mark.parametrize("section", fixed.sections(), ids=lambda section: section.__name__)
def test_an_option_that_is_new_says_so(section: type[Section]) -> None:
    """Else its default would stand in the digests of all results, and an update would make them again."""
    known = set(RECORD["options"].get(section.__name__, ()))
    unmarked = {
        name
        for name, field in section.model_fields.items()
        if name not in known and "since" not in (field.json_schema_extra or {})
    }
    assert not unmarked, f"mark these with json_schema_extra={{'since': <version>}}: {section.__name__}.{unmarked}"
