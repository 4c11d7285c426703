"""Looks before a run: everything that can be found out without a device, in one document.

Reads every picture and mask to its end, as a run would and by its rules, and plans; then adds up tiles, disk, memory
and time. Knows what `restore` reads and refuses. Does not know: the terminal, exit codes, networks, devices.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pconv_cli import weights as store
from pconv_cli.bench import BYTES_PER_PIXEL, Bench, RestoreSettings, Work
from pconv_cli.companions import Companions
from pconv_cli.errors import ItemError, OutputError, failure
from pconv_cli.events import CheckStarted, ItemChecked, Listener
from pconv_cli.files import Refused, amount
from pconv_cli.images import is_tiff, same_format
from pconv_cli.jobs import Job, JobList
from pconv_cli.layers import View
from pconv_cli.pipeline import Budget
from pconv_cli.process import memory_available
from pconv_cli.remote import Stage
from pconv_cli.restore import bench_of, home_of, journal_of, refuse_unpaired, signature_of, worth_helpers
from pconv_cli.settings import GREY, HUGS, SUSPICIOUS

PER_HELPER = 140 << 20  # bytes that a process which reads and writes takes
IN_FLIGHT = 1 << 30  # bytes of pictures between reading and writing, see `pipeline.Limits`
PIXELS_PER_GIGAFLOP = 5.2e3  # that a run fills where NumPy multiplies so much in fp32 (see benchmarks/README.md)
STARTING = 2.0  # seconds


@dataclass(frozen=True)
class Finding:
    """What is wrong with one picture, or may be: `grave` if it will not be restored."""

    name: str
    path: str
    reason: str
    grave: bool


@dataclass(frozen=True)
class Checked:
    """What a run would meet.

    Attributes:
        items: Pictures.
        findings: What is wrong: pictures that several masks fit, all others, then what concerns the run as a whole.
        damaged: Of those that can be restored, how many hold any damage.
        tiles: Tiles to compute, those of guides left out.
        pixels: Pixels in them.
        hole_share: Share of the pixels of those that can be restored that is damaged.
        disk_bytes: Room that the results will take, roughly, the largest one counted twice while it is written.
        disk_free: Room that there is; None where OUT was not said, or is elsewhere.
        memory_bytes: Memory that a run will hold, roughly.
        memory_free: Memory that there is; None where the system does not tell.
        seconds: What it will take on this machine's CPU, roughly.
        complete: Whether all pictures were looked at.
        done_before: Pictures that `--resume` leaves out.
        left_out: What there is to say of files that are no pictures.
    """

    items: int
    findings: tuple[Finding, ...]
    damaged: int
    tiles: int
    pixels: int
    hole_share: float
    disk_bytes: int
    disk_free: int | None
    memory_bytes: int
    memory_free: int | None
    seconds: float
    complete: bool = True
    done_before: int = 0
    left_out: str = ""

    @property
    def usable(self) -> bool:
        """Whether a run would go through without a failure."""
        return not any(finding.grave for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {"type": "check", "usable": self.usable, **asdict(self)}


@dataclass(frozen=True)
class _Look:
    """What one picture came to."""

    finding: Finding | None = None
    tiles: int = 0
    computed: int = 0
    area: int = 0
    share: float = 0.0
    bytes: int = 0
    seconds: float = 0.0
    done: bool = False
    hugs: bool = False


def check(
    todo: JobList,
    settings: RestoreSettings,
    emit: Listener,
    stop: Callable[[], bool],
    *,
    writes: bool,
    stage: Stage,
) -> Checked:
    """Look at every picture and mask as a run would; write nothing.

    Args:
        todo: What `restore.plan` found.
        settings: How the run is going to be.
        emit: Told of what happens.
        stop: Asked often; once it is true, no further picture is looked at.
        writes: Whether the outputs are where they will be.
        stage: Where files are while they are looked at that are elsewhere.

    Raises:
        WeightsError: If a run could not begin for its weights.
        UsageError: If no picture has a mask; or inputs are elsewhere, and their place is not there or cannot be
            reached.
    """
    refuse_unpaired(todo, settings)
    emit = stage.telling(emit)
    view = View() if settings.weights is None else store.view(settings.weights)
    stage.refuse_unreachable((path for job in todo.jobs for path in (job.image, job.mask) if path is not None), ())
    unwritable = _unwritable(todo, stage) if writes else []
    if not writes or unwritable:  # there is no output that could be in the way, or done
        settings = replace(settings, overwrite=True, resume=False)
    bench, budget = _bench(todo, settings, view, stage), Budget(IN_FLIGHT)
    emit(CheckStarted(len(todo.jobs)))

    def look(job: Job) -> _Look | None:
        if stop():
            return None
        try:
            found = _look_at(job, bench, settings, budget, stage)
        finally:
            stage.release(job.output)
        emit(ItemChecked(job.name, None if found.finding is None else found.finding.reason))
        return found

    threads = settings.jobs or os.cpu_count() or 1
    with ThreadPoolExecutor(threads, "check") as pool:
        looks = [found for found in pool.map(look, todo.jobs) if found is not None]
    findings = [Finding(name, str(path), reason, grave=True) for name, (path, reason) in todo.unclear.items()]
    findings += [found.finding for found in looks if found.finding is not None]
    findings += _unused(todo.unused_masks)
    findings += unwritable
    fine = [found for found in looks if not found.done and (found.finding is None or not found.finding.grave)]
    turned = sum(found.share > SUSPICIOUS for found in fine)
    if fine and turned > len(fine) / 2:
        reason = f"{turned} of {len(fine)} masks mark most of the picture, {settings.reading}: {settings.way_out}"
        findings.append(Finding("", "", reason, grave=True))
    damaged = sum(found.share > 0 for found in fine)
    if hugging := sum(found.hugs for found in fine):
        findings.append(Finding("", "", settings.hugging(hugging, damaged), grave=False))
    disk = sum(found.bytes for found in fine) + max((found.bytes for found in fine), default=0)
    away = any(map(stage.holds, (todo.home, *(job.output for job in todo.jobs))))
    free = _free(todo.home) if writes and not away else None
    if free is not None and disk > free:
        reason = f"results need some {amount(disk)}, and {amount(free)} are free: make room, or choose another OUT"
        findings.append(Finding("", str(todo.home), reason, grave=True))
    memory = _memory(settings, fine)
    available = memory_available()
    if available is not None and memory > available:
        reason = f"a run holds up to {amount(memory)} of memory, and {amount(available)} are free: a smaller"
        findings.append(Finding("", "", f"{reason} --jobs or --tile-size takes less", grave=False))
    pixels = sum(found.computed for found in fine)
    reading = sum(found.seconds for found in looks) / threads
    told = stage.shown(tuple(findings))
    return Checked(
        len(todo.jobs) + len(todo.unclear), told,
        damaged, sum(found.tiles for found in fine), pixels,
        sum(found.share * found.area for found in fine) / max(1, sum(found.area for found in fine)), disk, free,
        memory, available,
        round(STARTING + pixels / (_gigaflops() * PIXELS_PER_GIGAFLOP) + reading, 1), len(looks) == len(todo.jobs),
        sum(found.done for found in looks), todo.left_out,
    )  # fmt: skip


def _bench(todo: JobList, settings: RestoreSettings, view: View, stage: Stage) -> Bench:
    """Who reads as a run does, with what earlier runs have noted down."""
    weights = store.told(settings.weights)["weights_sha256"] if settings.resume else ""  # else nobody asks for it
    signature = signature_of(settings, weights)
    home = home_of(todo, stage)
    journal = None if home is None else journal_of(home, signature, writes=False)
    return bench_of(settings, view, signature, stage, journal)


def _look_at(job: Job, bench: Bench, settings: RestoreSettings, budget: Budget, stage: Stage) -> _Look:
    """Read one picture, when there is room in memory."""
    try:
        cost = bench.cost(job)
        budget.acquire(cost)
        started = time.monotonic()
        try:
            work = bench.read(job)
            if work.done_before:
                return _Look(done=True)
            _refuse_place(job, settings, stage)
            return _look_into(job, work, settings, started)
        finally:
            budget.release(cost)
    except Exception as error:
        failed = failure(job.image, error)
        return _Look(Finding(job.name, failed.path, failed.reason, grave=True))


def _look_into(job: Job, work: Work, settings: RestoreSettings, started: float) -> _Look:
    share = float(work.hole.mean())
    told = [notice for notice in work.notices if HUGS not in notice]  # of these there is one finding for all
    suspicion = settings.suspicion(share) or next(iter(told), None)
    grave = any(GREY in notice for notice in work.notices)
    finding = None if suspicion is None else Finding(job.name, str(job.mask or job.image), suspicion, grave=grave)
    size = job.image.stat().st_size
    raw = work.picture.pixels.nbytes
    # Without loss a photograph takes some two thirds of its pixels; what keeps its format keeps its size.
    kept = same_format(job.image, job.output)
    return _Look(
        finding, work.planned, work.to_compute, work.hole.size, share, size if kept else max(size, raw * 2 // 3),
        time.monotonic() - started, hugs=len(told) < len(work.notices),
    )  # fmt: skip


def _refuse_place(job: Job, settings: RestoreSettings, stage: Stage) -> None:
    """Make sure that a result can be written, and that names beside it are free: a run finds out when it writes.

    Raises:
        ItemError: Its folder cannot be written, or a name is taken.
    """
    if stage.holds(job.output):
        return
    if not _can_be_written(job.output.parent):
        raise ItemError(job.output, "cannot be written: choose another OUT")
    if same_format(job.image, job.output) and is_tiff(job.image):
        try:
            Companions.of(job.image).refuse_taken(job.output, overwrite=settings.overwrite)
        except Refused as error:
            raise ItemError(job.output, str(error)) from error


def _unused(masks: Sequence[Path]) -> list[Finding]:
    if not masks:
        return []
    more = f" and {len(masks) - 1} more" if len(masks) > 1 else ""
    return [Finding("", f"{masks[0]}{more}", "no picture pairs with it, so not used", grave=False)]


def _unwritable(todo: JobList, stage: Stage) -> list[Finding]:
    """Whether results cannot be written, as far as that can be told without trying."""
    try:
        stage.refuse_unreachable((), (job.output for job in todo.jobs))
    except OutputError as error:
        return [Finding("", "", str(error), grave=True)]
    if stage.holds(todo.home) or _can_be_written(todo.home):
        return []
    return [Finding("", str(todo.home), "cannot be written: choose another OUT", grave=True)]


def _can_be_written(folder: Path) -> bool:
    """Whether a folder, or the nearest one above it that is there, takes new files."""
    places = (folder.absolute(), *folder.absolute().parents)
    there = next((place for place in places if os.path.lexists(place)), None)  # a link may lead nowhere
    return there is None or (there.is_dir() and os.access(there, os.W_OK | os.X_OK))


def _memory(settings: RestoreSettings, looks: list[_Look]) -> int:
    pictures = sum(found.area for found in looks) * BYTES_PER_PIXEL
    largest = max((found.area for found in looks), default=0)
    held = min(pictures, max(IN_FLIGHT, largest * BYTES_PER_PIXEL))
    if worth_helpers(len(looks), on_cpu=True):
        held += PER_HELPER * (settings.jobs or max(1, (os.cpu_count() or 1) // 2))
    return settings.memory(largest) + held


def _free(folder: Path) -> int | None:
    """Room in a folder, or in the nearest one above that is there."""
    for place in (folder.absolute(), *folder.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def _gigaflops() -> float:
    """How much this machine multiplies in a second: a tenth of one that says what a minute will do."""
    matrix = np.ones((768, 768), np.float32)
    best = float("inf")
    for _ in range(12):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return 2 * 768**3 / best / 1e9
