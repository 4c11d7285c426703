"""The page of a report: a folder with `index.html`, the same as JSON and CSV, and the pictures that the page shows.

Knows values to show, pictures as arrays, and where their files go. Does not know where they come from: no runs,
networks, measures, options.

Everything but the pictures is inside `index.html`, and nothing is fetched from anywhere: a folder that is copied,
zipped or sent is still whole, and the page opens from disk. What a page may take is bounded, see `PRINTED`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli import files
from pconv_cli.drawings import reduced, write_layer, write_view
from pconv_cli.errors import OutputError, UsageError

NAME, DATA, TABLE, IMAGES = "index.html", "report.json", "report.csv", "images"
THUMBNAIL = 400
"""Longest side of a picture in the list, pixels."""
LAYER = (230, 30, 140)
"""The colour of a mask that is laid over a picture."""
PRINTED = 4_000_000
"""Pixels of one image at most: 8 MB as JPEG where it is all noise, and a tenth of that for most photographs."""

_OURS = re.compile(r"\d{5}-[a-z0-9-]+\.(jpg|png)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # as a path spells it; a drive has one letter
_SLOT = "/*DATA*/"
_GENERATOR = '<meta name="generator" content="pconv">'


@dataclass(frozen=True)
class View:
    """One state of what a sheet shows: what it is called, and its file, relative to the page."""

    name: str
    file: str


@dataclass(frozen=True)
class Place:
    """A part of a sheet worth looking at: x, y, width and height in its pixels."""

    title: str
    at: tuple[int, int, int, int]


@dataclass(frozen=True)
class Sheet:
    """What is compared at once: one place in several states, all of one size.

    Attributes:
        title: What it shows.
        width: Of its files, pixels.
        height: Likewise.
        scale: Its pixels over those of the picture; 1: every pixel is there.
        views: Its states; the first two are shown at first, left and right.
        mask: File of the layer that shows what was damaged.
        places: Parts worth looking at.
    """

    title: str
    width: int
    height: int
    scale: float
    views: tuple[View, ...]
    mask: str | None = None
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One picture in the list.

    Attributes:
        name: What it is called.
        note: A word on what became of it; empty where it went as it should.
        facts: Labels and values, as they are shown.
        order: Figures to sort by, by the keys of `Page.orders`; what has none stands last.
        notices: What there is to say of it.
        thumbnails: Small views of its first two states.
        sheets: What can be looked at closely; the first is the whole of it.
    """

    name: str
    note: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    order: Mapping[str, float] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    thumbnails: tuple[View, ...] = ()
    sheets: tuple[Sheet, ...] = ()


@dataclass(frozen=True)
class Failure:
    """One picture that failed: the file at fault, and why."""

    name: str
    path: str
    reason: str


