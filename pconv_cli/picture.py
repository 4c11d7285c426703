"""One picture in memory, and the mask that lies over it: what is shown, and what is filled.

It knows modes, palettes and transparency. It does not know how files are read (`images`) or written (`writing`), tiles,
networks. Which way is up: `orientations`; what numbers mean to the network: `layers`. Metadata it only hands on, as
`_carry` has it.

Pixels stay as they are stored. A picture that its EXIF tag turns is restored lying on its side; a mask that was drawn
on it as it is displayed is laid down with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli._carry import Carried
from pconv_cli.colours import as_bytes
from pconv_cli.errors import ItemError
from pconv_cli.layers import Layer, dotted, stretched
from pconv_cli.marks import unnamed
from pconv_cli.orientations import DrawnOn, displayed, over
from pconv_cli.regions import Window
from pconv_cli.spaces import as_held, is_ranged, top

COLOURS = {"LA": 1, "RGBA": 3, "CMYK": 4, "RGB": 3}
"""How many of a mode's channels are colours; 1 where it is not said."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture file in memory.

    Attributes:
        path: Where it was read from.
        pixels: As stored (EXIF orientation not applied), of one of `spaces.TYPES`: (h, w) where a pixel is one value,
            else (h, w, channels).
        mode: "L", "LA", "RGB", "RGBA", "CMYK" (0 = no ink), "P" (palette indices), "1" (0 black, 1 white), or "BANDS"
            where a TIFF has others.
        format: "JPEG", "PNG", "WEBP", "BMP" or "TIFF".
        orientation: EXIF orientation 1..8; 1 where there is none or it is invalid.
        layers: Channels that are filled together, and how the network sees them.
        carried: Metadata for the output; the business of whoever reads and writes files, and nobody else's.
        notices: What is in the file and cannot be carried over, one line each; losses are `errors.Loss`.
        alpha: Index of the alpha channel, or None.
        nodata: The value that stands for "nothing here", if the file names one.
        shown: Where a TIFF says that it holds something, (h, w); None: everywhere, or `alpha` tells.
        inverted: Whether white is 0.
        encoded: The file's bytes, of a JPEG.
        before: Pixels as they were read, once some have been filled.
        hole: Where they were filled, (h, w).
        revealed: Whether what was filled was transparent, or nothing, and now is not.
        as_laid: Whether some of what was filled is meant to be nothing: values that nobody could tell.
        stamped: Whether its XMP is to be another one than the file's, see `writing.stamped`.
    """

    path: Path
    pixels: NDArray[Any]
    mode: str
    format: str
    orientation: int
    layers: tuple[Layer, ...]
    carried: Carried
    notices: tuple[str, ...] = ()
    alpha: int | None = None
    nodata: float | None = None
    shown: NDArray[np.bool_] | None = None
    inverted: bool = False
    encoded: bytes = b""
    before: NDArray[Any] | None = None
    hole: NDArray[np.bool_] | None = None
    revealed: bool = False
    as_laid: bool = False
    stamped: bool = False

    @property
    def height(self) -> int:
        """Rows as stored."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns as stored."""
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> NDArray[Any]:
        """The pixels, (h, w, channels) even where that is one; a view."""
        return self.pixels.reshape(self.height, self.width, -1)

    def seen(self, layer: Layer) -> NDArray[Any]:
        """A layer as the network sees it, (h, w, c), see `Layer.seen`. May be a view of the pixels."""
        return layer.seen(self.channels)

    def rgb(self) -> NDArray[np.uint8]:
        """The colours, (h, w, 3): grey repeated, palette looked up, alpha left out, 16 bits brought down to 8."""
        return as_bytes(self.seen(self.layers[0]))

    def visible(self) -> NDArray[np.bool_] | None:
        """Where the picture shows anything, (h, w): alpha above 0, not nodata; None when it does everywhere.

        Of two values of which one is transparent, that is the paper: both are picture.
        """
        if self.shown is not None or self.mode == "1":
            return self.shown
        alpha = self.opacity()
        return None if alpha is None else alpha > 0

    def opacity(self) -> NDArray[Any] | None:
        """Alpha, (h, w), 0 = transparent; None where the picture has no transparency."""
        if self.alpha is not None:
            return np.asarray(self.channels[..., self.alpha])
        if self.mode == "P":
            table = palette_table(self.carried)[:, 3]
            return None if table.min() == 255 else table[self.pixels]
        if self.carried.colour_key is None:
            return None
        keyed = (self.channels == self.carried.colour_key).all(axis=2)
        return np.where(keyed, 0, np.iinfo(self.pixels.dtype).max).astype(self.pixels.dtype)

    @classmethod
    def nothing(cls, path: Path) -> Picture:
        """A picture that need not be read."""
        return cls(path, np.zeros((0, 0), np.uint8), "L", "", 1, (), Carried())

    def known_outside(self, hole: NDArray[np.bool_], windows: Sequence[Window] | None = None) -> Picture:
        """The picture once it is told what is damaged: what it is seen as goes by the rest of it.

        Args:
            hole: (h, w), True where damaged.
            windows: Where one of 16-bit values is looked at, if any of it is known; None: everywhere.
        """
        dtype, notices = self.pixels.dtype, self.notices
        deep = dtype == np.uint16
        if self.mode != "1" and not deep and not is_ranged(dtype):
            return self
        known = ~hole if self.shown is None else ~hole & self.shown
        if self.mode == "1":
            return replace(self, layers=dotted(self.layers, self.pixels, known))
        if windows is None or not deep or (windows and not any(known[window.slices].any() for window in windows)):
            windows = [Window(0, 0, self.width, self.height)]  # what lies in holes goes by a guide
        parts = (self.channels[window.slices][known[window.slices]] for window in windows)
        told, stand_in = stretched(self.layers, dtype, parts)
        if stand_in is not None and as_held(self.nodata, dtype) is None:
            notices += (unnamed(*stand_in),)
        return replace(self, layers=told, notices=notices)

    def as_a_whole(self) -> Picture:
        """The picture, of which all that it shows counts as known: what it looks like goes by all of its values."""
        shown = self.visible()
        return self.known_outside(np.zeros((self.height, self.width), np.bool_) if shown is None else ~shown)

    def filled(self, fills: Mapping[Layer, NDArray[Any]], hole: NDArray[np.bool_], *, reveal: bool = False) -> Picture:
        """Take the hole's colours from `fills`; every other pixel stays bit-identical, and so does all transparency.

        Grey takes the rounded Rec. 601 luminance, a palette its nearest opaque colour. Where one colour of more than
        two stands for "transparent", pixels of that colour stay, and no other pixel becomes it.

        Args:
            fills: For each layer that is to be filled (h, w, c), as `seen` gives it.
            hole: (h, w), True where they are to be taken.
            reveal: Whether the hole is what was transparent: it is opaque then, and takes colours all the same.

        Raises:
            ValueError: The shapes do not fit the picture.
        """
        size = (self.height, self.width)
        fit = all(fill.shape == (*size, layer.width) for layer, fill in fills.items())
        if not fit or hole.shape != size or hole.dtype != np.bool_:
            raise ValueError(f"need fills as wide as their layers, and bool, of {size}, got others")
        where = self.taking(hole, reveal=reveal)
        pixels = self.pixels.copy()
        channels = pixels.reshape(*size, -1)
        if reveal and self.alpha is not None:
            channels[where, self.alpha] = top(pixels.dtype)
        for layer, fill in fills.items():
            layer.put(channels, fill, where)
            layer.hide(channels, where)
        if self.carried.colour_key is not None and self.mode != "1":
            channels[where] = _off_key(channels[where], self.carried.colour_key)
        meant = any(layer.may_be_empty for layer in fills)
        return replace(self, pixels=pixels, before=self.pixels, hole=hole, revealed=reveal, as_laid=meant)

    def taking(self, hole: NDArray[np.bool_], *, reveal: bool) -> NDArray[np.bool_]:
        """Which pixels of a hole, (h, w), take colours when it is filled; the arguments are those of `filled`."""
        shown = None
        if not reveal and (self.mode == "P" or self.carried.colour_key is not None):
            shown = self.visible()
        return hole if shown is None else hole & shown


