"""Restore pictures: what happens, in order.

Pairs, checks, then one stream: read, plan, cut, fill, lay the fill into the holes, write, and note down what is done.
Knows every step and none of their workings. Does not know: the terminal, options' spelling, exit codes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

from pconv_cli import __version__, beside, distributed, files, helpers, manifest
from pconv_cli import weights as store
from pconv_cli.bench import Bench, Notes, StagedBench, Told, report_of
from pconv_cli.bench import RestoreSettings as RestoreSettings  # it belongs to what this module does
from pconv_cli.detection import opencv
from pconv_cli.distributed import Cluster
from pconv_cli.engine import Engine, choose_devices, choose_precision, described
from pconv_cli.errors import ItemError, NoRoom, RunError, UsageError, failure
from pconv_cli.events import (
    AllThere,
    Event,
    ItemDone,
    ItemFailed,
    ItemStarted,
    Listener,
    Notice,
    ProcessesStarting,
    RunFinished,
    RunStarted,
    TilesDone,
)
from pconv_cli.filling import Piece, Shape
from pconv_cli.images import FORMATS, READ_SUFFIXES
from pconv_cli.jobs import Job, JobList, among, find_jobs, listed_jobs, with_maps
from pconv_cli.journal import NAME, Journal, Signature, sweep
from pconv_cli.layers import View
from pconv_cli.pipeline import NICENESS, Limits, Outcome, Stages, Turn, run
from pconv_cli.process import settle
from pconv_cli.remote import Stage
from pconv_cli.report import ItemReport, Report, collecting
from pconv_cli.settings import HUGS

WITHOUT_ROOM = 3
"""Pictures in a row that a full disk may fail before no other is begun: a smaller one might still have found room."""
NOTICES = 1000  # that a run which has no end of its own keeps for its summary
FEW = 3  # of many pictures that the same is told of, those that are named
WORTH_HELPERS, WORTH_HELPERS_OF_A_GPU = 256, 64
"""Pictures of a run from which on processes read and write them, computing on a CPU or on GPUs."""


def plan(
    source: Path,
    masks: Path | None,
    output: str,
    settings: RestoreSettings,
    own: Sequence[Path] = (),
    *,
    elsewhere: bool = False,
    lenient: bool = False,
) -> JobList:
    """Pair pictures with masks and refuse what cannot work, before any work starts.

    Args:
        source: A folder, or one picture.
        masks: A folder, or one mask for all; None where pictures show their damage themselves.
        output: A folder or, for a single picture, a file.
        settings: How.
        own: As in `find_jobs`.
        elsewhere: Whether OUT is not on this machine: results are noted one by one there, in no journal.
        lenient: As in `find_jobs`.

    Raises:
        UsageError: If settings or pairing make no sense, or OUT holds pictures of IN.
        NothingToDo: If there is no picture.
        OutputError: If OUT cannot be a folder.
    """
    apart, suffix = beside.folders(settings), _check(settings)
    apart += [] if settings.save_masks is None else [settings.save_masks]
    if not elsewhere:
        _refuse_among(source, Path(output), [*apart, *([] if masks is None else [masks])])
    todo = find_jobs(
        source, masks, output, suffixes=READ_SUFFIXES, out_suffix=suffix, apart=apart, own=own, lenient=lenient
    )
    return with_maps(todo, settings.save_filled, settings.save_confidence, settings.save_masks)


def _refuse_among(source: Path, output: Path, apart: Sequence[Path]) -> None:
    """Make sure that OUT, if it lies inside IN, holds results: other pictures would be left out without a word.

    Raises:
        UsageError: It holds pictures, and no journal of a run that has written some.
    """

    @cache
    def noted(folder: Path) -> bool:  # a list may have had a folder inside for its home
        return os.path.lexists(folder / NAME) or (folder != output and noted(folder.parent))

    if noted(output) or os.path.realpath(output) == os.path.realpath(source):  # which is refused in any case
        return
    if found := [path for path in among(source, output, READ_SUFFIXES, apart) if not noted(path.parent)]:
        pictures = f"{found[0]} and {len(found) - 1} more would" if len(found) > 1 else f"{found[0]} would"
        raise UsageError(
            f"{output}: lies inside {source} and holds pictures that no earlier run has noted as its own: {pictures} "
            "be left out; choose another OUT"
        )


def plan_listed(rows: Sequence[manifest.Row], output: str | None, settings: RestoreSettings) -> JobList:
    """The same for a list of pictures, masks and outputs; `output` is a folder for those without one.

    Raises:
        UsageError: As in `plan`.
    """
    todo = listed_jobs(rows, output, suffixes=READ_SUFFIXES, out_suffix=_check(settings))
    return with_maps(todo, settings.save_filled, settings.save_confidence, settings.save_masks)


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
            files.refuse_taken(settings.failed_list, overwrite=_may_replace_list(settings))
            files.refuse_unwritable(settings.failed_list.absolute().parent)
        except OSError as error:
            why = str(error) if isinstance(error, files.Refused) else f"cannot be written there ({error.strerror})"
            raise UsageError(f"--failed-list {settings.failed_list}: {why}") from error
    return None if settings.format is None else FORMATS[settings.format][0]


def refuse_unpaired(todo: JobList, settings: RestoreSettings) -> None:
    """Make sure that some picture has a mask, where there are several: else the wrong folder was given.

    Raises:
        UsageError: None has.
    """
    if settings.mask_from is None and settings.detect is None and len(todo.jobs) > 1 and not todo.unclear:
        if any(job.mask is not None for job in todo.jobs):
            return
        stem = Path(todo.jobs[0].name).with_suffix("").as_posix()
        unread = f" ({todo.left_out})" if todo.skipped_masks else ""
        raise UsageError(
            f"none of {len(todo.jobs)} pictures has a mask{unread}: for {todo.jobs[0].name} it is called {stem}.* or "
            f"{stem}_mask.* in the masks folder, or named in the column mask of a list; --detect finds damage by itself"
        )


def _may_replace_list(settings: RestoreSettings) -> bool:
    """Whether what may stand where failures are to be listed may go.

    A run that goes on makes its list anew, and one of a list of failures that list.
    """
    assert settings.failed_list is not None
    again = settings.resume or _renews_list(settings)
    return settings.overwrite or (again and manifest.is_of_failures(settings.failed_list))


def _renews_list(settings: RestoreSettings) -> bool:
    """Whether failures are to be listed in the very list of the run."""
    with suppress(OSError):
        if settings.failed_list is not None and settings.listed_by is not None:
            return settings.failed_list.samefile(settings.listed_by)
    return False


class Arriving(Protocol):
    """Jobs that come with time, some at once: each lot is asked for when the one before is done."""

    def __iter__(self) -> Iterator[Sequence[Job]]:
        """Give them until a stop."""
        ...

    def waiting(self) -> bool:
        """Whether anything was there at last that was never given."""
        ...


def restore(
    todo: JobList,
    settings: RestoreSettings,
    emit: Listener,
    stop: Callable[[], bool] = lambda: False,
    each: Callable[[ItemReport], None] = lambda report: None,
    cluster: Cluster | None = None,
    stage: Stage | None = None,
    arrivals: Arriving | None = None,
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
        arrivals: Further jobs; None: no more than `todo`.

    Raises:
        RunError: If the run cannot start or go on: nothing to do, no masks, weights, output place, device.
    """
    started = time.monotonic()
    refuse_unpaired(todo, settings)
    stage = stage or Stage()
    notices, emit = collecting(emit)
    emit = stage.telling(emit)
    settled: dict[str, Any] = store.told(settings.weights) | settings.told()
    home = home_of(todo, stage)
    begin: Callable[[Signature, Journal | None], Outcomes]
    if cluster is None:
        here = _Here(settings, emit, 0 if stage.used else len(todo.jobs))
        settled |= here.about
        shared = worth_helpers(len(todo.jobs), on_cpu=here.engine.on_cpu)
        begin = partial(_on_this_machine, here, settings, emit, stage)
    else:
        settled |= distributed.told(cluster, settings.device, settings.precision)
        store.view(settings.weights)  # before anything begins
        shared = True
        begin = partial(_on_a_cluster, settings, cluster, home, emit, stage)
    # Only a run of several processes can lose one that has not told of what it made.
    signature = signature_of(settings, settled["weights_sha256"], secrets.token_hex(8) if shared else "")
    _writable(todo, home, stage)
    beside.prepare(settings)
    told = ("weights", "device", "precision", "precision_reason")
    emit(RunStarted(len(todo.jobs), *(str(settled[key]) for key in told)))
    _mention_unused(todo, emit)
    if _all_there(todo, settings):
        emit(AllThere(len(todo.jobs), str(todo.home)))
    reports: dict[Path, ItemReport] = {}
    jobs = {job.output: job for job in todo.jobs}
    past: Counter[str] = Counter()
    failed = without_room = restored = copied = hugged = 0
    unlisted: list[RunError] = []

    def enough() -> bool:
        limit = settings.max_failures
        return stop() or without_room >= WITHOUT_ROOM or (limit is not None and failed >= limit)

    with ExitStack() as stack:
        journal = None
        if home is not None and (todo.several or settings.resume):
            journal = journal_of(home, signature)
        if journal is not None:
            stack.enter_context(journal)
        if settings.failed_list is not None:
            again, renews = _may_replace_list(settings), _renews_list(settings)
            listing = partial(
                _list_failed, jobs.values(), reports, stage, settings.failed_list, overwrite=again, whole=renews
            )

            def list_failed(_: object, ended_by: object, __: object) -> None:
                try:
                    listing()
                except RunError as error:  # all else is to be told first
                    unlisted.append(error)
                    if ended_by is not None:
                        emit(Notice(str(error)))

            stack.push(list_failed)
        outcomes = begin(signature, journal)
        for some in [todo.jobs] if arrivals is None else arrivals:
            jobs |= {job.output: job for job in some}
            if journal is not None and settings.resume:
                _clean_up(some, journal)
            for outcome in outcomes(some, enough):
                report = stage.shown(_report(outcome))
                _tell(report, emit)
                # Said at once, and of the first alone: see `_Looks`.
                doubt = settings.suspicion(report.hole_share or 0)
                if doubt is not None:
                    report = replace(report, notices=(*report.notices, f"{report.mask or report.image} {doubt}"))
                reports[outcome.item.output] = report
                each(report)
                failed += report.status == "failed"
                restored += report.status == "restored"
                copied += report.status == "copied"
                hugged += any(HUGS in notice for notice in report.notices)
                if report.status == "failed" and failed == settings.max_failures:
                    emit(Notice(f"{failed} failed, which is the limit: no other picture is begun"))
                if isinstance(outcome.error, NoRoom):
                    without_room += 1
                    if without_room == WITHOUT_ROOM:
                        emit(Notice("the disk is full: no other picture is begun; with room again --resume goes on"))
                elif report.status == "restored":
                    without_room = 0
            if arrivals is not None:  # they may never end
                past += _forgotten(some, jobs, reports)
                del notices[:-NOTICES]
            if enough():
                break
        if cluster is not None and journal is not None:
            with suppress(OSError):  # the files of the workers say the same
                journal.gather()
    if hugged:
        emit(Notice(settings.hugging(hugged, restored)))
    if settings.detect is not None and (missed := settings.detect.missed(copied, restored + copied)):
        emit(Notice(missed))
    items = tuple(reports.get(job.output) or stage.shown(report_of(job, "not_done")) for job in jobs.values())
    left = any(item.status == "not_done" for item in items) or (arrivals is not None and arrivals.waiting())
    why_unlisted = next(iter(unlisted), None)
    whole = Report(settled, items, time.monotonic() - started, stop() and left, tuple(notices), why_unlisted, past)
    place = todo.home if arrivals is not None or len(todo.jobs) != 1 else todo.jobs[0].output
    emit(
        RunFinished(
            whole.count("restored"), whole.count("copied"), whole.count("failed"), whole.count("not_done"),
            whole.count("done_before"), whole.tiles, whole.seconds, str(place),
        )
    )  # fmt: skip
    return whole


