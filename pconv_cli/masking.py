"""Make masks: what happens, in order.

Pictures are read, what is damaged in them is found or read off, grown, kept off what is protected, and written as masks
that `restore` and `tile` take. Knows every step and none of their workings. Does not know: the terminal, options'
spelling, exit codes.

A TIFF beyond `IN_STRIPS`, or memory, is read and written in strips: what is damaged in it is held as runs of pixels.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pconv_cli import __version__, files, infrared, strips, tiff
from pconv_cli.colours import as_bytes
from pconv_cli.detection import MUCH_DETECTED, Detect, find_in_rows, opencv
from pconv_cli.drawings import write_mask, write_png
from pconv_cli.errors import ItemError, UsageError, failure
from pconv_cli.events import ItemFailed, Listener, MaskMade, MasksFinished, MasksStarted, Notice
from pconv_cli.georeference import placement
from pconv_cli.images import (
    READ_SUFFIXES,
    is_tiff,
    may_be_deep,
    orientation,
    probe,
    read_mask,
    read_picture,
)
from pconv_cli.jobs import Job, JobList, among, find_jobs
from pconv_cli.layers import ranged_by, stretched
from pconv_cli.marks import FORMS, Mark, Unmarked
from pconv_cli.marks import parse as parse_mark
from pconv_cli.masks import dilate, dilated_strips, turned_strips
from pconv_cli.orientations import displayed, displayed_size, over
from pconv_cli.picture import MaskImage, Picture, align_mask
from pconv_cli.pipeline import Budget
from pconv_cli.process import memory_available
from pconv_cli.regions import Damage, Window
from pconv_cli.report import collecting, json_line
from pconv_cli.settings import too_large
from pconv_cli.spaces import is_ranged
from pconv_cli.tiff import Source

SUFFIX = ".png"
"""Of masks, unless a single one is given a name."""

MASK_SUFFIXES = (".png", ".tif", ".tiff")

IN_STRIPS = 100_000_000
"""Pixels from which on a TIFF is read and written in strips."""

SOFT = 1
"""Pixels that detected damage is grown by in any case: its edges are soft."""

_IN_FLIGHT = 1 << 30  # bytes of pictures that are looked at together
_BYTES_PER_PIXEL, _BYTES_PER_DEEP_PIXEL = 16, 40
_BYTES_PER_BYTE = 4  # of a TIFF, whose pixels may have any number of bands
_ROWS = 256  # of a mask that are written together
_VIEW = 2000  # pixels: longest side of the drawing of a picture that is read in strips
_PAINTS = ((255, 0, 255), (0, 255, 0), (255, 230, 0))

Hole = NDArray[np.bool_]


@dataclass(frozen=True)
class Infrared:
    """The channel of a film scan that shows nothing but dust; `band` counts from 1, None is the last one."""

    band: int | None = None

    def __str__(self) -> str:
        return "infrared" if self.band is None else f"infrared={self.band}"


@dataclass(frozen=True)
class MaskSettings:
    """How to make masks.

    Attributes:
        origin: Where damage is read off; None: it is detected.
        detect: What is detected; of its sensitivity infrared makes use as well.
        dilate: Pixels that damage is grown by.
        min_area: Pixels; what hangs together and is smaller is left out, before anything is grown.
        max_area: The same for what is larger; None: nothing is too large.
        overlay: A folder for pictures with the damage drawn over them, or a file for a single one.
        warn_above: Share of a picture; a mask that marks more is told of.
        linear: Values are linear in light where no colour profile says what they are.
        overwrite: Replace outputs that exist.
        resume: Leave out pictures whose mask is there, whoever made it.
        jobs: Pictures that are looked at side by side; None: as many as there are cores.
        max_megapixels: Larger pictures are refused; 0: none are.
    """

    origin: Mark | Infrared | None = None
    detect: Detect = field(default_factory=Detect)
    dilate: int = 0
    min_area: int = 0
    max_area: int | None = None
    overlay: str | None = None
    warn_above: float = MUCH_DETECTED
    linear: bool = False
    overwrite: bool = False
    resume: bool = False
    jobs: int | None = None
    max_megapixels: float = 1000

    @property
    def how(self) -> str:
        """Where damage comes from, in words."""
        return str(self.detect) if self.origin is None else str(self.origin)


def parse_origin(text: str) -> Mark | Infrared:
    """Read what stands after `--from`.

    Raises:
        UsageError: It is nothing that damage can be read off.
    """
    if match := re.fullmatch(r"infrared(?:=([1-9][0-9]{0,4}))?", text.strip()):
        return Infrared(None if match[1] is None else int(match[1]))
    try:
        return parse_mark(text)
    except UsageError:
        forms = FORMS.replace(" or band=N", ", band=N or infrared")
        raise UsageError(f"--from {text}: not a mark; use {forms}") from None


Status = Literal["made", "done_before", "failed", "not_done"]


@dataclass(frozen=True)
class MaskReport:
    """One mask: `status`, and for a failed one `reason` with the file at fault in `path`.

    Attributes:
        share: Of the picture that the mask marks.
        components: Places that were found, before they were grown.
        overlay: The drawing, if one was made.
        seconds: From reading to written.
    """

    name: str
    image: str
    output: str
    status: Status
    path: str | None = None
    reason: str | None = None
    width: int = 0
    height: int = 0
    share: float | None = None
    components: int | None = None
    overlay: str | None = None
    seconds: float = 0.0
    notices: tuple[str, ...] = ()

    def line(self) -> str:
        """One JSON object on a line."""
        return json_line({"type": "item", **asdict(self)})


@dataclass(frozen=True)
class MasksReport:
    """A finished run."""

    settings: MaskSettings
    items: tuple[MaskReport, ...]
    seconds: float
    interrupted: bool = False
    notices: tuple[str, ...] = ()

    def count(self, status: Status) -> int:
        """Masks with a status."""
        return sum(item.status == status for item in self.items)

    def summary(self) -> str:
        """One JSON object on a line: all but the items."""
        settings = self.settings
        statuses: tuple[Status, ...] = ("made", "done_before", "failed", "not_done")
        shares = [item.share for item in self.items if item.share is not None]
        return json_line(
            {
                "type": "summary",
                "pconv": __version__,
                **{status: self.count(status) for status in statuses},
                "items": len(self.items),
                "mean_share": round(sum(shares) / len(shares), 6) if shares else None,
                "above": sum(share > settings.warn_above for share in shares),
                "seconds": round(self.seconds, 3),
                "interrupted": self.interrupted,
                "notices": list(self.notices),
                "settings": {
                    "from": None if settings.origin is None else str(settings.origin),
                    "detect": list(settings.detect.kinds) if settings.origin is None else [],
                    "sensitivity": settings.detect.sensitivity,
                    "dilate": settings.dilate,
                    "min_area": settings.min_area,
                    "max_area": settings.max_area,
                    "warn_above": settings.warn_above,
                },
            }
        )


def plan(source: Path, protect: Path | None, output: str, settings: MaskSettings) -> JobList:
    """Pair pictures with masks of what is protected, and give each a mask to write, before any work starts.

    Args:
        source: A folder, or one picture.
        protect: A folder, or one mask for all; None: nothing is protected.
        output: A folder or, for a single picture, a file.
        settings: How.

    Raises:
        UsageError: If settings or names make no sense, nothing is there to protect by, OUT holds pictures of IN, or
            OpenCV is needed and not there.
        NothingToDo: If there is no picture.
    """
    if settings.max_area is not None and settings.max_area < settings.min_area:
        raise UsageError(f"--max-area {settings.max_area}: is below --min-area {settings.min_area}")
    if settings.origin is None or isinstance(settings.origin, Infrared):
        opencv()
    named = not source.is_dir() and Path(output).suffix.lower() in MASK_SUFFIXES
    suffix = None if named else SUFFIX
    todo = find_jobs(source, protect, output, suffixes=READ_SUFFIXES, out_suffix=suffix, full_names=True)
    if protect is not None and not todo.masks:
        raise UsageError(f"--protect {protect}: holds no masks, so nothing would be protected: check the path")
    left = among(source, Path(output), READ_SUFFIXES, [] if protect is None else [protect])
    masks = {os.path.realpath(job.output) for job in todo.jobs}
    others = [path for path in left if os.path.realpath(path) not in masks]
    if others and len(others) == len(left):  # masks have no journal: an earlier run is known by their names
        pictures = f"{others[0]} and {len(others) - 1} more would" if len(others) > 1 else f"{others[0]} would"
        raise UsageError(
            f"{output}: lies inside {source} and holds pictures, none of which is a mask of another: {pictures} be "
            "left out; choose another OUT"
        )
    return replace(todo, in_output=len(others))


def make(
    todo: JobList,
    settings: MaskSettings,
    emit: Listener,
    stop: Callable[[], bool] = lambda: False,
    each: Callable[[MaskReport], None] = lambda report: None,
) -> MasksReport:
    """Make masks. A picture that fails is reported and the others go on.

    Args:
        todo: What `plan` found.
        settings: How, the same.
        emit: Told of what happens.
        stop: Asked often; once it is true, no further picture is begun.
        each: Given the report of every mask as it is finished.

    Raises:
        OutputError: If masks cannot be written there.
    """
    started = time.monotonic()
    notices, emit = collecting(emit)
    overlays = _overlays(todo, settings)
    for folder in (todo.home, *({path.parent for path in overlays.values()} if overlays else ())):
        files.prepare(folder)
    emit(MasksStarted(len(todo.jobs), settings.how))
    if todo.left_out:
        emit(Notice(todo.left_out))
    if todo.in_output:
        emit(Notice(f"left out, for they lie in OUT and are no masks of the pictures: {todo.in_output} pictures"))
    if todo.unused:
        emit(Notice(todo.unused))
    if bare := sum(job.mask is None for job in todo.jobs) if todo.masks else 0:
        pictures = f"{bare} of {len(todo.jobs)} pictures" if len(todo.jobs) > 1 else "the picture"
        emit(Notice(f"nothing is protected in {pictures}: no mask of --protect pairs with it"))
    budget = Budget(_IN_FLIGHT)

    def one(job: Job) -> MaskReport:
        report = MaskReport(job.name, str(job.image), str(job.output), "not_done")
        if stop():
            return report
        if settings.resume and os.path.lexists(job.output):
            return replace(report, status="done_before")
        begun = time.monotonic()
        try:
            made = _made(job, settings, overlays.get(job.output), budget, report)
            return replace(made, status="made", seconds=round(time.monotonic() - begun, 3))
        except Exception as error:
            failed = failure(job.image, error)
            return replace(report, status="failed", path=failed.path, reason=failed.reason)

    items: list[MaskReport] = []
    with ThreadPoolExecutor(settings.jobs or os.cpu_count() or 1, "mask") as pool:
        for report in pool.map(one, todo.jobs):
            items.append(report)
            if report.status == "not_done":
                continue
            if report.status != "done_before":
                _tell(report, emit)
            each(report)
    made = [item for item in items if item.status == "made"]
    empty = sum(not item.components for item in made)
    if settings.origin is None and (missed := settings.detect.missed(empty, len(made))):
        emit(Notice(missed))
    whole = MasksReport(settings, tuple(items), time.monotonic() - started, stop(), tuple(notices))
    emit(
        MasksFinished(
            whole.count("made"),
            whole.count("failed"),
            whole.count("not_done"),
            whole.seconds,
            str(todo.jobs[0].output if len(todo.jobs) == 1 else todo.home),
            whole.count("done_before"),
        )
    )
    return whole


def detected(picture: Picture, detect: Detect) -> Hole:
    """What is damaged in a picture in memory, soft edges included: `(h, w)` as stored, True where damaged."""
    shown, colours = picture.visible(), picture.as_a_whole().rgb()
    found = find_in_rows(lambda top, bottom: colours[top:bottom], colours.shape[:2], detect)
    hole = dilate(found.window(Window(0, 0, found.width, found.height)), SOFT)
    return hole if shown is None else hole & shown


# ---------------------------------------------------------------- one picture


def _made(job: Job, settings: MaskSettings, overlay: Path | None, budget: Budget, report: MaskReport) -> MaskReport:
    width, height = probe(job.image)
    limit = settings.max_megapixels
    in_tiff = is_tiff(job.image)
    if width * height > IN_STRIPS and in_tiff:
        return _InStrips(job, settings, overlay).made(report)
    if limit and width * height > limit * 1e6:
        raise ItemError(job.image, too_large(width, height, limit))
    each = _BYTES_PER_DEEP_PIXEL if may_be_deep(job.image) else _BYTES_PER_PIXEL
    if in_tiff:
        each = max(each, _BYTES_PER_BYTE * tiff.pixel_bytes(job.image))
    cost = width * height * each
    free = memory_available()
    if free is not None and cost > free:
        if in_tiff:
            return _InStrips(job, settings, overlay).made(report)
        sizes = f"takes some {cost / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are free"
        raise ItemError(job.image, f"{width} x {height} pixels: {sizes}: save it as a TIFF, which is taken in strips")
    budget.acquire(cost)
    try:
        return _in_memory(job, settings, overlay, report)
    finally:
        budget.release(cost)


def _in_memory(job: Job, settings: MaskSettings, overlay: Path | None, report: MaskReport) -> MaskReport:
    _refuse_taken(job.output, settings)
    if overlay is not None:
        _refuse_taken(overlay, settings)
    picture = read_picture(job.image, linear=settings.linear)
    notices: list[str] = []
    by_mark = isinstance(settings.origin, Mark)  # which means the same to who restores
    damage, components = _limited(_found(picture if by_mark else picture.as_a_whole(), settings, notices), settings)
    hole = dilate(damage.window(Window(0, 0, damage.width, damage.height)), _growth(settings))
    hole = _shown_only(hole, picture.visible(), settings)
    if job.mask is not None:
        hole &= ~align_mask(read_mask(job.mask), picture, "auto")
    share = float(hole.mean())
    notices += _warning(share, settings)

    def draw(*_: object) -> None:  # right before its mask is there, by which it is known that all is done
        if overlay is not None:
            drawn = _drawn(picture.as_a_whole().rgb(), hole)
            write_png(drawn, overlay, overwrite=settings.overwrite, orientation=picture.orientation)

    place = (None, None)
    if picture.format == "TIFF":
        with suppress(ItemError), Source(job.image) as source:  # some can be read whole alone
            place = _place(source, job.output)
    if place == (None, None):
        write_mask(MaskImage(job.output, hole, picture.orientation), overwrite=settings.overwrite, ready=draw)
    else:
        draw()
        strips.write_mask(lambda: iter((hole,)), hole.shape, job.output, overwrite=settings.overwrite, place=place)
    return replace(
        report, width=picture.width, height=picture.height, share=round(share, 6), components=components,
        overlay=None if overlay is None else str(overlay), notices=tuple(notices),
    )  # fmt: skip


def _found(picture: Picture, settings: MaskSettings, notices: list[str]) -> Damage:
    origin, size = settings.origin, (picture.height, picture.width)
    try:
        if origin is None:
            colours = picture.rgb()
            return find_in_rows(lambda top, bottom: colours[top:bottom], size, settings.detect)
        if isinstance(origin, Infrared):
            if picture.format != "TIFF":
                raise Unmarked(f"is a {picture.format}, and infrared is a channel of a TIFF: scan it as RGBI")
            channel = _channel(picture.channels, origin, picture.layers[0].channels)
            colours = picture.rgb()
            found = infrared.find(
                lambda top, bottom: (colours[top:bottom], channel[top:bottom]), size, settings.detect.sensitivity
            )
            notices += [*_moved(found), *_alpha(origin, picture.channels.shape[2], picture.alpha)]
            return found.damage
        origin.refuse_colours([layer.channels for layer in picture.layers], picture.pixels.dtype)
        marked = Damage.of(
            origin.where(
                picture.channels, picture.rgb, shown=picture.visible(), alpha=picture.alpha, nodata=picture.nodata
            )
        )
        notices += _unnamed(marked, origin, picture.nodata)
        return marked
    except ValueError as error:
        raise ItemError(picture.path, str(error).replace("--mask-from", "--from")) from error


class _InStrips:
    """One TIFF larger than memory."""

    def __init__(self, job: Job, settings: MaskSettings, overlay: Path | None) -> None:
        self._job, self._settings, self._overlay = job, settings, overlay

    def made(self, report: MaskReport) -> MaskReport:
        job, settings, overlay = self._job, self._settings, self._overlay
        _refuse_taken(job.output, settings)
        if overlay is not None:
            _refuse_taken(overlay, settings)
        notices: list[str] = []
        with Source(job.image) as source:
            if is_ranged(source.dtype) and not isinstance(settings.origin, Mark):
                values = f"{source.dtype} values beyond memory, whose range is not known"
                raise ItemError(job.image, f"{values}: convert a copy to 16 bits unsigned")
            self._source = source
            self._first = source.seen_as(linear=settings.linear)[0]
            if not isinstance(settings.origin, Mark):  # as it is looked at in memory
                (self._first,), _ = stretched([self._first], source.dtype, self._shown())
            damage, components = _limited(self._found(notices), settings)
            size, counted = displayed_size((source.height, source.width), source.orientation), _Count()

            def lying() -> Iterator[Hole]:  # as displayed: not every format can say how else it lies
                return turned_strips(counted.of(self._strips(damage)), source.width, source.orientation, _ROWS)

            try:
                place = _place(source, job.output)
                strips.write_mask(lying, size, job.output, overwrite=settings.overwrite, place=place)
            except ValueError as error:
                raise ItemError(source.path, str(error)) from error
            share = counted.damaged / (source.height * source.width)
            notices += _warning(share, settings)
            if overlay is not None:
                small = source.thumbnail(_VIEW)
                by_mark = isinstance(settings.origin, Mark)
                first = ranged_by(self._first, small, source.nothing) if by_mark else self._first
                view = displayed(as_bytes(first.space.seen(small)), source.orientation)
                marked = Damage.of_strips(strips.mask_strips(job.output, _ROWS), size[1])
                drawn = _drawn(view, _reduced(marked, view.shape[:2]))
                write_png(drawn, overlay, overwrite=settings.overwrite)
            return replace(
                report, width=source.width, height=source.height, share=round(share, 6), components=components,
                overlay=None if overlay is None else str(overlay), notices=tuple(notices),
            )  # fmt: skip

    def _read(self, top: int, bottom: int) -> NDArray[Any]:
        return self._source.read(Window(0, top, self._source.width, bottom - top))

    def _shown(self) -> Iterator[NDArray[Any]]:
        """What the picture shows, (n, bands), from top to bottom."""
        source = self._source
        for top in range(0, source.height, _ROWS):
            window = Window(0, top, source.width, min(_ROWS, source.height - top))
            pixels = source.read(window)
            valid = source.valid(window, pixels)
            yield pixels.reshape(-1, source.bands) if valid is None else pixels[valid]

    def _seen(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        return as_bytes(self._first.seen(pixels))

    def _found(self, notices: list[str]) -> Damage:
        source, settings, origin = self._source, self._settings, self._settings.origin
        size = (source.height, source.width)
        try:
            if origin is None:
                return find_in_rows(lambda top, bottom: self._seen(self._read(top, bottom)), size, settings.detect)
            if isinstance(origin, Infrared):

                def both(top: int, bottom: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
                    pixels = self._read(top, bottom)
                    return self._seen(pixels), _channel(pixels, origin, self._first.channels)

                found = infrared.find(both, size, settings.detect.sensitivity)
                notices += [*_moved(found), *_alpha(origin, source.bands, source.alpha)]
                return found.damage
            origin.refuse_colours(source.layers, source.dtype)
            marked = Damage.of_strips(self._marked(origin), source.width)
            notices += _unnamed(marked, origin, source.nodata)
            return marked
        except ValueError as error:
            raise ItemError(source.path, str(error).replace("--mask-from", "--from")) from error

    def _marked(self, mark: Mark) -> Iterator[Hole]:
        source = self._source
        for top in range(0, source.height, _ROWS):
            window = Window(0, top, source.width, min(_ROWS, source.height - top))
            pixels = source.read(window)
            shown = source.valid(window, pixels) if mark.kind == "alpha" else None
            yield mark.where(pixels, partial(self._seen, pixels), shown=shown, alpha=source.alpha, nodata=source.nodata)

    def _strips(self, damage: Damage) -> Iterator[Hole]:
        """The mask from top to bottom: grown, and what is protected taken out."""
        source, settings, protect = self._source, self._settings, self._job.mask
        found = (
            damage.window(Window(0, top, damage.width, min(_ROWS, damage.height - top)))
            for top in range(0, damage.height, _ROWS)
        )
        with ExitStack() as stack:
            kept = None
            if protect is not None:
                width, height = strips.mask_size(protect)
                try:
                    turn = over(
                        (height, width), orientation(protect), (source.height, source.width), source.orientation
                    )
                except ValueError as error:
                    raise ItemError(protect, str(error)) from error
                lying = stack.enter_context(closing(strips.mask_strips(protect, _ROWS)))
                kept = _Rows(turned_strips(lying, width, turn, _ROWS))
            top = 0
            for strip in dilated_strips(found, _growth(settings)):
                window = Window(0, top, source.width, len(strip))
                top += len(strip)
                shown = source.valid(window) if source.validity is not None and settings.origin is None else None
                strip = _shown_only(strip, shown, settings)
                yield strip if kept is None else strip & ~kept.next(len(strip))


class _Rows:
    """Strips of some rows, as strips of others."""

    def __init__(self, strips: Iterator[Hole]) -> None:
        self._strips, self._held = strips, np.zeros((0, 0), np.bool_)

    def next(self, count: int) -> Hole:
        while len(self._held) < count:
            strip = next(self._strips)
            self._held = np.concatenate([self._held, strip]) if len(self._held) else strip
        taken, self._held = self._held[:count], self._held[count:]
        return taken


class _Count:
    """Counts what is damaged while it goes by."""

    damaged = 0

    def of(self, strips: Iterator[Hole]) -> Iterator[Hole]:
        self.damaged = 0
        for strip in strips:
            self.damaged += int(strip.sum())
            yield strip


# ---------------------------------------------------------------- parts


def _channel(pixels: NDArray[Any], origin: Infrared, colours: tuple[int, ...]) -> NDArray[np.uint16]:
    """The infrared channel of (h, w, bands), in 16 bits. `colours` are the indices of those that it cannot be."""
    bands = pixels.shape[2]
    band = origin.band or bands
    if band > bands:
        raise Unmarked(f"has {bands} channels, so no infrared in channel {band}: count from 1")
    if band - 1 in colours:
        raise Unmarked(f"has its colours in channel {band}, so no infrared: scan it as RGBI, or name the channel")
    if is_ranged(pixels.dtype):
        what = f"has {pixels.dtype} values, where infrared is expected in 8 or 16 bits unsigned"
        raise Unmarked(f"{what}: convert a copy")
    channel = pixels[..., band - 1]
    return channel.astype(np.uint16) * np.uint16(257) if channel.dtype == np.uint8 else channel


def _moved(found: infrared.Found) -> list[str]:
    across, down = found.shift
    return [f"infrared lies {across:+d}, {down:+d} pixels beside the colours: moved"] if across or down else []


def _alpha(origin: Infrared, bands: int, alpha: int | None) -> list[str]:
    """Some scanners' programs call infrared alpha; what is transparency in truth would be taken for dust."""
    band = origin.band or bands
    return [f"channel {band} is tagged as alpha in the file: taken for infrared"] if band - 1 == alpha else []