@dataclass(frozen=True, eq=False)
class MaskImage:
    """A mask file.

    Attributes:
        path: Where it was read from.
        hole: (h, w) as stored, True where damaged.
        orientation: The mask file's own EXIF orientation.
    """

    path: Path
    hole: NDArray[np.bool_]
    orientation: int


def align_mask(mask: MaskImage, picture: Picture, drawn_on: DrawnOn) -> NDArray[np.bool_]:
    """Lay a mask over the stored pixels of a picture.

    Args:
        mask: The mask.
        picture: The picture; its EXIF orientation says how it is displayed.
        drawn_on: What the mask's author saw: the picture as "displayed" or as "stored". "auto" takes whichever
            agrees in size, and "displayed" where both do.

    Returns:
        The hole, (h, w) of `picture.pixels`, True where damaged.

    Raises:
        ItemError: The sizes do not agree. Masks are never stretched.
    """
    rows, columns = mask.hole.shape
    try:
        turn = over((rows, columns), mask.orientation, (picture.height, picture.width), picture.orientation, drawn_on)
    except ValueError as error:
        raise ItemError(mask.path, str(error)) from error
    return np.ascontiguousarray(displayed(mask.hole, turn))


def palette_table(carried: Carried) -> NDArray[np.uint8]:
    """Palette as (256, 4) RGBA; indices that the file does not define are opaque black."""
    table = np.tile(np.array([0, 0, 0, 255], np.uint8), (256, 1))
    own = np.frombuffer(carried.palette, np.uint8).reshape(-1, 4)
    table[: len(own)] = own
    return table


def _off_key(colours: NDArray[Any], key: tuple[int, ...]) -> NDArray[Any]:
    """Move colours, (n, channels), by one step where they happen to be the one that means transparent."""
    colours[(colours == np.array(key)).all(axis=1), -1] ^= 1
    return colours
