"""Which channels of a picture are filled together, and how the network sees each such layer.

Knows groups of channels, palettes, that a profile speaks of the colours alone, and that alpha may be multiplied into
them. What numbers mean: `spaces`. Does not know files, masks, what else alpha is for, networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli.colours import lay, luminance
from pconv_cli.spaces import (
    Space,
    as_held,
    is_ranged,
    next_to,
    nothing,
    shown_between,
    space,
    white_of,
    with_alpha,
    without_alpha,
)

SOLID = 0.45  # tones farther from grey than this are black or white, without a dot
DOTTED = 0.15  # where more of a picture's neighbours differ, its tones are dots; of text one in twenty does

_USUAL = (0.1, 99.9)  # percentiles: what is between them is nearly all
_FEW = 90  # the same of what is rare, where one in ten may be wild
_SAMPLE = 2**20  # values that they are taken from, at most
_ROWS = 128  # that fills are laid in together
_FARTHEST = float(np.finfo(np.float64).max) / 16  # no sum or difference of a few such values is infinite
_SINGLE = float(np.finfo(np.float32).max)
# What programs write where nothing is: by habit, as the ends of a type, or by default (netCDF).
_STAND_INS = frozenset([-999.0, -9999.0, -99999.0, float(np.float32(9.969209968386869e36)), -32767.0])
_STAND_INS |= {float(end) for bits in (8, 16, 32) for end in (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)} | {2.0**32 - 1}
_STAND_INS |= {sign * float(np.finfo(kind).max) for sign in (-1, 1) for kind in (np.float32, np.float64)}


@dataclass(frozen=True)
class View:
    """How a network looks at pictures.

    Attributes:
        channels: How many it fills together: 3 where they are colours, 1 where each is filled alone.
        raw: Whether it is shown the picture's own values, whatever their range, and not tones from 0 to 1. A picture is
            then shown as it is measured, its channels in the order of the file, and NaN is what is not there.
        whole: Whether what it makes of a hole depends on all that lies around. Then a picture that one window can see
            is seen whole, and nothing is added to a window to fit a batch. Others stand on a floor that sees that far.
        grain: Whether fills get the grain of what is around, see `nn.grain`: those of the pyramid alone do not; those
            by networks from elsewhere are to be what their makers saw.
    """

    channels: int = 3
    raw: bool = False
    whole: bool = False
    grain: bool = True


@dataclass(frozen=True, eq=False)
class Palette:
    """The space of a picture whose pixels are numbers of colours.

    Attributes:
        colours: (n, 4) RGBA, uint8.
        dotted: Whether the picture makes its tones of black and white dots; fills are then made so too.
    """

    colours: NDArray[np.uint8]
    dotted: bool = False

    @property
    def name(self) -> str:
        """What happens to the pixels, in a few words for the report."""
        return "tones as black and white dots" if self.dotted else "colours of its palette"

    def seen(self, own: NDArray[Any]) -> NDArray[np.uint8]:
        """Look colours up: (..., 1) to (..., 3); numbers that the palette does not define are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.colours)] = self.colours[:256, :3]
        return np.ascontiguousarray(table[own[..., 0]])

    def own(self, seen: NDArray[Any]) -> NDArray[np.uint8]:
        """Number of the nearest of the most opaque colours: (..., 3), uint8 or float in [0, 1], to (..., 1).

        Dots: what a pixel is darker or lighter than its tone, the next one in order makes good.
        """
        if self.dotted:
            tones = luminance(seen).ravel() / (255 if seen.dtype == np.uint8 else 1)
            sums = np.floor(np.cumsum(np.where(np.abs(tones - 0.5) > SOLID, tones > 0.5, tones)) + 0.5)
            white = np.diff(sums, prepend=0) > 0
            light = luminance(self.colours[:, :3]).argmax()
            return np.where(white, light, 1 - light).astype(np.uint8).reshape(*seen.shape[:-1], 1)
        if seen.dtype != np.uint8:
            seen = (seen * 255).round().clip(0, 255).astype(np.uint8)
        candidates = np.flatnonzero(self.colours[:, 3] == self.colours[:, 3].max())
        known = self.colours[candidates, :3].astype(np.int32)
        distinct, back = np.unique(seen.reshape(-1, 3), axis=0, return_inverse=True)
        best = np.empty(len(distinct), np.uint8)
        for at in range(0, len(distinct), 4096):
            step = distinct[at : at + 4096, None, :].astype(np.int32) - known
            best[at : at + 4096] = candidates[(step * step).sum(axis=2).argmin(axis=1)]
        return best[back.reshape(-1)].reshape(*seen.shape[:-1], 1)