def _limited(damage: Damage, settings: MaskSettings) -> tuple[Damage, int]:
    """Leave out what is too small or too large; how many places are left."""
    if not len(damage):
        return damage, 0
    labels, boxes = damage.components()
    areas = np.bincount(labels, damage.stops - damage.starts, len(boxes))
    fine = areas >= settings.min_area
    if settings.max_area is not None:
        fine &= areas <= settings.max_area
    if fine.all():
        return damage, len(boxes)
    kept = fine[labels]
    runs = (damage.rows[kept], damage.starts[kept], damage.stops[kept])
    return Damage(damage.height, damage.width, *runs), int(fine.sum())


def _place(source: Source, output: Path) -> tuple[Any, Any]:
    """Where the mask of a picture lies on the map, see `placement`; nowhere, if it is no TIFF or may be turned."""
    return (None, None) if source.orientation != 1 or output.suffix.lower() == SUFFIX else placement(source)


def _growth(settings: MaskSettings) -> int:
    return settings.dilate + (0 if isinstance(settings.origin, Mark) else SOFT)


def _shown_only(hole: Hole, shown: Hole | None, settings: MaskSettings) -> Hole:
    """Nothing is detected where the picture shows nothing."""
    return hole if shown is None or settings.origin is not None else hole & shown


