"""Damage that the picture itself shows: transparency, a value for "nothing here", a colour, a band of its own.

Knows what people write for it and how it looks in pixels. Does not know files, formats, tiles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pconv_cli.errors import UsageError
from pconv_cli.spaces import is_ranged, nothing, top

FORMS = "alpha, nodata, nodata=VALUE, color=#RRGGBB, color=#RRGGBB~TOLERANCE or band=N"


class Unmarked(ValueError):
    """The picture has no such mark; the text says what it lacks, and the way out."""


@dataclass(frozen=True)
class Mark:
    """How a picture shows what is damaged.

    Attributes:
        kind: "alpha": fully transparent. "nodata": there is no value, see `spaces.nothing`. "color": as shown, within a
            tolerance. "band": lighter than 50 % in a band that holds nothing else.
        value: The value of "nodata"; None for the one that the file names.
        colour: Red, green, blue, 0..255.
        tolerance: How far each of them may be off.
        band: From 1.
    """

    kind: Literal["alpha", "nodata", "color", "band"]
    value: float | None = None
    colour: tuple[int, int, int] = (0, 0, 0)
    tolerance: int = 0
    band: int = 0

    @property
    def reveals(self) -> bool:
        """Whether what is marked holds nothing, and will hold something once it is filled."""
        return self.kind in ("alpha", "nodata")

    @property
    def index(self) -> int | None:
        """Index, from 0, of the band that holds the mask; None where none does."""
        return self.band - 1 if self.kind == "band" else None

    def __str__(self) -> str:
        match self.kind:
            case "nodata" if self.value is not None:
                short = f"{self.value:g}"
                return "nodata=" + (short if float(short) == self.value else repr(self.value))
            case "color":
                spread = f"~{self.tolerance}" if self.tolerance else ""
                return "color=#" + "".join(f"{part:02x}" for part in self.colour) + spread
            case "band":
                return f"band={self.band}"
            case _:
                return self.kind

    def refuse_colours(self, groups: Sequence[tuple[int, ...]], dtype: np.dtype[Any]) -> None:
        """Make sure that the band of the mask is none of the picture's, and that a colour can be one of it.

        Args:
            groups: Indices of the bands that are filled together.
            dtype: The pixels' type.

        Raises:
            Unmarked: The band is one of several colours, or all that there is; or there are values, and no colours.
        """
        if self.kind == "color" and dtype.kind != "f" and is_ranged(dtype):
            raise Unmarked(f"has {dtype} values, which are no colours: say which stands for damage, as in nodata=-9999")
        for group in groups:
            if self.index in group and (len(group) > 1 or len(groups) == 1):
                raise Unmarked(f"has its picture in band {self.band}, which is no mask: name another band")

    def where(
        self,
        pixels: NDArray[Any],
        colours: Callable[[], NDArray[np.uint8]],
        *,
        shown: NDArray[np.bool_] | None,
        alpha: int | None,
        nodata: float | None,
    ) -> NDArray[np.bool_]:
        """Find what is marked.

        Args:
            pixels: (h, w, bands) in the file's own type.
            colours: Gives them as people see them, (h, w, 3).
            shown: (h, w), False where the file says that there is nothing; None if it has no way to say it.
            alpha: Index of the alpha band, or None.
            nodata: The file's own value for "nothing here", or None.

        Returns:
            (h, w), True where damaged.

        Raises:
            Unmarked: The picture has no such mark.
        """
        if self.kind == "color":
            off = np.abs(colours().astype(np.int16) - np.array(self.colour, np.int16)).max(axis=-1)
            return np.asarray(off <= self.tolerance)
        if self.kind == "band":
            if not 1 <= self.band <= pixels.shape[2]:
                raise Unmarked(f"has {pixels.shape[2]} bands, so no band {self.band}: count from 1")
            return np.asarray(pixels[..., self.band - 1] > top(pixels.dtype) / 2)
        if self.kind == "nodata":
            value = nodata if self.value is None else self.value
            if value is None and pixels.dtype.kind != "f":
                raise Unmarked("names no nodata value: give it, as in --mask-from nodata=0")
            found = nothing(pixels, value, but=alpha)
            return np.zeros(pixels.shape[:2], np.bool_) if found is None else found
        if shown is None:
            raise Unmarked("has no transparency that could mark damage: draw a mask")
        return ~shown


def unnamed(value: float, share: float) -> str:
    """What to say of a picture that holds a value which seems to stand for nothing, in a share of what is known."""
    mark = str(Mark("nodata", value=value))
    number = mark.partition("=")[2]
    return (
        f"{number}, far from all else, is in {share:.1%} of what is not damaged, and no nodata value is named: if it "
        f"means that nothing is there, say so in a copy (gdal_edit.py -a_nodata {number} copy.tif), or have it filled "
        f"too (--mask-from {mark}); fills go by it else"
    )


def parse(text: str) -> Mark:
    """Read what stands after `--mask-from`.

    Raises:
        UsageError: It is none of `FORMS`.
    """
    kind, _, value = text.strip().partition("=")
    if "=" not in text and kind == "alpha":
        return Mark("alpha")
    if "=" not in text and kind == "nodata":
        return Mark("nodata")
    if kind == "nodata":
        try:
            return Mark("nodata", value=float(value))
        except ValueError:
            raise UsageError(f"--mask-from {text}: {value!r} is no number; nodata=0, say") from None
    if kind == "band" and re.fullmatch("[1-9][0-9]{0,4}", value):
        return Mark("band", band=int(value))
    if kind in ("color", "colour") and (match := re.fullmatch(r"#?([0-9a-fA-F]{6})(?:~([0-9]{1,3}))?", value)):
        red, green, blue = bytes.fromhex(match[1])
        if int(match[2] or 0) <= 255:
            return Mark("color", colour=(red, green, blue), tolerance=int(match[2] or 0))
    raise UsageError(f"--mask-from {text}: not a mark; use {FORMS}")
