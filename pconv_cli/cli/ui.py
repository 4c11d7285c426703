"""What a run looks like: bars, plain lines, JSON lines or nothing, on stderr. The only file that imports rich.

Knows events and how to show them. Does not know who makes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from pconv_cli.cli.text import ProgressMode, one_line, percent
from pconv_cli.errors import OURS, TAKEN, OutputError
from pconv_cli.events import (
    AllThere,
    CheckStarted,
    EvaluationFinished,
    EvaluationStarted,
    Event,
    ItemChecked,
    ItemDone,
    ItemFailed,
    ItemShown,
    ItemStarted,
    MaskMade,
    MasksFinished,
    MasksStarted,
    Notice,
    PairMeasured,
    ProcessesStarting,
    ReportStarted,
    ReportWritten,
    RunFinished,
    RunStarted,
    TilesDone,
    TrainFinished,
    TrainStarted,
    TrainStep,
    Validated,
)


class View(Protocol):
    """A listener with a beginning and an end: whether it passes notes on, and whether it goes into details."""

    notes: bool
    details: bool

    def __call__(self, event: Event) -> None:
        """Show one event."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


@contextmanager
def view(mode: ProgressMode, *, quiet: bool = False, verbose: bool = False) -> Iterator[View]:
    """Give the view for a mode; `auto` is a bar on a terminal and plain lines elsewhere.

    Args:
        mode: What to show.
        quiet: Show nothing but what failed.
        verbose: Say every picture, and how it went, above a bar too.
    """
    if quiet:
        mode = ProgressMode.none
    if mode is ProgressMode.auto:
        # On a dumb terminal rich would show neither a bar nor, but for what goes wrong, a line; to an old console of
        # Windows it speaks through the standard streams' own descriptors, which are elsewhere by now.
        console = Console(stderr=True) if sys.stderr.isatty() else None
        moves = console is not None and not (console.is_dumb_terminal or console.legacy_windows)
        mode = ProgressMode.bar if moves else ProgressMode.plain
    views: dict[ProgressMode, type[View]] = {
        ProgressMode.bar: _Bar,
        ProgressMode.plain: _Plain,
        ProgressMode.json: _Json,
        ProgressMode.none: _Quiet,
    }
    shown = views[mode]()
    shown.notes, shown.details = not quiet, verbose
    try:
        yield shown
    finally:
        shown.close()


STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


class Stop:
    """Ctrl-C: once asks to stop after what is in flight, twice raises KeyboardInterrupt. Use as a context manager.

    A polite kill and a terminal that closes count like Ctrl-C; what whoever started us has us ignore (nohup) stays so.
    """

    def __init__(self, tell: View) -> None:
        self._tell = tell
        self._asked_at: float | None = None
        self._told = False

    def __call__(self) -> bool:
        """Tell whether to stop. The first yes is said: here, since a signal may come in the middle of a write."""
        if self._asked_at is not None and not self._told:
            self._told = True
            self._tell(Notice("stopping: finishing what is in flight; Ctrl-C again stops at once"))
        return self._asked_at is not None

    def listening(self, event: Event) -> None:
        """Pass an event on, and see at once whether a stop was asked for."""
        self()
        self._tell(event)

    def __enter__(self) -> Stop:
        """Take over the signals."""
        there = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
        heard = [number for number in there if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._on_signal) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > 0.2:  # a parent process may pass the same key press on
            raise KeyboardInterrupt


def out(text: str) -> None:
    """Write a result to stdout. File names that are no text are escaped; a reader that has gone is no error.

    Raises:
        OutputError: It is closed, or the disk behind it says no.
    """
    if sys.stdout is None:
        raise OutputError("standard output: is closed")
    with _to_stdout():
        sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
        sys.stdout.flush()


def out_file(path: Path) -> None:
    """Write a file to stdout as it is. A reader that has gone is no error.

    Raises:
        OutputError: The disk behind it says no.
    """
    with _to_stdout():
        sys.stdout.flush()
        # Not sys.stdout.buffer: with PYTHONUNBUFFERED that may write less than it is given.
        with path.open("rb") as stream, open(sys.stdout.fileno(), "wb", closefd=False) as out:
            shutil.copyfileobj(stream, out, 1 << 20)


