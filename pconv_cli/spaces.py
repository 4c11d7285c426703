"""How a picture's own pixels are shown to the network, and how fills become pixels of the picture again.

Knows numbers and what they mean: bit depths, ranges, tone curves of ICC profiles, inks. A fill is made in a space that
the network understands, sRGB-like tones from 0 to 1, and goes back into the picture's own. Primaries stay as they are:
turning wide-gamut colours into sRGB would clip them, and fills could not reach them any more. Inks are looked at
through their profile and filled as they are: a colour does not tell how much of it is black.

Does not know files, modes, masks, alpha, networks; whoever lays a fill lays only the hole.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pconv_cli.colours import luminance

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

PERCEPTUAL_FROM = 1.5  # gamma at mid grey: below it tones are nearer to linear light than to any photograph's (1.8 up)

_AT_ONCE = 2**18  # pixels that are turned in double precision
_TOPS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}

TYPES = frozenset({"uint8", "uint16", "int8", "int16", "int32", "uint32", "float32", "float64"})
"""Names of the types that pixels may have."""

_APART = 2.0**-21  # eight times what a float near 1 is rounded by; grey loses two of them as a luminance
_GRID = np.arange(65536) / 65535  # where tone curves are sampled: every value of 8 and of 16 bits is one of its points


@dataclass(frozen=True, eq=False)
class Space:
    """How pixels of one picture are shown to the network, and how fills become pixels of the picture.

    Made by `space`. Any number of threads may use one.

    Attributes:
        channels: 1 grey, 3 RGB, 4 CMYK: that is to be looked at, `plates` are to be filled.
        dtype: One of `TYPES`.
        tones: For each channel what each of 65536 values from 0 to 1 is shown as; empty where as itself.
        inverted: White is 0, as it is of plates.
        low: What is shown as 0, of a picture whose type is ranged, see `is_ranged`.
        high: What is shown as 1; of 16-bit tones too, if they use fewer bits, see `white_of`.
        icc: Profile that CMYK is seen through.
    """

    channels: int
    dtype: np.dtype[Any]
    tones: tuple[NDArray[np.float32], ...] = ()
    inverted: bool = False
    low: float = 0.0
    high: float = 1.0
    icc: bytes = b""

    @property
    def name(self) -> str:
        """What happens to the pixels, in a few words for the report."""
        words = []
        if (self.low, self.high) != (0, 1):
            kind = "float" if self.dtype.kind == "f" else self.dtype.name
            words.append(f"{kind} {self.low:g} to {self.high:g} shown as 0 to 1")
        if self.tones:
            words.append("linear light shown as sRGB")
        if self.inverted:
            words.append("white is 0" if self.channels == 1 else "inks, black by itself")
        return ", ".join(words) or "as it is"

    def plates(self) -> tuple[Space, Space]:
        """The spaces of CMY and of K: three colours as light that they leave, and grey."""
        colours, black = (replace(self, channels=number, inverted=True, icc=b"") for number in (3, 1))
        return colours, black

    @property
    def is_plain(self) -> bool:
        """Whether what is seen is what is there, three bytes each."""
        return self._is_bytes and self.channels == 3 and not self.inverted

    def seen(self, own: NDArray[Any]) -> NDArray[Any]:
        """What the network is shown.

        Args:
            own: `(..., channels)` in `dtype`; CMYK with 0 for no ink.

        Returns:
            `(..., 3)`, contiguous: uint8 where 8-bit grey or RGB is shown as it is (RGB may be `own` itself), else
            float32 in [0, 1], with 0 where a float is NaN or infinite.
        """
        top = self._top
        if self.inverted and top:
            own = ~own
        if self._is_bytes:
            return np.repeat(own, 3, axis=-1) if self.channels == 1 else np.ascontiguousarray(own)
        if self.tones and top:
            shown = np.empty(own.shape, np.float32)
            for channel, tone in enumerate(self.tones):
                shown[..., channel] = tone[:: 65535 // top][own[..., channel]]
        elif top:
            shown = np.divide(own, top, dtype=np.float32)
        else:
            shown = np.empty(own.shape, np.float32)
            flat, pixels = shown.reshape(-1, self.channels), own.reshape(-1, self.channels)
            for at in range(0, len(flat), _AT_ONCE):
                flat[at : at + _AT_ONCE] = self._unit(pixels[at : at + _AT_ONCE])
        if self.channels == 4:
            return _from_inks(shown, self.icc)
        return np.repeat(shown, 3, axis=-1) if self.channels == 1 else shown

    def own(self, seen: NDArray[Any]) -> NDArray[Any]:
        """What the network made, as pixels of the picture.

        Args:
            seen: `(..., 3)`, uint8 or float32; floats are clipped to [0, 1].

        Returns:
            `(..., channels)` in `dtype`, not of CMYK: the inverse of `seen`. Grey takes the luminance.
        """
        top = self._top
        if self._is_bytes and seen.dtype == np.uint8:
            made = luminance(seen)[..., None] if self.channels == 1 else seen
            return ~made if self.inverted else made
        unit = np.divide(seen, 255, dtype=np.float32) if seen.dtype == np.uint8 else np.clip(seen, 0, 1)
        if self.channels == 1:
            unit = luminance(unit)[..., None]
        wide = unit.astype(np.float64)
        for channel, tone in enumerate(self.tones):
            wide[..., channel] = np.interp(wide[..., channel], tone, _GRID)
        if top:
            whole: NDArray[Any] = np.rint(wide * top).astype(self.dtype)
            return ~whole if self.inverted else whole
        wide = np.clip(1 - wide if self.inverted else wide, 0, 1)  # a luminance is rounded
        values = self.low + wide * (self.high - self.low)
        least, most = self.low, self.high
        if self.dtype.kind != "f":
            values, least, most = np.rint(values), np.iinfo(self.dtype).min, np.iinfo(self.dtype).max
        return np.asarray(values.clip(least, most).astype(self.dtype))

    @property
    def _top(self) -> int | None:
        """The greatest value, where that is what is shown as 1."""
        return _TOPS.get(self.dtype) if (self.low, self.high) == (0, 1) else None

    @property
    def _is_bytes(self) -> bool:
        return self.dtype == np.uint8 and self.channels != 4 and not self.tones

    def _unit(self, own: NDArray[Any]) -> NDArray[np.float32]:
        """Values of a ranged type as shown, NaN-free."""
        held = np.isfinite(own)
        span = (self.high - self.low) or 1.0  # a constant picture is black, and comes back as the constant
        wide = np.where(held, own, self.low).astype(np.float64)  # a span may exceed all float32
        with np.errstate(over="ignore"):  # of what is far beyond the limits
            unit = np.clip((wide - self.low) / span, 0, 1)
        unit = 1 - unit if self.inverted else unit
        for channel, tone in enumerate(self.tones):
            unit[..., channel] = np.interp(unit[..., channel], _GRID, tone)
        return np.asarray(np.where(held, unit, 0).astype(np.float32))


def space(
    channels: int,
    dtype: DTypeLike,
    *,
    icc: bytes = b"",
    linear: bool = False,
    inverted: bool = False,
    limits: tuple[float, float] | None = None,
) -> Space:
    """The space of one picture.

    Args:
        channels: 1 grey, 3 RGB, 4 CMYK (0 is no ink).
        dtype: One of `TYPES`.
        icc: Colour profile. One that cannot be read, or is for another kind of picture, counts as none. Of grey and RGB
            only the tone curve matters, and only if it is nearer to linear light than to a photograph's.
        linear: Grey and RGB are linear light, whatever the profile says. CMYK has no such thing: no effect.
        inverted: White is 0, grey only.
        limits: Lowest and highest known value of a ranged type, finite and no infinite span apart: they become 0 and
            1, but for floats within [0, 1], see `shown_between`. By default values are taken as they are. No effect on
            uint8 and uint16.

    Raises:
        ValueError: What was asked for does not exist.
    """
    kind = np.dtype(dtype)
    if channels not in (1, 3, 4) or kind.name not in TYPES:
        raise ValueError(f"no space for {channels} channels of {kind}")
    if inverted and channels != 1:
        raise ValueError("only grey may be inverted")
    low, high = limits if limits and is_ranged(kind) else (0.0, 1.0)
    if not (math.isfinite(float(high) - float(low)) and low <= high):
        raise ValueError(f"limits must be finite and in order, not {low} and {high}")
    low, high = shown_between(channels, kind, low, high)
    if channels == 4:
        return Space(channels, kind, low=float(low), high=float(high), icc=icc)
    tones = (_as_srgb(_GRID),) * channels if linear else _tones(icc, channels)
    return Space(channels, kind, tones, inverted, float(low), float(high))


def is_ranged(dtype: DTypeLike) -> bool:
    """Whether what values of a type are shown as goes by the range that a picture has of them: all but tones.

    Tones are uint8 and uint16, whose greatest value is white.
    """
    return np.dtype(dtype) not in _TOPS


def shown_between(channels: int, dtype: DTypeLike, low: float, high: float) -> tuple[float, float]:
    """What is black and what is white of values that lie between two limits; (0, 1) where they are shown as they are.

    Bytes are, values that use all of 16 bits, and floats in [0, 1], for they are tones already. But of floats that are
    all dark, as reflectances are, a network would see little: white is then the least power of 2 that none is above.

    Args:
        channels: As in `space`; of inks nobody knows how much a little is.
        dtype: The values' type.
        low: Lowest.
        high: Highest, or of 16-bit values what `white_of` gives.
    """
    kind = np.dtype(dtype)
    if kind.kind == "f" and low >= 0 and high <= 1:
        white = 1.0 if channels == 4 or high <= 0 else 2.0 ** math.ceil(math.log2(high))
        return 0.0, white
    return (0.0, 1.0) if high == _TOPS.get(kind) else (low, high)


def white_of(highest: int) -> int:
    """What is white in a picture of 16-bit values, none of which is above `highest`.

    The greatest value of as many bits, and of no fewer than 8: 10, 12 and 14 bits are often kept in 16, and white is
    then 1023, 4095 or 16383. By bits and not by the value itself, so that pictures of one kind are shown alike.
    """
    return max(255, (1 << int(highest).bit_length()) - 1)


def top(dtype: DTypeLike) -> float:
    """What is white in a mask band and hides nothing as alpha: 1, or the greatest of integers."""
    kind = np.dtype(dtype)
    return 1.0 if kind.kind == "f" else int(np.iinfo(kind).max)


def without_alpha(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Colours that are multiplied by alpha as they are themselves; as they stand where alpha is 0, and tells nothing.

    Args:
        colours: `(..., channels)`, of one of `TYPES`.
        alpha: `(...)`, of the same.
    """
    with np.errstate(over="ignore"):  # of light that is more than any alpha lets through
        return _rounded(colours / _share(alpha), colours.dtype)


