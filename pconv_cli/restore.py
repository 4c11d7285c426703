"""Restore pictures: what happens, in order.

Pairs, checks, then one stream: read, plan, cut, fill, lay the fill into the holes, write, and note down what is done.
Knows every step and none of their workings. Does not know: the terminal, options' spelling, exit codes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pconv_cli import __version__, beside, distributed, files, helpers, manifest, provenance
from pconv_cli import weights as store
from pconv_cli.detection import Detect, opencv
from pconv_cli.distributed import Cluster
from pconv_cli.engine import Engine, choose_devices, choose_precision, described
from pconv_cli.errors import ItemError, OutputError, UsageError, refuse_losses
from pconv_cli.events import (
    Event,
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
    MaskImage,
    Picture,
    Ready,
    Written,
    align_mask,
    copy_file,
    foreseen,
    may_be_deep,
    probe,
    read_mask,
    read_picture,
    same_format,
    stamped,
    write_map,
    write_mask,
    write_picture,
)
from pconv_cli.jobs import Job, JobList, find_jobs, listed_jobs, with_maps
from pconv_cli.journal import NAME, Journal, sweep
from pconv_cli.layers import Layer, Raw, View, viewed
from pconv_cli.marks import Unmarked
from pconv_cli.masks import dilate
from pconv_cli.pipeline import NICENESS, Limits, Outcome, Stages, Turn, run
from pconv_cli.process import memory_available, settle
from pconv_cli.regions import Window
from pconv_cli.remote import Stage
from pconv_cli.report import ItemReport, Report, Status, collecting, peak_memory, rounded
from pconv_cli.settings import FAINT, SUSPICIOUS, Settings
from pconv_cli.tiles import plan_tiles

WAY_OUT = "try another --format, or leave it out"
WORTH_HELPERS, WORTH_HELPERS_OF_A_GPU = 256, 64
"""Pictures of a run from which on processes read and write them, computing on a CPU or on GPUs."""

# Picture, colours, fill, two masks, and what encoding and reading back take; of 8 bits, and of 16 or of float.
BYTES_PER_PIXEL, BYTES_PER_DEEP_PIXEL = 24, 64
BYTES_PER_MAPPED_PIXEL = 10  # what is known, what was restored, steps, and a map of them on its way into a file


@dataclass(frozen=True)
class RestoreSettings(Settings):
    """How to restore pictures, beyond what all ways of restoring share.

    Attributes:
        mask_on: Whether masks were drawn on pictures as displayed or as stored; `auto` goes by their size.
        format: A key of `images.FORMATS` for the outputs, or None to keep each picture's own.
        resume: Leave out what an earlier run has done, from the same content, with the same settings and weights.
        max_failures: How many pictures may fail before no other is begun; None: any number.
        failed_list: Where to list the pictures that failed, as a manifest.
        max_megapixels: Pictures and masks larger than that are refused; 0: none are.
        detect: What is found by what it looks like; None: damage is marked.
        save_masks: A folder for what was detected, as masks.
    """

    mask_on: Literal["auto", "displayed", "stored"] = "auto"
    format: str | None = None
    resume: bool = False
    max_failures: int | None = None
    failed_list: Path | None = None
    max_megapixels: float = 1000
    detect: Detect | None = None
    save_masks: Path | None = None

    def told(self) -> dict[str, str | int | bool]:
        """What decides the result, for a report; weights and device aside."""
        return super().told() | ({} if self.detect is None else {"detect": str(self.detect)})


def plan(source: Path, masks: Path | None, output: str, settings: RestoreSettings, own: Sequence[Path] = ()) -> JobList:
    """Pair pictures with masks and refuse what cannot work, before any work starts.

    Args:
        source: A folder, or one picture.
        masks: A folder, or one mask for all; None where pictures show their damage themselves.
        output: A folder or, for a single picture, a file.
        settings: How.
        own: As in `find_jobs`.

    Raises:
        UsageError: If settings or pairing make no sense.
        NothingToDo: If there is no picture.
        OutputError: If OUT cannot be a folder.
    """
    apart, suffix = beside.folders(settings), _check(settings)
    apart += [] if settings.save_masks is None else [settings.save_masks]
    todo = find_jobs(source, masks, output, suffixes=READ_SUFFIXES, out_suffix=suffix, apart=apart, own=own)
    return with_maps(todo, settings.save_filled, settings.save_confidence)


def plan_listed(rows: Sequence[manifest.Row], output: str | None, settings: RestoreSettings) -> JobList:
    """The same for a list of pictures, masks and outputs; `output` is a folder for those without one.

    Raises:
        UsageError: As in `plan`.
    """
    todo = listed_jobs(rows, output, suffixes=READ_SUFFIXES, out_suffix=_check(settings))
    return with_maps(todo, settings.save_filled, settings.save_confidence)


def _check(settings: RestoreSettings) -> str | None:
    """Make sure that settings make sense; the suffix of all outputs, if there is one."""
    if settings.format is not None and settings.format not in FORMATS:
        raise UsageError(f"--format {settings.format}: not a format; use {', '.join(sorted(FORMATS))}")
    settings.check()
    beside.check(settings)
    if settings.detect is not None:
        opencv()
        if settings.mask_from is not None or settings.invert_mask:
            other = "--invert-mask" if settings.mask_from is None else f"--mask-from {settings.mask_from}"
            raise UsageError(f"{other} and --detect: choose one of the two; what is detected needs no mask")
    elif settings.save_masks is not None:
        raise UsageError(f"--save-masks {settings.save_masks}: belongs to --detect, which makes masks")
    if settings.failed_list is not None:
        manifest.form_of(settings.failed_list)
        try:  # now, and not after hours
            files.refuse_taken(settings.failed_list, overwrite=settings.overwrite or settings.resume)
            files.refuse_unwritable(settings.failed_list.absolute().parent)
        except OSError as error:
            why = str(error) if isinstance(error, files.Refused) else f"cannot be written there ({error.strerror})"
            raise UsageError(f"--failed-list {settings.failed_list}: {why}") from error
    return None if settings.format is None else FORMATS[settings.format][0]


def restore(
    todo: JobList,
    settings: RestoreSettings,
    emit: Listener,
    stop: Callable[[], bool] = lambda: False,
    each: Callable[[ItemReport], None] = lambda report: None,
    cluster: Cluster | None = None,
    stage: Stage | None = None,
    arrivals: Iterable[Sequence[Job]] | None = None,
) -> Report:
    """Restore pictures.

    A picture that fails is reported and the others go on. When `stop` turns true, what is in flight is finished.

    Args:
        todo: What `plan` or `plan_listed` found.
        settings: How, the same.
        emit: Told of what happens.
        stop: Asked often.
        each: Given the report of every picture as it is finished.
        cluster: Where else than in this process; None: here.
        stage: Where files are while they are worked on that are elsewhere; None: none are.
        arrivals: Further jobs, some at a time, each asked for when those before are done; None: no more than `todo`.

    Raises:
        RunError: If the run cannot start or go on: nothing to do, weights, output place, device.
    """
    started = time.monotonic()
    stage = stage or Stage()
    notices, emit = collecting(emit)
    emit = stage.telling(emit)
    settled: dict[str, Any] = store.told(settings.weights) | settings.told()
    home = _home(todo, stage)
    begin: Callable[[Journal | None], Outcomes]
    if cluster is None:
        here = _Here(settings, emit, 0 if stage.used else len(todo.jobs))
        settled |= here.about
        begin = partial(_on_this_machine, here, settings, settled["weights_sha256"], emit, stage)
    else:
        settled |= distributed.told(cluster, settings.device, settings.precision)
        store.view(settings.weights)  # before anything begins
        begin = partial(_on_a_cluster, settings, cluster, home, settled["weights_sha256"], emit, stage)
    if settings.save_masks is not None:
        _refuse_mask_clash(todo, settings.save_masks)
    _writable(todo, home, stage)
    beside.prepare(settings)
    told = ("weights", "device", "precision", "precision_reason")
    emit(RunStarted(len(todo.jobs), *(str(settled[key]) for key in told)))
    _mention_unused(todo, emit)
    reports: dict[Path, ItemReport] = {}
    jobs = {job.output: job for job in todo.jobs}
    failed = 0

    def enough() -> bool:
        return stop() or (settings.max_failures is not None and failed >= settings.max_failures)

    with ExitStack() as stack:
        several = len(todo.jobs) > 1 or settings.resume
        journal = _journal(home, settings, settled["weights_sha256"]) if several and home is not None else None
        if journal is not None:
            stack.enter_context(journal)
        if settings.failed_list is not None:
            again = settings.overwrite or settings.resume
            stack.callback(_list_failed, jobs.values(), reports, stage, settings.failed_list, overwrite=again)
        outcomes = begin(journal)
        for some in [todo.jobs] if arrivals is None else arrivals:
            jobs |= {job.output: job for job in some}
            if journal is not None and settings.resume:
                _clean_up(some, journal)
            for outcome in outcomes(some, enough):
                report = reports[outcome.item.output] = stage.shown(_report(outcome))
                _tell(report, emit)
                each(report)
                failed += report.status == "failed"
                if report.status == "failed" and failed == settings.max_failures:
                    emit(Notice(f"{failed} failed, which is the limit: no other picture is begun"))
            if enough():
                break
        if cluster is not None and journal is not None:
            with suppress(OSError):  # the files of the workers say the same
                journal.gather()
    items = tuple(reports.get(job.output) or stage.shown(_report_of(job, "not_done")) for job in jobs.values())
    whole = Report(settled, items, time.monotonic() - started, stop(), tuple(notices))
    place = todo.home if arrivals is not None or len(todo.jobs) != 1 else todo.jobs[0].output
    emit(
        RunFinished(
            whole.count("restored"), whole.count("copied"), whole.count("failed"), whole.count("not_done"),
            whole.count("done_before"), sum(item.tiles for item in items), whole.seconds, str(place),
        )
    )  # fmt: skip
    return whole


class _Here:
    """The network, ready on the devices of this machine."""

    def __init__(self, settings: RestoreSettings, emit: Listener, jobs: int = 0) -> None:
        devices = choose_devices(settings.device)
        self.nursery: helpers.Nursery | None = None
        if _worth_helpers(jobs, on_cpu=devices[0].type == "cpu"):
            with suppress(OSError):  # told of where helpers are engaged
                self.nursery = helpers.Nursery(__name__)  # it imports while weights are loaded
        network, self.view = store.load_network(settings.weights, settings.padding), store.view(settings.weights)
        precision, reason = choose_precision(settings.precision, devices[0], exact=self.view.raw)
        self.about = described(devices, precision, reason)
        self.engine = Engine(network, devices, precision, emit, settings.batch_size)


Outcomes = Callable[[Sequence[Job], Callable[[], bool]], Iterator[Outcome[Job, ItemReport]]]
"""Does jobs until a stop, and tells what became of each."""


def _on_this_machine(
    here: _Here, settings: RestoreSettings, weights: str, emit: Listener, stage: Stage, journal: Journal | None
) -> Outcomes:
    engine, limits = here.engine, in_flight(here.engine, settings.jobs)

    def outcomes(jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Outcome[Job, ItemReport]]:
        looks = _Looks(settings, emit)
        with ExitStack() as stack:
            bench: _Bench | helpers.Crew[Job, _Told, ItemReport] = _Bench(settings, here.view, journal)
            if stage.used:
                bench = _StagedBench(settings, here.view, _Notes(stage, _key(settings, weights), journal))
            elif _worth_helpers(len(jobs), on_cpu=engine.on_cpu):
                make = partial(_Bench.of, settings, here.view, None if journal is None else journal.place)
                try:
                    nursery, here.nursery = here.nursery or helpers.Nursery(__name__), None
                    crew = helpers.Crew(make, limits.readers, NICENESS if engine.on_cpu else 0, nursery)
                    bench = stack.enter_context(crew)
                except OSError as error:  # no sockets, or no more processes
                    emit(Notice(f"no processes to read and write with ({error}): threads do it, which is slower"))
            stages: Stages[Job, Any, Shape, Any, ItemReport] = _Restoration(engine, emit, looks, bench)
            for outcome in run(jobs, stages, limits, stop):
                stage.release(outcome.item.output)
                yield outcome
        looks.last_words()

    return outcomes


def _worth_helpers(jobs: int, *, on_cpu: bool) -> bool:
    """Whether there is so much to do that processes which read and write pay for the seconds they take to come."""
    return helpers.can_be_had() and jobs >= (WORTH_HELPERS if on_cpu else WORTH_HELPERS_OF_A_GPU)


# ---------------------------------------------------------------- on a cluster


def _on_a_cluster(
    settings: RestoreSettings, cluster: Cluster, home: Path | None, weights: str, emit: Listener, stage: Stage,
    journal: Journal | None,
) -> Outcomes:  # fmt: skip
    make = partial(_Worker, settings, None if journal is None else home, weights, stage)
    said: set[str] = set()

    def outcomes(jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Outcome[Job, ItemReport]]:
        with distributed.Crew(cluster, make) as crew:
            for found in crew.do(jobs, stop):
                if not isinstance(found, tuple):
                    if not isinstance(found, Notice) or found.text not in said:  # every worker may say the same
                        emit(found)
                    said.update([found.text] if isinstance(found, Notice) else [])
                    continue
                number, done = found
                if isinstance(done, distributed.Lost):
                    done = ItemError(jobs[number].image, "two workers of the cluster died of it: look at it by itself")
                if isinstance(done, ItemError):
                    yield Outcome(jobs[number], None, done)
                else:
                    yield Outcome(jobs[number], done, None)

    return outcomes


class _Worker:
    """What a worker of a cluster does: the same as one machine alone."""

    def __init__(self, settings: RestoreSettings, home: Path | None, weights: str, stage: Stage) -> None:
        settle()
        self._settings, self._weights, self._stage, self._events = settings, weights, stage, deque[Event]()
        self._here = _Here(settings, self._events.append)
        hand = re.sub(r"\W", "", f"{socket.gethostname()}x{os.getpid()}")
        self._journal = None if home is None else _journal(home, settings, weights, hand)

    def __call__(
        self, jobs: Sequence[Job], stop: Callable[[], bool]
    ) -> Iterator[tuple[int, ItemReport | ItemError] | Event]:
        stage = self._stage
        jobs = [
            replace(
                job, image=stage.here(job.image), mask=None if job.mask is None else stage.here(job.mask),
                output=stage.here(job.output),
            )
            for job in jobs
        ]  # fmt: skip
        numbers = {job.output: number for number, job in enumerate(jobs)}
        emit = stage.telling(self._events.append)
        begin = _on_this_machine(self._here, self._settings, self._weights, emit, stage, self._journal)
        for outcome in begin(jobs, stop):
            while self._events:
                yield self._events.popleft()
            done = outcome.done if outcome.error is None else outcome.error
            assert done is not None
            yield numbers[outcome.item.output], stage.shown(done)


def in_flight(engine: Engine, jobs: int | None = None) -> Limits:
    """How much a run of pictures has under way at once; `jobs` is how many threads read, None: as suits the engine."""
    readers = jobs or engine.helpers
    return Limits(readers, engine.lanes, engine.units, engine.ahead + 2 * readers)


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
        picture = picture.known_outside(hole)
        mark = settings.mask_from
        made = [layer for layer in picture.layers if mark is None or mark.index not in layer.channels]
        layers = viewed(made, view, picture.pixels.dtype, _nodata(picture, settings))
        by_value = _by_value(settings, view)
        plan = None if by_value else plan_tiles(hole, settings.tile_size, whole=view.whole)
        fillings = []
        for layer in layers:
            seen = picture.seen(layer)
            fill = seen.copy() if np.may_share_memory(seen, picture.pixels) else seen
            grey = not view.raw and fill.shape[2] == 3 and len(layer.channels) == 1 and picture.mode not in "1P"
            surface = ArraySurface(fill, visible, grey=grey)
            own = plan
            if own is None:  # each layer has holes of its own
                empty = dilate(np.isnan(seen).any(axis=2), settings.dilate)
                own = plan_tiles(empty, settings.tile_size, whole=view.whole)
            fillings.append(Filling.of(surface, own, view, settings.overlap, may_be_empty=layer.may_be_empty))
        return cls(picture, hole, layers, fillings)

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
    """One picture of a job between reading and writing; no `fillings` if it was done before."""

    job: Job
    started: float
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
        report, seconds = _report_of(self.job, status), time.monotonic() - self.started
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
    """Reads one picture and its mask, and plans: all that can be found out without computing."""

    def __init__(self, settings: RestoreSettings, view: View, journal: Journal | _Notes | None = None) -> None:
        self._settings, self._view, self._journal = settings, view, journal

    def refuse_huge(self, path: Path) -> tuple[int, int]:
        """Width and height, from the head alone.

        Raises:
            ItemError: They are beyond the limit, or cannot be read.
        """
        width, height = probe(path)
        limit = self._settings.max_megapixels
        if limit and width * height > limit * 1e6:
            size = f"{width} x {height} = {width * height / 1e6:.0f} megapixels"
            raise ItemError(
                path, f"{size}, more than {limit:g}: if that is honest, pass --max-megapixels 0, or use `pconv tile`"
            )
        return width, height

    def cost(self, job: Job) -> int:
        """Bytes of memory that a picture takes from reading to writing, from the heads of the files alone.

        Raises:
            ItemError: It is beyond the limit or all memory, does not fit its mask, or cannot be read.
        """
        width, height = self.refuse_huge(job.image)
        each = BYTES_PER_DEEP_PIXEL if may_be_deep(job.image) else BYTES_PER_PIXEL
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
        started = time.monotonic()
        if job.mask is None and settings.mask_from is None and settings.detect is None:
            raise ItemError(
                job.image,
                "no mask (NAME.* or NAME_mask.* in the masks folder, or the column mask of a list); "
                "give it one, all black if it is undamaged",
            )
        if os.path.lexists(job.output) and self.done_before(job):
            return Work.nothing(job)
        for path in job.maps:
            if os.path.lexists(path) and not self.may_replace(path):
                raise ItemError(path, "is there already; use --overwrite to replace it")
        picture = read_picture(job.image, linear=settings.linear)
        hole, visible, known = self._hole(job, picture)
        if hole.any() and not known.any():
            raise ItemError(
                job.mask or job.image,
                f"{'its ' + str(settings.mask_from) if settings.mask_from else 'it'} marks the whole picture as damaged"
                f" ({settings.polarity}), so nothing is left to restore from; {settings.way_out}",
            )
        if settings.strict and hole.any():
            refuse_losses(job.image, foreseen(picture, job.output), WAY_OUT)
        try:
            made = Planned.of(picture, hole, visible, settings, self._view)
        except ValueError as error:
            raise ItemError(job.image, str(error)) from error
        return Work(made.picture, hole, made.layers, made.fillings, job, started, notices=self._notices(job, hole))

    def done_before(self, job: Job) -> bool:
        """Tell whether a run before has done it, of an output that is there.

        Raises:
            ItemError: It has not, and the output must not be replaced.
        """
        settings, journal = self._settings, self._journal
        if settings.resume and journal is not None and journal.done(job.image, job.mask, job.output):
            missing = [path for path in job.maps if not os.path.lexists(path)]
            if not missing:
                return True
            if not settings.overwrite:
                raise ItemError(missing[0], "is not there, and its picture done: add --overwrite to make both again")
        if settings.overwrite:
            return False
        if journal is not None and journal.made(job.output):
            why = "was made from other content or with other settings; add --overwrite to replace it"
            if not settings.resume:
                why = "is there from an earlier run; --resume leaves out what is done, --overwrite does it again"
            raise ItemError(job.output, why)
        raise ItemError(job.output, "the output exists already; use --overwrite to replace it")

    def may_replace(self, path: Path) -> bool:
        """Whether what may lie there, beside a result, may be written over: a run that was killed may have left it."""
        settings, journal = self._settings, self._journal
        return settings.overwrite or (settings.resume and journal is not None and journal.made(path))

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
            hole = align_mask(read_mask(job.mask), picture, settings.mask_on)
        else:
            if picture.alpha is not None and settings.mask_from.index == picture.alpha:
                visible = None
            try:
                settings.mask_from.refuse_colours([layer.channels for layer in picture.layers])
                hole = settings.mask_from.where(
                    picture.channels, picture.rgb, shown=visible, alpha=picture.alpha, nodata=picture.nodata
                )
            except Unmarked as error:
                raise ItemError(job.image, str(error)) from error
        hole = ~hole if settings.invert_mask else hole
        hole = dilate(hole, settings.dilate)
        if settings.save_masks is not None:
            mask = MaskImage(_saved_mask(settings.save_masks, job), hole, picture.orientation)
            write_mask(mask, overwrite=settings.overwrite or settings.resume)
        if visible is not None and settings.mask_from is not None and settings.mask_from.reveals:
            visible = None if (visible | hole).all() else visible | hole
        return hole, visible, ~hole if visible is None else ~hole & visible

    def _notices(self, job: Job, hole: NDArray[np.bool_]) -> tuple[str, ...]:
        """What there is to say of a mask that marks nothing."""
        if job.mask is None or hole.any() or self._settings.mask_from is not None:
            return ()
        from pconv_cli import tiff

        with suppress(ItemError):  # a kind of picture that can only be read whole
            return () if tiff.is_plain(job.mask) else (f"{job.mask} {FAINT}",)
        return ()


def _by_value(settings: Settings, view: View) -> bool:
    """Whether damage is where there is no value: each layer of raw values has holes of its own then."""
    mark = settings.mask_from
    return view.raw and mark is not None and mark.kind == "nodata" and not settings.invert_mask


def _nodata(picture: Picture, settings: Settings) -> float | None:
    """The value that stands for nothing, beside NaN."""
    mark = settings.mask_from
    return picture.nodata if mark is None or mark.value is None else mark.value


class Filler:
    """The stages of `pipeline.run` between reading and writing: what is filled in a picture, and filling it."""

    def __init__(self, engine: Engine, emit: Listener) -> None:
        self._engine, self._emit = engine, emit

    def pieces(self, work: Planned) -> Sequence[tuple[Shape, Piece]]:
        """See `pipeline.Stages`."""
        return work.next_round()

    def batch_size(self, shape: Shape) -> int:
        """See `pipeline.Stages`."""
        return self._engine.batch_size(shape[:2])

    def compute(self, shape: Shape, pieces: Sequence[Piece | helpers.Parcel], turn: Turn) -> None:
        """See `pipeline.Stages`."""
        tiles = [piece.load() for piece in pieces]
        results = self._engine.fill(tiles, shape[:2], turn.lane, turn.beside)
        for piece, tile, filled in zip(pieces, tiles, results, strict=True):
            piece.land(tile, filled)
        self._emit(TilesDone(len(pieces), sum(piece.window.area for piece in pieces)))


class _Told(NamedTuple):
    """What is to be known of a picture that was read: whether it was done before, its tiles, the share damaged."""

    done_before: bool
    planned: int
    share: float


class _Restoration:
    """The stages of `pipeline.run`, for picture files: a bench reads and writes them, here or in helpers."""

    def __init__(
        self, engine: Engine, emit: Listener, looks: _Looks, bench: _Bench | helpers.Crew[Job, _Told, ItemReport]
    ) -> None:
        self._filler, self._emit, self._looks, self._bench = Filler(engine, emit), emit, looks, bench
        self.cost, self.pieces, self.write = bench.cost, bench.pieces, bench.write
        self.batch_size, self.compute = self._filler.batch_size, self._filler.compute

    def read(self, job: Job) -> Any:
        work: Any = self._bench.read(job)
        told = self._bench.told(work)
        if not told.done_before:
            self._looks.at(job, told.share)
            self._emit(ItemStarted(job.name, told.planned))
        return work


class _Looks:
    """Says once that masks look like the other polarity, and in the end how many do."""

    def __init__(self, settings: RestoreSettings, emit: Listener) -> None:
        self._settings, self._emit = settings, emit
        self._suspicious = 0
        self._looking = threading.Lock()

    def at(self, job: Job, share: float) -> None:
        suspicion = self._settings.suspicion(share)
        if suspicion is None:
            return
        with self._looking:
            self._suspicious += 1
            first = self._suspicious == 1
        if first:
            self._emit(Notice(f"{job.mask or job.image}: {suspicion}"))

    def last_words(self) -> None:
        if self._suspicious > 1:
            self._emit(Notice(f"{self._suspicious} masks in all mark more than {SUSPICIOUS:.0%} as damaged"))


class _Bench:
    """Reads pictures, cuts them, writes what was filled and what belongs beside it, and notes down what is done."""

    def __init__(self, settings: RestoreSettings, view: View, journal: Journal | _Notes | None) -> None:
        self._settings, self._journal = settings, journal
        self._reader = Reader(settings, view, journal)
        told = store.told(settings.weights) if settings.provenance else {}
        self._weights = (told.get("weights", ""), told.get("weights_sha256", ""))

    @classmethod
    def of(cls, settings: RestoreSettings, view: View, journal: tuple[Path, str, str] | None) -> _Bench:
        """One in a process of its own, which opens the journal for itself, and has one core."""
        torch.set_num_threads(1)
        return cls(settings, view, None if journal is None else Journal(*journal))

    def cost(self, job: Job) -> int:
        return self._reader.cost(job)

    def read(self, job: Job) -> Work:
        return self._reader.read(job)

    def told(self, work: Work) -> _Told:
        return _Told(work.done_before, work.planned, 0.0 if work.done_before else float(work.hole.mean()))

    def pieces(self, work: Work) -> Sequence[tuple[Shape, Piece]]:
        return work.next_round()

    def write(self, work: Work) -> ItemReport:
        job, settings = work.job, self._settings
        if work.done_before:
            return work.reported("done_before")

        def ready(part: Path, notices: Sequence[str]) -> None:
            if settings.strict:
                refuse_losses(job.image, notices, WAY_OUT)
            self._write_beside(work)
            self._record(job, job.output, part)

        overwrite = settings.overwrite
        try:
            return self._written(work, ready)
        except ItemError:
            # Another run may have made the same meanwhile.
            if overwrite or self._journal is None or not self._journal.done(job.image, job.mask, job.output):
                raise
            return _report_of(job, "done_before")

    def _written(self, work: Work, ready: Ready) -> ItemReport:
        job, overwrite = work.job, self._settings.overwrite
        if not work.hole.any() and same_format(job.image, job.output):
            copy_file(job.image, job.output, overwrite=overwrite, ready=ready)
            return work.reported("copied")
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

    def _write_beside(self, work: Work) -> None:
        """Write what belongs beside a result that is finished and about to get its name."""
        job = work.job
        restored = work.restored(reveal=self._reveal) if job.maps else work.hole
        maps: dict[Path | None, Callable[[], NDArray[np.uint8]]] = {
            job.filled: lambda: beside.white(restored),
            job.confidence: lambda: work.confidence(restored),
        }
        for path, values in maps.items():
            if path is not None:
                write_map(
                    values(), path, work.picture, job.output, overwrite=self._reader.may_replace(path),
                    ready=lambda part, _, path=path: self._record(job, path, part),  # type: ignore[misc]
                )  # fmt: skip
        if work.sidecar:
            path = beside.sidecar(job.output)
            beside.write_sidecar(
                work.sidecar, job.output, overwrite=self._reader.may_replace(path),
                ready=lambda part: self._record(job, path, part),
            )  # fmt: skip

    def _record(self, job: Job, target: Path, part: Path) -> None:
        """Note down what is about to get its name."""
        if self._journal is not None:
            try:
                self._journal.record(job.image, job.mask, target, part)
            except OSError as error:
                why = files.why_unwritable(error) or str(error)
                raise ItemError(target, f"cannot be noted down as done, so it was not written: {why}") from error


class _StagedBench(_Bench):
    """The same, where some files are elsewhere: they are fetched before, and delivered after."""

    def __init__(self, settings: RestoreSettings, view: View, notes: _Notes) -> None:
        super().__init__(settings, view, notes)
        self._notes, self._stage, self._done = notes, notes.stage, set[Path]()

    def cost(self, job: Job) -> int:
        stage, settings = self._stage, self._settings
        may_be_done = stage.holds(job.output) and (settings.resume or not settings.overwrite)
        if may_be_done and stage.note(job.output) is not None and self._reader.done_before(job):
            self._done.add(job.output)  # before anything is fetched
            return 0
        for path in (job.image, job.mask):
            if path is not None:
                stage.fetch(path, job.output)
        return super().cost(job)

    def read(self, job: Job) -> Work:
        return Work.nothing(job) if job.output in self._done else super().read(job)

    def _written(self, work: Work, ready: Ready) -> ItemReport:
        job, report = work.job, super()._written(work, ready)
        if self._stage.holds(job.output):
            note, overwrite = self._notes.of(job.image, job.mask, job.output), self._settings.overwrite
            if work.sidecar:
                path = beside.sidecar(job.output)
                self._stage.deliver(path, note, overwrite=overwrite)
                path.unlink()
            self._stage.deliver(job.output, note, overwrite=overwrite)
        return report


class _Notes:
    """What is done, as a `Journal` tells it: of outputs elsewhere by the notes that they carry, of others by theirs."""

    def __init__(self, stage: Stage, key: str, journal: Journal | None) -> None:
        self.stage, self._key, self._journal = stage, key, journal

    def of(self, image: Path, mask: Path | None, output: Path) -> str:
        """What is noted with an output that is made of these."""
        states = [None if path is None else self.stage.state(path, output) for path in (image, mask)]
        return hashlib.sha256(json.dumps([self._key, *states]).encode()).hexdigest()

    def done(self, image: Path, mask: Path | None, output: Path) -> bool:
        if not self.stage.holds(output):
            return self._journal is not None and self._journal.done(image, mask, output)
        return self.stage.note(output) == self.of(image, mask, output)

    def made(self, output: Path) -> bool:
        if not self.stage.holds(output):
            return self._journal is not None and self._journal.made(output)
        return bool(self.stage.note(output))

    def record(self, image: Path, mask: Path | None, output: Path, part: Path) -> None:
        if self._journal is not None and not self.stage.holds(output):
            self._journal.record(image, mask, output, part)


def _saved_mask(folder: Path, job: Job) -> Path:
    """Where the mask of a picture is kept: a list may name pictures anywhere, and then the name alone counts."""
    name = Path(job.name)
    spread = name.is_absolute() or ".." in name.parts
    return folder / (Path(name.name) if spread else name).with_suffix(".png")


def _refuse_mask_clash(todo: JobList, folder: Path) -> None:
    """Make sure that every mask that is kept has a name of its own, which is no picture's."""
    taken = {os.path.realpath(path): job for job in todo.jobs for path in (job.image, job.output)}
    for job in todo.jobs:
        place = os.path.realpath(_saved_mask(folder, job))
        if place in taken:
            both = f"the mask of {job.image} would fall on that of {taken[place].image}, or on a picture"
            raise UsageError(f"--save-masks {folder}: {both}: choose a folder of its own, or rename one of the two")
        taken[place] = job


