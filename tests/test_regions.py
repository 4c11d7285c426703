"""Runs hold exactly what the mask holds: every question about them is answered as the pixels themselves would."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pconv_cli import regions
from pconv_cli.regions import Damage, Runs, Window

Mask = NDArray[np.bool_]
thorough = settings(max_examples=150, deadline=None)


def draw(kind: str, height: int, width: int, seed: int) -> Mask:
    """A mask of some kind: what scans, maps and adversaries have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.bool_)
    period, thick = int(rng.integers(2, 30)), int(rng.integers(1, 6))
    if kind == "noise":
        return rng.random((height, width)) < rng.choice([0.001, 0.01, 0.1, 0.3, 0.5, 0.9])
    if kind == "rectangles":
        for _ in range(rng.integers(1, 8)):
            (top, bottom), (left, right) = (np.sort(rng.integers(0, side + 1, 2)) for side in (height, width))
            mask[top:bottom, left:right] ^= True
    elif kind == "lines":
        for _ in range(rng.integers(1, 6)):
            t = np.linspace(0, 1, 2 * (height + width))
            (y0, y1), (x0, x1) = rng.integers(0, height, 2), rng.integers(0, width, 2)
            mask[np.round(y0 + t * (y1 - y0)).astype(int), np.round(x0 + t * (x1 - x0)).astype(int)] = True
    elif kind == "rings":
        for _ in range(rng.integers(1, 4)):
            far = np.hypot(y - rng.integers(0, height), x - rng.integers(0, width))
            mask |= np.abs(far - rng.integers(0, 60)) < thick
    elif kind == "comb":
        mask = (x % period < thick) | (y >= height - thick)
    elif kind == "spiral":
        far, angle = np.hypot(y - height / 2, x - width / 2), np.arctan2(y - height / 2, x - width / 2)
        mask = (far - angle / (2 * np.pi) * (thick + 4)) % (thick + 4) < thick
    elif kind == "checks":
        mask = (x % period < thick) & (y % period < thick)
    elif kind == "full":
        mask[:] = True
    return mask


KINDS = ["noise", "rectangles", "lines", "rings", "comb", "spiral", "checks", "full", "none"]


def masks(longest: int = 120) -> st.SearchStrategy[Mask]:
    """Masks of all kinds, some with dust on top."""
    sides = st.integers(1, longest)
    return st.builds(
        lambda kind, height, width, seed, dust: (
            draw(kind, height, width, seed) | (np.random.default_rng(seed).random((height, width)) < dust)
        ),
        st.sampled_from(KINDS),
        sides,
        sides,
        st.integers(0, 2**32 - 1),
        st.sampled_from([0.0, 0.0, 0.003, 0.02]),
    )


def pixels(runs: Runs) -> Mask:
    """All runs, painted one by one."""
    plane = np.zeros((runs.height, runs.width), np.int64)
    for row, start, stop in zip(runs.rows, runs.starts, runs.stops, strict=True):
        plane[row, start:stop] += 1
    assert plane.max(initial=0) <= 1
    return plane > 0


def flood(mask: Mask) -> NDArray[np.int64]:
    """Components by filling them one after the other, corners included: -1 outside, else numbered in reading order."""
    label = np.full(mask.shape, -1, np.int64)
    count = 0
    for y, x in np.argwhere(mask):
        if label[y, x] >= 0:
            continue
        label[y, x] = count
        queue = deque([(y, x)])
        while queue:
            cy, cx = queue.popleft()
            for ny in range(max(cy - 1, 0), min(cy + 2, mask.shape[0])):
                for nx in range(max(cx - 1, 0), min(cx + 2, mask.shape[1])):
                    if mask[ny, nx] and label[ny, nx] < 0:
                        label[ny, nx] = count
                        queue.append((ny, nx))
        count += 1
    return label