def _unnamed(marked: Damage, mark: Mark, nodata: float | None) -> list[str]:
    """What to say where nothing is marked, for the file names no value for "nothing here"."""
    if mark != Mark("nodata") or nodata is not None or len(marked):
        return []
    return ["names no nodata value, and no NaN is in it: nothing is marked; give the value, as in --from nodata=-9999"]


def _warning(share: float, settings: MaskSettings) -> list[str]:
    if share <= settings.warn_above:
        return []
    return [
        f"{share:.1%} of the picture is marked, more than {100 * settings.warn_above:g}%: look at it before you restore"
    ]


def _drawn(colours: NDArray[np.uint8], hole: Hole) -> NDArray[np.uint8]:
    """The picture with the damage in the colour that is farthest from its own."""
    mean = colours.reshape(-1, 3).mean(axis=0)
    paint = max(_PAINTS, key=lambda paint: float(np.abs(mean - paint).sum()))
    drawn = np.array(colours)
    drawn[hole] = paint
    return drawn


def _reduced(damage: Damage, size: tuple[int, int]) -> Hole:
    """Damage in a small view of the picture: where anything of a pixel is damaged."""
    height, width = size
    rows = damage.rows.astype(np.int64) * height // damage.height
    first = damage.starts.astype(np.int64) * width // damage.width
    last = (damage.stops.astype(np.int64) - 1) * width // damage.width
    steps = np.zeros((height, width + 1), np.int64)
    np.add.at(steps, (rows, first), 1)
    np.add.at(steps, (rows, last + 1), -1)
    return np.asarray(steps.cumsum(axis=1)[:, :width] > 0)


