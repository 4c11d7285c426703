"""Finds dust, scratches and tears by what they look like: classical, by morphology, and nothing learned.

Knows: pixels as bytes, what damage on film and paper has in common, and which of a picture's own details look like it.
Does not know: files, formats, where pixels come from, what is filled afterwards.

Everything follows from rows of pixels that somebody gives, some at a time: in whole numbers, and from a neighbourhood
that is bounded, but for how much of a kind there is: so it makes no difference where a picture is cut into strips,
and memory grows with the damage alone. What hangs together is followed through all strips as runs of pixels
(`regions`). Large pictures are looked at in smaller sizes too: the finer a scan, the more pixels a speck has.

| kind | what counts |
|---|---|
| dust | specks and hairs: brighter, or darker, in every colour than even ground round them; faint among others |
| scratches | lines along the whole height or width of the picture: continuous, straight, thin |
| tears | as light as paper and grey, long, ragged, thinner than they are long; for `auto` they begin at the border |
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pconv_cli.errors import UsageError
from pconv_cli.regions import Damage

Kind = Literal["dust", "scratches", "tears", "auto"]
KINDS: tuple[Kind, ...] = ("dust", "scratches", "tears", "auto")

Plane = NDArray[np.uint8]
Hole = NDArray[np.bool_]
Rows = Callable[[int, int], NDArray[np.uint8]]
"""Gives rows of a picture, from the first up to, without, the last: `(rows, w, 3)`, RGB."""

REACH = 152
"""Rows above and below a strip that decide what is damaged in it."""

_STRIP = 1 << 22  # pixels of a strip
_AT_ONCE = 6 << 22  # pixels of strips that lie side by side, 30 bytes of memory each
_ROWS = 512  # of a large picture that are read together to make a smaller one of them
_SMALLEST = 480  # pixels: a picture is looked at in full size, in half of it and so on, until its shorter side is that

_SCALES = (9, 19)  # pixels: dust is thinner than that, and what is thinner is looked at
_NEAR = 61  # side of the square, in pixels, that a place is compared with
_CONTRAST = 14  # levels that a speck stands out by at least, whatever the sensitivity: else it would change its shape
_CONVINCED = 3  # places, and one more in each million pixels: where so many are damaged, others are as well
_CLIP = 32  # of what a pixel adds to how busy a place is: a speck must not count as its own surroundings

_LINE = 11  # pixels: a scratch is thinner
_RULED = 0.08  # of the shorter side: so near its edge `auto` takes no line along it for a scratch
_ASIDE = 7  # pixels to both sides of it that are compared: the edge of something has two different sides
_ALONG = 61  # pixels along a scratch that are looked at together
_MOST = 6  # lines of one kind in a picture that `auto` believes: more may be a front of windows
_PATTERN = 3  # lines within as many pixels across: more are a pattern
_GAP = 81  # pixels of it that may be out of sight

_TEAR = 41  # pixels: a tear is thinner
_WHITE = 201  # side of the square, pixels, in which white must be rare
_TINT = 45  # what differs more between its colours is not the white of paper


@dataclass(frozen=True)
class Detect:
    """What is looked for.

    Attributes:
        kinds: Of damage; "auto" is all of them, each only where it is clearest.
        sensitivity: From 0, what is certain, to 1, whatever might be damage.
    """

    kinds: tuple[Kind, ...] = ("auto",)
    sensitivity: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.sensitivity <= 1:
            raise UsageError(f"--sensitivity {self.sensitivity:g}: must be 0 to 1")
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise UsageError(f"--detect {','.join(self.kinds)}: use {', '.join(KINDS)}, or several with commas")

    def __str__(self) -> str:
        return f"{','.join(self.kinds)} at sensitivity {self.sensitivity:g}"

    def wants(self, kind: Kind) -> bool:
        """Whether a kind of damage is looked for."""
        return kind in self.kinds or "auto" in self.kinds

    def certain(self, kind: Kind) -> bool:
        """Whether a kind counts only where it is clearest, for nobody has asked for it by name."""
        return kind not in self.kinds

    def missed(self, empty: int, of: int) -> str:
        """What to say of pictures in which nothing was found; empty where there are none, or no more can be seen."""
        if not empty or self.sensitivity == 1:
            return ""
        pictures = f"{empty} of {of} pictures" if of > 1 else "the picture"
        return (
            f"nothing was found in {pictures} at --sensitivity {self.sensitivity:g}: if there is damage, a higher one "
            "sees more, up to 1, and more that is none"
        )


SENSITIVITY, CAREFUL = 0.5, 0.3
"""How readily something is taken for damage if nobody says: where kinds are named, and where `auto` names none."""

MUCH_DETECTED = 0.1
"""Share of a picture that is more than dust and scratches are: worth a look before it is filled."""


def parse(kinds: str, sensitivity: float | None = None) -> Detect:
    """Read what stands after `--detect`, and `--sensitivity` if it is given.

    Raises:
        UsageError: It names what there is not.
    """
    asked = tuple(kind.strip() for kind in kinds.lower().split(","))
    if sensitivity is None:
        sensitivity = CAREFUL if "auto" in asked else SENSITIVITY
    return Detect(cast("tuple[Kind, ...]", asked), sensitivity)


def find(picture: NDArray[np.uint8], detect: Detect) -> Damage:
    """Find damage in a picture in memory.

    Args:
        picture: `(h, w, 3)`, RGB.
        detect: What is looked for.

    Raises:
        UsageError: OpenCV is not there.
    """
    height, width = picture.shape[:2]
    return find_in_rows(lambda top, bottom: picture[top:bottom], (height, width), detect)


def find_in_rows(rows: Rows, size: tuple[int, int], detect: Detect, *, strip: int | None = None) -> Damage:
    """Find damage in a picture of any size.

    Args:
        rows: Gives what is asked for; strips come from top to bottom, and overlap by `REACH` on both sides.
        size: Height and width.
        detect: What is looked for.
        strip: Rows that are decided on together; the result is the same for any. None: what fits memory.

    Returns:
        What is damaged, without the soft edges that it may have: grow it by a pixel or two.

    Raises:
        UsageError: OpenCV is not there.
    """
    found = []
    factor = 1
    while factor == 1 or min(size) >= factor * _SMALLEST:
        smaller = (-(-size[0] // factor), -(-size[1] // factor))
        found.append(_enlarged(_found(_reduced(rows, size[0], factor), smaller, detect, strip), factor, size))
        factor *= 2
    return found[0] if len(found) == 1 else _united([found], *size)


def _reduced(rows: Rows, height: int, factor: int) -> Rows:
    """Rows of a smaller picture, each pixel the mean of `factor` by `factor`; at the far edges the last ones repeat."""
    if factor == 1:
        return rows
    cv2 = opencv()

    def smaller(top: int, bottom: int) -> NDArray[np.uint8]:
        step = -(-_ROWS // factor)  # the large picture is only held a few rows at a time
        return np.concatenate([means(at, min(at + step, bottom)) for at in range(top, bottom, step)])

    def means(top: int, bottom: int) -> NDArray[np.uint8]:
        pixels = rows(top * factor, min(bottom * factor, height))
        missing = (-pixels.shape[0] % factor, -pixels.shape[1] % factor)
        if any(missing):
            pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        across = pixels.shape[1] // factor
        return np.asarray(cv2.resize(pixels, (across, bottom - top), interpolation=cv2.INTER_AREA))

    return smaller


def _enlarged(found: Damage, factor: int, size: tuple[int, int]) -> Damage:
    """Damage of a smaller picture in the whole one, with the edges that are lost in between."""
    height, width = size
    if factor == 1:
        return found
    more = factor // 2
    offsets = np.arange(-more, factor + more, dtype=np.int32)
    rows = (found.rows[:, None] * np.int32(factor) + offsets).ravel()
    starts = np.repeat((found.starts * np.int32(factor) - np.int32(more)).clip(0), len(offsets))
    stops = np.repeat((found.stops * np.int32(factor) + np.int32(more)).clip(max=width), len(offsets))
    inside = (rows >= 0) & (rows < height)
    return _united([[Damage(height, width, rows[inside], starts[inside], stops[inside])]], height, width)


def _found(rows: Rows, size: tuple[int, int], detect: Detect, strip: int | None) -> Damage:
    """Find damage at one scale."""
    height, width = size
    strip = strip or max(384, _STRIP // width)
    looks = [look for look in (_dust(detect, size), _scratches(detect, size), _tears(detect, size)) if look is not None]
    gathered = [_Gathered(judge, height, width, most) for _, count, judge, most in looks for _ in range(count)]

    def seen_to(top: int, inner: slice, pixels: NDArray[np.uint8]) -> tuple[int, int, list[_Candidates | None]]:
        scene = _Scene(pixels)
        return top, top + inner.stop - inner.start, [
            _Candidates.of(body[inner], [measure[inner] for measure in measures])
            for look, _, _, _ in looks
            for body, measures in look(scene)
        ]  # fmt: skip

    def gather(top: int, bottom: int, candidates: list[_Candidates | None]) -> None:
        for sink, found in zip(gathered, candidates, strict=True):
            if found is not None:
                sink.add(top, bottom, found)

    at_work: deque[Future[tuple[int, int, list[_Candidates | None]]]] = deque()
    for top in range(0, height, strip):
        bottom = min(top + strip, height)
        first = max(0, top - REACH)
        pixels = rows(first, min(bottom + REACH, height))
        at_work.append(_pool().submit(seen_to, top, slice(top - first, bottom - first), pixels))
        if len(at_work) >= min(_AT_ONCE // pixels[..., 0].size, os.cpu_count() or 1):
            gather(*at_work.popleft().result())
    for one in at_work:
        gather(*one.result())
    return _united([sink.accepted() for sink in gathered], height, width)


@cache
def _pool() -> ThreadPoolExecutor:
    """Looks at strips, of however many pictures."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "detect")