def _forgotten(some: Sequence[Job], jobs: dict[Path, Job], reports: dict[Path, ItemReport]) -> Counter[str]:
    """Drop what is done, and count it: by status, and the tiles."""
    past: Counter[str] = Counter()
    for job in some:
        if job.output in reports and reports[job.output].status != "failed":
            report = reports.pop(job.output)
            del jobs[job.output]
            past.update({report.status: 1, "tiles": report.tiles})
    return past


class _Here:
    """The network, ready on the devices of this machine."""

    def __init__(self, settings: RestoreSettings, emit: Listener, jobs: int = 0) -> None:
        devices = choose_devices(settings.device)
        self.nursery: helpers.Nursery | None = None
        if worth_helpers(jobs, on_cpu=devices[0].type == "cpu"):
            with suppress(OSError):  # told of where helpers are engaged
                self.nursery = helpers.Nursery(Bench.__module__)  # it imports while weights are loaded
        network, self.view = store.load_network(settings.weights, settings.padding), store.view(settings.weights)
        precision, reason = choose_precision(settings.precision, devices, exact=self.view.raw)
        self.about = described(devices, precision, reason)
        self.engine = Engine(network, devices, precision, emit, settings.batch_size)


Outcomes = Callable[[Sequence[Job], Callable[[], bool]], Iterator[Outcome[Job, ItemReport]]]
"""Does jobs until a stop, and tells what became of each."""


