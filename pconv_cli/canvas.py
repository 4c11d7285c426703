"""Fills for big pictures: laid on top, and put into a copy of the file in which all else is as it was.

It knows blocks, what of the output has to change where there are fills (alpha, mask bands, overviews), and what must
not. It knows nothing of networks, tiles' planning, batches, or what a caller shows to people. What is underneath:
`tiff`; what was laid: `_pages`; what a new file says: `_anew`; how GDAL is asked: `_gdal`; names and places: `files`.

Copy, then patch: the output begins as a byte copy of the input, so that every tag, page and pixel is there already, and
only blocks (tiles or strips) that hold a fill are encoded again, each of them once. Until then, what was read of the
input and what was laid on it wait in a scratch file beside the output, decoded; the input is only ever read, each block
once (JPEG: once more, to compare). What GDAL cannot update soundly is written anew.

Nothing is taken to be written until it has been read back.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from pconv_cli import _anew, _gdal, files
from pconv_cli._ifd import Directory, Value, graft, part_shared, shared
from pconv_cli._pages import Pages
from pconv_cli.companions import without_statistics
from pconv_cli.encoders import JPEG, threads
from pconv_cli.errors import ItemError, Loss, unseen
from pconv_cli.regions import Window
from pconv_cli.spaces import is_ranged, next_to
from pconv_cli.tiff import NOTES, XMP, Source, ahead

_CLASSIC_LIMIT = 2**32 - 2**24  # bytes; a classic TIFF counts its positions in 32 bits


class Canvas:
    """What a big picture is becoming: the source underneath, fills on top.

    A context manager; leaving it without `commit` removes every temporary file. Reading and laying are safe from
    several threads.

    Attributes:
        outside_changed: Pixels that are not as they were although nothing was laid there, counted in what was written,
            after it has been read back: 0 but for JPEG-compressed blocks. Others have a checksum to agree with.
    """

    def __init__(
        self, source: Source, output: Path, *, overwrite: bool, mark_valid: bool = False, as_laid: bool = False,
        to_see: str = "leave out the mask",
    ) -> None:  # fmt: skip
        """Make sure of the output's place, and hold it with a scratch file beside it.

        Args:
            source: What is restored; it must stay open until after `commit`.
            output: Where to; folders are made.
            overwrite: Whether a file that is there may be replaced.
            mark_valid: Whether filled pixels are to count as picture from then on: alpha full, mask band 255.
            as_laid: Whether a fill that has the nodata value is meant to be nothing; else it is moved off it.
            to_see: What to do if damage is what counts as no picture, for people.

        Raises:
            ItemError: The output exists, is the source, is no .tif or .tiff, or its folder cannot be written.
        """
        self._source, self._output, self._overwrite = source, output, overwrite
        self._mark, self._as_laid, self._to_see = mark_valid, as_laid, to_see
        self._done = False
        self._hidden = 0  # filled pixels that the output says are not there
        self.outside_changed = 0
        if output.suffix.lower() not in (".tif", ".tiff"):
            raise ItemError(output, f"pictures this big are written as TIFF, not '{output.suffix}': name it .tif")
        _gdal.encodable(output)
        with _gdal.writing(output):
            files.refuse_same(source.path, output)
            files.refuse_taken(output, overwrite=overwrite)
            source.companions.refuse_taken(output, overwrite=overwrite)
            output.parent.mkdir(parents=True, exist_ok=True)
            self._held = files.Held(output)
            files.keep_rights(Path(self._held.stream.name), source.path, output)
        self._pages = Pages(self._held.stream, source)
        self._copying = _Copying(source.path, self._held.second, output)

    def read(self, window: Window) -> NDArray[Any]:
        """Read a window, what was laid included.

        Args:
            window: Part of the picture; it must not reach beyond.

        Returns:
            (h, w, bands) in the file's own type.

        Raises:
            ItemError: The source is damaged there or gone, or the scratch file is.
            ValueError: The window reaches beyond the picture.
        """
        with _gdal.writing(self._output):
            return self._pages.read(window)

    def lay(self, window: Window, pixels: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """Lay pixels on top; what was laid there before is gone.

        Args:
            window: Part of the picture; it must not reach beyond.
            pixels: (h, w, bands) in the file's own type.
            where: (h, w), True where they are to be taken.

        Raises:
            ItemError: The disk says no.
            ValueError: Shapes or types do not fit, or the window reaches beyond the picture.
        """
        self._source.refuse_beyond(window)
        shape = (window.height, window.width)
        if pixels.shape != (*shape, self._source.bands) or pixels.dtype != self._source.dtype:
            wanted = f"{(*shape, self._source.bands)} {self._source.dtype}"
            raise ValueError(f"need pixels {wanted}, got {pixels.shape} {pixels.dtype}")
        if where.shape != shape or where.dtype != np.bool_:
            raise ValueError(f"need where {shape} bool, got {where.shape} {where.dtype}")
        if self._source.in_place:
            self._copying.begin()
        with _gdal.writing(self._output):
            self._pages.lay(window, pixels, where)

    def room(self, windows: Iterable[Window]) -> int:
        """Bytes that the output and what is decoded meanwhile take beside each other, at least.

        Args:
            windows: What will be read or laid.
        """
        return self._source.path.stat().st_size + self._pages.room(windows)

    def commit(
        self, *, ready: Callable[[Path, Sequence[str]], None] | None = None, xmp: bytes | None = None
    ) -> tuple[str, ...]:
        """Write the output, all of it or nothing.

        Args:
            ready: Called with the finished file just before it gets its name, and what will be returned.
            xmp: A packet that takes the place of the source's own; None: that stays.

        Returns:
            What in the output is not as one might expect, one line each.

        Raises:
            ItemError: The source cannot be read or was changed meanwhile, somebody else has taken the output's name, or
                the disk says no.
            ValueError: It was committed already.
        """
        if self._done:
            raise ValueError("committed already")
        source, part = self._source, self._copying.target
        self._hidden = self.outside_changed = 0  # it may be tried again
        source.refuse_changed()
        try:
            with _gdal.writing(self._output), _gdal.settings():
                why = source.why_anew or self._why_no_room()
                notices = list(source.notices_anew if why else source.notices)
                if why:
                    self._copying.stop()
                    written = self._write_anew(part, why, notices)
                    files.keep_rights(part, source.path, self._output)
                else:
                    written = self._patch_copy(part, notices)
                if self._hidden:
                    who = "mask band" if source.own_mask or source.alpha is None else "alpha"
                    what = f"filled but not to be seen, for its {who} stays as it is"
                    notices.append(unseen(what, self._hidden, self._to_see))
                if written:
                    notices += () if why else source.stale
                    self._rebuild_overviews(part, notices, patched=not why)
                told: dict[int, Value] = {} if xmp is None else {XMP: (1, len(xmp), xmp)}
                graft(part, told | (self._uncounted(part) if self._pages.laid() else {}))
                with ThreadPoolExecutor(1, "flush") as pool:
                    flushed = pool.submit(files.flush, part)
                    self._read_back(part, written)
                    flushed.result()
                notices += source.companions.stale(self._output)
                if ready is not None:
                    ready(part, notices)
                with source.companions.beside(self._output, overwrite=self._overwrite):
                    files.place(part, self._output, overwrite=self._overwrite)
        finally:
            self._copying.stop()
        self._done = True
        self.close()
        return tuple(notices)

    def close(self) -> None:
        """Remove the scratch file; what was not committed is gone."""
        self._copying.stop()
        self._held.close()

    def __enter__(self) -> Canvas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _merged(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels of a window as the output is to have them, and where any were laid."""
        source = self._source
        pixels, where = self._pages.merged(window)
        if where.any():
            empty = where & source.is_nothing(pixels) if self._as_laid else np.zeros_like(where)
            if self._mark and source.alpha is not None:
                pixels[where & ~empty, source.alpha] = source.opaque
            if source.nothing is not None and source.palette is None and not self._as_laid:
                hit = where.copy()  # a fill that is it by chance would be a hole
                for band in source.colours:
                    hit &= pixels[..., band] == source.nothing
                for band in source.colours if is_ranged(source.dtype) else source.colours[-1:]:
                    pixels[hit, band] = next_to(source.nothing, source.dtype)
        return pixels, where

    def _touched(self, across: int, down: int) -> list[Window]:
        """Blocks of a grid in which anything may have been laid, in the order of the file."""
        width, height = self._source.width, self._source.height
        found = {
            (y, x)
            for laid in self._pages.laid()
            for y in range(laid.y // down, -(-min(laid.bottom, height) // down))
            for x in range(laid.x // across, -(-min(laid.right, width) // across))
        }
        return [
            Window(x * across, y * down, min(across, width - x * across), min(down, height - y * down))
            for y, x in sorted(found)
        ]

    def _touched_numbers(self) -> list[int]:
        """The same of the blocks that the file itself has, by their numbers in it."""
        source, tiff = self._source, self._source.tiff
        assert tiff is not None
        across, down = source.width, min(max(tiff.number(278, source.height), 1), source.height)
        if 322 in tiff.entries:
            across, down = tiff.number(322), tiff.number(323)
        columns, rows = -(-source.width // across), -(-source.height // down)
        planes = source.bands if tiff.number(284, 1) == 2 else 1
        numbers = [window.y // down * columns + window.x // across for window in self._touched(across, down)]
        return [plane * columns * rows + number for plane in range(planes) for number in numbers]

    def _why_no_room(self) -> str:
        """Why a copy would grow beyond what its kind of TIFF can hold; empty if it will not."""
        source = self._source
        assert source.tiff is not None
        if source.tiff.big:
            return ""
        with source.raster() as raster:
            down, across = raster.block_shapes[0]
            growth = sum(block.area for block in self._touched(across, down)) * source.bands * source.dtype.itemsize
            size = source.path.stat().st_size
            growth += size // 3 if raster.overviews(1) else 0
            growth += sum(sum(found.lengths) for found in shared(source.path, self._touched_numbers()))
        return "" if size + growth < _CLASSIC_LIMIT else "it would grow beyond the 4 GiB that a classic TIFF can hold"

    def _patch_copy(self, part: Path, notices: list[str]) -> dict[Window, int | None]:
        """Copy the file and write the blocks that hold fills; what was written, with a checksum where it must agree."""
        source = self._source
        written: dict[Window, int | None] = {}
        assert source.tiff is not None
        with _gdal.reading(source.path):
            source.path.open("rb").close()  # its absence is the source's fault, whatever else fails the output's
        self._copying.wait()
        encoded = 0
        jpeg = source.tiff.number(259, 1) == JPEG
        part_shared(part, self._touched_numbers())  # GDAL writes a block over the bytes that it had, if it fits there
        if source.jpeg_tables:
            graft(part, {347: (7, len(source.jpeg_tables), source.jpeg_tables)})
        with closing(self._to_update(part)) as raster:
            down, across = raster.block_shapes[0]
            planar = source.tiff.number(284, 1) == 2
            for window, (pixels, where) in ahead(self._merged, self._touched(across, down)):
                bands = list(range(source.bands)) if where.any() else []
                if bands and (jpeg or planar):
                    # What is not encoded again cannot lose by it; and every plane has blocks of its own.
                    before = source.read(window)
                    changed = [band for band in bands if (pixels[..., band] != before[..., band]).any()]
                    bands = changed if planar or not changed else bands
                if bands:
                    planes = np.moveaxis(pixels[..., bands], -1, 0)
                    raster.write(planes, [band + 1 for band in bands], window=_gdal.window(window))
                    encoded += 1
                if self._mark_mask(raster, window, pixels, where) or bands:
                    written[window] = None if jpeg else _gdal.checksum(pixels)
        if jpeg and encoded:
            notices.append(source.encoded_again(encoded))
        return written

    def _to_update(self, part: Path) -> Any:
        """The copy, open to be written to."""
        options = threads(Directory.first(part))
        return _gdal.open(part, "r+", raw=self._source.raw, IGNORE_COG_LAYOUT_BREAK="YES", **options)

    def _mark_mask(self, raster: Any, window: Window, pixels: NDArray[Any], where: NDArray[np.bool_]) -> bool:
        """Let the file's own mask show what was filled, if it is to; whether that is new."""
        marked = False
        mask = self._source.mask(window) if self._source.own_mask and where.any() else None
        if mask is not None and self._mark:
            filled = where & ~self._source.is_nothing(pixels)
            if (mask[filled] != 255).any():
                mask[filled] = 255
                raster.write_mask(mask, window=_gdal.window(window))
                marked = True
        self._count_hidden(pixels, where, mask)
        return marked

    def _count_hidden(self, pixels: NDArray[Any], where: NDArray[np.bool_], mask: NDArray[np.uint8] | None) -> None:
        """Count what was filled, but for what is meant to be nothing, and is not to be seen as alpha or the mask is."""
        alpha = self._source.alpha
        plane = mask if mask is not None else None if alpha is None else pixels[..., alpha]
        if plane is not None and where.any():
            hidden = where & (plane <= 0)
            hidden &= ~self._source.is_nothing(pixels) if self._as_laid else True
            self._hidden += int(np.count_nonzero(hidden))

    def _write_anew(self, part: Path, why: str, notices: list[str]) -> dict[Window, int | None]:
        """Write a new TIFF with everything that can be kept, rows of blocks from top to bottom."""
        source = self._source
        row = source.width * source.bands * source.dtype.itemsize
        side = next((side for side in (512, 256, 128, 64, 32) if side * row <= _gdal.STRIP), 16)
        mask = source.validity == "mask band"
        written: dict[Window, int | None] = {}
        with source.raster() as raster:
            profile = _anew.profile(raster, source, side)
            describe = _anew.description(raster, palette=profile["photometric"] == "PALETTE")
            kinds = raster.colorinterp
        with closing(_gdal.open(part, "w", **profile)) as target:
            describe(target)
            for y in range(0, source.height, side):
                strip = Window(0, y, source.width, min(side, source.height - y))
                pixels, where = self._merged(strip)
                shown = source.mask(strip) if mask else None
                if shown is not None and self._mark:
                    shown[where & ~source.is_nothing(pixels)] = 255
                self._count_hidden(pixels, where, shown)
                # Block by block: of wider pieces GDAL may flush blocks half full, and encode them twice.
                for x in range(0, source.width, side):
                    window = Window(x, y, min(side, source.width - x), strip.height)
                    block = pixels[:, x : window.right]
                    target.write(np.moveaxis(block, -1, 0), window=_gdal.window(window))
                    written[window] = _gdal.checksum(block)
                if shown is not None:
                    target.write_mask(shown, window=_gdal.window(strip))
            differ = source.palette is None and target.colorinterp != kinds
        if differ:  # said of a file that is being made, it would be forgotten
            with closing(_gdal.open(part, "r+", raw=source.raw)) as target:
                target.colorinterp = kinds
        lost = _anew.carry_tags(source, part)
        losses = f"; lost: {', '.join(lost)}" if lost else ""
        kind = Loss if lost else str
        notices.append(kind(f"written anew as a deflate TIFF in blocks of {side} pixels, because {why}{losses}"))
        return written

    def _rebuild_overviews(self, part: Path, notices: list[str], *, patched: bool) -> None:
        """Smaller views inside the file still show the damage: make them again."""
        source = self._source
        with source.raster() as raster:
            own = raster.driver == "GTiff" and not any(name.endswith(".ovr") for name in raster.files[1:])
            factors = raster.overviews(1) if own else []
            tiff = source.tiff if patched else None
            # GDAL passes over those that are of another type.
            alike = tiff is None or any(view.is_view_of(tiff) for view in tiff.previews())
        if not factors or not alike:
            return
        with _gdal.reading(source.path), closing(_gdal.open(source.path, raw=source.raw, OVERVIEW_LEVEL=0)) as raster:
            name = raster.tags(1).get("RESAMPLING", "")
        method = getattr(Resampling, name.lower(), None)
        if method is None and source.palette is not None:
            method = Resampling.nearest
        if method is None:
            notices.append("overviews were made anew by averaging: the file does not say how they were made")
        with closing(self._to_update(part)) as raster:
            raster.build_overviews(factors, Resampling.average if method is None else method)

    @staticmethod
    def _uncounted(part: Path) -> dict[int, Value]:
        """GDAL's notes in the file without statistics of the damaged pixels, where they hold any."""
        made = Directory.first(part)
        kind, _, notes = made.value(NOTES, 2**26) if NOTES in made.entries else (2, 0, b"")
        kept = without_statistics(notes)
        return {NOTES: (kind, len(kept), kept)} if kept != notes else {}

    def _read_back(self, part: Path, written: dict[Window, int | None]) -> None:
        """Make sure that the file can be read and holds what was written."""
        source = self._source
        try:
            with Source(part) as made:
                if (made.width, made.height, made.bands) != (source.width, source.height, source.bands):
                    raise _gdal.lost()
                for window, pixels in ahead(made.read, list(written)):
                    checksum = written[window]
                    # What has its checksum is, outside the fills, what was read: there is nothing to count.
                    lost = checksum is not None and _gdal.checksum(pixels) != checksum
                    if checksum is None or (self._mark and source.own_mask):
                        wanted, where = self._merged(window)
                    if checksum is None:
                        before = source.read(window)
                        changed = (before != pixels).any(axis=-1)
                        self.outside_changed += int((changed & ~where).sum())
                        # The one thing to be told of a JPEG block: whether it is still the old one.
                        lost = not changed.any() and _farthest(before, wanted) > 32
                    if self._mark and source.own_mask:
                        lost = lost or bool((made.mask(window)[where] != 255).any())
                    if lost:
                        raise _gdal.lost()
                with made.raster() as raster:
                    levels = len(raster.overviews(1))
        except ItemError as error:
            # A file of ours that cannot be read was not written.
            if error.path == str(part) and error.__cause__ is not None:
                raise _gdal.not_kept(self._output, error.__cause__) from error.__cause__
            raise
        for level in range(levels):
            with closing(_gdal.open(part, raw=source.raw, OVERVIEW_LEVEL=level)) as raster:
                for _ in _gdal.rows(raster):  # what can be decoded will do
                    pass


class _Copying:
    """A file that is copied by a thread of its own, so that the disk works while tiles are computed."""

    def __init__(self, source: Path, target: Path, result: Path) -> None:
        self.target = target
        self._source, self._result = source, result
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Begin, unless that was done before."""
        with self._lock:
            if self._thread is None:
                self._stopped.clear()
                self._error = None
                self._thread = threading.Thread(target=self._run, name="copy")
                self._thread.start()

    def wait(self) -> None:
        """Wait until the copy is there.

        Raises:
            OSError: It cannot be made.
        """
        self.begin()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop at once and remove the copy."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.target.unlink(missing_ok=True)

    def _run(self) -> None:
        try:
            _copy(self._source, self.target, self._result, self._stopped.is_set)
        except BaseException as error:
            self._error = error


def _copy(source: Path, target: Path, result: Path, stopped: Callable[[], bool]) -> None:
    """Copy a file; where one with gaps has none but zeros for a megabyte, the copy has a gap."""
    with source.open("rb") as stream, target.open("xb") as out:
        files.keep_rights(target, source, result)
        status = os.fstat(stream.fileno())
        gaps = getattr(status, "st_blocks", status.st_size) * 512 < status.st_size
        while not stopped() and (chunk := stream.read(1 << 20)):
            if gaps and chunk.count(0) == len(chunk):
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        out.truncate()


def _farthest(one: NDArray[Any], other: NDArray[Any]) -> int:
    """The largest difference of two arrays of integers."""
    return int(np.abs(one.astype(np.int32) - other).max())