@contextmanager
def _to_stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        sys.stdout = nowhere(sys.stdout)
    except OSError as error:
        sys.stdout = nowhere(sys.stdout)
        raise OutputError(f"standard output: cannot be written ({error.strerror})") from error


def _tell(line: str) -> None:
    """Write a line to stderr. A reader that has gone, or a full disk, must not stop the work."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:
        sys.stderr = nowhere(sys.stderr)


def nowhere(stream: TextIO) -> TextIO:
    """Point a stream's descriptor, which Python would flush and complain about at exit, at nothing."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return Path(os.devnull).open("w", encoding="utf-8")


def table(
    title: str, columns: list[str], rows: list[list[str]], *,
    figures: bool = False, bold: Container[tuple[int, int]] = (), heads: Container[int] = (),
) -> None:  # fmt: skip
    """Show a table on stdout.

    Args:
        title: What stands above it.
        columns: Their names.
        rows: A cell for each column.
        figures: Whether all columns but the first hold figures, which stand at the right.
        bold: Row and column of the cells that are to be seen first.
        heads: Rows that begin a part of the table: a line stands above them.
    """
    grid = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        grid.add_column(column, overflow="fold", justify="right" if figures and number else "left")
    for number, row in enumerate(rows):
        if number in heads:
            grid.add_section()
        cells = (Text(cell, "bold" if (number, place) in bold else "") for place, cell in enumerate(row))
        grid.add_row(*cells, style="dim" if number in heads else "")
    console = Console()
    with console.capture() as captured:
        console.print(grid)
    out(captured.get().rstrip("\n"))


def sentence(event: Event, *, details: bool = False) -> str | None:
    """Say an event in one line, or None where it is not worth one."""
    match event:
        case RunStarted():
            pictures = "picture" if event.items == 1 else "pictures"
            if not event.items:  # of a folder that is watched
                return f"weights {event.weights}, on {event.device} in {event.precision} ({event.precision_reason})"
            where = f"on {event.device} in {event.precision} ({event.precision_reason})"
            return f"{event.items} {pictures}, weights {event.weights}, {where}"
        case AllThere():
            way_out = "--resume leaves out what is done, --overwrite does it again"
            return f"all {event.items} results are there already, in {event.output}: {way_out}"
        case ItemDone(status="copied"):
            return f"copied {event.name}: nothing is marked as damaged{_notes(event)}"
        case ItemDone(status="done_before"):
            return f"done before: {event.name}" if details else None
        case ItemDone():
            tiles = "tile" if event.tiles == 1 else "tiles"
            more = f", {event.seconds:.2f} s, to {event.output}" if details else ""
            share = percent(event.hole_share)
            return f"restored {event.name}: {share} damaged, {event.tiles} {tiles}{more}{_notes(event)}"
        case ItemFailed():
            where = event.name if event.path == event.image else f"{event.name} ({event.path})"
            return f"failed {where}: {event.reason}"
        case Notice():
            return f"note: {event.text}"
        case RunFinished():
            return _summary(event)
        case TrainStarted():
            start = f", from step {event.first}" if event.first else ""
            steps = "step" if event.steps == 1 else "steps"
            length = "by the clock" if event.steps is None else f"{event.steps} {steps}"
            photos = "photograph" if event.photos == 1 else "photographs"
            held = f", {event.held_out} held out" if event.held_out else ""
            where = f"on {event.device} in {event.precision}"
            return f"training on {event.photos} {photos}{held}, {length}{start}, {where}"
        case TrainFinished(complete=True):
            return f"wrote {event.out} after {event.step} steps; sample fills in {event.sheet}"
        case TrainFinished():
            return f"stopped and saved {event.out} at step {event.step}; the same command with --resume goes on"
        case Validated():
            return (
                f"step {event.step}: {event.psnr:.2f} dB in the holes, perceptual distance {event.perceptual:.3f}; "
                f"the pyramid alone {event.floor_psnr:.2f} dB, {event.floor_perceptual:.3f}"
            )
        case MasksStarted():
            return f"masks for {event.items} {'picture' if event.items == 1 else 'pictures'}, from {event.how}"
        case MaskMade():
            places = "place" if event.components == 1 else "places"
            more = f", {event.seconds:.2f} s, to {event.output}" if details else ""
            return f"masked {event.name}: {percent(event.share, 2)} in {event.components} {places}{more}{_notes(event)}"
        case MasksFinished():
            failed = f", {event.failed} failed" if event.failed else ""
            left = f", {event.not_done} not done" if event.not_done else ""
            where = f" to {event.output}" if event.output and event.made else ""
            masks = "mask" if event.made == 1 else "masks"
            before = f", {event.done_before} there before" if event.done_before else ""
            return f"{event.made} {masks} made{before}{failed}{left}{where} in {event.seconds:.1f} s"
        case EvaluationStarted():
            pairs = "pair" if event.pairs == 1 else "pairs"
            return f"{event.pairs} {pairs}, by {', '.join(event.methods)}, on {event.device} in {event.precision}"
        case PairMeasured():
            return f"measured {event.name} under {event.mask}: {event.ratio:.1%} damaged"
        case EvaluationFinished():
            failed = f", {event.failed} failed" if event.failed else ""
            left = f", {event.not_done} not done" if event.not_done else ""
            return f"{event.measured} measured{failed}{left} in {event.seconds:.1f} s"
        case ReportWritten():
            return f"report: {event.path}, made in {event.seconds:.1f} s"
        case _:
            return None


