"""Seams: what counts as a step, and that levelling takes the step and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pconv_cli.seams import REACH, SeamMeter, level


def noise(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0.3, 0.7, (rows, columns, 3)).astype(np.float32)


def everywhere(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.ones(pixels.shape[:2], np.bool_)


def ratio(pixels: NDArray[np.float32], hole: NDArray[np.bool_], cut: int) -> float:
    meter = SeamMeter()
    meter.add(pixels, hole, cut)
    found = meter.ratio()
    assert found is not None
    return found


def test_a_cut_that_cannot_be_told_from_its_neighbours_has_the_ratio_one() -> None:
    pixels = noise(4000, 40)
    assert ratio(pixels, everywhere(pixels), 20) == pytest.approx(1, abs=0.03)


def test_a_step_of_twice_the_grain_shows_in_mean_and_median() -> None:
    pixels = np.tile(np.linspace(0, 0.4, 40, dtype=np.float32)[None, :, None], (50, 1, 3))
    grain = pixels[0, 1, 0] - pixels[0, 0, 0]
    pixels[:, 20:] += 2 * grain
    meter = SeamMeter()
    meter.add(pixels, everywhere(pixels), 20)
    assert meter.ratio() == pytest.approx(3, rel=0.05)
    assert meter.median_ratio() == pytest.approx(3, rel=0.1)


def test_only_steps_between_two_filled_pixels_count() -> None:
    pixels = noise(30, 40)
    hole = everywhere(pixels)
    hole[::2, 20] = False
    meter = SeamMeter()
    pixels[::2, 20] = 9  # would be seen at once
    meter.add(pixels, hole, 20)
    assert meter.ratio() == pytest.approx(1, abs=0.3)


def test_lines_nearer_than_6_or_farther_than_14_pixels_do_not_count_as_beside() -> None:
    pixels = np.zeros((10, 60, 3), np.float32)
    pixels[:, 30:] += 0.1  # the cut
    for column in (30 - 16, 30 - 15 + 10, 30 + 4, 30 + 16):  # 15 px before; 5 and 4 px; 16 px after
        pixels[:, column:] += 0.1
    meter = SeamMeter()
    meter.add(pixels, np.ones((10, 60), np.bool_), 30)
    assert meter.ratio() is None, "all steps beside are 0, so there is nothing to compare with"
    pixels[:, 30 + 7 :] += 0.1
    meter.add(pixels, np.ones((10, 60), np.bool_), 30)
    assert meter.ratio() is not None


def test_without_a_hole_at_the_cut_there_is_no_ratio() -> None:
    meter = SeamMeter()
    pixels = noise(5, 40)
    meter.add(pixels, np.zeros((5, 40), np.bool_), 20)
    assert meter.ratio() is None and meter.median_ratio() is None


def test_bytes_and_floats_are_measured_alike() -> None:
    pixels = (noise(200, 40) * 255).round()
    hole = everywhere(pixels)
    assert ratio(pixels.astype(np.uint8), hole, 20) == pytest.approx(ratio(pixels / 255, hole, 20), rel=1e-3)


def test_strips_add_up_to_the_whole() -> None:
    pixels = noise(300, 40)
    hole = everywhere(pixels)
    parts = SeamMeter()
    for at in range(0, 300, 70):
        parts.add(pixels[at : at + 70], hole[at : at + 70], 20)
    assert parts.ratio() == pytest.approx(ratio(pixels, hole, 20))


def test_a_step_in_tone_is_levelled_and_the_grain_stays() -> None:
    grain = 0.02 * (noise(200, 80) - 0.5)
    pixels = 0.5 + grain
    pixels[:, 40:] += 0.3
    out = level(pixels, everywhere(pixels), 40)
    assert ratio(pixels, everywhere(pixels), 40) > 20
    assert ratio(out, everywhere(pixels), 40) < 2
    assert np.abs(np.diff(out[:, :8], axis=1) - np.diff(pixels[:, :8], axis=1)).max() < 1e-6, "beyond reach"
    assert out[:, 39].mean() == pytest.approx(0.65, abs=0.01) and out[:, 40].mean() == pytest.approx(0.65, abs=0.01)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(2, 90), st.data())
def test_levelling_changes_only_filled_pixels_connected_to_the_cut_and_within_reach(
    seed: int, rows: int, columns: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    cut = data.draw(st.integers(1, columns - 1))
    pixels = rng.random((rows, columns, 3), np.float32)
    hole = rng.random((rows, columns)) < data.draw(st.sampled_from([0.3, 0.9, 1.0]))
    changed = (level(pixels, hole, cut) != pixels).any(axis=2)
    for y in range(rows):
        allowed = np.zeros(columns, np.bool_)
        if hole[y, cut - 1] and hole[y, cut]:
            x = cut - 1
            while x >= 0 and hole[y, x] and cut - 1 - x < REACH:
                allowed[x], x = True, x - 1
            x = cut
            while x < columns and hole[y, x] and x - cut < REACH:
                allowed[x], x = True, x + 1
        assert not (changed[y] & ~allowed).any()


def test_levelling_fades_to_nothing_at_the_edge_of_a_narrow_hole() -> None:
    pixels = np.full((20, 80, 3), 0.2, np.float32)
    pixels[:, 40:] = 0.8
    hole = np.zeros((20, 80), np.bool_)
    hole[:, 30:45] = True
    change = np.abs(level(pixels, hole, 40) - pixels)[10, :, 0]
    assert change[30] < 0.05 and change[44] < 0.05 and change[39] > 0.2 and change[40] > 0.2
    assert (np.diff(change[30:40]) > 0).all() and (np.diff(change[40:45]) < 0).all()
