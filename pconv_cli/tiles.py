"""Which windows of a picture are computed, and which hole pixels each of them writes.

Knows integers and the damage. Does not know files, tensors, devices or networks.

What every plan keeps: each damaged pixel has exactly one writer, and no side of a window is longer than the size.
`plan_tiles` sets windows on the damage. Seams can only appear where a border between two writers runs through a hole,
so a hole that fits into a window is left whole, and what must be cut is cut where few of its pixels are crossed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pconv_cli.regions import Damage, Runs, Window

SMALLEST_TILE = 32
"""Pixels along the longest side of a tile that a user may ask for, at least."""

CONTEXT = 32
"""Pixels of known surroundings that a window should see round its damage.

Measured for holes of 5 to 200 pixels: already 16 is within noise of a whole picture of 512."""

LEAST = 16
"""With less than this round it a hole does not count as fitting into a window."""

BAND = 12
"""Pixels on each side of a cut that healing fills anew; an eighth of the size at most."""

_HEALING = 2 * (BAND + LEAST)  # pixels that healing computes for each pixel of a cut
_ROUNDS = 8  # of healing: each round's own cuts are short and few, so two or three do; this ends what might go on
_STEP = 32  # windows are filled up to multiples of this, see `canvas`


@dataclass(frozen=True, eq=False)
class TilePlan:
    """What is computed of one picture, and who writes which pixel.

    Attributes:
        size: Longest side that a window may have.
        damage: The damaged pixels.
        windows: What is computed, row by row; windows may overlap, for what one owns is context to another.
        runs: The damage, split where vertical cuts pass through it.
        owners: Shape (n,), int32: the window that writes each run of `runs`.
        cuts: Shape (m, 4), int32: x0, y0, x1, y1 in pixel edges of all borders between two writers that run through a
            hole, vertical (x0 == x1) or horizontal (y0 == y1), each as long as can be; vertical first, then by place.
        heals: The second pass: plans over the bands round the cuts, to be run in this order, each after all windows of
            the one before have landed. Their damage is the band only; all else is known by then.
        grid_pixels: What the plain balanced grid of tiles that hold damage would compute.
        context: Pixels that each window sees round its damage, where picture and size allow; some see more.
        fallback: Whether the windows are the cells of a grid, because nothing else was within `grid_pixels` or crossed
            as few hole pixels. Only then may a hole be cut that would fit into a window.
    """

    size: int
    damage: Damage
    windows: tuple[Window, ...]
    runs: Runs
    owners: NDArray[np.int32]
    cuts: NDArray[np.int32]
    heals: tuple[TilePlan, ...]
    grid_pixels: int
    context: int
    fallback: bool

    @property
    def height(self) -> int:
        """Rows of the picture."""
        return self.damage.height

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return self.damage.width

    @property
    def crossings(self) -> int:
        """How many cuts there are before healing."""
        return len(self.cuts)

    @property
    def crossed(self) -> int:
        """Length of all cuts together, in pixels."""
        return _length(self.cuts)

    @property
    def pixels(self) -> int:
        """Pixels in the windows of this pass together, before they are filled up to a shared shape."""
        return sum(window.area for window in self.windows)

    @property
    def pixels_to_compute(self) -> int:
        """Pixels in the windows of this pass and of all healing together."""
        return self.pixels + sum(heal.pixels for heal in self.heals)

    def owned(self, i: int) -> NDArray[np.bool_]:
        """The pixels that one window writes.

        Args:
            i: Index into `windows`.

        Returns:
            Shape (height, width) of the window; True where it is the writer. Elsewhere its result must not be used.
        """
        if len(self.windows) == 1:
            return self.damage.window(self.windows[0])
        return self.runs.owned(self.windows[i], self.owners, i)


@dataclass(frozen=True)
class GridWindow:
    """A window of a grid of overlapping windows.

    Attributes:
        window: The rectangle.
        row: Its row in the grid, from 0.
        column: Its column in the grid, from 0.
    """

    window: Window
    row: int
    column: int


def plan_tiles(
    damage: Damage | NDArray[np.bool_], size: int, *, context: int = CONTEXT, heal: bool = True, whole: bool = False,
    overlap: int = 0,
) -> TilePlan:  # fmt: skip
    """Choose the windows that must be computed, from the damage.

    What hangs together and fits into a window with `LEAST` pixels round it is never cut. What does not fit is cut where
    few of its pixels are crossed. Small holes near each other share a window. Healing aside, the plan never computes
    more pixels than the plain balanced grid, and its cuts are never longer: where need be the context shrinks, and
    where that does not help the windows are the cells of a grid (`TilePlan.fallback`).

    Args:
        damage: Where the picture is damaged; an array has the shape (height, width), and must not change while the plan
            is in use.
        size: Longest side of a window, at least 1.
        context: Pixels of surroundings that a window should see round its damage, at least 0; never more than a quarter
            of `size`.
        heal: Whether to plan the second pass over the cuts. Windows of under 8 pixels have no room for one.
        whole: Whether all surroundings count: a picture that fits into a window is one then, and windows of others see
            as much context as they may.
        overlap: Pixels that the windows of a plain grid share, if the plan is to be of those instead, see
            `plan_overlapping`. What several of them hold they blend, so nothing is cut, and the writer is one of them.

    Returns:
        The plan. Without damage it has no windows.

    Raises:
        ValueError: An array is not two-dimensional or has no pixel, `size` is below 1, `context` below 0, or `overlap`
            out of range.
    """
    if size < 1 or context < 0:
        raise ValueError(f"size must be at least 1 and context at least 0, got {size} and {context}")
    damage = damage if isinstance(damage, Damage) else Damage.of(damage, held=True)
    sheet = _Sheet(size, damage.width, damage.height)
    if overlap:
        return _blending(damage, sheet, overlap)
    if whole and max(damage.width, damage.height) <= size:
        return plan_grid(damage, size)
    context, grid = size // 4 if whole else min(context, size // 4), _grid(damage, sheet)
    plan = _on_damage(damage, sheet, context, grid, bounded=True) or _on_grid(damage, sheet, context, grid)
    return replace(plan, heals=_heals(plan)) if heal else plan


def plan_grid(damage: Damage | NDArray[np.bool_], size: int) -> TilePlan:
    """Take the tiles of the plain balanced grid that hold damage, for comparison.

    Args:
        damage: Where the picture is damaged; an array has the shape (height, width).
        size: Longest side of a tile, at least 1.

    Returns:
        A plan whose windows are whole tiles, each writing what it holds. Nothing is healed.

    Raises:
        ValueError: An array is not two-dimensional or has no pixel, or `size` is below 1.
    """
    damage = damage if isinstance(damage, Damage) else Damage.of(damage)
    grid = _grid(damage, _Sheet(size, damage.width, damage.height))
    pieces, tiles = _cells(damage, grid.rows, grid.columns)
    return _plan(damage, size, tiles, pieces.runs, pieces.piece, pieces.cuts, grid, 0, fallback=True)


def plan_overlapping(damage: Damage | NDArray[np.bool_], size: int, overlap: int) -> tuple[GridWindow, ...]:
    """Take equal windows that overlap and hold damage.

    Args:
        damage: Where the picture is damaged; an array has the shape (height, width).
        size: Longest side of a window, at least 1.
        overlap: Pixels that neighbours share, from 0 to half of `size`; some share one more where sides do not divide.

    Returns:
        The windows that hold damage, row by row. All have the same width and height, and there are as few rows and
        columns of them as the size allows.

    Raises:
        ValueError: An array is not two-dimensional or has no pixel, `size` is below 1 or `overlap` out of range.
    """
    if size < 1 or not 0 <= overlap <= size // 2:
        raise ValueError(f"size must be at least 1 and overlap from 0 to size // 2, got {size} and {overlap}")
    damage = damage if isinstance(damage, Damage) else Damage.of(damage)
    tops, high = _overlapping(damage.height, size, overlap)
    lefts, wide = _overlapping(damage.width, size, overlap)
    held = damage.held_by(tops, tops + np.int32(high), lefts, lefts + np.int32(wide))
    return tuple(
        GridWindow(Window(int(lefts[column]), int(tops[row]), wide, high), row, column)
        for row, column in np.argwhere(held).tolist()
    )


def balanced(length: int, size: int) -> tuple[int, ...]:
    """Cut a side into as few parts as the size allows, as equal as integers can be.

    Args:
        length: Pixels to cut, at least 1.
        size: Longest part allowed, at least 1.

    Returns:
        Cut positions, from 0 to `length`. Parts differ by at most 1, the longer ones first.

    Raises:
        ValueError: An argument is below 1.
    """
    if length < 1 or size < 1:
        raise ValueError(f"length and size must be at least 1, got {length} and {size}")
    parts = -(-length // size)
    shortest, longer = divmod(length, parts)
    return tuple(part * shortest + min(part, longer) for part in range(parts + 1))


def avoiding(crossed: NDArray[np.integer], size: int) -> tuple[int, ...]:
    """Cut a side into as few parts as the size allows, where the cuts cross the least damage.

    Seams can only appear where a cut runs through damage; a folded map is damaged just where a balanced cut would lie.

    Args:
        crossed: For each position 1, 2, ... of the side, the damaged pixels that a cut there would run through; one
            entry less than the side has pixels.
        size: Longest part allowed, at least 1.

    Returns:
        Cut positions, from 0 to the side's length. No part is below half of the shortest balanced one; of equally good
        cuts the one nearest to balance is taken, so without damage the result is `balanced`.

    Raises:
        ValueError: `size` is below 1.
    """
    length = len(crossed) + 1
    even = balanced(length, size)
    shortest = max(min(after - before for before, after in pairwise(even)) // 2, 1)
    # Stage by stage, the least cost up to each position that a cut may take; being off balance breaks ties only.
    weight = 1 + len(even) * length
    stages = [(0, np.zeros(1, np.int64))]  # the first of the positions, and the cost at each
    for i, middle in enumerate(even[1:-1], start=1):
        left = len(even) - 1 - i
        low, high = max(i * shortest, length - left * size), min(i * size, length - left * shortest)
        costs = _least_before(*stages[-1], low, high, shortest, size)
        costs += crossed[low - 1 : high].astype(np.int64) * weight + np.abs(np.arange(low, high + 1) - middle)
        stages.append((low, costs))
    found = [length]
    for first, costs in reversed(stages):
        low, high = max(found[-1] - size, first), found[-1] - shortest
        found.append(low + int(costs[low - first : high - first + 1].argmin()))
    return tuple(reversed(found))


def _least_before(
    first: int, costs: NDArray[np.int64], low: int, high: int, shortest: int, longest: int
) -> NDArray[np.int64]:
    """For each end from `low` to `high`, the least cost among the beginnings of a part that ends there."""
    start = low - longest
    begins = np.full(high - shortest - start + 1, np.iinfo(np.int64).max // 2)
    lead, stop = max(first, start), min(first + len(costs), high - shortest + 1)
    begins[lead - start : stop - start] = costs[lead - first : stop - first]
    least: NDArray[np.int64] = np.lib.stride_tricks.sliding_window_view(begins, longest - shortest + 1).min(axis=1)
    return least


def canvas(width: int, height: int, size: int, step: int = 32) -> tuple[int, int]:
    """The shape that a window is filled up to, so that windows of different pictures can share a batch.

    It depends on the window alone, never on what else is in the batch: a result must not depend on its company.

    Args:
        width: Columns of the window, at least 1.
        height: Rows of the window, at least 1.
        size: Longest side that windows are planned with, at least 1; a side is not filled up beyond it.
        step: Sides are rounded up to a multiple of it, at least 1.

    Returns:
        Width and height, neither below the window's own.

    Raises:
        ValueError: An argument is below 1.
    """
    if min(width, height, size, step) < 1:
        raise ValueError(f"all arguments must be at least 1, got {width}, {height}, {size} and {step}")

    def filled(side: int) -> int:
        return max(side, min(-(-side // step) * step, size))

    return filled(width), filled(height)


def _overlapping(length: int, size: int, overlap: int) -> tuple[NDArray[np.int32], int]:
    """Where equal windows begin along a side, and how long they are."""
    count = max(1, -(-(length - overlap) // (size - overlap)))
    side = -(-(length + (count - 1) * overlap) // count)
    return (np.arange(count) * (length - side) // max(count - 1, 1)).astype(np.int32), side


# Boxes are arrays of shape (n, 4), int32: x0, y0, x1, y1, the last two exclusive.


class _Sheet(NamedTuple):
    """What all windows of a picture have in common."""

    size: int
    width: int
    height: int


class _Grid(NamedTuple):
    """The plain balanced grid, which every plan is measured against: its lines, and what it would compute."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    pixels: int
    filled: int  # with sides filled up as for a batch