def steps(owner: NDArray[np.int64]) -> set[tuple[int, int, int, int]]:
    """Each pixel edge between two neighbours that are owned (>= 0) by different owners, one pixel long."""
    found = set()
    for y, x in np.argwhere((owner[:, 1:] != owner[:, :-1]) & (owner[:, 1:] >= 0) & (owner[:, :-1] >= 0)):
        found.add((int(x) + 1, int(y), int(x) + 1, int(y) + 1))
    for y, x in np.argwhere((owner[1:] != owner[:-1]) & (owner[1:] >= 0) & (owner[:-1] >= 0)):
        found.add((int(x), int(y) + 1, int(x) + 1, int(y) + 1))
    return found


def unit_steps(cuts: NDArray[np.int32]) -> list[tuple[int, int, int, int]]:
    """Straight borders, taken apart into pieces one pixel long."""
    pieces = []
    for x0, y0, x1, y1 in cuts.tolist():
        assert (x0 == x1) != (y0 == y1) and x0 <= x1 and y0 <= y1
        pieces += (
            [(x0, y, x0, y + 1) for y in range(y0, y1)] if x0 == x1 else [(x, y0, x + 1, y0) for x in range(x0, x1)]
        )
    return pieces


def assert_borders(cuts: NDArray[np.int32], owner: NDArray[np.int64]) -> None:
    """They are all borders between owners, each once, as long as can be, and in order."""
    assert cuts.dtype == np.int32 and cuts.shape[1:] == (4,)
    pieces = unit_steps(cuts)
    assert len(pieces) == len(set(pieces))
    assert set(pieces) == steps(owner)
    keys = [(y0 == y1, x0, y0) if x0 == x1 else (y0 == y1, y0, x0) for x0, y0, x1, y1 in cuts.tolist()]
    assert keys == sorted(keys)
    ends = {(x0 == x1, x1, y1) for x0, y0, x1, y1 in cuts.tolist()}
    assert not ends & {(x0 == x1, x0, y0) for x0, y0, x1, y1 in cuts.tolist()}


def same(one: Runs, other: Runs) -> bool:
    return (one.height, one.width) == (other.height, other.width) and all(
        np.array_equal(a, b)
        for a, b in zip((one.rows, one.starts, one.stops), (other.rows, other.starts, other.stops), strict=True)
    )


def test_window_edges() -> None:
    window = Window(x=2, y=3, width=5, height=7)
    assert (window.right, window.bottom, window.area) == (7, 10, 35)
    assert window.slices == (slice(3, 10), slice(2, 7))
    assert np.zeros((20, 30))[window.slices].shape == (7, 5)


@thorough
@given(masks())
def test_runs_are_the_mask_in_order_and_never_touch(mask: Mask) -> None:
    damage = Damage.of(mask)
    assert (pixels(damage) == mask).all()
    assert damage.area == mask.sum()
    assert all(part.dtype == np.int32 for part in (damage.rows, damage.starts, damage.stops))
    assert (damage.starts < damage.stops).all()
    in_row = damage.rows[1:] == damage.rows[:-1]
    assert (damage.rows[1:] >= damage.rows[:-1]).all()
    assert (damage.starts[1:][in_row] > damage.stops[:-1][in_row]).all()
    if mask.any():
        ys, xs = np.nonzero(mask)
        assert damage.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@thorough
