"""Restore what arrives in a folder: which pictures have come to rest with their masks, and which were dealt with.

Knows sizes and times of files, and what was tried in which state. Does not know how names pair, what becomes of a
picture, what a restart must not do again (the journal knows), or the terminal.

Folders are looked at again and again: network drives do not tell of what arrives on them. What counts is this
machine's own clock between two looks, for the drives' clocks may go as they like.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pconv_cli import files
from pconv_cli.bench import RestoreSettings
from pconv_cli.beside import folders
from pconv_cli.errors import NothingToDo, UsageError
from pconv_cli.events import Listener, Notice
from pconv_cli.jobs import Job, JobList
from pconv_cli.restore import plan

SETTLE = 10.0
"""Seconds that a picture must have been still, if nobody says otherwise."""

_REST = 4  # times what a look took
_NAP = 0.2  # seconds: as long as Ctrl-C may go unnoticed


@dataclass(frozen=True)
class Clock:
    """Seconds that only go up, and waiting for some."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class _State(NamedTuple):
    """What tells a picture with its mask from a later state of the two: sizes in bytes, and times of change."""

    image: tuple[int, int]
    mask: tuple[str, int, int] | None


class Arrivals:
    """Jobs as they become ready, some at a time, until a stop. To be gone through once.

    A picture is ready when it and its mask have not changed for a while. It is given once in each state, whatever
    became of it; in a new state it is given again.
    """

    def __init__(
        self,
        look: Callable[[], JobList],
        settings: RestoreSettings,
        emit: Listener,
        stop: Callable[[], bool],
        settle: float,
        clock: Clock | None = None,
    ) -> None:
        """Begin to wait; nothing is looked at before the first job is asked for.

        Args:
            look: Finds all pictures that are there, see `watched`.
            settings: How pictures are restored.
            emit: Told of pictures that wait, and of folders that cannot be looked at.
            stop: Asked often.
            settle: Seconds that files must have been still.
            clock: What measures them; None: the machine's.
        """
        self._look, self._emit, self._stop = look, emit, stop
        self._needs_mask = settings.mask_from is None and settings.detect is None
        self._settle, self._clock = settle, clock or Clock()
        self._since: dict[Path, tuple[_State, float]] = {}
        self._tried: dict[Path, _State] = {}
        self._without: dict[Path, str] = {}  # who waits for a mask, and was told of
        self._trouble = ""

    def __iter__(self) -> Iterator[Sequence[Job]]:
        """Give jobs that are ready, never none."""
        while not self._stop():
            began = self._clock.now()
            if jobs := self._ready():
                yield jobs
            else:
                self._wait(self._clock.now() - began)
        if self._without:
            self._emit(Notice(f"{_some(list(self._without.values()))} still without a mask: not restored"))

    def waiting(self) -> bool:
        """Whether, when they were looked at last, there were pictures that were never given, or nobody could tell."""
        return bool(self._trouble) or any(self._tried.get(path) != state for path, (state, _) in self._since.items())

    def _ready(self) -> tuple[Job, ...]:
        """Look once."""
        try:
            found = self._look().jobs
        except NothingToDo:
            found = ()
        except UsageError as error:  # two masks for one picture, a drive that has gone: it may pass
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._emit(Notice(f"{error}; waiting until that is so"))
            return ()
        self._trouble = ""
        now = self._clock.now()
        still = {job.image: (job, state) for job in found if (state := self._still(job, now)) is not None}
        there = {job.image for job in found}
        self._since = {path: known for path, known in self._since.items() if path in there}
        self._tried = {path: known for path, known in self._tried.items() if path in there}
        waiting = {path: job.name for path, (job, _) in still.items() if self._needs_mask and job.mask is None}
        if new := [name for path, name in waiting.items() if path not in self._without]:
            self._emit(Notice(f"{_some(new)} without a mask so far: waiting for it"))
        self._without = waiting
        ready = [
            (job, state)
            for path, (job, state) in still.items()
            if path not in waiting and self._tried.get(path) != state
        ]
        self._tried |= {job.image: state for job, state in ready}
        return tuple(job for job, _ in ready)

    def _still(self, job: Job, now: float) -> _State | None:
        """The state that a picture with its mask has been in for long enough; None where it has not."""
        try:
            state = _State(
                files.state(job.image), None if job.mask is None else (str(job.mask), *files.state(job.mask))
            )
        except OSError:  # gone between two looks
            self._since.pop(job.image, None)
            return None
        known = self._since.get(job.image)
        if known is None or known[0] != state:
            known = self._since[job.image] = state, now
        return state if now - known[1] >= self._settle else None

    def _wait(self, took: float) -> None:
        """Let some time pass before the next look; after one that took long, at many thousands of files, the more."""
        end = self._clock.now() + max(min(self._settle / 4, 5), 0.5, _REST * took)
        while not self._stop() and (left := end - self._clock.now()) > 0:
            self._clock.sleep(min(_NAP, left))


def watched(source: Path, masks: Path | None, output: str, settings: RestoreSettings) -> Callable[[], JobList]:
    """Make what finds the pictures that are in a folder now, and refuse what could not work at any time.

    Args:
        source: A folder.
        masks: A folder, or one mask for all; None where pictures show their damage themselves.
        output: A folder.
        settings: How; with `resume`, or a restart would not know what is done.

    Raises:
        UsageError: They are no folders, or results would arrive among pictures or masks; or as in `restore.plan`.
    """
    if not source.is_dir():
        raise UsageError(f"{source}: not a folder: --watch needs one to look into")
    if Path(output).exists() and not Path(output).is_dir():
        raise UsageError(f"{output}: is a file, but the results need a folder: give the name of a folder")
    written = [Path(output), *folders(settings)]
    for place in written:
        for read in (source, masks):
            if read is not None and read.is_dir() and any(_same(place, above) for above in _upwards(read)):
                raise UsageError(
                    f"{place}: {read} is the same or lies in it, so what is written could be taken for what arrives: "
                    "write to another folder, or to one inside"
                )

    def look() -> JobList:
        return plan(source, masks, output, settings, own=written)

    with suppress(NothingToDo):  # so far
        look()
    return look


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
    return f"{names[0]}{more}"


def _upwards(folder: Path) -> list[Path]:
    real = Path(os.path.realpath(folder))
    return [real, *real.parents]


def _same(one: Path, other: Path) -> bool:
    real = Path(os.path.realpath(one))
    try:
        return real == other or real.samefile(other)
    except OSError:  # not there yet
        return False