class _Pieces(NamedTuple):
    """Damage that is cut: its runs, the piece that each run is in, the boxes of the pieces, and the cuts."""

    runs: Runs
    piece: NDArray[np.int32]
    boxes: NDArray[np.int32]
    cuts: NDArray[np.int32]


class _Draft(NamedTuple):
    """A way to cut what does not fit, and the windows for that and for all else, not yet put together to a plan."""

    pieces: _Pieces
    owned: NDArray[np.int32]  # boxes of what each window writes; the pieces come first, each with a window of its own
    windows: NDArray[np.int32]
    owners: NDArray[np.int32]  # the window of each component that is whole


def _grid(damage: Damage, sheet: _Sheet) -> _Grid:
    rows, columns = balanced(sheet.height, sheet.size), balanced(sheet.width, sheet.size)
    y, x = np.array(rows, np.int32), np.array(columns, np.int32)
    row, column = np.nonzero(damage.held_by(y[:-1], y[1:], x[:-1], x[1:]))
    tiles = np.stack((x[column], y[row], x[column + 1], y[row + 1]), axis=1)
    return _Grid(rows, columns, int(_areas(tiles).sum()), int(_costs(tiles, sheet).sum()))


def _plan(
    damage: Damage,
    size: int,
    windows: NDArray[np.int32],
    runs: Runs,
    owners: NDArray[np.int32],
    cuts: NDArray[np.int32],
    grid: _Grid,
    context: int,
    fallback: bool = False,
) -> TilePlan:
    """The plan of these windows, which are put in order row by row."""
    order = np.lexsort((windows[:, 0], windows[:, 1]))
    number = np.zeros(len(windows), np.int32)
    number[order] = np.arange(len(windows), dtype=np.int32)
    listed = tuple(Window(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in windows[order].tolist())
    return TilePlan(size, damage, listed, runs, number[owners], cuts, (), grid.pixels, context, fallback)


# --- Planning: on the damage, on a grid, and the bands to heal ---


def _blending(damage: Damage, sheet: _Sheet, overlap: int) -> TilePlan:
    """The plan of `plan_overlapping`."""
    placed = [at.window for at in plan_overlapping(damage, sheet.size, overlap)]
    windows = np.array([(at.x, at.y, at.right, at.bottom) for at in placed], np.int32).reshape(-1, 4)
    sides = ((damage.height, sheet.size, overlap), (damage.width, sheet.size, overlap))
    rows, columns = ((*_overlapping(*side)[0].tolist(), side[0]) for side in sides)
    pieces, cells = _cells(damage, rows, columns)  # each begins where a window does
    number = {(at.x, at.y): i for i, at in enumerate(placed)}
    owners = np.array([number[x, y] for x, y, _, _ in cells.tolist()], np.int32)[pieces.piece]
    none = np.zeros((0, 4), np.int32)
    return _plan(damage, sheet.size, windows, pieces.runs, owners, none, _grid(damage, sheet), overlap)


def _on_damage(damage: Damage, sheet: _Sheet, context: int, grid: _Grid, *, bounded: bool) -> TilePlan | None:
    """Plan round what hangs together; if bounded, None where each way computes or crosses more than the grid does."""
    labels, boxes = damage.components()
    least = min(LEAST, context)
    room = _room(boxes, least, sheet)
    fits = (room[:, 2:] - room[:, :2]).max(axis=1, initial=0) <= sheet.size
    whole = fits[labels]
    ways = _ways_to_cut(damage, labels, np.flatnonzero(~whole), sheet.size, least)
    if bounded and any(len(way.cuts) for way in ways):
        most = _crossed_by_grid(damage, grid)
        ways = [way for way in ways if _length(way.cuts) <= most]
    for reach in _ladder(context) if bounded else [context]:
        drafts = [_draft(way, boxes[fits], reach, least, sheet) for way in ways]
        drafts = [draft for draft in drafts if not bounded or _left(draft.windows, grid, sheet).min() >= 0]
        if drafts:
            best = min(drafts, key=lambda one: int(_areas(one.windows).sum()) + _HEALING * _length(one.pieces.cuts))
            owner = np.zeros(len(boxes), np.int32)
            owner[fits] = best.owners
            kept, writers = (damage, labels) if whole.all() else (damage.take(whole), labels[whole])
            runs, owners = _woven(kept, owner[writers], best.pieces.runs, best.pieces.piece)
            windows = _widened(best, reach, least, grid, sheet)
            return _plan(damage, sheet.size, windows, runs, owners, best.pieces.cuts, grid, reach)
    return None


def _on_grid(damage: Damage, sheet: _Sheet, context: int, grid: _Grid) -> TilePlan:
    """Plan with the cells of a grid: lines that cross the least damage if the grid's figures allow, else its own."""
    left, top, right, bottom = damage.box
    down, across = np.zeros(sheet.width - 1, np.int64), np.zeros(sheet.height - 1, np.int64)
    down[left : right - 1], across[top : bottom - 1] = damage.crossed_by_columns(), damage.crossed_by_rows()
    lines = [(avoiding(across, sheet.size), avoiding(down, sheet.size)), (grid.rows, grid.columns)]
    # Context beyond the cell where there is room for it, else what the cell itself has.
    reaches = [(reach, False) for reach in _ladder(context) if reach] + [(context, True)]
    for rows, columns in lines:
        pieces, tiles = _cells(damage, rows, columns)
        for reach, inside in reaches:
            windows = _grown(pieces.boxes, reach, sheet)
            if inside:
                windows = np.hstack((np.maximum(windows, tiles)[:, :2], np.minimum(windows, tiles)[:, 2:]))
            if _left(windows, grid, sheet).min() >= 0:
                return _plan(
                    damage, sheet.size, windows, pieces.runs, pieces.piece, pieces.cuts, grid, reach, fallback=True
                )
    raise AssertionError("the cells of the plain balanced grid take no more than the grid itself")


def _heals(plan: TilePlan) -> tuple[TilePlan, ...]:
    """Plan the second pass: bands round vertical cuts, then round horizontal ones, until no cut is left.

    Both at once would be a mesh as large as the picture; bands of one direction hang together less.
    """
    band, least = min(BAND, plan.size // 8), min(LEAST, plan.size // 4)
    if not band:
        return ()
    sheet = _Sheet(plan.size, plan.width, plan.height)
    heals: list[TilePlan] = []
    pending, axis = plan.cuts, 0
    while len(pending) and len(heals) < _ROUNDS:
        here = pending[:, axis] == pending[:, axis + 2]
        now, pending = pending[here], pending[~here]
        axis = 1 - axis
        if len(now):
            bands = plan.damage.within(now + np.array([-band, -band, band, band], np.int32))
            heal = _on_damage(bands, sheet, least, _grid(bands, sheet), bounded=False)
            assert heal is not None, "without bounds there is always a plan"
            heals.append(heal)
            pending = np.concatenate((pending, heal.cuts))
    return tuple(heals)


def _ladder(context: int) -> list[int]:
    """What to try where the full context costs too much."""
    return [context, *(reach for reach in (16, 8, 0) if reach < context)]


def _left(windows: NDArray[np.int32], grid: _Grid, sheet: _Sheet) -> NDArray[np.int64]:
    """What the windows leave of what the grid would compute: pixels, and pixels filled up as for a batch."""
    return np.array([grid.pixels - _areas(windows).sum(), grid.filled - _costs(windows, sheet).sum()])


def _widened(draft: _Draft, reach: int, least: int, grid: _Grid, sheet: _Sheet) -> NDArray[np.int32]:
    """Where there is less context than the least: buy some for what the grid would cost more, the cheapest first."""
    windows: NDArray[np.int32] = draft.windows.copy()
    for wanted in reversed([wider for wider in _ladder(least) if wider > reach]):
        wider = _grown(draft.owned, wanted, sheet)
        more = np.stack((_areas(wider) - _areas(windows), _costs(wider, sheet) - _costs(windows, sheet)), axis=1)
        order = np.lexsort((more[:, 0], more[:, 1]))
        paid = order[(more[order].cumsum(axis=0) <= _left(windows, grid, sheet)).all(axis=1)]
        windows[paid] = wider[paid]
    return windows


# --- Cutting what does not fit ---


def _ways_to_cut(
    damage: Damage, labels: NDArray[np.int32], large: NDArray[np.intp], size: int, least: int
) -> list[_Pieces]:
    """Cut each component by lines of its own, or all by common lines. `large` are the runs of what does not fit."""
    if not len(large):
        return [_pieces([], damage)]
    order = large[np.argsort(labels[large], kind="stable")]
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    alone = [damage.take(some) for some in np.split(order, first[1:])]
    ways = [_pieces([cell for one in alone for cell in _cut(one, size, least)], damage)]
    if len(alone) > 1:
        ways.append(_pieces(_cut(damage.take(large), size, least), damage))
    return ways


def _cut(runs: Runs, size: int, least: int) -> list[Runs]:
    """Cut into cells of at most `size`, in whichever way crosses the fewest pixels.

    Never more of them than evenly spaced lines right through the box.
    """
    crossed, cells = _crosswise(runs, size)
    left, top, right, bottom = runs.box
    if not crossed or min(right - left, bottom - top) <= size:
        return cells
    # Slabs that leave room: a scratch at 45 degrees is wider than its slab is high, by its own thickness.
    ways = [_slabwise(runs, axis, side, size) for axis in (0, 1) for side in (size, size - 2 * least)]
    return min((crossed, cells), *ways, key=lambda way: way[0])[1]


def _crosswise(runs: Runs, size: int) -> tuple[int, list[Runs]]:
    """Cut by rows and columns right through the box. Returns the pixels crossed and the cells."""
    crossed, rows = _lines(runs, 1, size)
    more, columns = _lines(runs, 0, size)
    return crossed + more, [cell for slab in _apart(runs, 1, rows) for cell in _apart(slab, 0, columns)]


def _slabwise(runs: Runs, axis: int, side: int, size: int) -> tuple[int, list[Runs]]:
    """Cut across one axis into slabs, then each slab on its own. Returns the pixels crossed and the cells."""
    crossed, lines = _lines(runs, axis, side)
    cells: list[Runs] = []
    for slab in _apart(runs, axis, lines):
        more, across = _lines(slab, 1 - axis, size)
        crossed += more
        cells += _apart(slab, 1 - axis, across)
    return crossed, cells


def _lines(runs: Runs, axis: int, size: int) -> tuple[int, tuple[int, ...]]:
    """How many pixels lines across x (axis 0) or y (axis 1) of the box cross, and those lines, both ends included."""
    box = runs.box
    start, length = box[axis], box[axis + 2] - box[axis]
    if length <= size:
        return 0, (start, start + length)
    profile = runs.crossed_by_rows() if axis else runs.crossed_by_columns()
    lines = avoiding(profile, size)
    return int(sum(profile[line - 1] for line in lines[1:-1])), tuple(start + line for line in lines)


def _apart(runs: Runs, axis: int, edges: tuple[int, ...]) -> list[Runs]:
    """The runs between the lines; parts without any are left out."""
    if len(edges) == 2:
        return [runs]
    if axis:
        bounds = np.searchsorted(runs.rows, np.array(edges, np.int32))
        return [runs.take(slice(low, high)) for low, high in pairwise(bounds) if low < high]
    runs, part = runs.split(edges)
    order = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[order], np.arange(len(edges), dtype=np.int32))
    return [runs.take(order[low:high]) for low, high in pairwise(bounds) if low < high]


def _pieces(cells: list[Runs], damage: Damage) -> _Pieces:
    """Put cells together."""
    none = np.zeros(0, np.int32)
    runs = Runs(damage.height, damage.width, none, none, none)
    if not cells:
        return _Pieces(runs, none, none.reshape(0, 4), none.reshape(0, 4))
    parts = (np.concatenate(some) for some in zip(*((c.rows, c.starts, c.stops) for c in cells), strict=True))
    piece = np.repeat(np.arange(len(cells), dtype=np.int32), [len(cell) for cell in cells])
    runs, piece = _woven(runs, none, Runs(damage.height, damage.width, *parts), piece)
    return _Pieces(runs, piece, np.array([cell.box for cell in cells], np.int32), runs.borders(piece))


def _woven(
    one: Runs, owners: NDArray[np.int32], other: Runs, others: NDArray[np.int32]
) -> tuple[Runs, NDArray[np.int32]]:
    """Put two sets of runs and their owners together, in order."""
    if not len(other):
        return one, owners
    rows = np.concatenate((one.rows, other.rows))
    starts, stops = np.concatenate((one.starts, other.starts)), np.concatenate((one.stops, other.stops))
    order = np.argsort(rows.astype(np.int64) * one.width + starts, kind="stable")
    runs = Runs(one.height, one.width, rows[order], starts[order], stops[order])
    return runs, np.concatenate((owners, others))[order]


def _cells(damage: Damage, rows: tuple[int, ...], columns: tuple[int, ...]) -> tuple[_Pieces, NDArray[np.int32]]:
    """All damage, cut into the cells of a grid that hold any; and those cells, whole."""
    runs, column = damage.split(columns)
    row = np.repeat(np.arange(len(rows) - 1), np.diff(rows))[runs.rows]
    cells, inverse = np.unique(row * (len(columns) - 1) + column, return_inverse=True)
    piece = inverse.astype(np.int32)
    row, column = np.divmod(cells, len(columns) - 1)
    x, y = np.array(columns, np.int32), np.array(rows, np.int32)
    tiles = np.stack((x[column], y[row], x[column + 1], y[row + 1]), axis=1)
    boxes = _unions(np.stack((runs.starts, runs.rows, runs.stops, runs.rows + 1), axis=1), piece, len(cells))
    return _Pieces(runs, piece, boxes, runs.borders(piece)), tiles


def _crossed_by_grid(damage: Damage, grid: _Grid) -> int:
    """Length of the cuts of the plain balanced grid."""
    left, top, right, bottom = damage.box
    down, across = damage.crossed_by_columns(), damage.crossed_by_rows()
    columns = [x - left - 1 for x in grid.columns if left < x < right]
    rows = [y - top - 1 for y in grid.rows if top < y < bottom]
    return int(down[columns].sum() + across[rows].sum())


def _length(cuts: NDArray[np.int32]) -> int:
    """Length of cuts together: as many pixels as they cross."""
    return int((cuts[:, 2:] - cuts[:, :2]).sum(dtype=np.int64))


# --- Gathering what is whole ---


def _draft(pieces: _Pieces, boxes: NDArray[np.int32], context: int, least: int, sheet: _Sheet) -> _Draft:
    """Find windows for pieces and for components that stay whole, ordered by their top."""
    windows = _grown(pieces.boxes, context, sheet)
    owners = _hosts(boxes, windows, least, sheet)
    left = np.flatnonzero(owners < 0)
    group = _gathered(boxes[left], context, sheet)
    owners[left] = group + np.int32(len(windows))
    gathered = _unions(boxes[left], group, int(group.max(initial=-1)) + 1)
    owned = np.concatenate((pieces.boxes, gathered))
    return _Draft(pieces, owned, np.concatenate((windows, _grown(gathered, context, sheet))), owners)


def _hosts(boxes: NDArray[np.int32], windows: NDArray[np.int32], least: int, sheet: _Sheet) -> NDArray[np.int32]:
    """For each box the first window that it lies in with `least` pixels round it, else -1."""
    host = np.full(len(boxes), -1, np.int32)
    room = _room(boxes, least, sheet)
    first, last = np.searchsorted(room[:, 1].copy(), windows[:, 1::2].T)  # boxes whose top lies between its edges
    for i, (x0, _, x1, y1) in enumerate(windows):
        some, taken = room[first[i] : last[i]], host[first[i] : last[i]]
        taken[(taken < 0) & (some[:, 0] >= x0) & (some[:, 2] <= x1) & (some[:, 3] <= y1)] = i
    return host


def _gathered(boxes: NDArray[np.int32], context: int, sheet: _Sheet) -> NDArray[np.int32]:
    """Let boxes share windows where that is cheaper. Returns for each box the number of its group.

    Each round merges along the cells of one tree; the next has its lines elsewhere, so that what two cells held apart
    may meet. By thirds, for halves would fall on lines of the level below.
    """
    group = np.zeros(len(boxes), np.int32)
    if len(boxes) < 2:
        return group
    room = _room(_unions(boxes, group, 1), context, sheet)
    if (room[:, 2:] - room[:, :2] <= sheet.size).all():
        most = _costs(_grown(boxes, context, sheet), sheet).max()
        if _costs(room, sheet)[0] <= most:  # together they take no more than one of them does
            return group
    group = np.arange(len(boxes), dtype=np.int32)
    root = max(sheet.size - 2 * context - 16, sheet.size // 2, 1)  # the largest cell whose contents still fit
    for right, below in ((0, 0), (1, 1), (2, 2), (1, 2), (2, 1)):
        merged = _merged(boxes, context, sheet, root, (right * root // 3, below * root // 3))
        boxes = _unions(boxes, merged, int(merged.max(initial=-1)) + 1)
        group = merged[group]
        if len(boxes) == 1:  # nothing is left to share with
            break
    return group


def _merged(
    boxes: NDArray[np.int32], context: int, sheet: _Sheet, root: int, offset: tuple[int, int]
) -> NDArray[np.int32]:
    """Merge along one tree. Its cells halve from level to level, across and down by turns; `root` is the side of some.

    From the leaves up each cell holds either one window round all it has, or the best of its two halves.
    """
    depth = max(root // 32, 1).bit_length() - 1
    centres = boxes[:, :2].astype(np.int64) + boxes[:, 2:] + 2 * np.array(offset)
    key = _interleaved((centres << depth) // (2 * root))
    order = np.argsort(key, kind="stable")
    key, some = key[order], boxes[order]
    best = _costs(_grown(some, context, sheet), sheet)
    levels = []
    while len(key) > 1:
        new = np.diff(key, prepend=-1) != 0
        first = np.flatnonzero(new)
        if len(first) < len(key):
            some = np.hstack((np.minimum.reduceat(some[:, :2], first), np.maximum.reduceat(some[:, 2:], first)))
            room = _room(some, context, sheet)
            together, apart = _costs(room, sheet), np.add.reduceat(best, first)
            several = np.diff(first, append=len(key)) > 1
            joined = several & (room[:, 2:] - room[:, :2] <= sheet.size).all(axis=1) & (together <= apart)
            best = np.where(joined, together, apart)
            levels.append((np.cumsum(new) - 1, joined))
        key = key[first] >> 1
    return _numbered(levels, order)


def _numbered(levels: list[tuple[NDArray[np.intp], NDArray[np.bool_]]], order: NDArray[np.intp]) -> NDArray[np.int32]:
    """Follow a tree down from its top: what is under the topmost joined cell is one group."""
    group = np.full(len(levels[-1][1]) if levels else len(order), -1, np.int32)
    count = 0
    for parent, joined in reversed(levels):
        fresh = np.flatnonzero((group < 0) & joined)
        group[fresh] = count + np.arange(len(fresh), dtype=np.int32)
        count += len(fresh)
        group = group[parent]
    alone = np.flatnonzero(group < 0)
    group[alone] = count + np.arange(len(alone), dtype=np.int32)
    placed = np.zeros(len(order), np.int32)
    placed[order] = group
    return placed


def _interleaved(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Interleave the bits of x and y, shape (n, 2), so that each bit less is a cell twice as large."""
    for shift in (16, 8, 4, 2, 1):
        mask = ((1 << 64) - 1) // ((1 << shift) + 1)  # `shift` bits set, as many not, and so on: 0x5555... for 1
        places = (places | (places << shift)) & mask
    return places[:, 0] | (places[:, 1] << 1)


# --- Boxes ---


def _room(boxes: NDArray[np.int32], context: int, sheet: _Sheet) -> NDArray[np.int32]:
    """Boxes with context round them, as far as the picture goes."""
    low, high = boxes[:, :2] - np.int32(context), boxes[:, 2:] + np.int32(context)
    edge = np.array([sheet.width, sheet.height], np.int32)
    return np.hstack((np.maximum(low, 0), np.minimum(high, edge)))


def _grown(boxes: NDArray[np.int32], context: int, sheet: _Sheet) -> NDArray[np.int32]:
    """Boxes with context round them, as far as picture and size go; the two sides get the same where both can."""
    room = _room(boxes, context, sheet)
    before, after = boxes[:, :2] - room[:, :2], room[:, 2:] - boxes[:, 2:]
    both = np.minimum(before + after, sheet.size - (boxes[:, 2:] - boxes[:, :2]))
    first = np.clip(both // 2, both - np.minimum(after, both), np.minimum(before, both))
    return np.hstack((boxes[:, :2] - first, boxes[:, 2:] + (both - first)))


def _unions(boxes: NDArray[np.int32], group: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """The box round all boxes of each group."""
    found = np.zeros((count, 4), np.int32)
    found[group] = boxes  # any of them will do to begin with
    for side, better in zip(range(4), (np.minimum, np.minimum, np.maximum, np.maximum), strict=True):
        better.at(found[:, side], group, boxes[:, side])
    return found


def _areas(boxes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Pixels of each box."""
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.int64)
    return sides[:, 0] * sides[:, 1]


def _costs(windows: NDArray[np.int32], sheet: _Sheet) -> NDArray[np.int64]:
    """What each window takes to compute: its pixels, the sides filled up as for a batch, but not beyond the picture."""
    sides = (windows[:, 2:] - windows[:, :2]).astype(np.int64)
    filled = np.minimum(-(-sides // _STEP) * _STEP, [min(sheet.width, sheet.size), min(sheet.height, sheet.size)])
    filled = np.maximum(filled, sides)
    return filled[:, 0] * filled[:, 1]