def _notes(event: ItemDone | MaskMade) -> str:
    return "".join(f"; note: {notice}" for notice in event.notices)


def _summary(event: RunFinished) -> str:
    parts = [f"{event.restored} restored"]
    parts += [f"{event.copied} copied without damage"] if event.copied else []
    parts += [f"{event.done_before} done before"] if event.done_before else []
    parts += [f"{event.failed} failed"] if event.failed else []
    several = event.restored + event.copied + event.done_before + event.failed + event.not_done > 1
    more = f" (the same command with --resume does {'it' if event.not_done == 1 else 'them'})" if several else ""
    parts += [f"{event.not_done} not done{more}"] if event.not_done else []
    count, unit = (event.restored, "pictures") if several else (event.tiles, "tiles")
    rate = f", {_figure(count / event.seconds)} {unit}/s" if count and event.seconds else ""
    where = f" to {event.output}" if event.output and event.restored + event.copied else ""
    return f"{', '.join(parts)}{where} in {event.seconds:.1f} s{rate}"


def _told_of_all(event: Event) -> bool:
    """Whether this is what one line says of all pictures, where every result is there already."""
    return isinstance(event, ItemFailed) and event.reason in (TAKEN, OURS)


def _figure(rate: float) -> str:
    return f"{rate:.2f}" if rate < 1 else f"{rate:.1f}"


class _Quiet:
    """Only what went wrong or was lost: no progress is no silence."""

    notes = True
    details = False
    all_there = False

    def __call__(self, event: Event) -> None:
        noted = isinstance(event, Notice) or (isinstance(event, ItemDone | MaskMade) and event.notices)
        if isinstance(event, ItemFailed | AllThere) or (noted and self.notes):
            self._write(event)

    def _write(self, event: Event, prefix: str = "") -> None:
        self.all_there |= isinstance(event, AllThere)
        text = sentence(event, details=self.details)
        if text is not None and not (self.all_there and _told_of_all(event) and not self.details):
            _tell(prefix + one_line(text))

    def close(self) -> None:
        pass


class _Plain(_Quiet):
    """A line for everything worth one, numbered by picture."""

    def __init__(self) -> None:
        self._items = 0
        self._pairs = False
        self._done = 0
        self._step_shown = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted | CheckStarted | MasksStarted | EvaluationStarted):
            self._pairs = isinstance(event, EvaluationStarted)
            self._items = event.pairs if isinstance(event, EvaluationStarted) else event.items
        if isinstance(event, TrainStep):
            self._step(event)
        elif isinstance(event, ItemDone | ItemFailed | ItemChecked | MaskMade | PairMeasured) and self._items:
            if self._pairs and isinstance(event, ItemFailed):
                return self._write(event)  # another pair may take its place
            self._done += 1
            self._write(event, f"[{self._done}/{self._items}] ")
        else:
            self._write(event)

    def _step(self, event: TrainStep) -> None:
        """A line every half minute."""
        if time.monotonic() - self._step_shown > 30:
            self._step_shown = time.monotonic()
            _tell(f"step {event.step}: loss {event.loss:.4f}, rate {event.rate:.1e}")


