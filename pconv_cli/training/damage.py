"""Damage as it really looks on photographs, film and paper, drawn at random on the device that trains.

Knows: how to draw masks from a torch generator, many at once. Does not know: photographs, networks, training.

A mask has two layers. Shapes of natural size (folds, tears, dust, hairs, scratches, blocks, strokes) are drawn one
after the other until they cover what they were asked to. What is then missing of the mask's share comes from a field
that is cut at the height which gives it: a landscape, blotches, outlines, lost borders. So thin things stay thin, and
shares are met however large.

All masks are drawn side by side and nothing is read back from the device, so the caller need not wait for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST, LARGEST = 0.005, 0.6
"""Share of the pixels this side of a tile's edge that random damage covers, drawn uniformly between these."""

THIN_SMALLEST, THIN_LARGEST = 0.0025, 0.045
"""The same for thin damage, drawn uniformly on a logarithmic scale."""

_MOST_THIN = 0.12
"""Thin things cover no more than this share: larger shares come from larger things."""

_PART = 16
"""Areas are counted in parts of a pixel, as integers: their sums are the same in any order."""

_AT_ONCE_ON_CPU, _AT_ONCE = 2**20, 2**24
"""Pixels that are drawn at once, which bounds the memory. A processor's caches want few, other devices want many."""


@dataclass(frozen=True)
class Damage:
    """Masks of damage.

    Attributes:
        hole: `(n, 1, s, s)` bool, True = damaged.
        beyond: `(n, 1, s, s)` bool, True = beyond the edge of a tile; always part of `hole`.
    """

    hole: Tensor
    beyond: Tensor


def random_damage(count: int, size: int, generator: torch.Generator) -> Damage:
    """Draw masks of all kinds of damage, each of a share of its own.

    The share counts what is damaged among the pixels that are not beyond an edge. Three masks in ten lie at the edge of
    a tile: up to 40 % of their side is beyond it, on one side or on two that meet.

    Args:
        count: Masks, independent of each other.
        size: Side, pixels; 16 to 2048.
        generator: The source of all randomness: on one device, the same state draws the same damage.

    Returns:
        The damage, on the generator's device. Of the pixels that are not beyond an edge, at least one is damaged and at
        least one is not, in every mask.

    Raises:
        ValueError: If the size is none of those.
    """
    return _joined([_random(_Dice(generator, n), size) for n in _portions(count, size, generator.device)])


def thin_damage(count: int, size: int, generator: torch.Generator) -> Damage:
    """Draw scratches and hairs only, 1 to 5 pixels wide, on about 0.2 to 5 % of each mask; nothing is beyond an edge.

    Args:
        count: As in `random_damage`.
        size: As in `random_damage`.
        generator: As in `random_damage`.

    Returns:
        The damage, on the generator's device; at least one pixel in every mask.

    Raises:
        ValueError: As in `random_damage`.
    """
    return _joined([_thin(_Dice(generator, n), size) for n in _portions(count, size, generator.device)])


class _Dice:
    """Random tensors with one entry for each of `n` masks, and the shape of an entry after that."""

    def __init__(self, generator: torch.Generator, n: int) -> None:
        self.n = n
        self.device = generator.device
        self._generator = generator

    def uniform(self, *shape: int, low: float = 0, high: float = 1) -> Tensor:
        values = torch.rand(self.n, *shape, generator=self._generator, device=self.device)
        return values if (low, high) == (0, 1) else values.mul_(high - low).add_(low)

    def log_uniform(self, *shape: int, low: float, high: float) -> Tensor:
        return low * (high / low) ** self.uniform(*shape)

    def normal(self, *shape: int, spread: float = 1) -> Tensor:
        return torch.randn(self.n, *shape, generator=self._generator, device=self.device) * spread

    def chance(self, *shape: int, of: float = 0.5) -> Tensor:
        return self.uniform(*shape) < of

    def wander(self, k: int, knots: int, length: int) -> Tensor:
        """`(n, k, length)`: straight from one normally distributed value to the next."""
        return F.interpolate(self.normal(k, knots), size=length, mode="linear", align_corners=True)