def _on_this_machine(
    here: _Here, settings: RestoreSettings, emit: Listener, stage: Stage, signature: Signature, journal: Journal | None
) -> Outcomes:
    engine, limits = here.engine, in_flight(here.engine, settings.jobs)

    def outcomes(jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Outcome[Job, ItemReport]]:
        looks = _Looks(settings, emit)
        with ExitStack() as stack:
            bench: Bench | None = None
            crew: helpers.Crew[Job, Told, ItemReport] | None = None
            if stage.used:
                bench = bench_of(settings, here.view, signature, stage, journal)
            elif worth_helpers(len(jobs), on_cpu=engine.on_cpu):
                make = partial(Bench.of, settings, here.view, None if journal is None else journal.place)
                emit(ProcessesStarting(limits.readers))
                try:
                    nursery, here.nursery = here.nursery or helpers.Nursery(Bench.__module__), None
                    niceness = NICENESS if engine.on_cpu else 0
                    crew = stack.enter_context(helpers.Crew(make, limits.readers, _lost, niceness, nursery))
                except OSError as error:  # no sockets, or no more processes
                    emit(Notice(f"no processes to read and write with ({error}): threads do it, which is slower"))
            stages: Stages[Job, Any, Shape, Any, ItemReport] = _Restoration(
                engine, emit, looks, crew or bench or bench_of(settings, here.view, signature, stage, journal)
            )
            for outcome in run(jobs, stages, limits, stop, lambda job, error: failure(job.image, error)):
                stage.release(outcome.item.output)
                yield outcome
        if crew is not None and crew.deaths:
            emit(Notice(f"processes that read and write died, {crew.deaths} in all: what they had was done again"))
            if journal is not None:
                _clean_up(jobs, journal)
        looks.last_words()

    return outcomes