class _Json:
    """Every event as one JSON object on a line."""

    notes = True
    details = False

    def __call__(self, event: Event) -> None:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        text = json.dumps({"event": name, **asdict(event)}, ensure_ascii=False)
        _tell(text.encode("utf-8", "backslashreplace").decode("utf-8"))

    def close(self) -> None:
        pass


class _Line(Progress):
    """A bar on one line, however wide the terminal is by now."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """See `Progress`, which asks whenever it draws."""
        for task in self.tasks:  # it is one
            self.columns = _columns(self.console.width, task)
        return super().get_renderables()


def _columns(width: int, task: Task) -> tuple[ProgressColumn, ...]:
    """What a bar is made of that has room on one line, with a thousand pictures from 46 columns on."""
    count, rate, left = task.fields["count"], task.fields["rate"], task.fields["left"]
    room = width - len(f"{task.description}  {count} {left:>7} ")
    rates = [TextColumn(rate, style="cyan", markup=False)] if rate and room > 2 * len(rate) else []
    return (
        TextColumn(task.description),
        BarColumn(max(4, min(40, room - len(rates) * len(f"{rate} ")))),
        TextColumn(count, markup=False),
        *rates,
        TextColumn(left, style="progress.remaining"),
    )


class _Pace:
    """How fast a run is, by what it has worked on itself: what an earlier one has done takes no time."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._done = self._seconds = 0.0

    def begin(self) -> None:
        """Work has begun; only the first time counts."""
        if self._since is None:
            self._since = time.monotonic()

    def add(self, done: float = 1) -> None:
        """So much more is done."""
        self.begin()
        assert self._since is not None
        self._done += done
        self._seconds = time.monotonic() - self._since

    def skip(self, seconds: float) -> None:
        """So long nothing could be done."""
        if self._since is not None:
            self._since += seconds

    def rate(self, unit: str) -> str:
        """How much is done in a second, for people."""
        rate = self._done / self._seconds if self._seconds else 0
        return f"{_figure(rate) if rate else '-':>5} {unit}/s"

    def left(self, remaining: float) -> str:
        """How long the rest takes, for people."""
        if not self._done:
            return "--:--"
        minutes, seconds = divmod(round(self._seconds / self._done * remaining), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


class _Suspended:
    """Ctrl-Z while a bar is there: the shell gets its cursor back, and it is hidden again when the run goes on."""

    def __init__(self, stream: IO[str], went_on: Callable[[float], None]) -> None:
        """Say where the terminal is, and who is told how many seconds the run has stood still."""
        self._stream, self._went_on = stream, went_on
        self._heard = False

    def begin(self) -> None:
        """Hear of it from now on, where it can be heard and would stop the process."""
        there = hasattr(signal, "SIGTSTP") and threading.current_thread() is threading.main_thread()
        if there and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._on_signal)
            self._heard = True

    def end(self) -> None:
        """Leave it to the system again."""
        if self._heard:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            self._heard = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._write(b"\r\x1b[2K\x1b[?25h")  # the bar goes, too
        signal.signal(number, signal.SIG_DFL)
        stopped = time.monotonic()
        signal.raise_signal(number)  # and here the process stands still
        signal.signal(number, self._on_signal)
        self._went_on(time.monotonic() - stopped)
        with suppress(OSError):
            if os.tcgetpgrp(self._stream.fileno()) == os.getpgrp():  # in the background the cursor is the shell's
                self._write(b"\x1b[?25l")

    def _write(self, what: bytes) -> None:
        with suppress(OSError):
            os.write(self._stream.fileno(), what)  # past the stream, which may be in the middle of a write


