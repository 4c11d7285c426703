"""One picture from reading to writing: read, plan, cut into tiles, take what was filled, write, and note it down.

Knows pictures, masks, plans, what belongs beside a result, and the journal. Does not know: networks, devices, other
pictures, in what order or in which process things are done, the terminal.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pconv_cli import beside, files, halo, provenance
from pconv_cli import weights as store
from pconv_cli.companions import Companions
from pconv_cli.detection import MUCH_DETECTED, Detect
from pconv_cli.drawings import write_map, write_mask
from pconv_cli.errors import CHANGED, OURS, TAKEN, ItemError, Loss, refuse_losses, unwritable
from pconv_cli.filling import ArraySurface, Filling, Piece, Shape
from pconv_cli.images import (
    is_tiff,
    looks_like_a_photograph,
    may_be_deep,
    orientation,
    probe,
    read_mask,
    read_picture,
    same_format,
)
from pconv_cli.jobs import Job
from pconv_cli.journal import Contents, Journal, Signature
from pconv_cli.layers import Layer, Raw, View, filling_gaps, viewed
from pconv_cli.marks import Unmarked
from pconv_cli.masks import dilate
from pconv_cli.orientations import EITHER, could_be_either
from pconv_cli.picture import MaskImage, Picture, align_mask
from pconv_cli.process import memory_available
from pconv_cli.regions import Window
from pconv_cli.remote import Stage
from pconv_cli.report import ItemReport, Status, peak_memory, rounded
from pconv_cli.settings import BY_NODATA, FAINT, GREY, Settings, too_large
from pconv_cli.tiles import plan_tiles
from pconv_cli.writing import Ready, Written, copy_file, foreseen, stamped, write_picture

WAY_OUT = "try another --format, or leave it out"

# Picture, colours, fill, two masks, and what encoding and reading back take; of 8 bits, and of 16 or of float.
BYTES_PER_PIXEL, BYTES_PER_DEEP_PIXEL = 24, 64
BYTES_PER_BYTE = 8  # the same, of a TIFF, whose pixels may have any number of bands
BYTES_PER_MAPPED_PIXEL = 10  # what is known, what was restored, steps, and a map of them on its way into a file


@dataclass(frozen=True)
class RestoreSettings(Settings):
    """How to restore pictures, beyond what all ways of restoring share.

    Attributes:
        format: A key of `images.FORMATS` for the outputs, or None to keep each picture's own.
        resume: Leave out what an earlier run has done, from the same content, with the same settings and weights.
        max_failures: How many pictures may fail before no other is begun; None: any number.
        failed_list: Where to list the pictures that failed, as a manifest.
        listed_by: The manifest that all pictures come from, which such a list may replace if it is one itself.
        max_megapixels: Pictures and masks larger than that are refused; 0: none are.
        detect: What is found by what it looks like; None: damage is marked.
        save_masks: A folder for what was detected, as masks.
    """

    format: str | None = None
    resume: bool = False
    max_failures: int | None = None
    failed_list: Path | None = None
    listed_by: Path | None = None
    max_megapixels: float = 1000
    detect: Detect | None = None
    save_masks: Path | None = None

    @property
    def much(self) -> float:
        """Dust and scratches are little: what takes more may be a page of print."""
        return super().much if self.detect is None else MUCH_DETECTED

    @property
    def reading(self) -> str:
        """See `Settings.reading`."""
        return super().reading if self.detect is None else f"detected as {self.detect}"

    @property
    def way_out(self) -> str:
        """See `Settings.way_out`."""
        return super().way_out if self.detect is None else "use a lower --sensitivity"

    def told(self) -> dict[str, str | int | bool]:
        """What decides the result, for a report; weights and device aside."""
        return super().told() | ({} if self.detect is None else {"detect": str(self.detect)})


@dataclass(eq=False)
class Planned:
    """One picture in memory, and what is going to be filled in it.

    Attributes:
        picture: What it was, told what is damaged.
        hole: (h, w), True where damaged.
        layers: What is filled.
        fillings: One for each layer.
        pieces: The rounds that are left, once they have begun.
    """

    picture: Picture
    hole: NDArray[np.bool_]
    layers: tuple[Layer, ...]
    fillings: list[Filling]
    pieces: Iterator[Sequence[Piece]] | None = field(default=None, init=False)

    @classmethod
    def of(
        cls, picture: Picture, hole: NDArray[np.bool_], visible: NDArray[np.bool_] | None, settings: Settings,
        view: View,
    ) -> Planned:  # fmt: skip
        """Plan how to fill a picture.

        Args:
            picture: The picture.
            hole: (h, w), True where damaged.
            visible: (h, w), where the picture shows anything; None: everywhere. Something outside the hole must.
            settings: How.
            view: How the network looks at pictures.

        Raises:
            ValueError: The network cannot look at such a picture; the message goes on after the picture's name.
        """
        by_value = _by_value(settings, view)
        tiled = partial(plan_tiles, size=settings.tile_size, whole=view.whole, overlap=settings.overlap)
        plan = None if by_value else tiled(hole)
        picture = picture.known_outside(hole, None if plan is None else plan.windows)
        mark = settings.mask_from
        made = [layer for layer in picture.layers if mark is None or mark.index not in layer.channels]
        layers = viewed(made, view, picture.pixels.dtype, _nodata(picture, settings))
        if mark is not None and mark.kind == "nodata" and not (settings.invert_mask or settings.dilate):
            layers = filling_gaps(layers, picture.pixels.dtype, _nodata(picture, settings), picture.nodata)
        fillings = []
        for layer in layers:
            seen = picture.seen(layer)
            fill = seen.copy() if np.may_share_memory(seen, picture.pixels) else seen
            grey = not view.raw and fill.shape[2] == 3 and len(layer.channels) == 1 and picture.mode not in "1P"
            surface = ArraySurface(fill, visible, grey=grey)
            own = plan
            if own is None:  # each layer has holes of its own
                empty = dilate(np.isnan(seen).any(axis=2), settings.dilate)
                own = tiled(empty)
            fillings.append(Filling.of(surface, own, view, settings.overlap, layer))
        return cls(picture, hole, layers, fillings)

    @property
    def hugs_damage(self) -> bool:
        """Whether pixels beside the hole have its colour, before anything is filled."""
        filling = self.fillings[0]
        assert isinstance(filling.surface, ArraySurface)
        pixels = filling.surface.pixels
        windows = halo.sampled(filling.plan.windows)
        return halo.hugs((pixels[window.slices], self.hole[window.slices]) for window in windows)

    def rounds(self) -> Iterator[Sequence[Piece]]:
        """Tiles round by round, layer after layer."""
        for filling in self.fillings:
            yield from filling.rounds()

    def next_round(self) -> Sequence[tuple[Shape, Piece]]:
        """Tiles of the next round that has any, once all of those before have landed; none: all is filled."""
        if self.pieces is None:
            self.pieces = self.rounds()
        pieces = next((pieces for pieces in self.pieces if pieces), ())
        return [(piece.shape, piece) for piece in pieces]

    @property
    def planned(self) -> int:
        """Tiles to compute, those of guides left out."""
        return sum(filling.planned for filling in self.fillings)

    @property
    def to_compute(self) -> int:
        """Pixels in them."""
        return sum(filling.plan.pixels_to_compute for filling in self.fillings)

    @property
    def left(self) -> list[str]:
        """What there is to say, once all rounds have landed, of pixels that could not be filled."""
        return [filling.notice for filling in self.fillings if filling.notice]

    def restored(self, *, reveal: bool = False) -> NDArray[np.bool_]:
        """Which pixels hold something new, (h, w), once all rounds have landed; `reveal` as in `filled`."""
        return beside.restored(self.fillings, self._everywhere) & self.picture.taking(self.hole, reveal=reveal)

    def confidence(self, restored: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """How far those pixels are from what is known, (h, w), see `beside.confidence`."""
        steps = beside.confidence(self.fillings, self._everywhere, self.hole.shape)
        return np.where(restored, steps, np.uint8(0))

    @property
    def _everywhere(self) -> Window:
        return Window(0, 0, self.picture.width, self.picture.height)

    def filled(self, *, reveal: bool = False) -> Picture:
        """The picture, filled, once all rounds have landed; `reveal` as in `Picture.filled`."""
        fills = {}
        for layer, filling in zip(self.layers, self.fillings, strict=True):
            assert isinstance(filling.surface, ArraySurface)
            fills[layer] = filling.surface.pixels
        return self.picture.filled(fills, self.hole, reveal=reveal)


@dataclass(eq=False)
class Work(Planned):
    """One picture of a job between reading and writing; no `fillings` if it was done before.

    Attributes:
        states: Of picture and mask, from before they were read.
    """

    job: Job
    started: float
    states: Sequence[tuple[int, int] | None] = ()
    done_before: bool = False
    notices: tuple[str, ...] = ()
    sidecar: bytes = b""

    @classmethod
    def nothing(cls, job: Job) -> Work:
        """No work, for it was done before."""
        nothing = np.zeros((0, 0), np.bool_)
        return cls(Picture.nothing(job.image), nothing, (), [], job, time.monotonic(), done_before=True)

    def reported(self, status: Status, written: Written | None = None) -> ItemReport:
        """Tell what was done."""
        report, seconds = report_of(self.job, status), time.monotonic() - self.started
        if self.done_before:
            return report
        first, fillings = self.fillings[0], self.fillings
        report = replace(
            report, width=self.picture.width, height=self.picture.height, hole_share=round(float(self.hole.mean()), 6),
            windows=len(first.plan.windows), crossings=first.plan.crossings,
            notices=(*self.notices, *self.picture.notices, *(written.notices if written else ()), *self.left),
            space="; ".join(dict.fromkeys(layer.space.name for layer in self.layers)),
        )  # fmt: skip
        return replace(
            report, tiles=sum(filling.windows for filling in fillings),
            pixels_computed=sum(filling.pixels for filling in fillings),
            by_pyramid=sum(filling.by_pyramid for filling in fillings), seam_ratio=rounded(first.seams().ratio()),
            unfilled=sum(filling.unfilled for filling in fillings), seconds=round(seconds, 3),
            outside_mask_changed=written.outside_changed if written else 0,
            megapixels_per_second=rounded(self.hole.size / 1e6 / seconds), peak_memory_bytes=peak_memory(),
        )  # fmt: skip


class Reader:
    """Reads one picture and its mask, and plans: all that can be found out without computing.

    Attributes:
        own: Results found to be of this very run and of the same content, made by a process that did not live to tell:
            they are made once more.
    """

    def __init__(self, settings: RestoreSettings, view: View, journal: Journal | Notes | None = None) -> None:
        self.own: set[Path] = set()
        self._settings, self._view, self._journal = settings, view, journal

    def refuse_huge(self, path: Path) -> tuple[int, int]:
        """Width and height, from the head alone.

        Raises:
            ItemError: They are beyond the limit, or cannot be read.
        """
        width, height = probe(path)
        limit = self._settings.max_megapixels
        if limit and width * height > limit * 1e6:
            raise ItemError(path, f"{too_large(width, height, limit)}, or use `pconv tile`")
        return width, height

    def cost(self, job: Job) -> int:
        """Bytes of memory that a picture takes from reading to writing, from the heads of the files alone.

        Raises:
            ItemError: It is beyond the limit or all memory, does not fit its mask, or cannot be read.
        """
        width, height = self.refuse_huge(job.image)
        each = BYTES_PER_DEEP_PIXEL if may_be_deep(job.image) else BYTES_PER_PIXEL
        if is_tiff(job.image):
            from pconv_cli import tiff

            each = max(each, BYTES_PER_BYTE * tiff.pixel_bytes(job.image))
        cost = width * height * (each + BYTES_PER_MAPPED_PIXEL * bool(job.maps))
        free = memory_available()
        if free is not None and cost > free:
            sizes = f"takes some {cost / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are free"
            raise ItemError(job.image, f"{width} x {height} pixels: {sizes}: use `pconv tile`, which takes it in parts")
        if self._settings.mask_from is None and self._settings.detect is None and job.mask is not None:
            across, down = self.refuse_huge(job.mask)
            if sorted((across, down)) != sorted((width, height)):  # however it is turned
                reason = f"mask is {across} x {down}, the picture {width} x {height}: they must agree"
                raise ItemError(job.mask, f"{reason}; masks are never stretched")
        return cost

    def read(self, job: Job) -> Work:
        """Read one picture and its mask, and plan.

        Raises:
            ItemError: It cannot be restored.
        """
        settings = self._settings
        started, states = time.monotonic(), _states(job)
        if job.mask is None and settings.mask_from is None and settings.detect is None:
            raise ItemError(
                job.image,
                "no mask (NAME.*, NAME_mask.* or NAME.EXT.* in the masks folder, or the column mask of a list); "
                "give it one, all black if it is undamaged",
            )
        if os.path.lexists(job.output) and self.done_before(job):
            return Work.nothing(job)
        for path in job.maps:
            if os.path.lexists(path) and not self.may_replace(job, path):
                raise ItemError(path, "is there already; use --overwrite to replace it")
        picture = read_picture(job.image, linear=settings.linear)
        hole, visible, known = self._hole(job, picture)
        if hole.any() and not known.any():
            raise ItemError(
                job.mask or job.image,
                f"{'its ' + str(settings.mask_from) if settings.mask_from else 'it'} marks the whole picture as damaged"
                f" ({settings.reading}), so nothing is left to restore from; "
                + (
                    f"--dilate {settings.dilate} may be too much, or {settings.way_out}"
                    if settings.dilate
                    else settings.way_out
                ),
            )
        try:
            made = Planned.of(picture, hole, visible, settings, self._view)
        except ValueError as error:
            raise ItemError(job.image, str(error)) from error
        notices = self._notices(job, picture, hole)
        if not self._view.raw and made.hugs_damage:
            notices += (settings.hugging(),)
        return Work(made.picture, hole, made.layers, made.fillings, job, started, states, notices=notices)

    def done_before(self, job: Job) -> bool:
        """Tell whether a run before has done it, of an output that is there.

        Raises:
            ItemError: It has not, and the output must not be replaced.
        """
        settings, journal = self._settings, self._journal
        done = settings.resume and journal is not None and journal.done(job.image, job.mask, job.output)
        if done and (not is_tiff(job.image) or Companions.of(job.image).are_beside(job.output)):
            wrong = next((path for path in job.maps if not self._is_of(path, job)), None)
            if wrong is None:
                return True
            if not settings.overwrite:
                why = "is not there, and its picture done"
                also = ""
                if os.path.lexists(wrong):
                    why = "is not what was saved with its picture, which is done"
                    also = "; of a mask that was corrected, restore with its folder as MASKS instead, and --overwrite"
                raise ItemError(wrong, f"{why}: add --overwrite to make both again{also * (wrong == job.found)}")
        if settings.overwrite:
            return False
        if self.is_own(job, job.output):
            self.own.add(job.output)
            return False
        if journal is not None and journal.made(job.output):
            if settings.resume:
                why = _made_otherwise(journal.differences(job.image, job.mask, job.output))
                raise ItemError(job.output, f"{why}; add --overwrite to replace it")
            raise ItemError(job.output, OURS)
        raise ItemError(job.output, TAKEN)

    def _is_of(self, path: Path, job: Job) -> bool:
        """Whether a map is that of a result that is done."""
        journal = self._journal
        assert journal is not None
        if isinstance(journal, Notes) and journal.stage.holds(job.output):  # nothing is fetched to look into it
            return os.path.lexists(path)
        return journal.done(job.image, job.mask, path)

    def may_replace(self, job: Job, path: Path) -> bool:
        """Whether what may lie there, beside a result, may be written over: a run that was killed may have left it."""
        settings, journal = self._settings, self._journal
        made = settings.resume and journal is not None and journal.made(path)
        return settings.overwrite or made or self.is_own(job, path)

    def is_own(self, job: Job, path: Path) -> bool:
        """Whether what lies there was made of this job by this very run: see `own`."""
        return self._journal is not None and self._journal.made_in_this_run(job.image, job.mask, path)

    def _hole(
        self, job: Job, picture: Picture
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None, NDArray[np.bool_]]:
        """What is damaged, what shows anything, and what of that is known, (h, w) each."""
        settings, visible = self._settings, picture.visible()
        if self._view.raw:  # each band tells for itself where it holds nothing
            empty = np.isnan(Raw(picture.pixels.dtype, _nodata(picture, settings)).seen(picture.channels))
            somewhere: NDArray[np.bool_] = np.asarray(empty.any(axis=2))
            visible = None if visible is None else visible | somewhere
            if _by_value(settings, self._view):
                return dilate(somewhere, settings.dilate), None, np.asarray(~empty.all(axis=2))
        if settings.detect is not None:
            from pconv_cli import masking

            hole = masking.detected(picture, settings.detect)
        elif settings.mask_from is None:
            assert job.mask is not None
            hole = align_mask(read_mask(job.mask, inverted=settings.invert_mask), picture, settings.mask_on)
            if is_tiff(job.mask) and is_tiff(job.image):
                from pconv_cli.georeference import refuse_elsewhere
                from pconv_cli.tiff import Source

                with Source(job.image) as source:
                    refuse_elsewhere(job.mask, source)
        else:
            if picture.alpha is not None and settings.mask_from.index == picture.alpha:
                visible = None
            try:
                settings.mask_from.refuse_colours([layer.channels for layer in picture.layers], picture.pixels.dtype)
                hole = settings.mask_from.where(
                    picture.channels, picture.rgb, shown=visible, alpha=picture.alpha, nodata=picture.nodata
                )
            except Unmarked as error:
                raise ItemError(job.image, str(error)) from error
        if settings.invert_mask and (settings.detect is not None or settings.mask_from is not None):
            hole = ~hole
        hole = dilate(hole, settings.dilate)
        if visible is not None and settings.mask_from is not None and settings.mask_from.reveals:
            visible = None if (visible | hole).all() else visible | hole
        return hole, visible, ~hole if visible is None else ~hole & visible

    def _notices(self, job: Job, picture: Picture, hole: NDArray[np.bool_]) -> tuple[str, ...]:
        """What there is to say of a mask.

        Raises:
            ItemError: It marks nothing, though something is drawn on it.
        """
        if job.mask is None or self._settings.mask_from is not None:
            return ()
        if hole.any():
            told: tuple[str, ...] = (GREY,) if looks_like_a_photograph(job.mask, hole) else ()
            if self._settings.mask_on == "auto" and picture.orientation != 1:
                width, height = probe(job.mask)
                lying = (height, width), orientation(job.mask), (picture.height, picture.width), picture.orientation
                told += (EITHER,) if could_be_either(*lying) else ()
            return tuple(f"{job.mask} {what}" for what in told)
        from pconv_cli.strips import is_drawn_on, marks_by_nodata

        inverted, drawn, by_nodata = self._settings.invert_mask, False, False
        with suppress(ItemError):  # a kind of picture that can only be read whole
            drawn = is_drawn_on(job.mask, inverted=inverted)
            by_nodata = marks_by_nodata(job.mask, inverted=inverted)
        if drawn:
            raise ItemError(job.mask, FAINT)
        return (f"{job.mask} {BY_NODATA}",) if by_nodata else ()


def _made_otherwise(differences: frozenset[str]) -> str:
    """Say in what a result differs from what would be made now; see `Journal.differences`."""
    if not differences:
        return "was made from other content or with other settings"
    content = [word for name, word in (("image", "picture"), ("mask", "mask")) if name in differences]
    told = [f"of another {' and another '.join(content)}"] * bool(content)
    told += ["with other settings, weights or version"] * ("key" in differences)
    return f"was made {' and '.join(told)}"


def _by_value(settings: Settings, view: View) -> bool:
    """Whether damage is where there is no value: each layer of raw values has holes of its own then."""
    mark = settings.mask_from
    return view.raw and mark is not None and mark.kind == "nodata" and not settings.invert_mask


def _nodata(picture: Picture, settings: Settings) -> float | None:
    """The value that stands for nothing, beside NaN."""
    mark = settings.mask_from
    return picture.nodata if mark is None or mark.value is None else mark.value


class Told(NamedTuple):
    """What is to be known of a picture that was read: whether it was done before, its tiles, the share damaged."""

    done_before: bool
    planned: int
    share: float


class Bench:
    """Reads pictures, cuts them, writes what was filled and what belongs beside it, and notes down what is done."""

    def __init__(self, settings: RestoreSettings, view: View, journal: Journal | Notes | None) -> None:
        self._settings, self._journal = settings, journal
        self._reader = Reader(settings, view, journal)
        told = store.told(settings.weights) if settings.provenance else {}
        self._weights = (told.get("weights", ""), told.get("weights_sha256", ""))

    @classmethod
    def of(cls, settings: RestoreSettings, view: View, journal: tuple[Path, str, str, str] | None) -> Bench:
        """One in a process of its own, which opens the journal for itself, and has one core."""
        torch.set_num_threads(1)
        return cls(settings, view, None if journal is None else Journal(*journal))

    def cost(self, job: Job) -> int:
        """See `Reader.cost`."""
        return self._reader.cost(job)

    def read(self, job: Job) -> Work:
        """See `Reader.read`; what the format of the output cannot hold is refused before the work, too."""
        work = self._reader.read(job)
        if not work.done_before and work.hole.any():
            lost = foreseen(work.picture, job.output)
            if self._settings.strict:
                refuse_losses(job.image, lost, WAY_OUT)
        return work

    def told(self, work: Work) -> Told:
        """What whoever goes on with it is to know."""
        return Told(work.done_before, work.planned, 0.0 if work.done_before else float(work.hole.mean()))

    def pieces(self, work: Work) -> Sequence[tuple[Shape, Piece]]:
        """See `Planned.next_round`."""
        return work.next_round()

    def write(self, work: Work) -> ItemReport:
        """Write the result and what belongs beside it.

        Raises:
            ItemError: It cannot be written, or must not be.
        """
        job, settings = work.job, self._settings
        if work.done_before:
            return work.reported("done_before")

        own = job.output in self._reader.own

        def ready(part: Path, notices: Sequence[str]) -> None:
            if settings.strict:
                refuse_losses(job.image, notices, WAY_OUT)
            if own and os.path.lexists(job.output) and not self._reader.is_own(job, job.output):
                raise ItemError(job.output, TAKEN)  # by somebody else, since it was read
            of = self._contents(work)
            self._write_beside(work, of)
            self._record(of, job.output, part)

        overwrite = settings.overwrite or own
        try:
            return self._written(work, ready, overwrite=overwrite)
        except ItemError:
            # Another run may have made the same meanwhile.
            if overwrite or self._journal is None or not self._journal.done(job.image, job.mask, job.output):
                raise
            return report_of(job, "done_before")

    def _written(self, work: Work, ready: Ready, *, overwrite: bool) -> ItemReport:
        job = work.job
        if not work.hole.any() and same_format(job.image, job.output):
            told = copy_file(job.image, job.output, overwrite=overwrite, ready=ready)
            kept = tuple(notice for notice in work.picture.notices if not isinstance(notice, Loss))
            work.picture = replace(work.picture, notices=kept)  # a copy loses nothing
            return work.reported("copied", Written(told))
        picture, notices = self._stamped(work, work.filled(reveal=self._reveal))
        written = write_picture(picture, job.output, overwrite=overwrite, ready=ready)
        written = replace(written, notices=(*written.notices, *notices))
        return work.reported("restored" if work.hole.any() else "copied", written)

    @property
    def _reveal(self) -> bool:
        return self._settings.mask_from is not None and self._settings.mask_from.reveals

    def _stamped(self, work: Work, picture: Picture) -> tuple[Picture, Sequence[str]]:
        """The picture with its provenance, or that left with `work` for a sidecar; and what there is to say of it."""
        job, settings = work.job, self._settings
        if not (settings.provenance and work.hole.any()):
            return picture, ()
        count = int(work.restored(reveal=self._reveal).sum())
        mask, told_by = job.mask, ""
        if settings.mask_from is not None:
            mask, told_by = None, str(settings.mask_from)
        elif settings.detect is not None:
            mask, told_by = None, f"detection ({settings.detect})"
        entry = beside.entry(self._weights, mask, told_by, count, work.hole.shape, settings.dilate)
        name = beside.sidecar(job.output).name
        try:
            picture, work.sidecar = stamped(picture, job.output, lambda xmp: provenance.merged(xmp, entry))
        except ValueError as error:
            work.sidecar = provenance.merged(b"", entry)
            return picture, (f"its XMP {error}: it stays as it is, and the provenance is in {name}",)
        return picture, (f"the file has no place for its provenance, which is in {name}",) if work.sidecar else ()

    def _write_beside(self, work: Work, of: Contents | None) -> None:
        """Write what belongs beside a result that is finished and about to get its name."""
        job = work.job
        restored = work.restored(reveal=self._reveal) if job.filled or job.confidence else work.hole
        maps: dict[Path | None, Callable[[], NDArray[np.uint8]]] = {
            job.filled: lambda: beside.white(restored),
            job.confidence: lambda: work.confidence(restored),
        }
        for path, values in maps.items():
            if path is not None:
                write_map(
                    values(), path, work.picture, job.output, overwrite=self._reader.may_replace(job, path),
                    ready=self._recorder(of, path),
                )  # fmt: skip
        if job.found is not None:
            mask = MaskImage(job.found, work.hole, work.picture.orientation)
            write_mask(mask, overwrite=self._reader.may_replace(job, job.found), ready=self._recorder(of, job.found))
        if work.sidecar:
            path = beside.sidecar(job.output)
            beside.write_sidecar(
                work.sidecar, job.output, overwrite=self._reader.may_replace(job, path),
                ready=lambda part: self._record(of, path, part),
            )  # fmt: skip

    def _contents(self, work: Work) -> Contents | None:
        """What picture and mask hold, which is what was read: for the journal, if there is one.

        Raises:
            ItemError: One was changed meanwhile, or cannot be read.
        """
        job, journal = work.job, self._journal
        try:
            return None if journal is None else journal.contents(job.image, job.mask)
        except OSError as error:
            raise _unnoted(job.image, error) from error
        finally:  # after it was looked at: what comes now does not count
            for path, before, now in zip((job.image, job.mask), work.states, _states(job), strict=True):
                if now != before:
                    raise ItemError(str(path), CHANGED)

    def _recorder(self, of: Contents | None, target: Path) -> Ready:
        return lambda part, _: self._record(of, target, part)

    def _record(self, of: Contents | None, target: Path, part: Path) -> None:
        """Note down what is about to get its name."""
        if self._journal is not None and of is not None:
            try:
                self._journal.record(of, target, part)
            except OSError as error:
                raise _unnoted(target, error) from error


def _unnoted(path: Path, error: OSError) -> ItemError:
    why = files.why_unwritable(error) or str(error)
    return unwritable(path, error, f"cannot be noted down as done, so it was not written: {why}")


def _states(job: Job) -> list[tuple[int, int] | None]:
    """Of picture and mask; None where there is none, or it cannot be looked at."""
    states: list[tuple[int, int] | None] = [None, None]
    for number, path in enumerate((job.image, job.mask)):
        with suppress(OSError):
            states[number] = None if path is None else files.state(path)
    return states


class StagedBench(Bench):
    """The same, where some files are elsewhere: they are fetched before, and delivered after."""

    def __init__(self, settings: RestoreSettings, view: View, notes: Notes) -> None:
        super().__init__(settings, view, notes)
        self._notes, self._stage, self._done = notes, notes.stage, set[Path]()

    def cost(self, job: Job) -> int:
        """See `Reader.cost`; fetches what is elsewhere."""
        stage, settings = self._stage, self._settings
        may_be_done = stage.holds(job.output) and (settings.resume or not settings.overwrite)
        if may_be_done and stage.note(job.output) is not None and self._reader.done_before(job):
            self._done.add(job.output)  # before anything is fetched
            return 0
        if stage.holds(job.output):
            self._notes.of(job.image, job.mask, job.output)  # before: what changes now must not pass for what was read
        for path in (job.image, job.mask):
            if path is not None:
                stage.fetch(path, job.output)
        return super().cost(job)

    def read(self, job: Job) -> Work:
        """See `Reader.read`."""
        return Work.nothing(job) if job.output in self._done else super().read(job)

    def _written(self, work: Work, ready: Ready, *, overwrite: bool) -> ItemReport:
        job, report = work.job, super()._written(work, ready, overwrite=overwrite)
        if self._stage.holds(job.output):
            note, run = self._notes.of(job.image, job.mask, job.output), self._notes.run
            if work.sidecar:
                path = beside.sidecar(job.output)
                self._stage.deliver(path, note, run, overwrite=overwrite)
                path.unlink()
            self._stage.deliver(job.output, note, run, overwrite=overwrite)
        return report


class Notes:
    """What is done, as a `Journal` tells it: of outputs elsewhere by the notes that they carry, of others by theirs."""

    def __init__(self, stage: Stage, signature: Signature, journal: Journal | None) -> None:
        self.stage, self.run, self._key, self._journal = stage, signature.run, signature.key, journal

    def of(self, image: Path, mask: Path | None, output: Path) -> str:
        """What is noted with an output that is made of these."""
        states = [None if path is None else self.stage.state(path, output) for path in (image, mask)]
        return hashlib.sha256(json.dumps([self._key, *states]).encode()).hexdigest()

    def done(self, image: Path, mask: Path | None, output: Path) -> bool:
        """See `Journal.done`."""
        if not self.stage.holds(output):
            return self._journal is not None and self._journal.done(image, mask, output)
        return self.stage.note(output) == self.of(image, mask, output)

    def made(self, output: Path) -> bool:
        """See `Journal.made`."""
        if not self.stage.holds(output):
            return self._journal is not None and self._journal.made(output)
        return bool(self.stage.note(output))

    def made_in_this_run(self, image: Path, mask: Path | None, output: Path) -> bool:
        """See `Journal.made_in_this_run`."""
        if not self.stage.holds(output):
            return self._journal is not None and self._journal.made_in_this_run(image, mask, output)
        return bool(self.run) and self.stage.run(output) == self.run and self.done(image, mask, output)

    def differences(self, image: Path, mask: Path | None, output: Path) -> frozenset[str]:
        """See `Journal.differences`; of outputs elsewhere nobody knows."""
        if self._journal is None or self.stage.holds(output):
            return frozenset()
        return self._journal.differences(image, mask, output)

    def contents(self, image: Path, mask: Path | None) -> Contents | None:
        """See `Journal.contents`."""
        return None if self._journal is None else self._journal.contents(image, mask)

    def record(self, of: Contents, output: Path, part: Path) -> None:
        """See `Journal.record`."""
        if self._journal is not None and not self.stage.holds(output):
            self._journal.record(of, output, part)


def report_of(job: Job, status: Status, path: str | None = None, reason: str | None = None) -> ItemReport:
    """What is known of a picture before anything was done to it, and how it ended."""
    mask = None if job.mask is None else str(job.mask)
    return ItemReport(job.name, str(job.image), mask, str(job.output), status, path=path, reason=reason)