def _home(todo: JobList, stage: Stage) -> Path | None:
    """The folder on this machine for results, if there is one."""
    if not stage.holds(todo.home):
        return todo.home
    return next((job.output.parent for job in todo.jobs if not stage.holds(job.output)), None)


def _journal(home: Path, settings: RestoreSettings, weights: str, hand: str = "") -> Journal:
    """Where it is noted down what is done; `hand` as in `Journal`."""
    return Journal(home / NAME, _key(settings, weights), hand)


def _key(settings: RestoreSettings, weights: str) -> str:
    """A digest of everything but image and mask that decides what comes out."""
    decisive = {"pconv": __version__, "weights": weights, "mask_from": str(settings.mask_from or "")}
    names = ("precision", "tile_size", "padding", "overlap", "invert_mask", "dilate", "mask_on", "linear", "format")
    decisive |= {name: str(getattr(settings, name)) for name in names}
    decisive |= {"provenance": "yes"} if settings.provenance else {}
    if settings.detect is not None:
        decisive["detect"] = str(settings.detect)
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _clean_up(jobs: Sequence[Job], journal: Journal) -> None:
    """Remove what a killed run has left half-written, unless another run is at work there."""
    names: dict[Path, set[str]] = {}
    for job in jobs:
        for path in (job.output, beside.sidecar(job.output), *job.maps):
            names.setdefault(path.parent, set()).add(path.name)
    with journal.alone() as alone:
        if alone:
            for folder, of in names.items():
                sweep(folder, of)


