"""A short form of ``python -m benchmarks attacks``, on the whole chain; it takes minutes, so it has to be asked for.

``UNET_ATTACKS="kills=1 full=1 damages=1" pytest tests/test_attacks.py``
"""

from __future__ import annotations

import os
import random

import pytest

from benchmarks.attacks import Project, counts, damages, full, kills

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.timeout(0),
    pytest.mark.skipif("UNET_ATTACKS" not in os.environ, reason="takes minutes; set UNET_ATTACKS to run it"),
]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("attacked"))
    project.make()
    project.finish()
    return project


def test_damage_is_found_and_mended(attacked: Project) -> None:
    found = damages(attacked, counts()["damages"], random.Random(counts()["seed"]))
    assert found["damage_missed"] == [] and found["damage_wrong"] == []


def test_what_was_killed_comes_to_the_same_end(attacked: Project) -> None:
    found = kills(attacked, counts()["kills"], random.Random(counts()["seed"]))
    assert found["kill_differences"] == []


def test_a_full_disk_is_told_and_the_run_comes_to_the_same_end(attacked: Project) -> None:
    found = full(attacked, counts()["full"], random.Random(counts()["seed"]))
    if isinstance(found["full"], str):
        pytest.skip(found["full"])
    assert found["full_unclear"] == 0, found["full_said"]
    assert found["full_differences"] == []