def _lost(job: Job) -> ItemError:
    return ItemError(job.image, "two processes died of it: look at it by itself")


def worth_helpers(jobs: int, *, on_cpu: bool) -> bool:
    """Whether there is so much to do that processes which read and write pay for the seconds they take to come."""
    return helpers.can_be_had() and jobs >= (WORTH_HELPERS if on_cpu else WORTH_HELPERS_OF_A_GPU)


# ---------------------------------------------------------------- on a cluster


def _on_a_cluster(
    settings: RestoreSettings, cluster: Cluster, home: Path | None, emit: Listener, stage: Stage, signature: Signature,
    journal: Journal | None,
) -> Outcomes:  # fmt: skip
    make = partial(_Worker, settings, None if journal is None else home, signature, stage)
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

    def __init__(self, settings: RestoreSettings, home: Path | None, signature: Signature, stage: Stage) -> None:
        settle()
        self._settings, self._signature, self._stage, self._events = settings, signature, stage, deque[Event]()
        self._here = _Here(settings, self._events.append)
        hand = re.sub(r"\W", "", f"{socket.gethostname()}x{os.getpid()}")
        self._journal = None if home is None else journal_of(home, signature, hand)

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
        begin = _on_this_machine(self._here, self._settings, emit, stage, self._signature, self._journal)
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


class Filler:
    """The stages of `pipeline.run` that compute."""

    def __init__(self, engine: Engine, emit: Listener) -> None:
        self._engine, self._emit = engine, emit

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


class _Restoration(Filler):
    """The stages of `pipeline.run`, for picture files: a bench reads and writes them, here or in helpers."""

    def __init__(
        self, engine: Engine, emit: Listener, looks: _Looks, bench: Bench | helpers.Crew[Job, Told, ItemReport]
    ) -> None:
        super().__init__(engine, emit)
        self._looks, self._bench = looks, bench
        self.cost, self.pieces, self.write = bench.cost, bench.pieces, bench.write

    def read(self, job: Job) -> Any:
        work: Any = self._bench.read(job)
        told = self._bench.told(work)
        if not told.done_before:
            self._looks.at(job, told.share)
            self._emit(ItemStarted(job.name, told.planned))
        return work