# ---------------------------------------------------------------- candidates

Measured = tuple[Hole, Sequence[NDArray[Any]]]
"""Where something may be damage, `(h, w)`, and what is measured there, whole numbers, `(h, w)` each."""
Judge = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], "_Verdict"]
"""Judges candidates by areas `(n,)`, boxes `(n, 4)` x0, y0, x1, y1 and sums `(n, k)`."""
Look = tuple[Callable[["_Scene"], Iterator[Measured]], int, Judge, float]
"""How to look at a strip, how many planes of candidates that gives, how to judge them, and the most lines in one."""


@dataclass(frozen=True)
class _Candidates:
    """What may be damage in a strip.

    Attributes:
        runs: Where, rows counted from the strip's first.
        table: The length of each run, and what is measured there, summed up: `(n, 1 + k)`.
    """

    runs: Damage
    table: NDArray[np.float64]

    @classmethod
    def of(cls, body: Hole, measures: Sequence[NDArray[Any]]) -> _Candidates | None:
        runs = Damage.of(body)
        if not len(runs):
            return None
        lengths = (runs.stops - runs.starts).astype(np.int64)
        begins = np.cumsum(lengths) - lengths
        sums = [np.add.reduceat(measure[body].astype(np.int64), begins) for measure in measures]  # runs in a row
        return cls(runs, np.stack([lengths, *sums], axis=1).astype(np.float64))