def _overlays(todo: JobList, settings: MaskSettings) -> dict[Path, Path]:
    """Where each drawing goes, by the mask that it shows.

    Raises:
        UsageError: One would be written over a picture or a mask.
    """
    if settings.overlay is None:
        return {}
    folder = Path(settings.overlay)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--overlay {folder}: is a file, but drawings need a folder: give the name of a folder")
    if todo.several:  # by the masks, which are called apart where pictures are not
        places = {job.output: folder / job.output.relative_to(todo.home) for job in todo.jobs}
    else:
        places = {job.output: folder / Path(job.name).with_suffix(SUFFIX) for job in todo.jobs}
    taken = {os.path.realpath(path) for job in todo.jobs for path in (job.image, job.output, job.mask) if path}
    for path in places.values():
        if os.path.realpath(path) in taken:
            raise UsageError(f"--overlay {folder}: {path} is a picture or a mask: choose a folder of its own")
    return places


def _refuse_taken(path: Path, settings: MaskSettings) -> None:
    try:
        files.refuse_taken(path, overwrite=settings.overwrite)
    except files.Refused as error:
        raise ItemError(path, str(error)) from error


def _tell(report: MaskReport, emit: Listener) -> None:
    if report.status == "failed":
        emit(ItemFailed(report.name, report.image, report.path or report.image, report.reason or ""))
        return
    emit(
        MaskMade(
            report.name, report.output, report.share or 0.0, report.components or 0, report.notices, report.seconds
        )
    )
