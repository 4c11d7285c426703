"""Remembers in one file what has been made of what, so that a killed run goes on where it stopped.

Knows content (by SHA-256), the journal's own file, and the leftovers of a killed run. Does not know pictures, what the
settings behind a key mean, who asks, or what is done about the answer.

The file is JSON Lines, ASCII, only ever appended to; workers on several machines each append to one of their own beside
it, since network folders do not append in one piece. An entry says: this output, under this key, was made of an image
and a mask of these contents, and has this content. What is made again adds an entry; the old ones stay true.

Journals in folders inside and above are read, and never written to: other runs may have had a part of the same results
in hand, or more than these.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

from pconv_cli import files
from pconv_cli.errors import OutputError

NAME = ".pconv-journal.jsonl"
"""The journal's name in the folder of the results."""

_CHUNK = 1 << 20
_KEPT = 1024  # contents that are remembered, so that a picture with several maps is read once, as is one mask for all
_LEFTOVER = re.compile(r"\.(.*?)(?:\.held|\.with)?\.[0-9a-f]{8}\.part", re.DOTALL)  # as `files` names them


class _Content(NamedTuple):
    sha256: str
    size: int


Contents = tuple[_Content, _Content | None]
"""What a picture and its mask, if there is one, hold."""


class Signature(NamedTuple):
    """Whose a result is.

    Attributes:
        key: A digest of everything but image and mask that decides what comes out: settings, weights, version.
        run: What one run alone is called, by all processes that have a part in it; empty: nobody.
    """

    key: str
    run: str = ""


class _Entry(NamedTuple):
    """One line of the journal, without the name of the output."""

    key: str
    image: _Content
    mask: _Content | None
    made: _Content
    run: str = ""