@dataclass(frozen=True)
class _Window:
    """The part of each mask that is not beyond an edge: `low <= (x, y) < high`, `(n, 2)` whole numbers."""

    low: Tensor
    high: Tensor

    @property
    def area(self) -> Tensor:
        return (self.high - self.low).prod(1)

    def beyond(self, size: int) -> Tensor:
        """`(n, 1, s, s)` bool: what is not in the window."""
        at = torch.arange(size, device=self.low.device)
        # As bytes: spread out in this way, truth values take thirty times as long.
        x, y = ((at < self.low[..., None]) | (at >= self.high[..., None])).byte().unbind(1)
        return (x[:, None, None, :] | y[:, None, :, None]).bool()


@dataclass(frozen=True)
class _Shapes:
    """Shapes of one kind in the order in which they are drawn, each as one span of pixels in each of some rows.

    Attributes:
        across: `(n, k)` integer, 1 where the rows of a shape are columns of the mask, else 0.
        row: `(n, k, r)` whole numbers; what lies outside the mask is not drawn.
        start: `(n, k, r)`, where the span begins, pixels.
        stop: `(n, k, r)`, where it ends; before `start` where there is none.
        fresh: `(n, k, 1)`, the part of a shape that does not lie on the shape before.
    """

    across: Tensor
    row: Tensor
    start: Tensor
    stop: Tensor
    fresh: Tensor | float = 1.0


# --- Masks ---


def _random(dice: _Dice, size: int) -> Damage:
    window = _edges(dice, size)
    beyond = window.beyond(size)
    share = dice.uniform(low=SMALLEST, high=LARGEST)
    # How much of the share comes from shapes, and how much of that from thin ones.
    small = share < 0.1
    shaped = share * _all_none_or_some(dice, torch.where(small, 0.75, 0.4))
    thin = shaped * _all_none_or_some(dice, torch.where(small, 0.7, 0.35))
    budgets = [*_split(dice, thin.clamp(max=_MOST_THIN), 4), *_split(dice, shaped - thin, 2)]
    kinds = [
        _folds_and_tears(dice, size),
        _dust(dice, size),
        _hairs(dice, size, 4),
        _scratches(dice, size, 6),
        _blocks(dice, size, budgets[4]),
        _strokes(dice, size, budgets[5]),
    ]
    shapes = _drawn(kinds, budgets, window, size)
    hole = shapes | beyond | _highest(_field(dice, size), shapes, beyond, share, window)
    return Damage(_never_all_or_none(dice, hole, window), beyond)


def _thin(dice: _Dice, size: int) -> Damage:
    low = torch.zeros(dice.n, 2, device=dice.device)
    window = _Window(low, low + size)
    budgets = _split(dice, dice.log_uniform(low=THIN_SMALLEST, high=THIN_LARGEST), 2)
    hole = _drawn([_hairs(dice, size, 5), _scratches(dice, size, 5)], budgets, window, size)
    return Damage(_never_all_or_none(dice, hole, window), torch.zeros_like(hole))