class _Verdict(NamedTuple):
    """What candidates are, `(n,)` each. `telling` and `drawn` must not depend on the sensitivity.

    Attributes:
        damage: Those that are damage.
        likely: Others that are where there is much damage of the kind in the picture.
        telling: Those that tell that there is.
        drawn: What looks like a line. Of many lines in a picture none is damage.
    """

    damage: Hole
    likely: Hole
    telling: Hole
    drawn: Hole


class _Gathered:
    """Candidates of one kind. What ends within a strip is judged at once, so that memory holds no others."""

    def __init__(self, judge: Judge, height: int, width: int, most: float) -> None:
        self._judge, self._height, self._width, self._most = judge, height, width, most
        self._found: dict[tuple[bool, bool], list[Damage]] = {}  # by whether it is only likely, and a line
        self._telling = self._drawn = 0
        self._open: list[tuple[Damage, NDArray[np.float64]]] = []

    def add(self, top: int, bottom: int, found: _Candidates) -> None:
        """Take the candidates of the next strip."""
        runs, table = found.runs, found.table
        moved = Damage(self._height, self._width, runs.rows + np.int32(top), runs.starts, runs.stops)
        labels, boxes = moved.components()
        ends = ((boxes[:, 1] > top) | (top == 0)) & ((boxes[:, 3] < bottom) | (bottom == self._height))
        self._keep(moved, table, labels, boxes, ends)
        rest = ~ends[labels]
        if rest.any():
            self._open.append((_taken(moved, rest), table[rest]))

    def accepted(self) -> list[Damage]:
        """All that is damage; nothing where there is so much of it that it is a pattern."""
        if self._open:
            runs = _joined([runs for runs, _ in self._open], self._height, self._width)
            labels, boxes = runs.components()
            table = np.concatenate([table for _, table in self._open])
            self._keep(runs, table, labels, boxes, np.ones(len(boxes), np.bool_))
            self._open = []
        convinced = self._telling >= _CONVINCED + self._height * self._width // 1_000_000
        believed = self._drawn <= self._most
        return [
            part
            for (likely, line), parts in self._found.items()
            if (convinced or not likely) and (believed or not line)
            for part in parts
        ]

    def _keep(
        self, runs: Damage, table: NDArray[np.float64], labels: NDArray[np.int32], boxes: NDArray[np.int32], which: Hole
    ) -> None:
        sums = np.stack([np.bincount(labels, column, len(boxes)).astype(np.float64) for column in table.T], axis=1)
        verdict = self._judge(sums[which, 0], boxes[which].astype(np.float64), sums[which, 1:])
        self._telling += int(verdict.telling.sum())
        self._drawn += int(verdict.drawn.sum())
        for likely, chosen in ((False, verdict.damage), (True, verdict.likely)):
            for line in (False, True):
                fine = which.copy()
                fine[which] = chosen & (verdict.drawn == line)
                if fine.any():
                    self._found.setdefault((likely, line), []).append(_taken(runs, fine[labels]))