class Journal:
    """What has been made, by this run, by earlier ones, and by others at work. Threads may share it.

    Attributes:
        place: What it was opened with: other processes may open it too.
    """

    def __init__(self, path: Path, key: str, hand: str = "", run: str = "", *, writes: bool = True) -> None:
        """Open the journal, or begin one, and read what is there. Lines that make no sense are passed over.

        Args:
            path: The file; its folder must be there.
            key: See `Signature`.
            hand: Who appends, of letters and digits, where several machines do at once.
            run: See `Signature`.
            writes: Whether anything is going to be recorded; if not, nothing is made or locked, and neither the file
                nor its folder need be there.

        Raises:
            OutputError: The file cannot be made, read or appended to.
        """
        self.place = (path, key, hand, run)
        self._key, self._run, self._path = key, run, path
        self._folder = Path(os.path.realpath(path.parent))
        self._entries: dict[Path, tuple[_Entry, ...]] = {}  # by output, without links
        self._changing, self._reading = threading.Lock(), threading.Lock()
        self._contents: dict[tuple[Path, int, int], _Content] = {}  # of files in a state
        self._read: dict[Path, int] = {}  # bytes of each file
        self._listed: dict[Path, tuple[int, list[Path]]] = {}  # files in a folder, and when that had changed
        self._descriptor = self._own = -1
        if not writes:
            return
        try:
            # One descriptor for all: on some network folders, closing a second one would drop the first one's lock.
            self._descriptor = self._own = _opened(path)
            files.lock(self._descriptor, alone=False)
            if hand:
                self._own = _opened(path.with_name(f"{path.stem}.{hand}{path.suffix}"))
            self._catch_up(self._folder)
        except OSError as error:
            self.close()
            raise OutputError(f"{path}: {files.why_unwritable(error) or error}") from error

    def done(self, image: Path, mask: Path | None, output: Path) -> bool:
        """Whether the output is there, was made of this image and mask under this key, and is still what was made.

        Files are read only where all sizes agree with an entry. What cannot be looked at is not done: whoever goes on
        to work on it meets the error, and can say whose it is.
        """
        with suppress(OSError):
            sizes = _size(image), None if mask is None else _size(mask), _size(output)
            for known in self._known(output):
                entries = [entry for entry in known if entry.key == self._key and _sizes(entry) == sizes]
                now = (*self.contents(image, mask), _content(output)) if entries else None
                if any((entry.image, entry.mask, entry.made) == now for entry in entries):
                    return True
        return False

    def made_in_this_run(self, image: Path, mask: Path | None, output: Path) -> bool:
        """Whether the output is there, and was made by this very run of what image and mask hold now."""
        with suppress(OSError):
            size = _size(output)
            for known in self._known(output) if self._run else ():
                if any(entry.run == self._run and entry.made.size == size for entry in known):
                    return _Entry(self._key, *self.contents(image, mask), _content(output), self._run) in known
        return False

    def made(self, output: Path) -> bool:
        """Whether the output is as some entry says: made by this tool, of whatever input and with whatever settings."""
        with suppress(OSError):
            size = _size(output)
            for known in self._known(output):
                contents = [entry.made for entry in known if entry.made.size == size]
                if contents and _content(output) in contents:
                    return True
        return False

    def differences(self, image: Path, mask: Path | None, output: Path) -> frozenset[str]:
        """What is not as it was when an output was `made`: some of `key`, `image` and `mask`; none: nobody knows."""
        with suppress(OSError):
            now = _Entry(self._key, *self.contents(image, mask), _content(output))
            entries = [entry for known in self._known(output) for entry in known if entry.made == now.made]
            fields = ("key", "image", "mask")
            found = (frozenset(n for n in fields if getattr(now, n) != getattr(entry, n)) for entry in entries)
            return min(found, key=len, default=frozenset())
        return frozenset()

    def contents(self, image: Path, mask: Path | None) -> Contents:
        """What a picture and its mask hold now. Who has read them before makes sure that they are the same still.

        Raises:
            OSError: One of them cannot be read.
        """
        return self._content_of(image), None if mask is None else self._content_of(mask)

    def record(self, of: Contents, output: Path, part: Path) -> None:
        """Note what is about to be done. To be called before the finished `part` gets the name `output`.

        In this order a kill leaves at worst an entry without its output, which counts as not done; in the other order
        it would leave an output that nobody can vouch for.

        Args:
            of: What the part was made of.
            output: The name that the part will get.
            part: The finished file, all of it written out to the system.

        Raises:
            OSError: The part cannot be read, or the journal not written.
        """
        self._follow()
        place = _place(output)
        entry = _Entry(self._key, *of, _content(part), self._run)
        if entry in self._entries.get(place, ()):
            return
        # Results stay known when the whole folder is moved.
        name = (place.relative_to(self._folder) if place.is_relative_to(self._folder) else place).as_posix()
        # The newline comes first: whatever a kill or a full disk has cut, whoever wrote it, this is a line of its own.
        line = b"\n" + json.dumps({"output": name} | entry._asdict(), separators=(",", ":")).encode("ascii")
        _append(self._own, line)
        self._remember(place, entry)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Make sure that no other process has this journal open, and keep it so until the block ends.

        Not to be asked while this process has work in flight: for a moment it does not count as having the journal.
        Processes of other machines count only where the network folder tells of their locks, as NFS does by default.

        Yields:
            Whether that is sure. It never is where the system or the folder has no locks.
        """
        sure = bool(files.lock(self._descriptor, alone=True))
        if not sure:  # who fails to change a lock has lost the one that it held
            files.lock(self._descriptor, alone=False)
        try:
            yield sure
        finally:
            if sure:
                files.lock(self._descriptor, alone=False)

    def gather(self) -> None:
        """Take what others have noted in files of their own into the one, unless any of them may still be at work.

        Raises:
            OSError: A file cannot be read or written.
        """
        with self.alone() as alone:
            for path in self._others(self._folder) if alone else ():
                _append(self._descriptor, b"\n" + path.read_bytes().strip())
                path.unlink()

    def close(self) -> None:
        """Let go of the file. Questions can still be answered, nothing can be recorded."""
        descriptors = {self._descriptor, self._own} - {-1}
        self._descriptor = self._own = -1  # its number may soon be another file's
        for descriptor in descriptors:
            os.close(descriptor)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self) -> None:
        """Begin another file where the journal's own has been moved or removed, with all of its folder."""
        if self._own != self._descriptor:  # of a cluster: its files are gathered at the end
            return
        with self._changing:
            try:
                if os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                    return
            except FileNotFoundError:
                pass
            old, self._descriptor = self._descriptor, _opened(self._path)
            self._own = self._descriptor
            files.lock(self._descriptor, alone=False)
            os.close(old)
            self._entries, self._read, self._listed = {}, {}, {}

    def _known(self, output: Path) -> Iterator[tuple[_Entry, ...]]:
        """What is known of an output, then what others have noted meanwhile, for who has not found it in the first.

        Another run may have had any folder above the output for its home: one inside this one's, as one of a list has,
        or one that holds this one's.
        """
        place = _place(output)
        known = self._entries.get(place, ())
        yield known
        for folder in dict.fromkeys((self._folder, *place.parents)):
            with suppress(OSError):  # what cannot be read, perhaps that of somebody else further up, says nothing
                self._catch_up(folder)
        yield self._entries.get(place, ())[len(known) :]

    def _catch_up(self, folder: Path) -> None:
        """Read what is new in the files of a folder, if it has any: workers have theirs beside the one only."""
        path = folder / self._path.name
        with self._reading:
            if folder == self._folder and self._descriptor >= 0:
                self._read_on(folder, path, os.fdopen(os.dup(self._descriptor), "rb"))
            elif path.is_file():
                self._read_on(folder, path, path.open("rb"))
            else:
                return
            for other in self._others(folder):
                self._read_on(folder, other, other.open("rb"))

    def _others(self, folder: Path) -> list[Path]:
        """The files of workers. A folder that has not changed is not listed again: it may hold very many results."""
        changed = folder.stat().st_mtime_ns
        if self._listed.get(folder, (None,))[0] != changed:
            self._listed[folder] = changed, sorted(folder.glob(f"{self._path.stem}.*{self._path.suffix}"))
        return self._listed[folder][1]

    def _read_on(self, folder: Path, path: Path, stream: IO[bytes]) -> None:
        with stream:
            stream.seek(self._read.get(path, 0))
            for line in stream:
                name, entry = _parsed(line)
                if entry is not None:
                    self._remember(folder / name, entry)
                elif not line.endswith(b"\n"):  # another process may be writing it
                    return
                self._read[path] = self._read.get(path, 0) + len(line)

    def _remember(self, place: Path, entry: _Entry) -> None:
        with self._changing:
            if entry not in (known := self._entries.get(place, ())):
                self._entries[place] = (*known, entry)

    def _content_of(self, path: Path) -> _Content:
        """As `_content`; a file that serves several results is read once."""
        state = path, *files.state(path)
        found = self._contents.get(state)
        if found is None:
            if len(self._contents) >= _KEPT:
                self._contents.clear()
            found = self._contents[state] = _content(path)
        return found


