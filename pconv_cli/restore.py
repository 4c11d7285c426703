"""Restore pictures: what happens, in order.

Pairs, checks, then one stream: read, plan, cut, fill, lay the fill into the holes, write. Knows every step and none of
their workings. Does not know: the terminal, options' spelling, exit codes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pconv_cli import weights as store
from pconv_cli.engine import Engine, choose_devices, choose_precision, described
from pconv_cli.errors import ItemError, OutputError, UsageError
from pconv_cli.events import (
    ItemDone,
    ItemFailed,
    ItemStarted,
    Listener,
    Notice,
    RunFinished,
    RunStarted,
    TilesDone,
)
from pconv_cli.filling import ArraySurface, Filling, Piece, Shape
from pconv_cli.images import (
    FORMATS,
    READ_SUFFIXES,
    Picture,
    align_mask,
    copy_file,
    probe,
    read_mask,
    read_picture,
    same_format,
    write_picture,
)
from pconv_cli.jobs import Job, JobList, find_jobs
from pconv_cli.masks import dilate
from pconv_cli.nn.partial_conv import PaddingMode
from pconv_cli.pipeline import Limits, Outcome, Turn, run
from pconv_cli.report import ItemReport, Report, collecting, peak_memory, rounded
from pconv_cli.tiles import SMALLEST_TILE, plan_tiles

SUSPICIOUS = 0.6
"""A mask that marks a larger share than this was probably drawn with the other polarity."""

BYTES_PER_PIXEL = 16  # picture, colours, fill, two masks, and what encoding them takes


@dataclass(frozen=True)
class RestoreSettings:
    """How to restore.

    Attributes:
        weights: A name, a file, `none` for the pyramid alone, or None for the default.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`, or several: `cuda:0,cuda:1` or `cuda:all`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        tile_size: Longest side that one forward pass sees, pixels.
        padding: What lies beyond a tile, or None for what the network was trained with.
        overlap: Pixels that the tiles of a plain grid share and blend; 0: tiles on the damage, without overlap.
        batch_size: Tiles computed at once, or None for a number that suits the device.
        jobs: Threads that read, and as many that write, or None for a number that suits the machine.
        invert_mask: Masks are black where damaged instead of white.
        dilate: Pixels that damage is grown by.
        mask_on: Whether masks were drawn on pictures as displayed or as stored; `auto` goes by their size.
        format: A key of `images.FORMATS` for the outputs, or None to keep each picture's own.
        overwrite: Replace outputs that exist.
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
    dilate: int = 0
    mask_on: Literal["auto", "displayed", "stored"] = "auto"
    format: str | None = None
    overwrite: bool = False


def plan(source: Path, masks: Path, output: str, settings: RestoreSettings) -> JobList:
    """Pair pictures with masks and refuse what cannot work, before any work starts.

    Raises:
        UsageError: If settings or pairing make no sense.
        NothingToDo: If there is no picture.
        OutputError: If OUT cannot be a folder.
    """
    if settings.format is not None and settings.format not in FORMATS:
        raise UsageError(f"--format {settings.format}: not a format; use {', '.join(sorted(FORMATS))}")
    if settings.tile_size < SMALLEST_TILE:
        raise UsageError(f"--tile-size {settings.tile_size}: must be {SMALLEST_TILE} or more")
    if not 0 <= settings.overlap <= settings.tile_size // 3:
        raise UsageError(f"--overlap {settings.overlap}: must be 0 to {settings.tile_size // 3}, a third of a tile")
    suffix = None if settings.format is None else FORMATS[settings.format][0]
    return find_jobs(source, masks, output, suffixes=READ_SUFFIXES, out_suffix=suffix)


def restore(
    source: Path,
    masks: Path,
    output: str,
    settings: RestoreSettings,
    emit: Listener,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Restore every picture of `source`, writing to `output`.

    A picture that fails is reported and the others go on. When `stop` turns true, what is in flight is finished.

    Raises:
        RunError: If the run cannot start or go on: usage, nothing to do, weights, output place, device.
    """
    started = time.monotonic()
    notices, emit = collecting(emit)
    todo = plan(source, masks, output, settings)
    devices = choose_devices(settings.device)
    precision, reason = choose_precision(settings.precision, devices[0])
    network = store.load_network(settings.weights, settings.padding)
    _writable(todo)
    settled = _described(settings) | described(devices, precision, reason)
    told = ("weights", "device", "precision", "precision_reason")
    emit(RunStarted(len(todo.jobs), *(str(settled[key]) for key in told)))
    _mention_unused(todo, emit)
    engine = Engine(network, devices, precision, emit, settings.batch_size)
    stages = _Restoration(settings, engine, emit)
    readers = settings.jobs or engine.helpers
    limits = Limits(readers, engine.lanes, engine.units, engine.ahead + 2 * readers)
    reports: dict[str, ItemReport] = {}
    for outcome in run(todo.jobs, stages, limits, stop):
        reports[outcome.item.name] = _report(outcome)
        _tell(reports[outcome.item.name], emit)
    stages.last_words()
    items = tuple(reports.get(job.name) or _report_of(job, "not_done") for job in todo.jobs)
    report = Report(settled, items, time.monotonic() - started, stop(), tuple(notices))
    emit(
        RunFinished(
            report.count("restored"), report.count("copied"), report.count("failed"), report.count("not_done"),
            sum(item.tiles for item in items), report.seconds,
        )
    )  # fmt: skip
    return report


def dry_run(
    source: Path,
    masks: Path,
    output: str,
    settings: RestoreSettings,
    emit: Listener,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Do everything but compute and write: pairs, masks, tiles to compute. Needs no weights and no device.

    Raises:
        RunError: As in `restore`.
    """
    started = time.monotonic()
    notices, emit = collecting(emit)
    todo = plan(source, masks, output, settings)
    _mention_unused(todo, emit)
    stages = _Restoration(settings, None, emit)
    reports = []
    for job in todo.jobs:
        if stop():
            reports.append(_report_of(job, "not_done"))
            continue
        try:
            reports.append(_report(Outcome(job, stages.planned(stages.read(job)), None)))
        except ItemError as error:
            reports.append(_report(Outcome(job, None, error)))
        _tell(reports[-1], emit)
    stages.last_words()
    return Report({"dry_run": True}, tuple(reports), time.monotonic() - started, stop(), tuple(notices))


@dataclass(eq=False)
class _Work:
    """One picture between reading and writing."""

    job: Job
    picture: Picture
    hole: NDArray[np.bool_]
    filling: Filling
    started: float
    rounds: Iterator[Sequence[Piece]] | None = None

    def reported(self, status: Literal["restored", "copied", "planned"]) -> ItemReport:
        filling, seconds = self.filling, time.monotonic() - self.started
        report = ItemReport(
            self.job.name, str(self.job.image), str(self.job.mask), str(self.job.output), status,
            width=self.picture.width, height=self.picture.height, hole_share=round(float(self.hole.mean()), 6),
            windows=len(filling.plan.windows), crossings=filling.plan.crossings, notices=self.picture.notices,
        )  # fmt: skip
        if status == "planned":
            return replace(report, tiles=filling.planned, pixels_computed=filling.plan.pixels_to_compute)
        return replace(
            report, tiles=filling.windows, pixels_computed=filling.pixels, by_pyramid=filling.by_pyramid,
            seam_ratio=rounded(filling.seams().ratio()), unfilled=filling.unfilled, seconds=round(seconds, 3),
            megapixels_per_second=rounded(self.hole.size / 1e6 / seconds), peak_memory_bytes=peak_memory(),
        )  # fmt: skip


class _Restoration:
    """The stages of `pipeline.run`, for pictures. Without an engine it can only read and plan."""

    def __init__(self, settings: RestoreSettings, engine: Engine | None, emit: Listener) -> None:
        self._settings, self._engine, self._emit = settings, engine, emit
        self._suspicious = 0
        self._looking = threading.Lock()

    def cost(self, job: Job) -> int:
        width, height = probe(job.image)
        return width * height * BYTES_PER_PIXEL

    def read(self, job: Job) -> _Work:
        if job.mask is None:
            raise ItemError(
                job.image,
                "no mask of that name (NAME.* or NAME_mask.*) in the masks folder; "
                "give it one, all black if it is undamaged",
            )
        if job.output.exists() and not self._settings.overwrite:
            raise ItemError(job.output, "the output exists already; use --overwrite to replace it")
        started = time.monotonic()
        picture = read_picture(job.image)
        hole = align_mask(read_mask(job.mask), picture, self._settings.mask_on)
        if self._settings.invert_mask:
            hole = ~hole
        hole = dilate(hole, self._settings.dilate)
        visible = picture.visible()
        known = ~hole if visible is None else ~hole & visible
        if hole.any() and not known.any():
            raise ItemError(
                job.mask,
                f"it marks the whole picture as damaged ({self._polarity()}), so nothing is left to restore from; "
                f"{self._way_out()}",
            )
        colours = picture.rgb()
        fill = colours.copy() if np.may_share_memory(colours, picture.pixels) else colours
        plan = plan_tiles(hole, self._settings.tile_size)
        surface = ArraySurface(fill, visible, grey=picture.mode in ("L", "LA"))
        filling = Filling(surface, plan, self._settings.overlap)
        return _Work(job, picture, hole, filling, started)

    def planned(self, work: _Work) -> ItemReport:
        """Say what would be done; the tiles of a guide are not known before it is made."""
        self._look_at(work)
        return work.reported("planned")

    def pieces(self, work: _Work) -> Sequence[tuple[Shape, Piece]]:
        if work.rounds is None:
            self._look_at(work)
            work.rounds = work.filling.rounds()
            self._emit(ItemStarted(work.job.name, work.filling.planned))
        pieces = next((pieces for pieces in work.rounds if pieces), ())
        return [(piece.shape, piece) for piece in pieces]

    def batch_size(self, shape: Shape) -> int:
        assert self._engine is not None
        return self._engine.batch_size(shape[:2])

    def compute(self, shape: Shape, pieces: Sequence[Piece], turn: Turn) -> None:
        assert self._engine is not None
        tiles = [piece.load() for piece in pieces]
        results = self._engine.fill(tiles, shape[:2], turn.lane, turn.beside)
        for piece, tile, filled in zip(pieces, tiles, results, strict=True):
            piece.land(tile, filled)
        self._emit(TilesDone(len(pieces), sum(piece.window.area for piece in pieces)))

    def write(self, work: _Work) -> ItemReport:
        job, overwrite = work.job, self._settings.overwrite
        if not work.hole.any() and same_format(job.image, job.output):
            copy_file(job.image, job.output, overwrite=overwrite)
            return work.reported("copied")
        surface = work.filling.surface
        assert isinstance(surface, ArraySurface)
        notices = write_picture(work.picture.filled(surface.pixels, work.hole), job.output, overwrite=overwrite)
        report = work.reported("restored" if work.hole.any() else "copied")
        return report if not notices else _with_notices(report, notices)

    def _look_at(self, work: _Work) -> None:
        """Say once that a mask looks like the other polarity."""
        share = work.hole.mean()
        if share <= SUSPICIOUS:
            return
        with self._looking:
            self._suspicious += 1
            first = self._suspicious == 1
        if first:
            self._emit(
                Notice(
                    f"{work.job.mask}: marks {share:.0%} of the picture as damaged, read as {self._polarity()}; "
                    f"if that is the wrong way round, {self._way_out()}"
                )
            )

    def last_words(self) -> None:
        if self._suspicious > 1:
            self._emit(Notice(f"{self._suspicious} masks in all mark more than {SUSPICIOUS:.0%} as damaged"))

    def _polarity(self) -> str:
        return "black = damaged" if self._settings.invert_mask else "white = damaged"

    def _way_out(self) -> str:
        return "leave out --invert-mask" if self._settings.invert_mask else "use --invert-mask"


def _writable(todo: JobList) -> None:
    """Find out before hours of work, not after, whether outputs can be written."""
    folder = todo.jobs[0].output.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe_file = folder / f".pconv-{time.monotonic_ns()}.part"
        probe_file.touch(exist_ok=False)
        probe_file.unlink()
    except OSError as error:
        raise OutputError(f"{folder}: cannot write there ({error.strerror or error}); choose another OUT") from error


def _described(settings: RestoreSettings) -> dict[str, str | int | bool]:
    path = store.find(settings.weights)
    return {
        "weights": store.NONE if path is None else path.stem,
        "weights_sha256": "" if path is None else store.sha256(path),
        "tile_size": settings.tile_size,
        "padding": settings.padding or "as trained",
        "overlap": settings.overlap,
        "mask_polarity": "black = damaged" if settings.invert_mask else "white = damaged",
        "dilate": settings.dilate,
    }


def _mention_unused(todo: JobList, emit: Listener) -> None:
    if todo.unused_masks:
        more = f" and {len(todo.unused_masks) - 1} more" if len(todo.unused_masks) > 1 else ""
        emit(Notice(f"{todo.unused_masks[0]}{more}: no picture of that name, so not used"))


def _report(outcome: Outcome[Job, ItemReport]) -> ItemReport:
    if outcome.done is not None:
        return outcome.done
    assert outcome.error is not None
    job = outcome.item
    return _report_of(job, "failed", path=outcome.error.path, reason=outcome.error.reason)


def _report_of(
    job: Job, status: Literal["failed", "not_done"], path: str | None = None, reason: str | None = None
) -> ItemReport:
    mask = None if job.mask is None else str(job.mask)
    return ItemReport(job.name, str(job.image), mask, str(job.output), status, path=path, reason=reason)


def _with_notices(report: ItemReport, notices: tuple[str, ...]) -> ItemReport:
    return replace(report, notices=(*report.notices, *notices))


def _tell(report: ItemReport, emit: Listener) -> None:
    if report.status == "failed":
        emit(ItemFailed(report.name, report.image, report.path or report.image, report.reason or ""))
    else:
        emit(
            ItemDone(report.name, report.output, report.status, report.hole_share or 0.0, report.tiles, report.notices)
        )