@dataclass(frozen=True, eq=False)
class Alone:
    """The space of one channel for a network that fills channels one by one.

    Attributes:
        space: What shows the channel as three equal ones.
    """

    space: Space | Palette

    @property
    def name(self) -> str:
        """What happens to the pixels, in a few words for the report."""
        return self.space.name

    def seen(self, own: NDArray[Any]) -> NDArray[Any]:
        """(..., 1) to (..., 1): see `Space.seen`."""
        return np.ascontiguousarray(self.space.seen(own)[..., :1])

    def own(self, seen: NDArray[Any]) -> NDArray[Any]:
        """(..., 1) to (..., 1): see `Space.own`."""
        return self.space.own(np.repeat(seen, 3, axis=-1))


@dataclass(frozen=True, eq=False)
class Raw:
    """The space of values that are shown as they are.

    Attributes:
        dtype: One of `spaces.TYPES`.
        nodata: The value that stands for "nothing here" in the file, if there is one.
        times: How often a single channel is shown, to a network of several. Of what it makes the middle one counts, as
            whoever trained such networks on single fields has it.
    """

    dtype: np.dtype[Any]
    nodata: float | None = None
    times: int = 1

    @property
    def name(self) -> str:
        """What happens to the pixels, in a few words for the report."""
        return "values as they are"

    @property
    def nothing(self) -> Any:
        """The value that stands for nothing, as pixels of this type hold it; None where they cannot."""
        held = as_held(self.nodata, self.dtype)
        if held is None and self.dtype.kind == "f":
            held = np.nan
        return None if held is None else self.dtype.type(held)

    def seen(self, own: NDArray[Any]) -> NDArray[np.float32]:
        """Values as float32, NaN where there is nothing: (..., c) to (..., c * times)."""
        # A double beyond all float32 is a value nevertheless.
        values = (own.clip(-_SINGLE, _SINGLE) if self.dtype == np.float64 else own).astype(np.float32)
        values[~np.isfinite(own)] = np.nan
        if self.nothing is not None:
            values[own == self.nothing] = np.nan
        return values if self.times == 1 else np.repeat(values, self.times, axis=-1)

    def own(self, seen: NDArray[Any]) -> NDArray[Any]:
        """Values in `dtype`: the inverse of `seen`. Whole numbers are rounded to the nearest that the type holds.

        What is NaN becomes nothing, and nothing else does: a value that would by chance goes to the next one.
        """
        seen = seen[..., self.times // 2 :: self.times]
        empty, nothing = np.isnan(seen), self.nothing
        if self.dtype.kind == "f":
            values = seen.astype(self.dtype)
        else:
            limits, wide = np.iinfo(self.dtype), np.where(empty, 0, seen).astype(np.float64)
            values = np.rint(wide).clip(limits.min, limits.max).astype(self.dtype)
        if nothing is not None:
            values[values == nothing] = next_to(nothing, self.dtype)
            values[empty] = nothing
        return values


@dataclass(frozen=True, eq=False)
class Layer:
    """Channels that are filled together: their indices, and how the network sees them.

    Attributes:
        channels: The indices.
        space: How the network sees them.
        missing: Of a ranged type whose damage is what holds no value: the values that stand for none, beside NaN and
            infinity. Nothing else is replaced, though another channel of that pixel is damaged. None: damage is whole
            pixels.
        nothing: Of a ranged type the value for "nothing here", which no fill of tones becomes: raw ones see to that.
        alpha: Index of the channel that these are multiplied by, if they are. They are seen, and filled, without it.
    """

    channels: tuple[int, ...]
    space: Space | Palette | Alone | Raw
    missing: tuple[float, ...] | None = None
    nothing: float | None = None
    alpha: int | None = None

    @property
    def width(self) -> int:
        """How many channels `seen` gives."""
        if isinstance(self.space, Raw):
            return len(self.channels) * self.space.times
        return 1 if isinstance(self.space, Alone) else 3

    @property
    def may_be_empty(self) -> bool:
        """Whether the file can say that there is nothing, of a layer of raw values."""
        return isinstance(self.space, Raw) and self.space.nothing is not None

    @property
    def may_have_grain(self) -> bool:
        """Whether it holds a picture's tones: what was measured gets no noise, and numbers of colours have none."""
        space = self.space.space if isinstance(self.space, Alone) else self.space
        return isinstance(space, Space) and (not is_ranged(space.dtype) or (space.low, space.high) == (0, 1))

    def taken(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The layer's channels of (..., all channels), without alpha; a view where they stand together without it."""
        first, last = self.channels[0], self.channels[-1]
        together = last - first == len(self.channels) - 1
        taken = pixels[..., first : last + 1] if together else pixels[..., list(self.channels)]
        return taken if self.alpha is None else without_alpha(taken, pixels[..., self.alpha])

    def seen(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The layer as the network sees it: (..., all channels) to (..., c), uint8, float32 in [0, 1], or raw."""
        return self.space.seen(self.taken(pixels))

    def own(self, fill: NDArray[Any]) -> NDArray[Any]:
        """Fills as pixels of the picture: the inverse of `seen`, but for what would by chance stand for nothing."""
        values = self.space.own(fill)
        if self.nothing is not None:
            values[values == self.nothing] = next_to(self.nothing, values.dtype)
        return values

    def put(self, pixels: NDArray[Any], fill: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """Take fills, (h, w, c) as `seen` gives them, into (h, w, all channels), in place, where `where` is True.

        Under an alpha of 0 they stay what they are, for other fills to go by, until `hide`.
        """
        plain = isinstance(self.space, Space) and self.space.is_plain and self.alpha is None
        if plain and fill.dtype == np.uint8 and self.channels[-1] - self.channels[0] == 2:
            lay(self.taken(pixels), fill, where)  # a view, and the quick way
            return
        for at in range(0, len(where), _ROWS):  # what is in between takes many times the room
            rows = slice(at, at + _ROWS)
            here, part = where[rows], pixels[rows]
            own = self.own(fill[rows][here])
            own = own if self.alpha is None else with_alpha(own, part[here, self.alpha])
            for channel, values in zip(self.channels, own.T, strict=True):
                if self.missing is not None:
                    before = part[here, channel]
                    values = np.where(self.measured(before), before, values)
                part[here, channel] = values

    def hide(self, pixels: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """Make nothing of what an alpha of 0 is to hide, in (h, w, all channels), in place, where `where` is True."""
        if self.alpha is not None:
            hidden = where & (pixels[..., self.alpha] == 0)
            for channel in self.channels:
                pixels[hidden, channel] = 0

    def measured(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Which values of damaged pixels are none that are missing: those stay."""
        missing = np.isin(values, np.array(self.missing or (), values.dtype))
        return np.asarray(np.isfinite(values) & ~missing)


def filling_gaps(made: Sequence[Layer], dtype: np.dtype[Any], *nodata: float | None) -> tuple[Layer, ...]:
    """Have layers keep what was measured, where damage is what holds no value: see `Layer.missing`.

    Args:
        made: The layers.
        dtype: The picture's type; tones are damaged where all channels hold the value.
        nodata: The values that stand for none, beside NaN, if there are any.
    """
    if not is_ranged(dtype):
        return tuple(made)
    values = tuple(held for value in nodata if (held := as_held(value, dtype)) is not None)
    return tuple(layer if isinstance(layer.space, Raw) else replace(layer, missing=values) for layer in made)


def layers(
    groups: Sequence[tuple[int, ...]],
    dtype: np.dtype[Any],
    *,
    palette: NDArray[np.uint8] | None = None,
    icc: bytes = b"",
    linear: bool = False,
    inverted: bool = False,
    nodata: float | None = None,
    alpha: int | None = None,
) -> tuple[Layer, ...]:
    """Make the layers of a picture.

    Args:
        groups: Channels that are filled together: one grey or other band, three colours or four inks each.
        dtype: One of `spaces.TYPES`.
        palette: (n, 4) RGBA, uint8, if pixels are numbers of colours.
        icc: Profile of the first group.
        linear: Whether values are linear light where no profile says what they are.
        inverted: Whether white is 0, of grey.
        nodata: The value that stands for "nothing here", if there is one.
        alpha: Index of the channel that the first group is multiplied by, if it is.
    """
    if palette is not None:
        return (Layer(groups[0], Palette(palette)),)
    return tuple(
        Layer(
            group,
            space(
                len(group), dtype, icc=b"" if number else icc, linear=linear and not (icc and not number),
                inverted=inverted and len(group) == 1,
            ),
            nothing=as_held(nodata, dtype) if is_ranged(dtype) else None,
            alpha=None if number else alpha,
        )
        for number, group in enumerate(groups)
    )  # fmt: skip


def viewed(made: Sequence[Layer], view: View, dtype: np.dtype[Any], nodata: float | None = None) -> tuple[Layer, ...]:
    """Make of a picture's layers those that a network fills.

    Args:
        made: What `layers` and `ranged` have made.
        view: How the network looks at pictures.
        dtype: The picture's type.
        nodata: The value that stands for "nothing here", if the file names one.

    Raises:
        ValueError: The network cannot look at such a picture; the message goes on after the picture's name.
    """
    if not view.raw:
        made = [plate for layer in made for plate in _plates(layer)]
    if view.channels == 3 and not view.raw:
        return tuple(made)
    channels = [channel for layer in made for channel in layer.channels]
    if any(isinstance(layer.space, Palette) for layer in made) and (view.raw or not _is_grey(made[0].space)):
        raise ValueError(
            "its pixels are numbers of colours, which these weights know nothing of: save it as RGB or grey"
        )
    if not view.raw:
        return tuple(single for layer in made for single in _one_by_one(layer))
    if len(channels) == 1:
        return (Layer(tuple(channels), Raw(dtype, nodata, view.channels)),)
    if len(channels) % view.channels:
        raise ValueError(f"has {len(channels)} channels, and these weights take {view.channels} at a time")
    groups = [tuple(channels[i : i + view.channels]) for i in range(0, len(channels), view.channels)]
    return tuple(Layer(group, Raw(dtype, nodata)) for group in groups)


def _plates(layer: Layer) -> tuple[Layer, ...]:
    """Inks as they are filled: as much of a fill is black as around it, which no colour would tell."""
    if not isinstance(layer.space, Space) or layer.space.channels != 4:
        return (layer,)
    groups = layer.channels[:3], layer.channels[3:]
    plates = zip(groups, layer.space.plates(), strict=True)
    return tuple(replace(layer, channels=group, space=space) for group, space in plates)


def _is_grey(space: Any) -> bool:
    return not isinstance(space, Palette) or bool((space.colours[:, :2] == space.colours[:, 1:3]).all())


def _one_by_one(layer: Layer) -> list[Layer]:
    space = layer.space
    if isinstance(space, Palette) or len(layer.channels) == 1:
        assert isinstance(space, Palette | Space)
        return [replace(layer, space=Alone(space))]
    assert isinstance(space, Space)
    return [
        replace(
            layer,
            channels=(channel,),
            space=Alone(replace(space, channels=1, tones=space.tones[number : number + 1], icc=b"")),
        )
        for number, channel in enumerate(layer.channels)
    ]


def dotted(made: Sequence[Layer], pixels: NDArray[Any], known: NDArray[np.bool_]) -> tuple[Layer, ...]:
    """Tell the layer of a picture of two colours, (h, w), whether its tones are dots, going by what is `known`."""
    both = known[:, 1:] & known[:, :-1]
    share = float((pixels[:, 1:] != pixels[:, :-1])[both].mean()) if both.any() else 0.0
    return tuple(
        Layer(layer.channels, replace(layer.space, dotted=share > DOTTED))
        if isinstance(layer.space, Palette) and len(layer.space.colours) == 2
        else layer
        for layer in made
    )


class Spread:
    """How the values of a layer of a picture of a ranged type spread, whatever parts they come in."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._low, self._high = np.inf, -np.inf
        self._count, self._step = 0, 1
        self._sample: NDArray[Any] = np.empty(0, np.float32)  # every `step`-th of `count` values

    def add(self, pixels: NDArray[Any]) -> None:
        """Take a part, (..., all channels), in the order of the picture; what is not finite counts for nothing."""
        values = self._layer.taken(pixels)
        values = values[np.isfinite(values)]
        if not values.size:
            return
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
        before, self._count = self._count, self._count + values.size
        while -(-self._count // self._step) > _SAMPLE:
            self._sample, self._step = self._sample[::2], 2 * self._step
        self._sample = np.concatenate([self._sample, values[-before % self._step :: self._step]])

    def limits(self) -> tuple[float, float]:
        """What is to be shown as black and as white; (0, 1) where there is no value.

        Lowest and highest value, so that fills can reach all that is there. But a few wild values, of dead sensors or
        where nothing is and the file does not say so, must not leave the network a picture in one grey: what is farther
        off than the span of nearly all values is shown as the limit, and out of reach for fills. Where nearly all are
        one value, that span is how far nearly all others are from it.
        """
        if not self._count:
            return 0.0, 1.0
        sample, (lowest, highest) = self._sample.astype(np.float64), (self._low, self._high)
        if not math.isfinite(highest - lowest):
            sample, (lowest, highest) = (
                np.clip(values, -_FARTHEST, _FARTHEST) for values in (sample, (lowest, highest))
            )
        low, high = map(float, np.percentile(sample, _USUAL))
        if low == high:
            others = np.abs(sample[sample != low] - low)
            away = float(np.percentile(others, _FEW, method="lower")) if others.size else 0.0
            low, high = low - away, high + away
        span = high - low
        return float(max(lowest, low - span)), float(min(highest, high + span))

    def stand_in(self) -> tuple[float, float] | None:
        """A value that seems to stand for "nothing here", though nobody says so; and the share of values that are it.

        It is lowest or highest, one of those that programs write for that, farther from nearly all others than these
        are from each other, and too frequent for `limits` to leave it out.
        """
        for value in (self._low, self._high):
            if value not in _STAND_INS:
                continue
            here = self._sample == value
            share, others = float(here.mean()), self._sample[~here].astype(np.float64)
            if share > _USUAL[0] / 100 and others.size:
                low, high = map(float, np.percentile(others.clip(-_FARTHEST, _FARTHEST), _USUAL))
                if min(abs(low - value), abs(high - value)) > high - low:
                    return value, share
        return None


def stretched(
    made: Sequence[Layer], dtype: np.dtype[Any], parts: Iterable[NDArray[Any]]
) -> tuple[tuple[Layer, ...], tuple[float, float] | None]:
    """Tell the layers of a picture what is to be shown as black and as white, by what is known of it.

    Args:
        made: The layers.
        dtype: The picture's type; one of bytes is shown as it is, and nothing of it is asked for.
        parts: (..., all channels) each, in the order of the picture, of what is known; see `whites_of` for how much of
            16-bit values is asked for. What is not finite counts for nothing.

    Returns:
        The layers; and of a ranged type the first value that seems to stand for nothing, see `Spread.stand_in`.
    """
    if dtype == np.uint16:
        return ranged(made, whites_of(made, parts)), None
    if not is_ranged(dtype):
        return tuple(made), None
    spreads = [Spread(layer) for layer in made]
    for part in parts:
        for spread in spreads:
            spread.add(part)
    stand_ins = (spread.stand_in() for spread in spreads)
    return ranged(made, [spread.limits() for spread in spreads]), next(filter(None, stand_ins), None)


def whites_of(made: Sequence[Layer], parts: Iterable[NDArray[Any]]) -> list[tuple[float, float]]:
    """What is to be shown as black and as white of each layer of a picture of 16-bit values: see `white_of`.

    Args:
        made: The layers.
        parts: (..., all channels) each, of what is known; no more are taken once all 16 bits are seen to be used.
    """
    highest = [0 if isinstance(of.space, Space) and of.space.channels != 4 else 2**16 - 1 for of in made]
    more = iter(parts)
    while min(highest) < 2**15 and (pixels := next(more, None)) is not None:
        highest = [max(high, int(of.taken(pixels).max(initial=0))) for high, of in zip(highest, made, strict=True)]
    return [(0, white_of(high)) for high in highest]


def ranged(made: Sequence[Layer], limits: Sequence[tuple[float, float]]) -> tuple[Layer, ...]:
    """Tell layers what is to be shown as black and as white, where they are not shown as they are."""
    told = []
    for layer, between in zip(made, limits, strict=True):
        if isinstance(layer.space, Space):
            low, high = shown_between(layer.space.channels, layer.space.dtype, *between)
            layer = replace(layer, space=replace(layer.space, low=low, high=high))
        told.append(layer)
    return tuple(told)


def ranged_by(layer: Layer, sample: NDArray[Any], nodata: float | None) -> Layer:
    """Tell a layer what is black and white by some of its pixels, to be looked at; one of bytes stays as it is.

    Args:
        layer: The layer.
        sample: (..., channels of the layer), without alpha.
        nodata: The value that stands for "nothing here", if there is one.
    """
    if sample.dtype == np.uint8:
        return layer
    empty = nothing(sample, nodata)
    held = sample if empty is None else sample[~empty]
    alone = replace(layer, channels=tuple(range(sample.shape[-1])), alpha=None)
    (told,), _ = stretched([alone], sample.dtype, [held])
    return replace(layer, space=told.space)