def _list_failed(
    jobs: Iterable[Job], reports: Mapping[Path, ItemReport], stage: Stage, target: Path, *, overwrite: bool
) -> None:
    failed = [(job, reports[job.output]) for job in jobs if job.output in reports]
    rows = [
        {
            "image": stage.shown(str(job.image)), "mask": None if job.mask is None else stage.shown(str(job.mask)),
            "out": stage.shown(str(job.output)), "reason": report.reason,
        }
        for job, report in failed
        if report.status == "failed"
    ]  # fmt: skip
    manifest.write(rows, target, overwrite=overwrite)


def _writable(todo: JobList, folder: Path | None, stage: Stage) -> None:
    """Find out before hours of work, not after, whether outputs can be written, and storage elsewhere be reached."""
    inputs = (path for job in todo.jobs for path in (job.image, job.mask) if path is not None)
    stage.refuse_unreachable(inputs, (job.output for job in todo.jobs))
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.refuse_unwritable(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot write there ({error.strerror or error}); choose another OUT") from error


def _mention_unused(todo: JobList, emit: Listener) -> None:
    if todo.left_out:
        emit(Notice(todo.left_out))
    if todo.unused_masks:
        more = f" and {len(todo.unused_masks) - 1} more" if len(todo.unused_masks) > 1 else ""
        emit(Notice(f"{todo.unused_masks[0]}{more}: no picture pairs with it, so not used"))


def _report(outcome: Outcome[Job, ItemReport]) -> ItemReport:
    if outcome.done is not None:
        return outcome.done
    assert outcome.error is not None
    job = outcome.item
    return _report_of(job, "failed", path=outcome.error.path, reason=outcome.error.reason)


def _report_of(job: Job, status: Status, path: str | None = None, reason: str | None = None) -> ItemReport:
    mask = None if job.mask is None else str(job.mask)
    return ItemReport(job.name, str(job.image), mask, str(job.output), status, path=path, reason=reason)


def _tell(report: ItemReport, emit: Listener) -> None:
    if report.status == "failed":
        emit(ItemFailed(report.name, report.image, report.path or report.image, report.reason or ""))
        return
    emit(
        ItemDone(
            report.name, report.output, report.status, report.hole_share or 0.0, report.tiles, report.notices,
            report.seconds,
        )
    )  # fmt: skip