def _taken(runs: Damage, which: Hole) -> Damage:
    return Damage(runs.height, runs.width, runs.rows[which], runs.starts[which], runs.stops[which])


def _joined(parts: Sequence[Damage], height: int, width: int) -> Damage:
    """Put parts together that have no pixel in common, in the order of rows."""
    none = (np.zeros(0, np.int32),) * 3
    rows, starts, stops = (
        np.concatenate(pieces)
        for pieces in zip(none, *((part.rows, part.starts, part.stops) for part in parts), strict=True)
    )
    order = np.lexsort((starts, rows))
    return Damage(height, width, rows[order], starts[order], stops[order])


def _united(found: Sequence[Sequence[Damage]], height: int, width: int) -> Damage:
    """Put parts together that may share pixels."""
    both = _joined([part for parts in found for part in parts], height, width)
    if not len(both):
        return both
    place = both.rows.astype(np.int64) * (width + 2)
    reach = np.maximum.accumulate(place + both.stops)
    new = np.ones(len(both), np.bool_)
    new[1:] = (place + both.starts)[1:] > reach[:-1]
    first = np.flatnonzero(new)
    stops = np.maximum.reduceat(both.stops, first)
    return Damage(height, width, both.rows[first], both.starts[first], stops)


# ---------------------------------------------------------------- what is seen


def opencv() -> Any:
    """Import OpenCV.

    Raises:
        UsageError: It is not there, or lacks libraries of the system.
    """
    try:
        import cv2
    except ImportError as error:
        hint = "pip install opencv-python-headless, which needs no libGL"
        raise UsageError(f"finding damage needs OpenCV, which cannot be loaded ({error}): {hint}") from error
    # Strips and pictures lie side by side already: with threads of its own it takes a fifth longer.
    cv2.setNumThreads(1)
    return cv2


