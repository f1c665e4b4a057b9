"""Tiles are chosen by what was measured, within a share of the work, and by what fits the memory."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_core.network import unet
from unet_core.predict import calibration
from unet_core.predict.calibration import Tiles, candidate_tiles, fastest_tiles


@given(
    st.integers(1, 4096),
    st.integers(1, 4),
    st.sampled_from([0, 3]),
    st.integers(1, 3000),
    st.sampled_from([(1,), (1, 2, 4, 8)]),
)
def test_candidates_fit_the_network_and_the_memory(
    side: int, depth: int, wider: int, more: int, batches: tuple[int, ...]
) -> None:
    largest = unet.input_size(2**depth + more, depth, wider)
    axis = unet.Axis(depth, wider)
    found = candidate_tiles((1, side, side), largest, unet.Shape(unet.NO_POOLING, axis, axis), batches)
    assert found and len(found) == len(set(found))
    for tile, batch in found:
        assert isinstance(tile, int)
        assert unet.output_size(tile, depth, wider) >= 2**depth
        assert tile <= largest and batch * tile**2 <= largest**2
    assert [tile for tile, _ in found] == sorted((tile for tile, _ in found), reverse=True)  # type: ignore[type-var]


def network_of(  # type: ignore[no-untyped-def]
    rates: dict[int, float], most: int = 10**9, calls: list[int] | None = None
):
    """A network of a given speed (million output pixels per second), with room for `most` pixels."""

    def apply(tiles: np.ndarray) -> np.ndarray:
        side = tiles.shape[-1]
        if len(tiles) * side**2 > most:
            raise MemoryError
        if calls is not None:
            calls.append(side)
        time.sleep(len(tiles) * unet.output_size(side, 2) ** 2 / rates.get(side, 1.0) / 1e6)
        return tiles

    return apply


def tried_of(sides: list[int], batch: int = 1) -> list[Tiles]:
    return [Tiles(side, batch) for side in sides]


def test_the_fastest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TIMING_SECONDS", 0.0)
    sides = [unet.input_size(n, 2) for n in (256, 128, 64)]
    found = fastest_tiles(
        network_of(dict(zip(sides, (1.0, 8.0, 1.0), strict=True))),
        tried_of(sides),
        1,
        unet.shape(2),
        (1, 256, 256),
        1e9,
    )
    assert (found["largest"], found["batch"]) == (sides[1], 1) and len(found["rates"]) == 3


def test_what_does_not_fit_the_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TIMING_SECONDS", 0.0)
    sides = [unet.input_size(n, 2) for n in (256, 128, 64)]
    network = network_of({}, most=sides[1] ** 2)
    assert fastest_tiles(network, tried_of(sides), 1, unet.shape(2), (1, 256, 256), 1e9)["largest"] in sides[1:]
    # Where nothing fits, the smallest is left to try, and to fail with a message.
    assert (
        fastest_tiles(network_of({}, most=0), tried_of(sides), 1, unet.shape(2), (1, 256, 256), 1e9)["largest"]
        == sides[-1]
    )


def test_tiles_are_measured_as_many_at_a_time_as_there_are_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TIMING_SECONDS", 0.0)
    meeting = threading.Barrier(2, timeout=60)  # breaks if a call is alone

    def network(tiles: np.ndarray) -> np.ndarray:
        meeting.wait()
        return tiles

    found = fastest_tiles(network, tried_of([unet.input_size(64, 2)]), 1, unet.shape(2), (1, 64, 64), 1e9, lanes=2)
    assert len(found["rates"]) == 1


def test_little_work_and_worse_tiles_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TIMING_SECONDS", 0.0)
    sides = [unet.input_size(4 * n, 2) for n in range(40, 20, -1)]
    calls: list[int] = []
    fastest_tiles(network_of({}, calls=calls), tried_of(sides), 1, unet.shape(2), (1, 256, 256), 1.0)
    assert set(calls) == {sides[0]}
    calls.clear()
    fastest_tiles(network_of({sides[0]: 40.0}, calls=calls), tried_of(sides), 1, unet.shape(2), (1, 256, 256), 1e9)
    assert len(set(calls)) == 1 + calibration.MAX_SLOWER_IN_A_ROW