def with_alpha(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `without_alpha`; of bytes and words exact, but for what is above its alpha."""
    return _rounded(colours * _share(alpha), colours.dtype)


def _share(alpha: NDArray[Any]) -> NDArray[Any]:
    """What alpha lets through, (..., 1), where it is any of it; else 1."""
    most = top(alpha.dtype)
    usual = (alpha > 0) & (alpha < np.inf)
    return np.asarray(np.where(usual, alpha, alpha.dtype.type(most))[..., None] / alpha.dtype.type(most))


def _rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return values
    limits = np.iinfo(dtype)
    return np.asarray(np.rint(values).clip(limits.min, limits.max).astype(dtype))


def as_held(value: float | None, dtype: DTypeLike) -> float | None:
    """A value for "nothing here" as pixels of a type hold it; None where none of them can, and of NaN, which all can.

    Args:
        value: The value, as files name it: of any type, in double precision.
        dtype: The pixels' type.
    """
    kind: np.dtype[Any] = np.dtype(dtype)
    if value is None or np.isnan(value):
        return None
    if kind.kind == "f":
        with np.errstate(over="ignore"):  # written by those who think in 64 bits
            return float(kind.type(value))
    limits = np.iinfo(kind)
    return int(value) if limits.min <= value <= limits.max and value == int(value) else None


def next_to(value: float, dtype: DTypeLike) -> float:
    """A value as near as can be, in a type, to one that the type holds."""
    kind: np.dtype[Any] = np.dtype(dtype)
    if kind.kind == "f":
        return float(np.nextafter(kind.type(value), kind.type(0 if value else 1)))
    return int(value) + (1 if value < np.iinfo(kind).max else -1)


def nothing(own: NDArray[Any], nodata: float | None = None, *, but: int | None = None) -> NDArray[np.bool_] | None:
    """Where a picture holds nothing, as its values say it.

    Args:
        own: `(..., channels)`.
        nodata: The value that stands for none, beside NaN and infinity, if there is one.
        but: Index of a channel that does not count, alpha's.

    Returns:
        `(...)`, True where any channel has no value. Of tones, see `is_ranged`, where all have the one that stands for
        none: 0 or 255 in some channels is a colour. None: the picture cannot say it.
    """
    held, floating, tonal = as_held(nodata, own.dtype), own.dtype.kind == "f", not is_ranged(own.dtype)
    if held is None and not floating:
        return None
    found = np.full(own.shape[:-1], tonal)
    for channel in range(own.shape[-1]):  # several times faster than `all` or `any` over a short axis
        if channel == but:
            continue
        values = own[..., channel]
        if tonal:
            found &= values == held
            continue
        if held is not None:
            found |= values == held
        if floating:
            found |= ~np.isfinite(values)
    return found


def _as_srgb(light: NDArray[np.float64]) -> NDArray[np.float32]:
    """Linear light from 0 to 1 through the transfer function of IEC 61966-2-1."""
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(encoded.astype(np.float32))


@lru_cache(maxsize=4)  # pictures of one folder mostly share one profile
def _tones(icc: bytes, channels: int) -> tuple[NDArray[np.float32], ...]:
    """The tones of a profile that is far from perceptual; of any other, of none, of one that cannot be read: empty."""
    tags = (b"kTRC",) if channels == 1 else (b"rTRC", b"gTRC", b"bTRC")
    curves = [_curve(_tag(icc, tag)) for tag in tags]
    # A perceptual curve is below 0.5 ** 1.5 in its middle, whatever its formula.
    rising = [c for c in curves if c is not None and c[32768] > 0.5**PERCEPTUAL_FROM]
    tones = tuple(_as_srgb(curve) for curve in rising)
    # By more than the network's own numbers are rounded, too: else there is no way back.
    return tones if len(tones) == channels and all((np.diff(tone) > _APART).all() for tone in tones) else ()


def _tag(icc: bytes, wanted: bytes) -> bytes:
    """What a profile holds under a signature, as far as it is there."""
    end = 132 + 12 * int.from_bytes(icc[128:132], "big")
    for at in range(132, min(end, len(icc) - 11), 12):
        signature, start, size = struct.unpack_from(">4sII", icc, at)
        if signature == wanted:
            return icc[start : start + size]
    return b""


def _curve(tag: bytes) -> NDArray[np.float64] | None:
    """A `curv` or `para` tag sampled on the grid and stretched to reach from 0 to 1, or None where it is neither."""
    with np.errstate(all="ignore"):  # damaged numbers; what comes of them is looked at below
        if tag[:4] == b"curv" and len(tag) >= 12:
            count = int.from_bytes(tag[8:12], "big")
            if count * 2 > len(tag) - 12:
                return None
            values = np.frombuffer(tag, ">u2", count, 12)
            if count > 1:
                light = np.interp(_GRID, np.linspace(0, 1, count), values)
            else:  # no value is the identity, a single one a gamma in 1/256
                light = _GRID ** (values[0] / 256) if count else _GRID
        elif tag[:4] == b"para":
            formula = int.from_bytes(tag[8:10], "big")
            count = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}.get(formula, 0)
            if not count or count * 4 > len(tag) - 12:
                return None
            light = _formula(formula, *(np.frombuffer(tag, ">i4", count, 12) / 65536))
        else:
            return None
    if not (np.isfinite(light).all() and (np.diff(light) > 0).all()):
        return None
    return np.asarray((light - light[0]) / (light[-1] - light[0]))


def _formula(
    kind: int, g: float, a: float = 1, b: float = 0, c: float = 0, d: float = 0, e: float = 0, f: float = 0
) -> NDArray[np.float64]:
    """The parametric curves of ICC.1 on the grid."""
    power = np.maximum(a * _GRID + b, 0) ** g
    if kind <= 2:  # the third adds c to all of the second, which stretching takes away again
        return np.asarray(power)
    return np.where(d <= _GRID, power + e, c * _GRID + f)


def _from_inks(inks: NDArray[np.float32], icc: bytes) -> NDArray[np.float32]:
    """`(..., 4)` in [0, 1] to `(..., 3)`."""
    if way := _through(icc):
        return np.divide(_transformed(np.rint(inks * 255).astype(np.uint8), way), 255, dtype=np.float32)
    return np.asarray((1 - inks[..., :3]) * (1 - inks[..., 3:]))


def _transformed(pixels: NDArray[np.uint8], transform: ImageCmsTransform) -> NDArray[np.uint8]:
    """`(..., channels)` through LittleCMS."""
    from PIL import Image

    if not pixels.size:
        return np.empty((*pixels.shape[:-1], len(transform.output_mode)), np.uint8)
    line = Image.frombytes(transform.input_mode, (pixels.size // pixels.shape[-1], 1), pixels.tobytes())
    return np.asarray(transform.apply(line)).reshape(*pixels.shape[:-1], -1)


@lru_cache(maxsize=4)  # two threads that ask at once may both build it, which harms nothing
def _through(icc: bytes) -> ImageCmsTransform | None:
    """The way from CMYK to sRGB; None: no usable profile.

    Several threads may share it: Pillow lets go of the interpreter meanwhile, and without its cache of the last pixel a
    transform of LittleCMS has nothing that changes.
    """
    if not icc:
        return None
    from PIL import ImageCms

    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
    try:
        printer = ImageCms.getOpenProfile(BytesIO(icc))
        screen = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.buildTransform(printer, screen, "CMYK", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)
    except (ImageCms.PyCMSError, OSError, ValueError):  # damaged, or of other colours
        return None