class _Scene:
    """A strip of a picture, and what OpenCV makes of it; pixels of all sides beyond it count as mirrored."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.cv2 = opencv()
        planes = [np.ascontiguousarray(pixels[..., channel]) for channel in range(3)]
        grey = all(np.array_equal(planes[0], plane) for plane in planes[1:])
        self.colours = planes[:1] if grey else planes
        seen = np.ascontiguousarray(pixels)
        self.grey: Plane = planes[0] if grey else self.cv2.cvtColor(seen, self.cv2.COLOR_RGB2GRAY)

    def hats(self, planes: Sequence[Plane], element: NDArray[np.uint8]) -> tuple[Plane, Plane]:
        """How much brighter, and darker, each pixel is in all colours than what the element fits into."""
        cv2 = self.cv2
        both = []
        for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
            least = cv2.morphologyEx(planes[0], kind, element)
            for plane in planes[1:]:
                least = np.minimum(least, cv2.morphologyEx(plane, kind, element))
            both.append(least)
        return both[0], both[1]

    def sums(self, plane: NDArray[Any], across: int, down: int) -> NDArray[np.int32]:
        """The sum over a rectangle round each pixel."""
        cv2 = self.cv2
        return np.asarray(
            cv2.boxFilter(plane, cv2.CV_32S, (across, down), normalize=False, borderType=cv2.BORDER_REFLECT_101)
        )

    def disc(self, side: int) -> NDArray[np.uint8]:
        return np.asarray(self.cv2.getStructuringElement(self.cv2.MORPH_ELLIPSE, (side, side)))


# ---------------------------------------------------------------- dust


def _dust(detect: Detect, size: tuple[int, int]) -> Look | None:
    """Specks and hairs. Four planes: bright and dark ones, at two scales."""
    if not detect.wants("dust"):
        return None
    height, width = size
    area = _NEAR * _NEAR
    certain = detect.certain("dust")
    speck, hair = 1.05 - 3.9 * detect.sensitivity, 1.6 - 2.8 * detect.sensitivity  # what they must score
    if certain:
        speck, hair = speck + 0.8, hair + 0.4

    def look(scene: _Scene) -> Iterator[Measured]:
        cv2 = scene.cv2
        for side in _SCALES:
            disc = scene.disc(side)
            hats = scene.hats(scene.colours, disc)
            bright, dark = hats if len(scene.colours) == 1 else scene.hats([scene.grey], disc)
            rough = np.minimum(cv2.add(bright, dark), _CLIP)
            busy = scene.sums(rough, _NEAR, _NEAR)
            for turn in (0, 1):
                hat, other = hats[turn].astype(np.int32), hats[1 - turn]
                core = (hat >= _CONTRAST) & (hat * area >= 2 * busy)
                body = (2 * hat >= _CONTRAST) & (hat * area >= busy)
                crowd = scene.sums(body.view(np.uint8), _NEAR, _NEAR)
                quiet = scene.sums(rough * ~body, _NEAR, _NEAR)
                light = scene.grey if turn == 0 else 255 - scene.grey
                ground = cv2.subtract(light, (bright, dark)[turn])
                steps = cv2.morphologyEx(ground, cv2.MORPH_GRADIENT, np.ones((_SCALES[0], _SCALES[0]), np.uint8))
                yield body, (core, hat, other, crowd, quiet, steps)

    def judge(areas: NDArray[np.float64], boxes: NDArray[np.float64], sums: NDArray[np.float64]) -> _Verdict:
        core, hat, other, crowd, quiet, steps = sums.T
        sides = boxes[:, 2:] - boxes[:, :2]
        longest = sides.max(axis=1)
        x0, y0, x1, y1 = boxes.T
        thick = areas / longest
        cut = (x0 == 0).astype(int) + (y0 == 0) + (x1 == width) + (y1 == height)
        even = quiet / np.maximum(area * areas - crowd, 1)  # levels, where nothing like it is
        crowded = np.log(crowd / (areas * np.minimum(areas, _NEAR * thick)))  # how much like it is around
        told = [
            np.maximum(core / areas, 0.4),  # how much of it stands out
            np.log(other / np.maximum(hat, 1) + 0.05),  # how much of the contrary is in it
            np.log(longest / thick),
            np.log(thick),
            np.log(np.maximum(hat / areas, 1)),  # how strong it is
            np.log(even + 0.5),  # how rough it is around
            crowded,
            np.log(steps / np.maximum(hat, 1) + 0.05),  # how much its two sides differ
            sides.min(axis=1) / longest,  # it does not run along the picture
            np.minimum(cut, 1),  # something larger, maybe, of which a bit shows
            np.ones(len(areas)),
        ]
        small = longest < _HAIR
        score = np.where(small, _SPECK_WEIGHTS @ told, _HAIR_WEIGHTS @ told)
        wanted = np.where(small, speck, hair)
        # What two sides cut off is no hair but a border.
        may = (core > 0) & (areas >= _SPECK) & (small | ((cut < 2) & (thick <= _STROKE) & (crowded < _CROWDED)))
        return _Verdict(
            damage=may & (score >= wanted),
            likely=may & small & (score >= wanted - _LIKELY) & (score < wanted),
            telling=may & small & (score >= _TELLING),
            drawn=~small & (core > 0) & (score >= _LINE_LIKE),
        )

    return look, 2 * len(_SCALES), judge, (_DRAWN if certain else 4 * _DRAWN) * (1 + height * width // 1_000_000)


# Those of two logistic regressions on candidates in photographs with and without made-up dust and hairs, see
# benchmarks/README.md: at 0 it is as likely as not that it is damage.
_SPECK_WEIGHTS = np.array([2.5, -1.25, -2.25, 0, -0.55, -0.05, -0.45, -0.45, 0, -0.15, -2.4])
_HAIR_WEIGHTS = np.array([2.55, -2.5, 0, -1, 1, -0.25, -1, -0.65, 2.45, -0.7, -12.2])
_LIKELY = 0.8  # how much less than asked for is a speck among others
_TELLING = -0.2  # what scores so much is a speck, mostly
_STROKE, _CROWDED = 12, 0.7  # pixels that a hair is thinner than; how much like it there may be around
_LINE_LIKE, _DRAWN = -1.0, 6  # of a hair's score; as many lines may there be, and in each million pixels
_SPECK, _HAIR = 5, 25  # pixels: no speck is smaller, and from this length on it is a hair


# ---------------------------------------------------------------- scratches


def _scratches(detect: Detect, size: tuple[int, int]) -> Look | None:
    """Lines along the picture. Four planes: bright and dark ones, upright and lying."""
    if not detect.wants("scratches"):
        return None
    height, width = size
    sensitivity, certain = detect.sensitivity, detect.certain("scratches")
    contrast = round(9 - 6 * sensitivity)
    seen = round(_ALONG * (0.9 - 0.3 * sensitivity))  # pixels of those along a line that must show it
    above = 4 - 2 * sensitivity + (0.5 if certain else 0)  # times what is usual around
    share = 0.95 - 0.4 * sensitivity + (0.1 if certain else 0)  # of the picture's side that a line must run along
    # A line along the edge is the border of a print, or the rule above its caption, more often than a scratch.
    margin = max(4, round((_RULED if certain else 0.012) * min(size)))
    widest = min(_LINE, max(4.0, 0.01 * min(size)) * (1 + sensitivity))  # more of its sides counts
    step = 0.25 + 0.5 * sensitivity - (0.1 if certain else 0)  # how much its sides may differ, of what it stands out

    def look(scene: _Scene) -> Iterator[Measured]:
        cv2 = scene.cv2
        for upright in (True, False):
            thin = np.ones((1, _LINE) if upright else (_LINE, 1), np.uint8)
            gap = np.ones((_GAP, 1) if upright else (1, _GAP), np.uint8)
            side = (1, _ALONG) if upright else (_ALONG, 1)
            apart = np.abs(scene.sums(_sides(scene.grey, across=upright), *side))
            for hat in scene.hats(scene.colours, thin):
                along = scene.sums(hat, *side)
                count = scene.sums((hat >= max(2, contrast // 2)).astype(np.uint8), *side)
                usual = scene.sums(hat, _ALONG, _ALONG)
                line = (along >= contrast * _ALONG) & (count >= seen) & (along * _ALONG >= above * usual)
                body = cv2.morphologyEx(line.astype(np.uint8), cv2.MORPH_CLOSE, gap)
                yield body > 0, (along, apart, scene.sums(body, *side[::-1]))

    def judge(areas: NDArray[np.float64], boxes: NDArray[np.float64], sums: NDArray[np.float64]) -> _Verdict:
        along, apart, beside = sums.T
        x0, y0, x1, y1 = boxes.T
        across, down = x1 - x0, y1 - y0
        longest = np.maximum(across, down)
        drift = 4 + 0.04 * longest
        upright = (down >= share * height) & (across <= drift) & (x0 >= margin) & (x1 <= width - margin)
        lying = (across >= share * width) & (down <= drift) & (y0 >= margin) & (y1 <= height - margin)
        line = (upright | lying) & (areas <= widest * longest) & (apart <= step * along)
        line &= beside * longest <= _PATTERN * areas * areas
        none = np.zeros_like(line)
        return _Verdict(line, none, none, drawn=line)

    return look, 4, judge, _MOST if certain else math.inf


def _sides(grey: Plane, *, across: bool) -> NDArray[np.int16]:
    """How much lighter it is `_ASIDE` pixels after each pixel of a row, or column, than as many before it."""
    margins = ((0, 0), (_ASIDE, _ASIDE)) if across else ((_ASIDE, _ASIDE), (0, 0))
    wide = np.pad(grey, margins, mode="edge").astype(np.int16)
    twice = 2 * _ASIDE
    return wide[:, twice:] - wide[:, :-twice] if across else wide[twice:] - wide[:-twice]


# ---------------------------------------------------------------- tears


def _tears(detect: Detect, size: tuple[int, int]) -> Look | None:
    """Paper that shows. One plane."""
    if not detect.wants("tears"):
        return None
    height, width = size
    sensitivity, certain = detect.sensitivity, detect.certain("tears")
    contrast = round(50 - 30 * sensitivity)
    paper = round(220 - 40 * sensitivity)  # what is darker in any colour is not white
    longest = (0.16 - 0.1 * sensitivity) * min(size)

    def look(scene: _Scene) -> Iterator[Measured]:
        cv2, colours = scene.cv2, scene.colours
        darkest, lightest = colours[0], colours[0]
        for plane in colours[1:]:
            darkest, lightest = np.minimum(darkest, plane), np.maximum(lightest, plane)
        hat = cv2.morphologyEx(darkest, cv2.MORPH_TOPHAT, np.ones((_TEAR, _TEAR), np.uint8))
        white = (darkest >= paper) & (lightest - darkest <= _TINT)
        rough = cv2.morphologyEx(darkest, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        around = scene.sums(white.astype(np.uint8), _WHITE, _WHITE)
        body = white & (hat >= contrast)
        rim = body & ~(cv2.erode(body.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)
        # Paper begins and ends within a pixel or two.
        sharp = cv2.dilate(rough, np.ones((3, 3), np.uint8)) >= np.maximum(hat // 2, 40)
        yield body, (hat, rim, rim & sharp, ~rim & (rough <= 20), around)

    def judge(areas: NDArray[np.float64], boxes: NDArray[np.float64], sums: NDArray[np.float64]) -> _Verdict:
        hat, rim, sharp, flat, around = sums.T
        x0, y0, x1, y1 = boxes.T
        across, down = x1 - x0, y1 - y0
        length = np.hypot(across, down)
        thick = areas / length
        torn = (length >= np.maximum(longest, 24)) & (length >= 4 * thick) & (thick >= 2) & (thick <= _TEAR / 2)
        torn &= (hat >= 1.5 * contrast * areas) & (sharp >= (0.9 - 0.3 * sensitivity) * rim)
        torn &= flat >= (0.9 - 0.4 * sensitivity) * (areas - rim)
        # Where white is common anyway, paper that shows looks like anything else.
        white = np.maximum(around / areas - np.minimum(areas, _WHITE * thick), 0) / (_WHITE * _WHITE)
        torn &= white <= 0.02 + (0.06 if certain else 0.12) * sensitivity
        # Borders of prints, and scratches, run straight along the picture; tears begin at its edge and run inwards.
        straight = np.minimum(across, down) <= 4 + 0.04 * np.maximum(across, down)
        sides = (x0 == 0).astype(int) + (y0 == 0) + (x1 == width) + (y1 == height)
        inwards = ((x0 == 0) | (x1 == width)) & (across > 0.5 * down)
        inwards |= ((y0 == 0) | (y1 == height)) & (down > 0.5 * across)
        torn &= ~straight & (sides <= 2) & (inwards if certain else True)
        return _Verdict(torn, *[np.zeros_like(torn)] * 3)

    return look, 1, judge, math.inf
