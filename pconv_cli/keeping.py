"""Keeps results in a file, one by one, so that a run that was stopped, or killed, need not compute them again.

Knows the file: whose it is, records and their checksums, how much room they may take. Does not know what a result is,
pictures, rounds, or what becomes of what is found.

The file is a row of records, only ever appended to. A record is a head (key, length of the content, checksum of the
content, checksum of the head) and the content; that of the first is JSON and says what the results are results of. A
record goes to the system at once, which a killed process cannot take back, and nobody waits for the disk: what a kill,
a full disk or a power cut has left torn does not agree with its checksum, and counts as not there.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType

from pconv_cli import files

Key = tuple[int, int, int]
"""Numbers of a result, each below 2**32 - 1."""

_FIRST: Key = (0xFFFFFFFF,) * 3
_HEAD, _CHECK = struct.Struct("<IIIQI"), struct.Struct("<I")
_BEFORE = _HEAD.size + _CHECK.size  # bytes of a head


class InUse(OSError):
    """Another process has the file in hand."""


class Kept:
    """Results by key, those of an earlier run and of this one. Threads may share it; one process at a time has it.

    A context manager: see `close`. Only where results are is in memory.

    Attributes:
        path: The file.
        before: How many results of an earlier run are there.
        changed: Names of what is not as it was when results that were wanted were made: they are gone.
        dropped: Bytes of an earlier run's results that nobody wanted: they are gone.
    """

    def __init__(self, path: Path, of: Mapping[str, str], *, resume: bool, room: int) -> None:
        """Open the file, or begin it.

        Args:
            path: The file; its folder must be there.
            of: All that decides the results, by names for people.
            resume: Whether results of an earlier run are wanted, if all of that was the same.
            room: Bytes that the file may grow by.

        Raises:
            InUse: Another process has it.
            OSError: The disk says no.
        """
        self.path = path
        self.changed: list[str] = []
        self.dropped = 0
        self._places: dict[Key, int] = {}  # where records begin
        self._size = 0
        self._full = self._done = False
        self._lock = threading.Lock()
        self._file = _opened(path)
        try:
            was = self._look()
            if resume and self._places:
                self.changed = sorted(name for name in {**was, **of} if was.get(name) != of.get(name))
            if not resume or self.changed or not self._places:
                self.dropped = self._size if self._places else 0
                self._begin(of)
            self._file.truncate(self._size)  # what is torn goes
        except BaseException:
            self._file.close()
            raise
        self.before = len(self._places)
        self._limit = self._size + room

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    @property
    def left(self) -> bool:
        """Whether there is something in it to go on from."""
        return bool(self._places) and not self._done

    def find(self, key: Key) -> bytes | None:
        """Give a result; None where there is none, or it cannot be read, or does not agree with its checksum."""
        with self._lock, suppress(OSError):
            at = self._places.get(key)
            return None if at is None else self._content(at)
        return None

    def add(self, key: Key, content: bytes) -> None:
        """Append a result, which takes the place of one of that key.

        Raises:
            OSError: There is no room left, or the disk says no. From then on nothing is added, and nothing raised.
        """
        with self._lock:
            if self._full:
                return
            try:
                if self._size + _BEFORE + len(content) > self._limit:
                    raise _no_room()
                at = self._size
                self._append(key, content)
                self._places[key] = at
            except OSError:
                self._full = True
                with suppress(OSError):
                    self._file.truncate(self._size)
                raise

    def done(self) -> None:
        """Say that nobody will want the results any more."""
        self._done = True

    def close(self) -> None:
        """Let go of the file. It is removed where it holds no result, or nobody will want one."""
        with self._lock:
            self._full = True
            gone = not self.left
            if gone and os.name != "nt":  # once it is let go of, a file of that name may be another's
                self.path.unlink(missing_ok=True)
            self._file.close()
            if gone and os.name == "nt":
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, of: Mapping[str, str]) -> None:
        self._places.clear()
        self._size = 0
        self._file.truncate(0)
        self._append(_FIRST, json.dumps(dict(of)).encode("ascii"))

    def _look(self) -> dict[str, str]:
        """Find the records; give what they are results of, nothing where that cannot be told."""
        was: dict[str, str] = {}
        for key, at, end in self._records():
            if at == 0:
                content = self._content(0) if key == _FIRST else None
                if content is None:
                    break
                was = json.loads(content)
            else:
                self._places[key] = at
            self._size = end
        return was

    def _records(self) -> Iterator[tuple[Key, int, int]]:
        """Key, beginning and end of each record, up to one that is torn."""
        at, size = 0, os.fstat(self._file.fileno()).st_size
        while (head := self._head(at)) is not None and (end := at + _BEFORE + head[1]) <= size:
            yield head[0], at, end
            at = end

    def _head(self, at: int) -> tuple[Key, int, int] | None:
        """Key, length and checksum of the record that begins there; None where none does."""
        self._file.seek(at)
        data = self._file.read(_BEFORE)
        if len(data) < _BEFORE or _CHECK.pack(zlib.crc32(data[: _HEAD.size])) != data[_HEAD.size :]:
            return None
        one, two, three, length, check = _HEAD.unpack(data[: _HEAD.size])
        return (one, two, three), length, check

    def _content(self, at: int) -> bytes | None:
        head = self._head(at)
        if head is None:
            return None
        content = bytearray()
        while len(content) < head[1] and (part := self._file.read(head[1] - len(content))):
            content += part
        return bytes(content) if len(content) == head[1] and zlib.crc32(content) == head[2] else None

    def _append(self, key: Key, content: bytes) -> None:
        head = _HEAD.pack(*key, len(content), zlib.crc32(content))
        record = memoryview(head + _CHECK.pack(zlib.crc32(head)) + content)
        self._file.seek(self._size)
        done = 0
        while done < len(record):
            done += self._file.write(record[done:]) or 0
        self._size += len(record)


def _opened(path: Path) -> FileIO:
    """Open the file, made if need be, with a lock that lasts until it is closed."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    while True:
        # The name can be foreseen: what lies there and leads elsewhere is not followed.
        file = FileIO(os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666), "r+b")
        try:
            if files.lock(file.fileno(), alone=True) is None:
                raise InUse(errno.EAGAIN, os.strerror(errno.EAGAIN))
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # whoever had it has removed it since it was opened


def _no_room() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
