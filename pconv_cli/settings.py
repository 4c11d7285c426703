"""How pictures are filled: the settings that every way of restoring shares, and what follows from them in words.

Knows values, which of them make sense, and how masks are read. Does not know files, networks, devices, options' order.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pconv_cli.errors import OF_ONES, UsageError
from pconv_cli.marks import Mark
from pconv_cli.orientations import DrawnOn
from pconv_cli.tiles import SMALLEST_TILE

if TYPE_CHECKING:
    from pconv_cli.nn.partial_conv import PaddingMode

SUSPICIOUS = 0.6
"""A mask that marks a larger share than this was probably drawn with the other polarity."""

ROOM = 2
"""Pixels that a mask which hugs the damage is best grown by, see benchmarks/README.md."""

AT_REST = 360 << 20
"""Bytes that a run takes whatever it does: interpreter, torch, GDAL's blocks."""

PER_TILE_PIXEL = 650
"""Bytes that the default network takes for a pixel of a tile while it computes."""

FAINT = (
    "marks nothing, yet something is drawn on it: only what is lighter than 50 % grey counts; "
    f"make what is damaged white, all else black ({OF_ONES})"
)
"""Why a mask is refused that is not of one colour, and marks nothing: of 0 and 1, say."""

BY_NODATA = (
    "marks nothing but by its nodata value, which is no damage; "
    "if it is, take that out of a copy: gdal_translate -a_nodata none mask.tif marks.tif"
)
"""What to say of a mask whose damage, as it looks, is declared to be nothing."""

HUGS = "hugs the damage, and what is left around it colours the fill"
"""What to say of a mask beside which pixels are partly damage."""

GREY = "is grey like a photograph, and a mask is black and white: is it the right file?"
"""What to say of a mask that is a picture."""


def too_large(width: int, height: int, limit: float) -> str:
    """What to say of a picture of more megapixels than the limit."""
    size = width * height / 1e6
    shown = f"{size:,.0f}" if size >= 100 else f"{size:.3g}"
    return f"{width} x {height} = {shown} megapixels, more than {limit:g}: if that is honest, pass --max-megapixels 0"


@dataclass(frozen=True)
class Settings:
    """How to fill.

    Attributes:
        weights: A name, a file, `none` for the pyramid alone, or None for the default.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`, or several: `cuda:0,cuda:1` or `cuda:all`.
        precision: `auto`, `fp64`, `fp32`, `bf16` or `fp16`.
        tile_size: Longest side that one forward pass sees, pixels.
        padding: What lies beyond a tile, or None for what the network was trained with.
        overlap: Pixels that the tiles of a plain grid share and blend; 0: tiles on the damage, without overlap.
        batch_size: Tiles computed at once, or None for a number that suits the device.
        jobs: Threads that read, and as many that write, or so many processes that do both where there is much to do;
            None for a number that suits the machine.
        invert_mask: Masks are black where damaged instead of white.
        mask_on: What masks were drawn on: pictures as displayed or as stored; `auto` goes by their size.
        dilate: Pixels that damage is grown by.
        mask_from: How pictures themselves show what is damaged; None: masks are files.
        linear: Values are linear in light where no colour profile says what they are.
        overwrite: Replace outputs that exist.
        strict: Refuse a picture that would lose something.
        save_filled: Folder for masks of what was restored.
        save_confidence: Folder for maps of how far restored pixels are from known ones.
        provenance: Tell in the output, or beside it, what was restored, by what and when.
    """

    weights: str | None = None
    device: str = "auto"
    precision: str = "auto"
    tile_size: int = 512
    padding: PaddingMode | None = None
    overlap: int = 0
    batch_size: int | None = None
    jobs: int | None = None
    invert_mask: bool = False
    mask_on: DrawnOn = "auto"
    dilate: int = 0
    mask_from: Mark | None = None
    linear: bool = False
    overwrite: bool = False
    strict: bool = False
    save_filled: Path | None = None
    save_confidence: Path | None = None
    provenance: bool = False

    def check(self, size: str = "--tile-size") -> None:
        """Make sure that they make sense; `size` is what the option for the tile size is called.

        Raises:
            UsageError: They do not.
        """
        if self.tile_size < SMALLEST_TILE:
            raise UsageError(f"{size} {self.tile_size}: must be {SMALLEST_TILE} or more")
        if not 0 <= self.overlap <= self.tile_size // 3:
            raise UsageError(f"--overlap {self.overlap}: must be 0 to {self.tile_size // 3}, a third of a tile")

    def told(self) -> dict[str, str | int | bool]:
        """What decides the result, for a report; weights and device aside."""
        return {
            "tile_size": self.tile_size,
            "padding": self.padding or "as trained",
            "overlap": self.overlap,
            "mask_polarity": self.polarity,
            "dilate": self.dilate,
            "mask_from": str(self.mask_from or ""),
            "linear": self.linear,
        }

    def memory(self, largest: int) -> int:
        """Bytes that a run takes on a CPU beside pictures, roughly: at rest, and for a network, if one computes tiles.

        Args:
            largest: Pixels of the largest picture.
        """
        cores = os.cpu_count() or 1
        lanes = 0 if self.weights == "none" else min(self.batch_size or cores, cores)
        return AT_REST + PER_TILE_PIXEL * lanes * min(self.tile_size**2, largest)

    @property
    def polarity(self) -> str:
        """How masks are read."""
        return "black = damaged" if self.invert_mask else "white = damaged"

    @property
    def much(self) -> float:
        """Share of a picture from which on damage is suspicious."""
        return SUSPICIOUS

    @property
    def reading(self) -> str:
        """Where damage comes from, after what is said of it."""
        return f"read as {self.polarity}"

    @property
    def way_out(self) -> str:
        """What to do about damage that is none."""
        return "leave out --invert-mask" if self.invert_mask else "use --invert-mask"

    def hugging(self, some: int = 1, of: int = 1) -> str:
        """What to say of masks that hug the damage, in some of the pictures that have any."""
        which = f"in {some} of {of} pictures the mask" if of > 1 else "the mask"
        return f"{which} {HUGS}: try --dilate {self.dilate + ROOM}"

    def suspicion(self, share: float) -> str | None:
        """What to say of a mask that marks a share of its picture; None if that is nothing to talk about."""
        if share <= self.much:
            return None
        return f"marks {share:.0%} of the picture as damaged, {self.reading}; if that is wrong, {self.way_out}"
