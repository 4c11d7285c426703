"""Fills one picture: which tiles in which rounds, what each sees, and what becomes of the results.

Knows: the plan, the picture as a surface that gives and takes windows, the guide, the cuts. Does not know: files,
networks, devices, or who computes the tiles of a round.

The rounds, each begun when the one before has landed (what each is worth: benchmarks/README.md):

1. Where a hole is so deep that whole cells of 8 x 8 px are lost, the picture is reduced to such cells and filled first,
   by these same rounds (with a guide of its own if one window does not see all of it). All windows then stand on one
   guide, so neighbours agree, and a hole larger than a window is filled with something coherent. Networks that take no
   guide have one for what they do not reach, where some window sees nothing: the pyramid alone makes it.
2. The windows of the plan.
3. The cuts that run through holes are levelled (see `seams`), then healed: a band on both sides of them is filled once
   more, everything else known, and faded into what was there.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pconv_cli.colours import lay, luminance
from pconv_cli.engine import GUIDED, Engine, Filled, Tile
from pconv_cli.layers import Layer, View
from pconv_cli.masks import dilate
from pconv_cli.nn.grain import PERIOD
from pconv_cli.nn.pyramid import completed, pyramid_fill
from pconv_cli.regions import Damage, Window
from pconv_cli.seams import REACH, SeamMeter, level
from pconv_cli.tiles import BAND, TilePlan, canvas, plan_overlapping, plan_tiles

BLOCK = 512  # pixels read at once where a picture is reduced; a multiple of every factor
READERS = 4  # threads that read where a picture is reduced
STRIP = 512  # pixels of a cut looked at together
LARGEST_GUIDE = 1 << 24  # pixels of a reduced picture
LARGEST_ALONE = 1 << 20  # the same where the pyramid fills it in one piece

Shape = tuple[int, int, bool, bool, str, bool]
"""What tiles of one batch share: width, height, whether with guides, reduced, type of pixels, whether with grain."""


class Unfillable(ValueError):
    """No pixel of the picture is known."""


class Surface(Protocol):
    """A picture that gives and takes windows. Its methods may be called from several threads at once."""

    @property
    def height(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int:
        """Columns."""
        ...

    def read(self, window: Window) -> NDArray[Any]:
        """Give values, `(h, w, c)`, as the network takes them: what has been laid so far included."""
        ...

    def shown(self, window: Window) -> NDArray[np.bool_] | None:
        """Tell which pixels hold something, `(h, w)`; None where all do. A constant for a surface."""
        ...

    def lay(self, window: Window, pixels: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """Take pixels, `(h, w, c)` of the type that `read` gives, where `where` is True."""
        ...


@dataclass(eq=False)
class ArraySurface:
    """A picture in memory.

    Attributes:
        pixels: `(height, width, c)`, uint8, float32 in [0, 1], or raw; changed in place.
        visible: `(height, width)`, False where the picture holds nothing; None: it does everywhere.
        grey: Whether three channels are one, and stay so.
    """

    pixels: NDArray[Any]
    visible: NDArray[np.bool_] | None = None
    grey: bool = False

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    def read(self, window: Window) -> NDArray[Any]:
        """Give a view: see `Surface`."""
        view: NDArray[Any] = self.pixels[window.slices]
        return view

    def shown(self, window: Window) -> NDArray[np.bool_] | None:
        """Give a view: see `Surface`."""
        return None if self.visible is None else self.visible[window.slices]

    def lay(self, window: Window, pixels: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """See `Surface`."""
        if self.grey:
            pixels = luminance(pixels)[..., None]
        lay(self.pixels[window.slices], pixels, where)


@dataclass(frozen=True, eq=False)
class Piece:
    """One tile to be computed: `load` it, compute it, `land` the result. Pieces of one `shape` may share a batch.

    Attributes:
        filling: What it is a part of.
        window: What the network sees.
        damage: What is unknown to it.
        shape: What it shares with others of its batch.
        owned: The plan and the number of the window in it, which say what it writes; None: all damage in the window.
        weight: Gives `(h, w)` weights with which the result is mixed into what is there; None: it takes its place.
    """

    filling: Filling
    window: Window
    damage: Damage
    shape: Shape
    owned: tuple[TilePlan, int] | None
    weight: Callable[[], NDArray[np.float32]] | None = None

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of the shape shared with others."""
        return self.shape[:2]

    def load(self) -> Tile:
        """Read what the network sees."""
        return self.filling.tile(self)

    def land(self, tile: Tile, filled: Filled) -> None:
        """Lay what the network made of `tile` into the picture, where this piece is the writer."""
        self.filling.take(self, tile, filled)

    def writes(self) -> NDArray[np.bool_]:
        """Tell which pixels of the window this piece writes, `(h, w)`."""
        if self.owned is None:
            return self.damage.window(self.window)
        plan, number = self.owned
        return plan.owned(number)