def _portions(count: int, size: int, device: torch.device) -> list[int]:
    """How many masks are drawn at a time; one portion of none where none are asked for."""
    if not 16 <= size <= 2048:  # no room for shapes; or positions that 32 bits cannot tell from their neighbours
        raise ValueError(f"masks of {size} pixels a side; 16 to 2048 can be drawn")
    most = max(1, (_AT_ONCE_ON_CPU if device.type == "cpu" else _AT_ONCE) // size**2)
    return [min(most, count - done) for done in range(0, max(1, count), most)]


def _joined(parts: list[Damage]) -> Damage:
    return Damage(torch.cat([part.hole for part in parts]), torch.cat([part.beyond for part in parts]))


def _edges(dice: _Dice, size: int) -> _Window:
    """Lay three masks in ten at the edge of a tile, a quarter of those into a corner."""
    cut = dice.chance(of=0.3)
    corner = cut & dice.chance(of=0.25)
    upright = dice.chance()
    cuts = torch.stack([torch.where(upright, cut, corner), torch.where(upright, corner, cut)], 1)
    depth = (dice.uniform(2, high=0.4) * size).floor().clamp(min=1) * cuts
    far = dice.chance(2)
    return _Window(torch.where(far, 0.0, depth), torch.where(far, size - depth, float(size)))


def _all_none_or_some(dice: _Dice, everything: Tensor) -> Tensor:
    """`(n)` in [0, 1]: 1 with that probability; of the others, a quarter are 0 and the rest lie anywhere between."""
    some = dice.uniform() * dice.chance(of=0.75)
    return torch.where(dice.uniform() < everything, 1.0, some)


def _split(dice: _Dice, total: Tensor, kinds: int) -> list[Tensor]:
    """Split totals, `(n)`, among kinds: one has the most or all of it, others now and then a part."""
    main = (dice.uniform(1) * kinds).floor() == torch.arange(kinds, device=dice.device)
    weight = main + dice.uniform(kinds) * dice.chance(kinds, of=0.3)
    return list((total[:, None] * weight / weight.sum(1, keepdim=True)).unbind(1))


def _never_all_or_none(dice: _Dice, hole: Tensor, window: _Window) -> Tensor:
    """Turn one pixel of the window over in masks in which every pixel is a hole, or none is."""
    flat = hole.flatten(1)
    x, y = (window.low + dice.uniform(2) * (window.high - window.low)).long().unbind(1)
    at = (y * hole.shape[-1] + x)[:, None]
    total = flat.sum(1, keepdim=True, dtype=torch.int32)
    turned = (flat.gather(1, at) & (total < flat.shape[1])) | (total == 0)
    return flat.scatter(1, at, turned).view_as(hole)


# --- Shapes of natural size ---


def _drawn(kinds: list[_Shapes], budgets: list[Tensor], window: _Window, size: int) -> Tensor:
    """Draw the shapes of each kind until they use up its budget; what they are too few for, the next kind may use.

    Args:
        kinds: What to draw.
        budgets: For each kind `(n)`, the share of the window that it may cover.
        window: Nothing is drawn outside it.
        size: Side, pixels.

    Returns:
        `(n, 1, s, s)` bool.
    """
    n, device = len(window.low), window.low.device
    # One plane for rows and one for columns, with room for ends behind the last pixel. A span is +1 where it begins and
    # -1 where it ends; sums along the rows then tell what lies in any span.
    ends = torch.zeros(n * 2 * size * (size + 1), dtype=torch.int16, device=device)
    mask = torch.arange(n, device=device)[:, None, None] * (2 * size * (size + 1))
    left = torch.zeros(n, dtype=torch.int32, device=device)
    for shapes, budget in zip(kinds, budgets, strict=True):
        low, high = (edge.gather(1, shapes.across)[..., None] for edge in (window.low, window.high))
        top, bottom = (edge.gather(1, 1 - shapes.across)[..., None] for edge in (window.low, window.high))
        start, stop = (end.round().clamp_(low, high) for end in (shapes.start, shapes.stop))
        row = shapes.row.clamp(top, bottom - 1)
        length = (stop - start).clamp_(min=0).mul_(row == shapes.row)
        budget = (budget * window.area * _PART).int() + left
        spent = (length * (shapes.fresh * _PART)).flatten(1).cumsum(1, dtype=torch.int32)
        left = (budget - spent[:, -1]).clamp(min=0)
        drawn = (spent <= budget[:, None]).view_as(length) & (length > 0)
        # What is not drawn adds nothing, at the first pixel, where that costs least.
        first = ((row + shapes.across[..., None] * size) * (size + 1) + start).mul_(drawn)
        first = (first.long() + mask).flatten()
        one = drawn.to(ends.dtype).flatten()
        ends.scatter_add_(0, first, one)
        ends.scatter_add_(0, first + length.long().flatten(), -one)
    inside = ends.view(n, 2, size, size + 1).cumsum_(3)[..., :size].bool()
    return (inside[:, 0] | inside[:, 1].mT)[:, None]


def _folds_and_tears(dice: _Dice, size: int) -> _Shapes:
    """Straight cracks across the picture, some crossed by another, and ragged tears through it or from its border."""
    k = 4  # a fold, one that crosses it, two tears
    tear = torch.arange(k, device=dice.device) >= 2
    across = dice.chance(k).long()
    across[:, 1] = 1 - across[:, 0]
    drawn = dice.uniform(k) < torch.where(tear, 0.6, 0.5)
    drawn[:, 1] &= drawn[:, 0]
    row = _rows(dice, k, size)
    done = torch.arange(size, device=dice.device) / size  # of the way, from the border where the row count begins
    depth = torch.where(tear & dice.chance(k, of=0.6), dice.uniform(k, low=0.15, high=0.8), 2.0)[..., None]
    slope = (dice.normal(k) * torch.where(tear, 0.3, 0.04))[..., None]
    ragged = 0.03 * dice.wander(k, 7, size) + 0.008 * dice.wander(k, 25, size) + 0.003 * dice.wander(k, 90, size)
    ragged = ragged * torch.where(tear, dice.uniform(k, low=0.3), 0.0)[..., None]
    middle = (dice.uniform(k, 1) + slope * (row / size - 0.5) + ragged) * size + 0.3 * dice.wander(k, 60, size)
    width = torch.where(tear, dice.log_uniform(k, low=3, high=16), dice.log_uniform(k, low=1.5, high=6))[..., None]
    width = width * (0.7 + 0.35 * dice.wander(k, 9, size) + 0.3 * dice.wander(k, 50, size))
    half = (width / 2 * (2 - 2 * done / depth).clamp(max=1)).clamp(min=0.5)  # tears run out to a point
    half = torch.where(drawn[..., None] & (done < depth), half, -1)
    return _Shapes(across, row, middle - half, middle + half)


def _scratches(dice: _Dice, size: int, widest: int) -> _Shapes:
    """Long, thin, nearly straight lines in bundles, most of them right through; bundles of short ones are scuffs."""
    bundles, lines = 4, 5
    k = bundles * lines

    def each(of_bundle: Tensor) -> Tensor:
        return of_bundle[..., None].expand(-1, -1, lines).flatten(1)

    across = each(dice.chance(bundles, of=0.3).long())
    slope = torch.where(dice.chance(bundles, of=0.25), dice.uniform(bundles, low=-1), dice.normal(bundles, spread=0.05))
    slope = each(slope) + dice.normal(k, spread=0.01)
    bend = each(dice.normal(bundles, spread=0.03))
    width = each(1 + (widest - 1) * dice.uniform(bundles) ** 2) * dice.uniform(k, low=0.6, high=1.3)
    half = width.clamp(1, widest) * (1 + slope**2).sqrt() / 2
    spread = each(dice.log_uniform(bundles, low=0.02, high=0.15))
    x, y = (each(dice.uniform(bundles)) + spread * dice.normal(k) for _ in range(2))
    length = each(dice.log_uniform(bundles, low=0.1, high=6)) * dice.uniform(k, low=0.7, high=1.3)
    drawn = dice.uniform(k) < each(dice.uniform(bundles, low=0.3))
    row = _rows(dice, k, size)
    t = row / size - y[..., None]
    middle = (x[..., None] + slope[..., None] * t + bend[..., None] * t**2) * size + 0.4 * dice.wander(k, 9, size)
    half = torch.where(drawn[..., None] & (t.abs() < length[..., None] / 2), half[..., None], -1)
    return _Shapes(across, row, middle - half, middle + half)


def _hairs(dice: _Dice, size: int, widest: int) -> _Shapes:
    """Thin curls."""
    k, points = 8, int(0.6 * size)
    length = dice.log_uniform(k, 1, low=0.08, high=0.8) * size
    turn = 3 * dice.wander(k, 7, points) / length + dice.normal(k, points, spread=0.5 / size**0.5)
    radius = 0.5 + (widest - 1) / 2 * dice.uniform(k, 1) ** 2
    radius = torch.where(torch.arange(points, device=dice.device) < length, radius, -1)
    return _walks(dice, turn, torch.ones_like(length), radius, (widest + 1) // 2, size)


def _strokes(dice: _Dice, size: int, share: Tensor) -> _Shapes:
    """Free-form strokes of a brush with sharp turns; the more they are to cover, `(n)`, the broader they are."""
    k, points, broadest = 7, 24, max(1.5, 0.05 * size)
    turn = dice.normal(k, points, spread=0.15) + dice.normal(k, points, spread=1.5) * dice.chance(k, points, of=0.12)
    radius = broadest * (dice.log_uniform(k, 1, low=0.5, high=2) * _scale(share)).clamp(max=1)
    step = 0.7 * radius
    radius = torch.where(torch.arange(points, device=dice.device) < dice.uniform(k, 1, low=4, high=points), radius, -1)
    return _walks(dice, turn, step, radius, int(broadest) + 1, size)


def _walks(dice: _Dice, turn: Tensor, step: Tensor, radius: Tensor, largest: int, size: int) -> _Shapes:
    """Chains of discs, each chain from anywhere in any direction.

    Args:
        dice: The source of randomness.
        turn: `(n, k, points)`, radians by which a chain turns at each disc.
        step: `(n, k, 1)`, pixels from disc to disc.
        radius: `(n, k, points)`, of discs, pixels; negative where there is none.
        largest: The largest radius, rounded up.
        size: Side of the mask, pixels.
    """
    k = turn.shape[1]
    heading = dice.uniform(k, 1, high=2 * math.pi) + turn.cumsum(2)
    x, y = dice.uniform(2, k, 1, low=-0.1, high=1.1).mul(size).unbind(1)
    x, y = x + (heading.cos() * step).cumsum(2), y + (heading.sin() * step).cumsum(2)
    fresh = 2 / math.pi * step / radius
    x, y, radius, fresh = (values.flatten(1)[..., None] for values in (x, y, radius, fresh))
    return _ellipses(x, y, radius, radius, 0, largest, fresh)


def _dust(dice: _Dice, size: int) -> _Shapes:
    """Specks, all over or in a cloud."""
    k, largest = 128, 5
    cloud = dice.uniform(2, 1) + dice.log_uniform(1, 1, low=0.03, high=0.3) * dice.normal(2, k)
    x, y = torch.where(dice.chance(1, 1), cloud, dice.uniform(2, k)).mul(size)[..., None].unbind(1)
    height = 0.5 + (largest - 0.5) * dice.uniform(k, 1) ** 3
    width = height * dice.uniform(k, 1, low=0.6, high=1.6)
    return _ellipses(x, y, width, height, dice.normal(k, 1, spread=0.5), largest)


def _ellipses(
    x: Tensor, y: Tensor, width: Tensor, height: Tensor, lean: Tensor | float, largest: int, fresh: Tensor | float = 1.0
) -> _Shapes:
    """Ellipses about `(x, y)` with these half axes, no higher than `largest`, all `(n, k, 1)` and in pixels."""
    row = y.floor() + torch.arange(-largest, largest + 1, device=y.device)
    down = row + 0.5 - y
    # However thin, a shape has a pixel in each of its rows.
    half = (width * (1 - (down / height) ** 2).clamp(min=0).sqrt()).clamp(min=0.5)
    half = torch.where((down >= -height) & (down < height), half, -1)
    middle = x + lean * down
    return _Shapes(_upright(row), row, middle - half, middle + half, fresh)


def _blocks(dice: _Dice, size: int, share: Tensor) -> _Shapes:
    """Rectangles, upright or turned; the more they are to cover, `(n)`, the larger they are."""
    k = 6
    angle = torch.where(dice.chance(k, 1, of=0.6), 1e-4, dice.uniform(k, 1, low=0.05, high=1.5))
    cos, sin = angle.cos(), angle.sin()
    width, height = (dice.log_uniform(k, 1, low=0.06, high=0.3) * _scale(share) * size for _ in range(2))  # half
    x, y = dice.uniform(2, k, 1).mul(size).unbind(1)
    row = torch.arange(float(size), device=dice.device).expand(dice.n, k, -1)
    down = row + 0.5 - y
    # A rectangle is where two bands cross; a row is in both from where it is in the second to where it leaves one.
    start = torch.maximum((-width - down * sin) / cos, (down * cos - height) / sin)
    stop = torch.minimum((width - down * sin) / cos, (down * cos + height) / sin)
    return _Shapes(_upright(row), row, x + start, x + stop)


def _scale(share: Tensor) -> Tensor:
    """`(n, 1, 1)`: how large broad shapes are for a few of them to cover a share, `(n)`; 1 is the largest."""
    return (share / 0.3).sqrt().clamp(0.25, 1)[:, None, None]


def _rows(dice: _Dice, k: int, size: int) -> Tensor:
    """`(n, k, s)`: all rows, from the first or from the last, for a budget may end on the way."""
    row = torch.arange(float(size), device=dice.device)
    return torch.where(dice.chance(k, 1), row, size - 1 - row)


def _upright(row: Tensor) -> Tensor:
    return torch.zeros(row.shape[:2], dtype=torch.long, device=row.device)


# --- Fields of any share ---


def _highest(field: Tensor, shapes: Tensor, beyond: Tensor, share: Tensor, window: _Window) -> Tensor:
    """Cut a field at the height where it adds what the shapes leave out of a share.

    Args:
        field: `(n, 1, s, s)`.
        shapes: `(n, 1, s, s)` bool.
        beyond: `(n, 1, s, s)` bool.
        share: `(n)`, of the window.
        window: What is not beyond.

    Returns:
        `(n, 1, s, s)` bool: the places above that height, at least one of them free where there are no shapes.
    """
    covered = shapes.flatten(1).sum(1, dtype=torch.int32)
    missing = ((share * window.area - covered) / (window.area - covered).clamp(min=1)).clamp(0, 1)
    # Every few pixels tell the height well enough.
    step = max(1, field.shape[-1] // 64)
    sample, taken, outside = (plane[..., ::step, ::step].flatten(1) for plane in (field, shapes, beyond))
    free = ~(taken | outside)
    wanted = (missing * free.sum(1)).round()
    wanted = torch.where(covered == 0, wanted.clamp(min=1), wanted)[:, None]
    below, above = sample.amin(1, keepdim=True), sample.amax(1, keepdim=True)
    sample = torch.where(free, sample, -torch.inf)
    for _ in range(12):  # halving takes a sixth of the time that sorting does
        middle = (below + above) / 2
        enough = (sample >= middle).sum(1, keepdim=True, dtype=torch.int32) >= wanted
        below, above = torch.where(enough, middle, below), torch.where(enough, above, middle)
    return field >= torch.where(wanted > 0, below, torch.inf)[..., None, None]


def _field(dice: _Dice, size: int) -> Tensor:
    """`(n, 1, s, s)`: a landscape, blotches, outlines of objects or lost borders; the highest places are lost first.

    Made at a quarter of the size, where it is cheap, and given fine detail at half of it.
    """
    half, quarter = -(-size // 2), -(-size // 4)
    noise, detail = _landscape(dice, quarter, half)
    at = (torch.arange(quarter, device=dice.device) + 0.5) / quarter
    height, rough = noise, torch.ones_like(noise[:, :1, :1])
    blotches = _blotches(dice, noise, at)
    kind = dice.uniform(1, 1)
    for upto, other in ((0.7, _borders(dice, noise, at)), (0.5, _outlines(dice, *blotches)), (0.3, blotches)):
        height, rough = torch.where(kind < upto, other[0], height), torch.where(kind < upto, other[1], rough)
    height = F.interpolate(height[:, None], size=(half, half), mode="bilinear", align_corners=False)
    height = height + rough[:, None] * detail
    return F.interpolate(height, size=(size, size), mode="bilinear", align_corners=False)


def _landscape(dice: _Dice, side: int, finest: int) -> tuple[Tensor, Tensor]:
    """Sums of noise at scales from a quarter of the picture down, each mask rough in its own way.

    Returns:
        `(n, side, side)`, and its detail one scale further down, `(n, 1, finest, finest)`.
    """
    first = dice.uniform(1, 1, 1, high=1.6)
    fall = dice.uniform(1, 1, 1, low=0.5, high=1.4)

    def octave(i: int, cells: int) -> Tensor:
        weight = torch.exp(-fall * (i - first).clamp(min=0) - 3 * (first - i).clamp(min=0))
        return weight * dice.normal(1, cells, cells)

    i, cells = 0, 4
    height = octave(i, cells)
    while cells < side:
        i, cells = i + 1, min(2 * cells, side)
        height = F.interpolate(height, size=(cells, cells), mode="bilinear", align_corners=False) + octave(i, cells)
    return height[:, 0], octave(i + 1, finest)


# Each of the following returns a field `(n, side, side)` and how rough it is, `(n, 1, 1)`: what of the noise is in it.


def _blotches(dice: _Dice, noise: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Ragged ellipses, with splashes round them where they are rough; heights are distances, in sides."""
    k = 4
    x, y = (at - dice.uniform(2, k, 1)).unbind(1)
    a, c = dice.log_uniform(2, k, 1, low=0.5, high=2).unbind(1)
    b = dice.uniform(k, 1, low=-0.7, high=0.7) * (a * c).sqrt()
    square = ((2 * b * y)[..., None] * x[:, :, None]).add_((c * y**2)[..., None]).add_((a * x**2)[:, :, None])
    height = (dice.uniform(k, 1, 1, high=0.15) - square.clamp_(min=0).sqrt_()).amax(1)
    rough = dice.log_uniform(1, 1, low=0.015, high=0.15)
    return height + rough * noise, rough


def _outlines(dice: _Dice, blotches: Tensor, rough: Tensor) -> tuple[Tensor, Tensor]:
    """What objects in the shape of blotches uncover when they move: inside the old outline and outside the new one."""
    side = blotches.shape[-1]
    objects = blotches + dice.uniform(1, 1, low=0.05, high=0.2)
    move = (dice.uniform(2, 1, low=-0.1, high=0.1) * side).round().long()
    y, x = (torch.arange(side, device=dice.device) + move).clamp(0, side - 1).unbind(1)
    moved = objects.gather(1, y[:, :, None].expand_as(objects)).gather(2, x[:, None, :].expand_as(objects))
    return torch.minimum(objects, -moved), rough / 2


def _borders(dice: _Dice, noise: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Lost borders, one side or more, and torn corners."""
    weight = dice.log_uniform(4, 1, low=1, high=1000)
    weight = weight / weight.amin(1, keepdim=True)
    left, top, right, bottom = (weight * torch.stack([at, at, 1 - at, 1 - at])).unbind(1)
    sides = torch.minimum(torch.minimum(left, right)[:, None, :], torch.minimum(top, bottom)[:, :, None])
    x, y = (torch.where(dice.chance(2, 1), at, 1 - at) * dice.uniform(2, 1, low=0.3)).unbind(1)
    depth = torch.where(dice.chance(1, 1, of=0.6), sides, x[:, None, :] + y[:, :, None])
    rough = dice.log_uniform(1, 1, low=0.002, high=0.05)
    return rough * noise - depth, rough
