"""Lists of pictures as files: which picture, with which mask, to which file, one a row.

Knows CSV and JSON Lines, and which texts can be names of files at all. Does not know whether the files are there, what
is in them, where a result goes that has no name of its own, the terminal, or exit codes.

A name is taken as it stands, and a relative one starts from the current folder, as in a shell. Names that are not
Unicode keep their bytes, in both directions.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

from pconv_cli import files
from pconv_cli.errors import NothingToDo, OutputError, UsageError

Form = Literal["csv", "jsonl"]

_FORMS: dict[str, Form] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json-lines": "jsonl"}
_COLUMNS = ("image", "mask", "out")
# CSV has nothing but the bytes themselves for names that are not Unicode; in JSON, Python's \udcff is an escape too.
_NOT_UNICODE = {"csv": "surrogateescape", "jsonl": "backslashreplace"}


@dataclass(frozen=True, slots=True)
class Row:
    """One picture of a list.

    Attributes:
        image: The picture, as written; never empty.
        mask: Its mask, or None where the list names none.
        out: The file to write, or None where the list names none.
        line: Where in the list, from 1; for a row of several lines, the first.
    """

    image: str
    mask: str | None
    out: str | None
    line: int


def form_of(path: Path) -> Form:
    """Tell from its suffix how a list is, or is to be, written.

    Raises:
        UsageError: The suffix stands for neither form.
    """
    form = _FORMS.get(path.suffix.lower())
    if form is None:
        raise UsageError(f"{path}: not a list by its name: use {', '.join(_FORMS)}, or - for standard input")
    return form


def read(source: Path | None, stream: TextIO | None = None) -> list[Row]:
    """Read a list.

    CSV (RFC 4180) begins with a header line that names the columns image, mask and, unless no row has one, out, in any
    order and in capitals or small letters; further columns are ignored. JSON Lines holds one object a line with these
    keys, of which only image must be there. An empty cell or string is as good as none. Blank lines are passed over.

    Args:
        source: The file; its suffix says which form it has. None: the stream.
        stream: Standard input; there a list that begins with { is JSON Lines, any other is CSV.

    Returns:
        At least one row, in the order of the list.

    Raises:
        UsageError: It cannot be read, or makes no sense; the message names the line.
        NothingToDo: It holds no row.
    """
    name = "standard input" if source is None else str(source)
    form = None if source is None else form_of(source)
    try:
        with _opened(source, stream) as text:
            lines = iter(text)
            head = _up_to_the_first_that_is_not_blank(lines)
            if form is None:
                form = "jsonl" if head and head[-1].lstrip().startswith("{") else "csv"
            found = (_from_csv if form == "csv" else _from_json)(chain(head, lines), name)
            rows = list(found)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror or error}): check the path") from error
    if not rows:
        raise NothingToDo(f"{name}: lists no pictures: write one a line, after a header line if it is CSV")
    return rows


def write(rows: Iterable[Mapping[str, str | None]], target: Path, *, overwrite: bool) -> None:
    """Write a list of pictures that failed, whole or not at all; `read` takes it as it is.

    Args:
        rows: What stands under image, mask, out and reason; None is written as an empty cell, or null.
        target: The file; its suffix says which form it gets, its folder must be there.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        UsageError: The suffix stands for no form.
        OutputError: The file is there already, or cannot be written.
    """
    form = form_of(target)
    texts = _as_csv(rows) if form == "csv" else _as_json(rows)
    try:
        with files.whole(target, overwrite=overwrite) as stream:
            stream.writelines(text.encode("utf-8", _NOT_UNICODE[form]) for text in texts)
    except UnicodeEncodeError as error:  # of Windows, where half a character may be part of a name
        raise OutputError(f"{target}: CSV cannot hold the name of one of the files: end its own in .jsonl") from error
    except OSError as error:
        raise OutputError(f"{target}: {files.why_unwritable(error) or error}") from error


def is_of_failures(path: Path) -> bool:
    """Whether what is there is a list that `write` wrote, and may well write again; False where nothing is."""
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8", errors="surrogateescape") as text:
        first = text.readline(1 << 16)
        if form_of(path) == "csv":
            return first.strip() == ",".join((*_COLUMNS, "reason"))
        with suppress(ValueError):
            return not first or set(json.loads(first)) == {*_COLUMNS, "reason"}
    return False


@contextmanager
def _opened(source: Path | None, stream: TextIO | None) -> Iterator[TextIO]:
    """The list as text with its line ends as they are, since a name may hold some, and with bytes that are no text."""
    if source is not None:
        with source.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            yield text
        return
    if stream is None:
        raise ValueError("neither a file nor a stream to read from")
    if not hasattr(stream, "buffer"):  # text from the start
        yield stream
        return
    # Not the stream itself: it has the encoding of the terminal, and changes line ends.
    wrapped = io.TextIOWrapper(stream.buffer, "utf-8-sig", "surrogateescape", newline="")
    try:
        yield wrapped
    finally:
        wrapped.detach()  # or it would be closed


def _up_to_the_first_that_is_not_blank(lines: Iterator[str]) -> list[str]:
    head: list[str] = []
    for line in lines:
        head.append(line)
        if line.strip():
            break
    return head


def _from_csv(lines: Iterable[str], name: str) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True)
    columns: list[int | None] | None = None
    width, line = 0, 1
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                if columns is None:
                    columns, width = _columns(cells, name, line), len(cells)
                elif len(cells) > width:
                    raise UsageError(
                        f"{name}, line {line}: {len(cells)} cells, but the header has {width}: put names that hold "
                        "commas in double quotes"
                    )
                else:
                    cells += [""] * (width - len(cells))  # spreadsheets leave out empty cells at the end
                    yield _row(name, line, *(None if column is None else cells[column] for column in columns))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(
            f"{name}, line {line}: not CSV ({error}): put names that hold quotes in double quotes, and double theirs"
        ) from error


def _columns(header: list[str], name: str, line: int) -> list[int | None]:
    """Where image, mask and out stand; the last one may be nowhere."""
    titles = [cell.strip().lower() for cell in header]
    if not set(_COLUMNS) & set(titles):
        raise UsageError(
            f"{name}, line {line}: no header: begin with a line image,mask,out, with commas between, in UTF-8"
        )
    for title in _COLUMNS:
        if title not in titles and not (title == "out" and not any(other.startswith("out") for other in titles)):
            optional = "" if title == "image" else ", its cells may stay empty"
            raise UsageError(f"{name}, line {line}: the header has no column '{title}': add it{optional}")
        if titles.count(title) > 1:
            raise UsageError(f"{name}, line {line}: the header has two columns '{title}': keep one")
    return [titles.index(title) if title in titles else None for title in _COLUMNS]


def _from_json(lines: Iterable[str], name: str) -> Iterator[Row]:
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            why = getattr(error, "msg", error)  # without its own count of lines, which is always 1
            raise UsageError(f"{name}, line {line}: not JSON ({why}): write one object a line") from error
        if not isinstance(document, dict):
            raise UsageError(f'{name}, line {line}: not a JSON object: write {{"image": ..., "mask": ..., "out": ...}}')
        yield _row(name, line, *(document.get(key) for key in _COLUMNS))


def _row(name: str, line: int, image: Any, mask: Any, out: Any) -> Row:
    for title, value in (("image", image), ("mask", mask), ("out", out)):
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name}, line {line}: '{title}' is no text: put the file's name in double quotes")
        if value and not _can_be_a_name(value):
            raise UsageError(f"{name}, line {line}: '{title}' holds what no file's name can: save the list as UTF-8")
    if not image:
        raise UsageError(f"{name}, line {line}: no image: name the picture, or take the line out")
    return Row(image, mask or None, out or None, line)


def _can_be_a_name(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _as_csv(rows: Iterable[Mapping[str, str | None]]) -> Iterator[str]:
    for cells in chain([(*_COLUMNS, "reason")], ([row[key] for key in (*_COLUMNS, "reason")] for row in rows)):
        line = io.StringIO(newline="")
        csv.writer(line).writerow(cells)
        yield line.getvalue()


def _as_json(rows: Iterable[Mapping[str, str | None]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps({key: row[key] for key in (*_COLUMNS, "reason")}, ensure_ascii=False) + "\n"