@given(masks(), st.lists(st.integers(0, 120), max_size=5), st.sampled_from([1, 50, 1 << 24]))
def test_strips_are_as_good_as_the_whole(mask: Mask, at: list[int], strip: int) -> None:
    edges = [0, *sorted(min(edge, len(mask)) for edge in at), len(mask)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_STRIP", strip)
        parts = Damage.of_strips((mask[top:bottom] for top, bottom in pairwise(edges)), mask.shape[1])
    assert same(parts, Damage.of(mask))


@thorough
@given(masks(), st.data())
def test_a_window_is_the_mask_there(mask: Mask, data: st.DataObject) -> None:
    height, width = mask.shape
    left, right = sorted((data.draw(st.integers(0, width - 1)), data.draw(st.integers(1, width))))
    top, bottom = sorted((data.draw(st.integers(0, height - 1)), data.draw(st.integers(1, height))))
    window = Window(left, top, max(right - left, 1), max(bottom - top, 1))
    for held in (False, True):
        seen = Damage.of(mask, held=held).window(window)
        assert seen.dtype == np.bool_
        assert np.array_equal(seen, mask[window.slices])
        assert not np.shares_memory(seen, mask)


@thorough
@given(masks())
def test_components_are_those_of_a_flood_fill(mask: Mask) -> None:
    damage, expected = Damage.of(mask), flood(mask)
    labels, boxes = damage.components()
    assert labels.dtype == boxes.dtype == np.int32
    assert np.array_equal(labels, expected[damage.rows, damage.starts])
    assert len(boxes) == expected.max(initial=-1) + 1
    for i, box in enumerate(boxes):
        ys, xs = np.nonzero(expected == i)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_a_long_spiral_is_one_component() -> None:
    # One pixel wide and many turns: labels must travel far.
    side, mask = 201, np.zeros((201, 201), np.bool_)
    for ring in range(0, side // 2, 2):
        mask[ring, ring : side - ring] = mask[side - 1 - ring, ring : side - ring] = True
        mask[ring : side - ring, ring] = mask[ring : side - ring, side - 1 - ring] = True
        if ring:
            mask[ring - 1, ring] = True  # to the ring outside
    labels, boxes = Damage.of(mask).components()
    assert not labels.any()
    assert boxes.tolist() == [[0, 0, side, side]]


@thorough
@given(masks(40), st.integers(1, 12))
def test_deep_means_that_a_cell_is_damaged_entirely(mask: Mask, cell: int) -> None:
    height, width = mask.shape
    deep = any(mask[y : y + cell, x : x + cell].all() for y in range(0, height, cell) for x in range(0, width, cell))
    assert Damage.of(mask).deep(cell) == deep


def test_deep_reaches_the_clipped_corner_and_asks_for_eight() -> None:
    mask = np.zeros((19, 21), np.bool_)
    mask[16:, 16:20] = True
    assert not Damage.of(mask).deep()
    mask[16:, 20] = True
    assert Damage.of(mask).deep()
    with pytest.raises(ValueError, match="at least 1"):
        Damage.of(mask).deep(0)


def cut_up(mask: Mask, seed: int) -> tuple[Runs, NDArray[np.int32], NDArray[np.int64]]:
    """Runs split at some columns, a random owner for each, and the owner of each pixel."""
    rng = np.random.default_rng(seed)
    width = mask.shape[1]
    inner = np.unique(rng.integers(1, width, 4)) if width > 1 else []
    runs, part = Damage.of(mask).split((0, *(int(x) for x in inner), width))
    # Some parts that touch have the same owner.
    owners = rng.integers(0, 3, (6, len(mask) // 7 + 1)).astype(np.int32)[part, runs.rows // 7]
    plane = np.full(mask.shape, -1, np.int64)
    for row, start, stop, owner in zip(runs.rows, runs.starts, runs.stops, owners, strict=True):
        plane[row, start:stop] = owner
    return runs, owners, plane


@thorough
@given(masks(60), st.integers(0, 1000), st.sampled_from([1, 3, 1 << 20]))
def test_borders_are_where_owners_meet(mask: Mask, seed: int, chunk: int) -> None:
    runs, owners, plane = cut_up(mask, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_CHUNK", chunk)
        assert_borders(runs.borders(owners), plane)


@thorough
@given(masks(60), st.integers(0, 1000))
def test_each_owner_has_its_own_pixels(mask: Mask, seed: int) -> None:
    runs, owners, plane = cut_up(mask, seed)
    whole = Window(0, 0, mask.shape[1], mask.shape[0])
    assert np.array_equal(runs.window(whole), mask)
    for owner in range(3):
        assert np.array_equal(runs.owned(whole, owners, owner), plane == owner)


@thorough
@given(masks(60), st.lists(st.integers(1, 59), max_size=5))
def test_splitting_keeps_pixels_and_says_the_part(mask: Mask, at: list[int]) -> None:
    width = mask.shape[1]
    edges = (0, *sorted({x for x in at if x < width}), width)
    runs, part = Damage.of(mask).split(edges)
    assert (pixels(runs) == mask).all()
    low, high = np.array(edges)[part], np.array(edges)[part + 1]
    assert ((low <= runs.starts) & (runs.stops <= high)).all()


@thorough
@given(masks(60), st.sampled_from([1, 3, 1 << 20]))
def test_what_lines_cross_is_counted(mask: Mask, chunk: int) -> None:
    damage = Damage.of(mask)
    if not mask.any():
        return
    left, top, right, bottom = damage.box
    box = mask[top:bottom, left:right]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_CHUNK", chunk)
        assert damage.crossed_by_columns().tolist() == (box[:, 1:] & box[:, :-1]).sum(axis=0).tolist()
        assert damage.crossed_by_rows().tolist() == (box[1:] & box[:-1]).sum(axis=1).tolist()


@thorough
@given(masks(60), st.lists(st.tuples(*[st.integers(-20, 80)] * 4), max_size=5))
def test_damage_within_rectangles(mask: Mask, corners: list[tuple[int, int, int, int]]) -> None:
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners], np.int32).reshape(-1, 4)
    inside = np.zeros_like(mask)
    for x0, y0, x1, y1 in np.maximum(boxes, 0):
        inside[y0:y1, x0:x1] = True
    found = Damage.of(mask).within(boxes)
    assert same(found, Damage.of(mask & inside))


@thorough
@given(masks(60), st.integers(1, 20), st.integers(0, 9), st.sampled_from([2, 1 << 20]))
def test_a_grid_knows_which_of_its_windows_hold_damage(mask: Mask, step: int, overlap: int, chunk: int) -> None:
    tops, lefts = (np.arange(0, side, step, dtype=np.int32) for side in mask.shape)
    bottoms, rights = tops + np.int32(step + overlap), lefts + np.int32(step + overlap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_CHUNK", chunk)
        held = Damage.of(mask).held_by(tops, bottoms, lefts, rights)
    expected = [
        [mask[y0:y1, x0:x1].any() for x0, x1 in zip(lefts, rights, strict=True)]
        for y0, y1 in zip(tops, bottoms, strict=True)
    ]
    assert np.array_equal(held, expected)


@thorough
@given(masks(60), st.sampled_from([1, 2, 5]))
def test_components_do_not_depend_on_how_many_runs_are_looked_at_together(mask: Mask, chunk: int) -> None:
    labels, boxes = Damage.of(mask).components()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_CHUNK", chunk)
        again, others = Damage.of(mask).components()
    assert np.array_equal(labels, again) and np.array_equal(boxes, others)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (3,), (3, 3, 1)])
def test_damage_without_pixels_or_of_another_rank_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="height, width"):
        Damage.of(np.zeros(shape, np.bool_))


def test_strips_must_agree_on_their_width() -> None:
    for strips in ([np.zeros((2, 3), np.bool_), np.zeros((2, 4), np.bool_)], [np.zeros(3, np.bool_)]):
        with pytest.raises(ValueError, match="width 3"):
            Damage.of_strips(strips, 3)
    for strips, width in (([], 3), ([np.zeros((0, 3), np.bool_)], 3), ([np.zeros((2, 0), np.bool_)], 0)):
        with pytest.raises(ValueError, match="a pixel at least"):
            Damage.of_strips(strips, width)


def test_too_many_runs_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "MOST_RUNS", 5)
    mask = np.zeros((3, 4), np.bool_)
    mask[:, ::2] = True
    with pytest.raises(ValueError, match="more than 5 runs"):
        Damage.of(mask)
    mask[2, 2] = False
    assert len(Damage.of(mask)) == 5


def test_what_hangs_on_the_border_is_counted_whole() -> None:
    plane = np.zeros((9, 12), bool)
    assert Damage.of(plane).area_at_border == 0
    plane[3:5, 3:6] = True
    assert Damage.of(plane).area_at_border == 0
    for row, column in ((0, 4), (8, 4), (4, 0), (4, 11)):
        marked = plane.copy()
        marked[row, column] = True
        assert Damage.of(marked).area_at_border == 1
    plane[:4, 6] = True  # down from the border, and it meets the first
    assert Damage.of(plane).area_at_border == 6 + 4