class _Bar:
    """A bar that counts pictures, or the tiles of a single one."""

    notes = True
    details = False
    all_there = False

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = _Line(console=self._console, transient=True)
        self._task = self._progress.add_task("restoring", count="", rate="", left="", total=None, visible=False)
        self._suspended = _Suspended(self._console.file, lambda seconds: self._pace.skip(seconds))
        self._items = 0
        self._doing, self._unit, self._of, self._rated = "", "pictures", "", ""
        self._done = 0
        self._tiles = 0
        self._expected = 0
        self._pace = _Pace()
        self._progressed: float | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                # Of a folder that is watched no rate says anything: most of the time goes by in waiting.
                self._rated = "" if not event.items else "tiles" if event.items == 1 else "pictures"
                self._start("restoring", event.items, "pictures")
            case CheckStarted():
                self._start("checking", event.items, "pictures")
            case MasksStarted():
                self._start("looking", event.items, "pictures")
            case EvaluationStarted():
                self._start("measuring", event.pairs, "pairs")
            case ReportStarted():
                self._start("reporting", event.items, "pictures")
            case TrainStarted():
                self._show("training", 1, f"step {event.first}")
            case ProcessesStarting() if not self._done:
                self._progress.update(self._task, description="starting processes")
            case TilesDone():
                self._tiles += event.tiles
                if self._items == 1:
                    # A guide has tiles of its own, so the bar may come to its end a little early, and never beyond.
                    if event.done_before:
                        self._pace = _Pace()  # the work begins after that
                        self._pace.begin()
                    else:
                        self._pace.add(event.tiles)
                    self._advance(self._tiles, max(self._expected, self._tiles))
                return
            case ItemStarted():
                self._progress.update(self._task, description=self._doing)
                self._pace.begin()
                self._expected += event.tiles
                if self._items == 1:
                    self._progress.update(self._task, total=event.tiles, count=f"{event.tiles} tiles")
                return
            case TrainStep():
                self._pace.begin()  # the first step tells where this run has gone on from
                if self._progressed is not None:
                    self._pace.add(event.progress - self._progressed)
                self._progressed = event.progress
                self._advance(event.progress, 1, f"step {event.step}, loss {event.loss:.3f}")
                return
            case ItemFailed() if self._unit == "pairs":
                pass  # another pair may take its place
            case ItemDone() | ItemFailed() | ItemChecked() | MaskMade() | PairMeasured() | ItemShown():
                self._done += 1
                done_before = isinstance(event, ItemDone) and event.status == "done_before"
                if self._items != 1:
                    if not (done_before or isinstance(event, ItemFailed)):
                        self._pace.add()
                    self._advance(self._done, self._items, self._counted())
            case RunFinished() | MasksFinished() | EvaluationFinished() | ReportWritten():
                self.close()
            case _:
                pass
        self._say(event)

    def _start(self, description: str, total: int, unit: str) -> None:
        self._items, self._unit, self._done = total, unit, 0
        self._of = f"/{total}" if total else ""  # nobody knows what will arrive in a folder
        self._show(description, total, self._counted())
        if description != "restoring":  # where the first pictures may have been done before
            self._pace.begin()

    def _counted(self) -> str:
        return f"{self._done:>{len(self._of) - 1}}{self._of} {self._unit}" if self._of else f"{self._done} {self._unit}"

    def _show(self, description: str, total: int, count: str) -> None:
        self._doing, self._pace = description, _Pace()
        self._rated = self._rated if description == "restoring" else ""
        self._advance(0, total, count)
        self._progress.update(self._task, visible=True)
        self._progress.start()
        self._suspended.begin()

    def _advance(self, completed: float, total: float, count: str | None = None) -> None:
        fields: dict[str, Any] = {"description": self._doing} | ({} if count is None else {"count": count})
        fields["left"] = self._pace.left(total - completed) if total else ""
        fields["rate"] = self._pace.rate(self._rated) if self._rated else ""
        self._progress.update(self._task, completed=completed, total=total or None, **fields)

    def _say(self, event: Event) -> None:
        """Failures and notes stay above the bar; a picture that went well only moves it."""
        self.all_there |= isinstance(event, AllThere)
        if self.all_there and _told_of_all(event) and not self.details:
            return
        text = sentence(event, details=self.details)
        if text is None or (isinstance(event, ItemDone | MaskMade) and not event.notices and not self.details):
            return
        if isinstance(event, PairMeasured):
            return
        style = "red" if isinstance(event, ItemFailed | AllThere) else "yellow" if isinstance(event, Notice) else ""
        self._console.print(Text(one_line(text), style=style))

    def close(self) -> None:
        self._suspended.end()
        self._progress.stop()