@dataclass(eq=False)
class Filling:
    """One picture being filled.

    Attributes:
        surface: The picture.
        plan: Which windows, which cuts; of windows that share pixels there are no cuts, if the plan is of those too.
        overlap: Pixels that neighbouring windows of a plain grid share and blend, instead of the plan's windows and
            healing; for comparison. 0: the plan.
        guided: Whether deep holes are filled coarse to fine, by the network too.
        healed: Whether cuts are levelled and healed.
        reduced: Whether the picture is a reduced one, to make a guide of.
        whole: Whether windows are computed as they are, and not filled up to shapes that they share with others.
        raw: Whether values are the picture's own, of any range, with NaN for what is not there.
        leaves: Whether what the network cannot reach becomes NaN; else the pyramid fills it.
        grained: Whether what is filled gets the grain of what is around.
        windows: Tiles computed so far, those of the guide and of healing included.
        pixels: Pixels in them.
        by_pyramid: Pixels that the network could not reach and the pyramid filled.
        laid: Pixels of the plan's own pass that have been written.
    """

    surface: Surface
    plan: TilePlan
    overlap: int = 0
    guided: bool = True
    healed: bool = True
    reduced: bool = False
    whole: bool = False
    raw: bool = False
    leaves: bool = False
    grained: bool = False
    windows: int = field(default=0, init=False)
    pixels: int = field(default=0, init=False)
    by_pyramid: int = field(default=0, init=False)
    laid: int = field(default=0, init=False)
    _guide: _Guide | None = field(default=None, init=False)
    _dtype: str = field(default="", init=False)
    _origin: tuple[int, int] | None = field(default=None, init=False)
    _span: tuple[float, float] | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @classmethod
    def of(cls, surface: Surface, plan: TilePlan, view: View, overlap: int = 0, layer: Layer | None = None) -> Filling:
        """Begin to fill a picture as a network wants it.

        Args:
            surface: The picture.
            plan: Which windows, which cuts.
            view: How the network looks at pictures.
            overlap: As in the class.
            layer: What of a picture it is; None: a picture of tones.
        """
        # A network that wants pictures whole has no floor for a guide to serve.
        return cls(
            surface, plan, overlap, guided=not view.whole, whole=view.whole, raw=view.raw,
            leaves=view.raw and layer is not None and layer.may_be_empty,
            grained=view.grain and (layer is None or layer.may_have_grain),
        )  # fmt: skip

    def rounds(self) -> Iterator[Sequence[Piece]]:
        """Give the tiles round by round; ask for the next round when all of one have landed.

        Raises:
            Unfillable: If no pixel of the picture is known.
        """
        if self.guided and self.plan.windows:
            yield from self._make_guide()
        elif not self.leaves and any(not self._known(window, self.plan.damage).any() for window in self._first):
            self._guide_alone()
        if self.overlap:
            yield from self._overlapping()
            return
        for plan in (self.plan, *self.plan.heals) if self.healed else (self.plan,):
            healing = plan is not self.plan
            yield [
                self._piece(
                    window, plan.damage, (plan, i), partial(self._fade, window, plan.damage) if healing else None
                )
                for i, window in enumerate(plan.windows)
            ]
            if self.healed:
                for strip, cut, across in self._strips(plan, REACH):
                    self._level(plan, strip, cut, across)

    @property
    def _first(self) -> Sequence[Window]:
        """The windows that all damage is filled in before any of it is healed."""
        if self.overlap:
            return [at.window for at in plan_overlapping(self.plan.damage, self.plan.size, self.overlap)]
        return self.plan.windows

    @property
    def planned(self) -> int:
        """Tiles of the plan, healing included; those of a guide are not known before it is made."""
        return sum(len(plan.windows) for plan in (self.plan, *self.plan.heals))

    @property
    def unfilled(self) -> int:
        """Damaged pixels that nothing has been written to so far."""
        return self.plan.damage.area - self.laid

    def restored(self, window: Window) -> NDArray[np.bool_]:
        """Tell which pixels of a window hold something new, once all rounds have landed, `(h, w)`."""
        damage = self.plan.damage.window(window)
        return damage & _there(self.surface.read(window)) if self.leaves and damage.any() else damage

    @property
    def notice(self) -> str | None:
        """What there is to say of pixels that were left; None where there are none."""
        count = self.unfilled if self.leaves else 0
        return f"{count} damaged values lie beyond the network's reach: left as nodata" if count else None

    def seams(self) -> SeamMeter:
        """Measure the steps across the plan's cuts, once all rounds have landed."""
        meter = SeamMeter()
        for strip, cut, across in self._strips(self.plan, 16):
            pixels, hole = self.surface.read(strip), self.plan.damage.window(strip)
            if self.raw:
                pixels, hole = self._in_range(pixels), hole & _there(pixels)
            meter.add(pixels if across else pixels.swapaxes(0, 1), hole if across else hole.T, cut)
        return meter

    def _in_range(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Raw values from 0 to 1, for the measure: by the lowest and highest along the cuts."""
        if self._span is None:
            strips = [self.surface.read(strip) for strip, _, _ in self._strips(self.plan, 16)]
            low = min(float(np.nanmin(strip, initial=np.inf)) for strip in strips)
            self._span = low, max(max(float(np.nanmax(strip, initial=-np.inf)) for strip in strips) - low, 1e-30)
        return np.nan_to_num((pixels - self._span[0]) / self._span[1])

    def tile(self, piece: Piece) -> Tile:
        """Read what the network sees of a piece's window."""
        pixels, known = self._seen(piece.window, piece.damage)
        return Tile(pixels, known, self.guide(piece), self.reduced, self.grain(piece.window))

    def guide(self, piece: Piece) -> NDArray[np.float32] | None:
        """Give the guide of a piece's window, if it has one: see `Tile`."""
        return self._guide.crop(piece.window) if piece.shape[2] and self._guide is not None else None

    def grain(self, window: Window) -> tuple[int, int] | None:
        """Give a window's place in the field of noise, if fills get any: see `Tile`."""
        return None if self._origin is None else (self._origin[0] + window.y, self._origin[1] + window.x)

    def known(self, window: Window, damage: Damage) -> NDArray[np.bool_]:
        """Tell which pixels of a window the network may go by while `damage` is filled, `(h, w)`."""
        return self._seen(window, damage)[1] if self.raw else self._known(window, damage)

    def _known(self, window: Window, damage: Damage) -> NDArray[np.bool_]:
        known, shown = ~damage.window(window), self.surface.shown(window)
        if shown is not None:
            known &= shown if damage is self.plan.damage else shown | self.plan.damage.window(window)
        return known

    def take(self, piece: Piece, tile: Tile, filled: Filled) -> None:
        """Lay a result into the picture."""
        where, pixels = piece.writes(), filled.pixels
        missing = where & ~filled.reached
        if missing.any():
            floor = np.float32(np.nan) if self.leaves else self._floor(piece, tile)
            pixels = np.where(missing[..., None], floor, pixels)
        laid = 0
        if piece.weight is None:
            laid = int(where.sum()) if piece.damage is self.plan.damage else 0
        else:
            under = self.surface.read(piece.window)
            over, pixels = pixels, _blended(under, pixels, piece.weight())
            if self.leaves:  # where only one of the two is there, that one
                pixels = np.where(np.isnan(under), over, np.where(np.isnan(over), under, pixels))
                laid = int((where & ~_there(under)).sum())
        if self.leaves:
            laid -= int((where & ~_there(pixels)).sum())
        with self._lock:
            self.windows += 1
            self.pixels += piece.window.area
            self.by_pyramid += 0 if self.leaves else int(missing.sum())
            self.laid += laid
        self.surface.lay(piece.window, pixels, where)

    def _floor(self, piece: Piece, tile: Tile) -> NDArray[Any]:
        """What the pyramid alone makes of a tile."""
        guide = tile.guide
        if self._guide is not None and not self.guided and piece.damage is self.plan.damage:
            guide = self._guide.crop(piece.window)
        pixels = _by_pyramid(tile.pixels, tile.known, guide)
        return _as(pixels if self.raw else pixels.clip(0, 1), tile.pixels.dtype)

    def _piece(
        self, window: Window, damage: Damage, owned: tuple[TilePlan, int] | None,
        weight: Callable[[], NDArray[np.float32]] | None,
    ) -> Piece:  # fmt: skip
        guided = self.guided and damage is self.plan.damage and self._guide is not None
        if guided and self._guide is not None:
            guided = self._guide.wanted(window) or self._sees_nothing(window)
        if not self._dtype:
            self._dtype = self.surface.read(Window(0, 0, 1, 1)).dtype.str
            self._origin = self._sown() if self.grained else None
        width, height = window.width, window.height
        if not self.whole:
            width, height = canvas(width, height, self.plan.size)
        shape = (width, height, guided, self.reduced, self._dtype, self.grained)
        return Piece(self, window, damage, shape, owned, weight)

    def _sown(self) -> tuple[int, int]:
        """Where in the field of noise the picture lies: by what is known, as frames of a film must not share it."""
        pixels, known = self._seen(self.plan.windows[0], self.plan.damage)
        sample = np.ascontiguousarray(pixels[::4, ::4][known[::4, ::4]])
        return divmod(zlib.crc32(sample.data) % PERIOD**2, PERIOD)

    def _fade(self, window: Window, band: Damage) -> NDArray[np.float32]:
        """Weights of a healed band: 1 at the cut and at true pixels, less and less towards what was filled before."""
        hole, healed = self.plan.damage.window(window), band.window(window)
        near = hole & ~healed
        weights = np.zeros(hole.shape, np.float32)
        for _ in range(BAND):
            weights[~near] += 1 / BAND
            near = dilate(near, 1)
        return weights

    def _seen(self, window: Window, damage: Damage) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        pixels = self.surface.read(window)
        return pixels, self._known(window, damage) & _there(pixels) if self.raw else self._known(window, damage)

    def _overlapping(self) -> Iterator[Sequence[Piece]]:
        """Windows of a grid that share borders: every second row and column first, then those between, blended in."""
        placed = plan_overlapping(self.plan.damage, self.plan.size, self.overlap)
        height, width = self.surface.height, self.surface.width
        if self.leaves:  # what is there is damage, and nothing to be mixed with
            for i, window in enumerate(self.plan.windows):
                self.surface.lay(window, np.full_like(self.surface.read(window), np.nan), self.plan.owned(i))
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            pieces = []
            for at in placed:
                if (at.row % 2, at.column % 2) == (row, column):
                    shares = (self.overlap if row else 0, self.overlap if column else 0)
                    weight = partial(_ramps, at.window, (height, width), shares) if row or column else None
                    pieces.append(self._piece(at.window, self.plan.damage, None, weight))
            yield pieces
        if not self.leaves:
            self.laid = self.plan.damage.area

    # ---------------------------------------------------------------- the guide

    def _make_guide(self) -> Iterator[Sequence[Piece]]:
        """Fill a reduced picture first, if there is a hole that it would show."""
        if not (self._veiled or self.plan.damage.deep(GUIDED) or any(map(self._sees_nothing, self.plan.windows))):
            return
        reduced = self._reduced_holes(LARGEST_GUIDE)
        empty = reduced.hole & ~reduced.known
        surface = ArraySurface(reduced.pixels, reduced.hole | reduced.known)
        # One window sees all of a small one; a guide of it would tell nothing new.
        small = max(surface.height, surface.width) <= self.plan.size
        inner = Filling(surface, plan_tiles(empty, self.plan.size), guided=not small, reduced=True)
        yield from inner.rounds()
        self.windows += inner.windows
        self.pixels += inner.pixels
        self._guide = _Guide(reduced.pixels, empty, reduced.hole | reduced.known, reduced.factor)

    def _guide_alone(self) -> None:
        """Have the pyramid fill a reduced picture, for what is beyond the reach of a network that takes no guide."""
        reduced = self._reduced_holes(LARGEST_ALONE)
        pixels = _by_pyramid(reduced.pixels, reduced.known)
        self._guide = _Guide(pixels, ~reduced.known, np.ones_like(reduced.known), reduced.factor, raw=self.raw)

    def _reduced_holes(self, most: int) -> _Reduced:
        """The picture reduced to at most so many cells: as much of it as deep holes and their surroundings take."""
        # A cell that no window holds whole is one that windows meet in: what they see of it is as good.
        windows = [window for window in self.plan.windows if self._veiled or self._deep(window)] or self.plan.windows
        everywhere = Window(0, 0, self.surface.width, self.surface.height)
        for some in (windows, [everywhere]):
            reduced = self._reduced(_blocks(some), most)
            if reduced.known.any():
                return reduced
        raise Unfillable

    @property
    def _veiled(self) -> bool:
        return self.surface.shown(Window(0, 0, 1, 1)) is not None

    def _deep(self, window: Window) -> bool:
        """Tell whether a window holds an aligned cell that is damaged entirely, or is too small to be sure to hold one.

        Cells at the right and bottom edge of the picture are smaller, as in `Damage.deep`.
        """
        if min(window.width, window.height) < 2 * GUIDED:
            return True
        top, left = -(-window.y // GUIDED) * GUIDED, -(-window.x // GUIDED) * GUIDED
        bottom = window.bottom if window.bottom == self.surface.height else window.bottom // GUIDED * GUIDED
        right = window.right if window.right == self.surface.width else window.right // GUIDED * GUIDED
        cells = self.plan.damage.window(Window(left, top, right - left, bottom - top))
        cells = np.pad(cells, ((0, -len(cells) % GUIDED), (0, -cells.shape[1] % GUIDED)), constant_values=True)
        down, across = (side // GUIDED for side in cells.shape)
        return bool(cells.reshape(down, GUIDED, across, GUIDED).all(axis=(1, 3)).any())

    def _sees_nothing(self, window: Window) -> bool:
        """Tell whether a window holds nothing known although no cell in it need be empty."""
        if min(window.width, window.height) >= 2 * GUIDED and not self._veiled:
            return False  # a whole cell lies in it, and that one is either empty or known
        return not self._seen(window, self.plan.damage)[1].any()

    def _reduced(self, blocks: Sequence[tuple[int, int]], most: int) -> _Reduced:
        height, width, factor = self.surface.height, self.surface.width, GUIDED
        while -(-height // factor) * -(-width // factor) > most:
            factor *= 2
        rows, columns = -(-height // factor), -(-width // factor)
        first = self.surface.read(Window(0, 0, 1, 1))
        reduced = _Reduced(
            factor, np.zeros((rows, columns, first.shape[2]), first.dtype), np.zeros((rows, columns), np.bool_),
            np.zeros((rows, columns), np.bool_),
        )  # fmt: skip

        def put(block: tuple[int, int]) -> None:
            x, y = block
            window = Window(x, y, min(BLOCK, width - x), min(BLOCK, height - y))
            pixels, known = self._seen(window, self.plan.damage)
            reduced.put(window, pixels, known, self.plan.damage.window(window))

        if len(blocks) <= READERS:  # threads would cost more than they save
            for block in blocks:
                put(block)
            return reduced
        with ThreadPoolExecutor(READERS, "reduce") as pool:
            for _ in pool.map(put, blocks):
                pass
        return reduced

    # ---------------------------------------------------------------- cuts

    def _strips(self, plan: TilePlan, reach: int) -> Iterator[tuple[Window, int, bool]]:
        """Give the surroundings of each cut, where in them it lies, and whether it has a left and a right side."""
        for x0, y0, x1, y1 in plan.cuts.tolist():
            across = x0 == x1
            middle, limit = (x0, self.surface.width) if across else (y0, self.surface.height)
            low, high = max(0, middle - reach), min(limit, middle + reach)
            start, stop = (y0, y1) if across else (x0, x1)
            for at in range(start, stop, STRIP):
                length = min(STRIP, stop - at)
                window = Window(low, at, high - low, length) if across else Window(at, low, length, high - low)
                yield window, middle - low, across

    def _level(self, plan: TilePlan, strip: Window, cut: int, across: bool) -> None:
        before, hole = self.surface.read(strip), plan.damage.window(strip)
        if self.raw:
            hole = hole & _there(before)
            before = np.nan_to_num(before)
        scale = np.float32(255 if before.dtype == np.uint8 else 1)
        pixels: NDArray[np.float32] = before.astype(np.float32) / scale
        pixels = level(pixels, hole, cut) if across else level(pixels.swapaxes(0, 1), hole.T, cut).swapaxes(0, 1)
        self.surface.lay(strip, _as(pixels, before.dtype), hole)


def fill(filling: Filling, engine: Engine) -> None:
    """Go through all rounds here and now, tile by tile: what a run does, without its threads and batches.

    Raises:
        Unfillable: If no pixel of the picture is known.
    """
    for pieces in filling.rounds():
        for piece in pieces:
            tile = piece.load()
            piece.land(tile, engine.fill([tile], piece.canvas)[0])


@dataclass(frozen=True, eq=False)
class _Reduced:
    """A picture of cells: the tone of each, whether it is known, whether any of it is a hole.

    What `nn.pyramid.reduced` gives, but that each block of `BLOCK` pixels goes by itself: cells at its rim learn
    nothing from beyond it. So nothing is read twice, and nothing kept of what was read.
    """

    factor: int
    pixels: NDArray[Any]
    known: NDArray[np.bool_]
    hole: NDArray[np.bool_]

    def put(self, window: Window, pixels: NDArray[Any], known: NDArray[np.bool_], hole: NDArray[np.bool_]) -> None:
        """Reduce one aligned window, by what is known within it."""
        half = self.factor // 2
        count = _sums(known, half)
        seen = pixels * np.stack([known] * pixels.shape[2], axis=2)  # thrice as fast as a mask that is repeated
        mean = _sums(seen, half) / np.maximum(count, 1)[..., None]
        with torch.inference_mode():
            cells, some = completed(_planes(mean), _planes(count > 0), 2)
        top, left = window.y // self.factor, window.x // self.factor
        place = np.s_[top : top + some.shape[2], left : left + some.shape[3]]
        tones = cells[0].permute(1, 2, 0).numpy()
        self.pixels[place] = tones.round() if self.pixels.dtype == np.uint8 else tones
        self.known[place], self.hole[place] = some[0, 0].numpy() > 0, _sums(hole, self.factor) > 0


@dataclass(frozen=True, eq=False)
class _Guide:
    """The reduced picture, filled: `pixels` `(rows, columns, c)`, which were `empty`, and which mean something.

    Where it is `raw`, values are of any range.
    """

    pixels: NDArray[Any]
    empty: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    factor: int
    raw: bool = False

    def wanted(self, window: Window) -> bool:
        """Tell whether a window has a hole that the guide shows."""
        rows = slice(window.y // self.factor, -(-window.bottom // self.factor))
        columns = slice(window.x // self.factor, -(-window.right // self.factor))
        return bool(self.empty[rows, columns].any())

    def crop(self, window: Window) -> NDArray[np.float32]:
        """Give the guide of one tile, `(ceil(h / 8), ceil(w / 8), c)`, float32, at the tile's own cells: see `Tile`."""
        rows = self._places(window.y, -(-window.height // GUIDED))
        columns = self._places(window.x, -(-window.width // GUIDED))
        top, bottom = _between(rows, self.pixels.shape[0])
        left, right = _between(columns, self.pixels.shape[1])
        part = torch.from_numpy(self.pixels[top:bottom, left:right]).permute(2, 0, 1)[None].float()
        if self.pixels.dtype == np.uint8:
            part /= 255
        valid = self.valid[top:bottom, left:right]
        if not valid.all():  # sampling looks a little beyond
            part = pyramid_fill(part, torch.from_numpy(valid)[None, None].float())
        y, x = (
            torch.from_numpy((places - low) / max(high - low - 1, 1) * 2 - 1).float()
            for places, low, high in ((rows, top, bottom), (columns, left, right))
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
        sampled = F.grid_sample(part, grid, mode="bicubic", padding_mode="border", align_corners=True)
        return np.asarray((sampled if self.raw else sampled.clamp(0, 1))[0].permute(1, 2, 0).numpy())

    def _places(self, start: int, count: int) -> NDArray[np.float64]:
        """Where the centres of a tile's cells lie among the guide's pixels."""
        centres = start + GUIDED * np.arange(count) + (GUIDED - 1) / 2
        return np.asarray((centres - (self.factor - 1) / 2) / self.factor)


def _between(places: NDArray[np.float64], limit: int) -> tuple[int, int]:
    """The pixels that bicubic sampling at `places` needs, and never none."""
    low = min(max(int(np.floor(places[0])) - 1, 0), limit - 1)
    return low, max(min(int(np.ceil(places[-1])) + 3, limit), low + 1)


def _blocks(windows: Sequence[Window]) -> list[tuple[int, int]]:
    """The aligned blocks that windows touch, as left and top edges, row by row."""
    touched = {
        (y, x)
        for window in windows
        for y in range(window.y // BLOCK * BLOCK, window.bottom, BLOCK)
        for x in range(window.x // BLOCK * BLOCK, window.right, BLOCK)
    }
    return [(x, y) for y, x in sorted(touched)]


def _ramps(window: Window, picture: tuple[int, int], overlap: tuple[int, int]) -> NDArray[np.float32]:
    """Weights that rise from each side on which a window shares rows or columns with a neighbour."""
    down = _ramp(window.y, window.height, picture[0], overlap[0])
    return down[:, None] * _ramp(window.x, window.width, picture[1], overlap[1])


def _ramp(start: int, length: int, limit: int, overlap: int) -> NDArray[np.float32]:
    weights = np.ones(length, np.float32)
    rise = (np.arange(overlap, dtype=np.float32) + 0.5) / max(overlap, 1)
    if overlap and start > 0:
        weights[:overlap] = rise
    if overlap and start + length < limit:
        weights[length - overlap :] = rise[::-1]
    return weights


def _blended(under: NDArray[Any], over: NDArray[Any], weight: NDArray[np.float32]) -> NDArray[Any]:
    mixed = under.astype(np.float32) * (1 - weight[..., None]) + over.astype(np.float32) * weight[..., None]
    return np.asarray(mixed.round().astype(np.uint8) if under.dtype == np.uint8 else mixed)


def _by_pyramid(
    pixels: NDArray[Any], known: NDArray[np.bool_], guide: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """What the pyramid alone makes of pixels, `(h, w, c)`; bytes become 0 to 1."""
    scale = 255 if pixels.dtype == np.uint8 else 1
    with torch.inference_mode():
        under = None if guide is None else _planes(guide)
        filled = pyramid_fill(_planes(pixels) / scale, _planes(known), guide=under)
        return np.asarray(filled[0].permute(1, 2, 0).numpy())


def _sums(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Sums of `(h, w, ...)` over cells; those at the right and bottom edge may be smaller."""
    wide = np.uint16 if 255 * factor**2 < 1 << 16 else np.uint32
    dtype = np.float32 if values.dtype == np.float32 else wide
    height, width = (-(-side // factor) for side in values.shape[:2])
    rows = np.zeros((height, *values.shape[1:]), dtype)
    for i in range(factor):  # several times faster than `np.add.reduceat`
        part = values[i::factor]
        rows[: len(part)] += part
    cells = np.zeros((height, width, *values.shape[2:]), dtype)
    for i in range(factor):
        part = rows[:, i::factor]
        cells[:, : part.shape[1]] += part
    return cells


def _planes(pixels: NDArray[Any]) -> torch.Tensor:
    """`(h, w, c)` or `(h, w)` to `(1, c, h, w)`, float32."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels))
    return (planes.permute(2, 0, 1) if planes.ndim == 3 else planes[None])[None].float()


def _as(pixels: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype == np.uint8:
        return np.asarray((pixels * 255).round().clip(0, 255).astype(np.uint8))
    return pixels.astype(dtype)


def _there(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where raw values, `(h, w, c)`, are not NaN."""
    return np.asarray(~np.isnan(pixels).any(axis=2))
