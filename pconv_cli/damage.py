"""What decides which pixels of a picture of any size are damaged: a mask file, or what the picture itself marks.

Knows where that is written down, how a mask lies over the picture, that both are read in strips, and which masks are
refused or doubted. Does not know: what is computed where there is damage, outputs, networks. How masks are drawn in
files: `strips`; how marks look in pixels: `marks`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pconv_cli import files
from pconv_cli.colours import as_bytes
from pconv_cli.errors import CHANGED, ItemError, UsageError
from pconv_cli.georeference import off_the_map, refuse_elsewhere
from pconv_cli.images import READ_SUFFIXES, orientation
from pconv_cli.layers import Layer
from pconv_cli.marks import Unmarked
from pconv_cli.masks import dilated_strips, turned_strips
from pconv_cli.orientations import EITHER, could_be_either, displayed_size, over
from pconv_cli.regions import Damage
from pconv_cli.remote import Stage, Stopped
from pconv_cli.settings import BY_NODATA, FAINT, Settings
from pconv_cli.strips import is_drawn_on, marks_by_nodata, mask_size, mask_strips
from pconv_cli.tiff import Source

MASK_SUFFIXES = READ_SUFFIXES | {".jp2", ".j2k"}
ROWS = 256  # of a picture looked at together
COLLAR = 0.05  # share of a picture; what is less may be torn edges

_T = TypeVar("_T")


def until(stop: Callable[[], bool], strips: Iterable[_T]) -> Iterator[_T]:
    """Hand strips on; raises `Stopped` once `stop` turns true."""
    for strip in strips:
        if stop():
            raise Stopped
        yield strip


def mask_beside(big: Path, stage: Stage) -> Path | None:
    """The mask that lies beside a picture, `BIG_mask.*` or `BIG.mask.*`, if there is one.

    Raises:
        UsageError: There are several.
    """
    stems = (f"{big.stem}_mask", f"{big.stem}.mask")
    found: list[Path] = []
    with suppress(OSError):  # a folder that cannot be listed shows no mask
        found = [path for path in stage.beside(big) if path.stem in stems and path.suffix.lower() in MASK_SUFFIXES]
    found = sorted(path for path in found if stage.holds(path) or path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"{big}: several masks beside it ({names}); choose one with --mask")
    return found[0] if found else None


class Mask:
    """Where the damage of one picture is written down.

    Attributes:
        path: The mask file; None: the picture itself says what is damaged.
        state: What tells the file from a later state of it, when it was chosen; None without a file.
        how: How the picture itself would say it, in a word: the way that the user named, or its own.
        name: Where it is written down, in words.
        doubt: What there is to say of how the file lies over the picture, if anything.
    """

    def __init__(
        self, source: Source, path: Path | None, settings: Settings, turn: int = 1, doubt: str | None = None
    ) -> None:
        self._source, self._settings = source, settings
        self.path = path
        self.doubt = doubt
        self._turn = turn  # how the file lies against the picture, see `orientations.over`
        self.state = None if path is None else files.state(path)
        self._mark = settings.mask_from
        self.how = str(self._mark or source.validity)
        self.name = str(path) if path is not None else f"{self.how} of {source.path}"
        # What nobody has named has a meaning of its own, whatever is said of masks.
        self._inverted = settings.invert_mask and (path is not None or self._mark is not None)

    @classmethod
    def choose(cls, source: Source, asked: Path | None, settings: Settings) -> Mask:
        """Choose what says which pixels of a picture are damaged.

        It is `asked`, or what `settings.mask_from` says, else the mask beside the picture, else its alpha channel, mask
        band or nodata value.

        Raises:
            UsageError: There is none, or more than one.
            ItemError: A mask that cannot be read or does not fit, or a picture without such a mark.
        """
        mark = settings.mask_from
        if mark is not None:
            if asked is not None:
                raise UsageError(f"--mask {asked} and --mask-from {mark}: choose one of the two")
            if mark.kind == "alpha" and source.validity not in ("alpha", "mask band"):
                raise ItemError(source.path, "has no transparency that could mark damage: give a mask with --mask")
            try:
                mark.refuse_colours(source.layers, source.dtype)
            except Unmarked as error:
                raise ItemError(source.path, str(error)) from error
            return cls(source, None, settings)
        path = asked if asked is not None else mask_beside(source.path, Stage())
        if path is None and source.validity is None:
            stem = source.path.stem
            raise UsageError(
                f"{source.path}: no mask; give one with --mask FILE, or put {stem}_mask.* or {stem}.mask.* beside it, "
                "or mark damage in the picture itself by alpha = 0, or by a mask band or nodata value, "
                "or say how it is marked with --mask-from"
            )
        if path is None:
            return cls(source, None, settings)
        width, height = mask_size(path)
        size = source.height, source.width
        try:
            lying = (height, width), orientation(path), size, orientation(source.path)
            turn = over(*lying, settings.mask_on)
        except ValueError as error:
            _, way_out = off_the_map(path, source)
            way = f"; {way_out}" if way_out else ""
            raise ItemError(path, f"{error}{way}") from error
        refuse_elsewhere(path, source)
        either = settings.mask_on == "auto" and could_be_either(*lying)
        return cls(source, path, settings, turn, f"{path}: {EITHER}" if either else None)

    def refuse_changed(self) -> None:
        """Make sure that the file is what it was when it was chosen.

        Raises:
            ItemError: It is not.
        """
        if self.path is None:
            return
        state = None
        with suppress(OSError):  # it is gone
            state = files.state(self.path)
        if state != self.state:
            raise ItemError(self.path, CHANGED)

    @property
    def reveals(self) -> bool:
        """Whether what is damaged counts as nothing in the file, and will not once it is filled."""
        return self.path is None and (self._mark is None or self._mark.reveals)

    @property
    def covers(self) -> bool:
        """Whether nothing but what is damaged counts as nothing in the file."""
        if self.path is not None or self._inverted:
            return False
        if self._mark is None or self._mark.kind == "alpha":
            return True
        declared = self._mark.value is None or self._mark.value == self._source.nodata
        return self._mark.kind == "nodata" and self._source.validity == "nodata" and declared

    @property
    def band(self) -> int | None:
        """Index of the band that holds the mask, and is none of the picture's."""
        return None if self._mark is None else self._mark.index

    @property
    def by_value(self) -> bool:
        """Whether what is damaged is what holds no value."""
        kind = self._source.validity if self._mark is None else self._mark.kind
        return self.path is None and kind == "nodata" and not self._inverted

    @property
    def nodata(self) -> float | None:
        """The value that stands for nothing, if there is one beside NaN."""
        return self._source.nodata if self._mark is None or self._mark.value is None else self._mark.value

    def damage(self, stop: Callable[[], bool] = lambda: False, of: Layer | None = None) -> Damage:
        """Read the mask, or where one layer of raw values holds nothing.

        Raises:
            Stopped: Once `stop` turns true.
            ItemError: The mask cannot be read, or has changed.
        """
        path, inverted = self.path, self._inverted
        read = self._own_strips(of) if path is None else mask_strips(path, ROWS, inverted=inverted)
        strips: Iterator[NDArray[np.bool_]] = read
        if inverted and path is None:
            strips = (~strip for strip in strips)
        width, height = self._source.width, self._source.height
        _, stored = displayed_size((height, width), self._turn)
        strips = turned_strips(until(stop, strips), stored, self._turn, ROWS)
        try:
            with closing(read):  # a mask that is not read to its end has a thread and a file open
                found = Damage.of_strips(dilated_strips(strips, self._settings.dilate), width)
        except (ItemError, ValueError) as error:
            self.refuse_changed()
            if isinstance(error, ItemError):
                raise
            raise ItemError(self.path or self._source.path, str(error)) from error
        self.refuse_changed()
        return found

    def _own_strips(self, of: Layer | None) -> Generator[NDArray[np.bool_], None, None]:
        source, mark = self._source, self._mark
        first = source.seen_as(linear=self._settings.linear)[0]
        for strip in source.strips(ROWS):
            if of is not None:
                yield np.isnan(of.seen(source.read(strip))).any(axis=2)
                continue
            if mark is None or mark.kind == "alpha":
                valid = source.valid(strip)
                assert valid is not None
                yield ~valid
                continue
            pixels = source.read(strip)
            colours = partial(lambda pixels: as_bytes(first.seen(pixels)), pixels)
            try:
                yield mark.where(pixels, colours, shown=None, alpha=source.alpha, nodata=source.nodata)
            except Unmarked as error:
                raise ItemError(source.path, str(error)) from error

    # ---------------------------------------------------------------- what is wrong with it

    def all_damaged(self) -> ItemError:
        """Why nothing can be restored of a picture all of which is damaged."""
        own, settings = self.path is None, self._settings
        who, polarity = (f"its {self.how}", "") if own else ("it", f" ({settings.polarity})")
        way_out = "give a mask with --mask" if own else settings.way_out
        reason = f"{who} marks the whole picture as damaged{polarity}, so nothing is left to restore from; {way_out}"
        return ItemError(self.path or self._source.path, reason)

    def none_damaged(self) -> str | None:
        """What there is to say of a mask that marks nothing.

        Raises:
            ItemError: Something is drawn on it: no one has drawn that for nothing.
        """
        path, inverted = self.path, self._settings.invert_mask
        if path is None:
            return None
        if is_drawn_on(path, inverted=inverted):
            raise ItemError(path, FAINT)
        return f"{path} {BY_NODATA}" if marks_by_nodata(path, inverted=inverted) else None

    def suspicions(self, damage: Damage) -> Iterator[str]:
        """What there is to say of a mask that marks so much."""
        share = damage.area / (damage.width * damage.height)
        suspicion = self._settings.suspicion(share)
        if suspicion is not None and self.path is not None:
            yield f"{self.name}: {suspicion}"
        if self.reveals and share > COLLAR and damage.area_at_border > damage.area / 2:
            marked = f"marks {share:.1%} of the picture as damaged, and most of that touches its border"
            way_out = "if there is no picture to restore, as beside a turned sheet, mark the damage alone with --mask"
            yield f"{self.name}: {marked}; {way_out}"