class _Looks:
    """Says once that masks look like the other polarity, and in the end which, and how many, do."""

    def __init__(self, settings: RestoreSettings, emit: Listener) -> None:
        self._settings, self._emit = settings, emit
        self._suspicious: list[str] = []
        self._looking = threading.Lock()

    def at(self, job: Job, share: float) -> None:
        suspicion = self._settings.suspicion(share)
        if suspicion is None:
            return
        with self._looking:
            self._suspicious.append(str(job.mask or job.image))
            first = len(self._suspicious) == 1
        if first:
            self._emit(Notice(f"{job.mask or job.image}: {suspicion}"))

    def last_words(self) -> None:
        if (count := len(self._suspicious)) > 1:
            few = f"{', '.join(sorted(self._suspicious)[:FEW])}{', ...' * (count > FEW)}"
            self._emit(Notice(f"{count} masks in all mark more than {self._settings.much:.0%} as damaged: {few}"))


def home_of(todo: JobList, stage: Stage) -> Path | None:
    """The folder on this machine for results, if there is one."""
    here = [job.output.parent for job in todo.jobs if not stage.holds(job.output)]
    if len(here) == len(todo.jobs):
        return todo.home
    return here[0] if here else None  # what holds results here and elsewhere alike is no place for anything


def journal_of(home: Path, signature: Signature, hand: str = "", *, writes: bool = True) -> Journal:
    """Where it is noted down what is done, in the folder for results; more in `Journal`."""
    return Journal(home / NAME, signature.key, hand, signature.run, writes=writes)


def bench_of(
    settings: RestoreSettings, view: View, signature: Signature, stage: Stage, journal: Journal | None
) -> Bench:
    """Who reads and writes pictures, wherever they are."""
    if stage.used:
        return StagedBench(settings, view, Notes(stage, signature, journal))
    return Bench(settings, view, journal)


def signature_of(settings: RestoreSettings, weights: str, run: str = "") -> Signature:
    """What results are signed with; `weights` by SHA-256."""
    decisive = {"pconv": __version__, "weights": weights, "mask_from": str(settings.mask_from or "")}
    names = ("precision", "tile_size", "padding", "overlap", "invert_mask", "dilate", "mask_on", "linear", "format")
    decisive |= {name: str(getattr(settings, name)) for name in names}
    decisive |= {"provenance": "yes"} if settings.provenance else {}
    if settings.detect is not None:
        decisive["detect"] = str(settings.detect)
    return Signature(hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest(), run)


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
    jobs: Collection[Job],
    reports: Mapping[Path, ItemReport],
    stage: Stage,
    target: Path,
    *,
    overwrite: bool,
    whole: bool,
) -> None:
    """List what has failed; where the list of the run is replaced, `whole`, what was not begun stays in it."""
    reasons = {output: report.reason for output, report in reports.items() if report.status == "failed"}
    if whole:
        reasons |= {job.output: "not begun" for job in jobs if job.output not in reports}
    rows = [
        {
            "image": stage.shown(str(job.image)), "mask": stage.shown(str(job.mask or job.wanted or "")) or None,
            "out": stage.shown(str(job.output)), "reason": reasons[job.output],
        }
        for job in jobs
        if job.output in reasons
    ]  # fmt: skip
    manifest.write(rows, target, overwrite=overwrite)


def _writable(todo: JobList, folder: Path | None, stage: Stage) -> None:
    """Find out before hours of work, not after, whether outputs can be written, and storage elsewhere be reached."""
    inputs = (path for job in todo.jobs for path in (job.image, job.mask) if path is not None)
    stage.refuse_unreachable(inputs, (job.output for job in todo.jobs))
    if folder is not None:
        files.prepare(folder)


def _mention_unused(todo: JobList, emit: Listener) -> None:
    if todo.left_out:
        emit(Notice(todo.left_out))
    if todo.unused:
        emit(Notice(todo.unused))


def _all_there(todo: JobList, settings: RestoreSettings) -> bool:
    """Whether several pictures are to be restored and no result may be written, for each is there already."""
    if settings.overwrite or settings.resume or len(todo.jobs) < 2:
        return False
    return all(os.path.lexists(job.output) for job in todo.jobs)


def _report(outcome: Outcome[Job, ItemReport]) -> ItemReport:
    if outcome.done is not None:
        return outcome.done
    assert outcome.error is not None
    job = outcome.item
    return report_of(job, "failed", path=outcome.error.path, reason=outcome.error.reason)


def _tell(report: ItemReport, emit: Listener) -> None:
    if report.status == "failed":
        emit(ItemFailed(report.name, report.image, report.path or report.image, report.reason or ""))
        return
    notices = tuple(notice for notice in report.notices if HUGS not in notice)  # told once, in the end
    emit(
        ItemDone(
            report.name, report.output, report.status, report.hole_share or 0.0, report.tiles, notices, report.seconds
        )
    )  # fmt: skip