@dataclass(frozen=True)
class Grid:
    """A table of figures: its title, the names of its columns, its rows, and which cells stand out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Page:
    """All that a page says, top to bottom.

    Attributes:
        kicker: The kind of report.
        title: Its name.
        made: When, and by what.
        lead: The result, in sentences.
        figures: Labels and values.
        grids: Tables.
        failures: What failed: above the pictures.
        warnings: What concerns all of it.
        heading: What stands above the pictures.
        orders: Keys of `Entry.order`, and what the order by each is called; the first is the one at first. Larger
            figures come first.
        entries: The pictures.
        settings: How it was made.
        footnotes: What the figures mean.
    """

    kicker: str
    title: str
    made: str
    lead: str
    figures: tuple[tuple[str, str], ...] = ()
    grids: tuple[Grid, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    heading: str = ""
    orders: tuple[tuple[str, str], ...] = ()
    entries: tuple[Entry, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    footnotes: tuple[str, ...] = ()


class Folder:
    """Where a report goes. Made before the work that it reports on, so that what is in the way is said in time."""

    def __init__(
        self, path: Path, *, overwrite: bool, again: Container[str] | None = None, searched: Iterable[Path] = ()
    ) -> None:
        """Look at the place, and make the folder.

        Args:
            path: The folder.
            overwrite: Whether what is there may be replaced.
            again: Results of the run: a report that stands there and has one of them, or none at all, may be replaced,
                but nothing else. None: no report may.
            searched: Folders that are searched for pictures or masks, and would give those of the report the next time;
                of a picture or mask, its folder may not be the report's.

        Raises:
            UsageError: It lies in a folder that is searched, or is no place on this machine.
            OutputError: There is a report already, or nothing can be written there.
        """
        if _URL.match(str(path)):
            raise UsageError(
                f"--report {path}: a report is written to a folder of this machine; copy it there afterwards"
            )
        for folder in searched:
            taken = folder.resolve() if folder.is_dir() else folder.resolve().parent
            if taken == path.resolve() or (folder.is_dir() and taken in path.resolve().parents):
                folder = folder if folder.is_dir() else folder.parent
                reason = f"lies in {folder}, where its images would be taken for pictures the next time"
                raise UsageError(f"--report {path}: {reason}; choose a folder elsewhere")
        self.path = path
        self._overwrite = overwrite = overwrite or (again is not None and self._is_ours(again))
        self._written: set[str] = set()
        try:
            if not overwrite:
                for taken in (*(path / name for name in (NAME, DATA, TABLE)), *self._images()):
                    files.refuse_taken(taken, overwrite=False)
            (path / IMAGES).mkdir(parents=True, exist_ok=True)
            files.refuse_unwritable(path / IMAGES)
        except OSError as error:
            why = str(error) if isinstance(error, files.Refused) else f"cannot be written ({error.strerror or error})"
            raise OutputError(f"--report {path}: {why}") from error

    def _is_ours(self, results: Container[str]) -> bool:
        """Whether what stands there is a report on some of these results, or a part of one: the page comes last."""
        page, data = self.path / NAME, self.path / DATA
        with suppress(OSError):
            ours = not page.exists() or _GENERATOR in page.read_text("utf-8", "replace")[:2000]
            told = self.earlier().get("pictures")
            if isinstance(told, list):
                return ours and (not told or any(one.get("output") in results for one in told if isinstance(one, dict)))
            return ours and not data.exists()
        return False

    def _images(self) -> list[Path]:
        """Images, as of a report, that are there."""
        folder = self.path / IMAGES
        return sorted(path for path in folder.iterdir() if _OURS.fullmatch(path.name)) if folder.is_dir() else []

    def earlier(self) -> dict[str, Any]:
        """What the report that is there holds as JSON; nothing where there is none that can be read."""
        with suppress(OSError, ValueError):
            document = json.loads((self.path / DATA).read_text("utf-8"))
            return document if isinstance(document, dict) else {}
        return {}

    def view(self, number: int, name: str, title: str, pixels: NDArray[np.uint8]) -> View:
        """Write what is to be looked at, `(h, w, 3)`, for the picture of that number.

        Raises:
            ItemError: It cannot be written.
        """
        target = self._target(number, name, "jpg")
        write_view(pixels, target, overwrite=True)
        return View(title, f"{IMAGES}/{target.name}")

    def thumbnail(self, number: int, name: str, title: str, pixels: NDArray[np.uint8]) -> View:
        """Write a small view of a picture, `(h, w, 3)`: see `view`."""
        return self.view(number, name, title, reduced(pixels, THUMBNAIL))

    def layer(self, number: int, name: str, hole: NDArray[np.bool_]) -> str:
        """Write a mask, `(h, w)`, True = damaged: see `view`."""
        target = self._target(number, name, "png")
        write_layer(hole, LAYER, target, overwrite=True)
        return f"{IMAGES}/{target.name}"

    def write(self, page: Page, document: Mapping[str, Any], table: str) -> Path:
        """Write the page last of all, so that what is there is whole.

        Args:
            page: What it says.
            document: The same for machines.
            table: The same as CSV.

        Returns:
            The page.

        Raises:
            OutputError: It cannot be written.
        """
        contents = {DATA: json.dumps(document, ensure_ascii=False, indent=1), TABLE: table, NAME: rendered(page)}
        try:
            for name, text in contents.items():
                with files.whole(self.path / name, overwrite=self._overwrite) as stream:
                    stream.write(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise OutputError(f"{self.path}: {files.why_unwritable(error) or error}") from error
        self._sweep()
        return self.path / NAME

    def _target(self, number: int, name: str, suffix: str) -> Path:
        target = self.path / IMAGES / f"{number:05}-{name}.{suffix}"
        self._written.add(target.name)
        return target

    def _sweep(self) -> None:
        """Remove the images of a report that stood here before."""
        with suppress(OSError):
            for path in self._images():
                if path.name not in self._written:
                    path.unlink()


def rendered(page: Page) -> str:
    """The page as HTML, complete in itself."""
    # As JSON in a script: no text can end it, or begin a comment in it, without a "<".
    data = json.dumps(asdict(page), ensure_ascii=False).replace("<", "\\u003c")
    template = Path(__file__).with_suffix(".html").read_text("utf-8")
    return template.replace(_SLOT, data, 1)


def common_folder(folders: Sequence[str]) -> str:
    """The folder that all of these lie in, as it was spelled; at least one."""
    try:
        return os.path.commonpath(folders) or "."
    except ValueError:  # some relative, some not
        return os.path.commonpath([str(Path(folder).absolute()) for folder in folders])


def share(part: float) -> str:
    """A share as people read it; what is not all of it is not called 100 %."""
    if 0 < part < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= part < 1 else f"{100 * part:.1f} %"


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, what: Sequence[str]) -> str:
    """A number and the thing in singular or plural: `counted(2, ("picture", "pictures"))`."""
    return f"{number:,} {what[0] if number == 1 else what[1]}"