def sweep(folder: Path, names: Collection[str]) -> int:
    """Remove what killed runs have left of unfinished files in one folder. Only for who is `Journal.alone`.

    Args:
        folder: The folder; it need not be there. Its subfolders are not looked into.
        names: The names that the files would have got. What belongs to others is not touched.

    Returns:
        How many files were removed.

    Raises:
        OSError: The folder cannot be read, or a leftover not removed.
    """
    beginnings = {name[:50] for name in names}
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return 0
    left = [name for name in found if (match := _LEFTOVER.fullmatch(name)) and match[1] in beginnings]
    for name in left:
        (folder / name).unlink(missing_ok=True)
    return len(left)


def _append(descriptor: int, lines: bytes) -> None:
    written = os.write(descriptor, lines)  # at once, at the end: no other process can get in between
    if written < len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)  # or a power cut could leave an output without its entry


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)


def _parsed(line: bytes) -> tuple[str, _Entry | None]:
    """The output and the entry of a line; no entry where the line is none, because a kill has cut it, or worse.

    Types are not looked into: what is not the hash of a file is never equal to one.
    """
    try:
        document = json.loads(line.decode("ascii"))
        mask = document["mask"]
        entry = _Entry(
            document["key"],
            _Content(*document["image"]),
            None if mask is None else _Content(*mask),
            _Content(*document["made"]),
            document.get("run", ""),
        )
        return str(document["output"]), entry
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", None


def _place(output: Path) -> Path:
    """An output, however it is spelled."""
    return Path(os.path.realpath(output.parent)) / output.name


def _size(path: Path) -> int:
    return path.stat().st_size


def _sizes(entry: _Entry) -> tuple[int, int | None, int]:
    return entry.image.size, None if entry.mask is None else entry.mask.size, entry.made.size


def _content(path: Path) -> _Content:
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return _Content(digest.hexdigest(), size)
