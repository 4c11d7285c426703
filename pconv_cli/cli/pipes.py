"""`-` for a picture or mask on standard input, or a picture on standard output: files for as long as a run takes.

Knows streams and temporary files. Does not know what a run does with the files.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from pconv_cli.beside import sidecar
from pconv_cli.cli import ui
from pconv_cli.errors import OutputError, UsageError
from pconv_cli.events import Event, ItemDone, ItemFailed, Listener, RunFinished
from pconv_cli.report import ItemReport

DASH = "-"


class Pipes:
    """The paths of one command line, with a file in place of every `-`. A context manager.

    Attributes:
        source: IN.
        masks: MASKS; None if there are none.
        output: OUT.
    """

    def __init__(self, source: str, masks: str | None, output: str, suffix: str | None) -> None:
        """Read standard input if it is wanted.

        Args:
            source: IN as written.
            masks: MASKS as written; None if there are none.
            output: OUT as written.
            suffix: Of the format asked for, such as ".png"; None for that of the input.

        Raises:
            UsageError: The streams cannot be what they are to be.
        """
        self.source, self.masks, self.output = source, masks, output
        self._given = (source, masks, output)
        self._stack = ExitStack()
        if DASH not in self._given:
            return
        if source == masks == DASH:
            raise UsageError("IN and MASKS are both -: standard input is one picture; give the other as a file")
        if output == DASH and (sys.stdout is None or sys.stdout.isatty()):
            raise UsageError("OUT is - and standard output is a terminal, or closed: send it to a file or a pipe")
        if output == DASH and source != DASH and Path(source).is_dir():
            raise UsageError(f"OUT is - and {source} a folder: standard output holds one picture")
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pconv-")))
        try:
            if source == DASH:
                self.source = str(self._read("stdin"))
            elif masks == DASH:
                self.masks = str(self._read("stdin_mask"))
        except BaseException:
            self._stack.close()
            raise
        own = Path(self.source).suffix
        if output == DASH:
            self.output = str(self._folder / f"stdout{suffix or own}")
        elif source == DASH and not Path(output).suffix:
            self.output = f"{output}/"  # a folder

    def listening(self, emit: Listener) -> Listener:
        """Call the files by the name that the user knows them by; a run has finished once the result is delivered.

        The listener raises `OutputError` where that cannot be.
        """
        shown = self._shown
        if not shown:
            return emit

        def listener(event: Event) -> None:
            if isinstance(event, ItemFailed):
                image, path = shown.get(event.image, event.image), shown.get(event.path, event.path)
                event = replace(event, name=image if image == DASH else event.name, image=image, path=path)
            elif isinstance(event, ItemDone):
                event = replace(event, output=shown.get(event.output, event.output))
            elif isinstance(event, RunFinished) and self._given[2] == DASH:
                self._deliver()
                event = replace(event, output="standard output")
            emit(event)

        return listener

    def named(self, report: ItemReport) -> ItemReport:
        """Call the files of a report so too."""
        shown = self._shown
        report = replace(report, mask=shown.get(report.mask, report.mask), path=shown.get(report.path, report.path))
        return replace(report, name=DASH, image=DASH) if report.image in shown else report

    def _deliver(self) -> None:
        """Write the result to standard output, if there is one.

        Raises:
            OutputError: Something belongs beside it, for which standard output has no place.
        """
        result = Path(self.output)
        if result.exists():
            if sidecar(result).exists():
                raise OutputError("standard output: the provenance has no place in such a file: name a file OUT")
            ui.out_file(result)

    @property
    def _shown(self) -> dict[str | None, str]:
        """The files that stand in for a `-`."""
        return {path: DASH for path, given in zip(self._paths, self._given, strict=True) if given == DASH and path}

    @property
    def _paths(self) -> tuple[str, str | None, str]:
        return self.source, self.masks, self.output

    def _read(self, stem: str) -> Path:
        from pconv_cli.images import more_behind, suffix_of

        target = self._folder / stem
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("- means standard input, and that is a terminal, or closed: send a picture into it")
        try:
            with target.open("wb") as stream:
                shutil.copyfileobj(sys.stdin.buffer, stream, 1 << 20)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot hold standard input ({error.strerror}); set TMPDIR") from error
        if more_behind(target):
            raise UsageError(
                "standard input holds several pictures, and - is one: put them into a folder, and name that"
            )
        named = target.with_suffix(suffix_of(target))
        target.rename(named)
        return named

    def __enter__(self) -> Pipes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a temporary folder that cannot be removed is no failure of the run
            self._stack.close()
