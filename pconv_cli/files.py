"""Puts files in place, whole or not at all: a hidden file beside the target gets its name in one step, at the end.

It knows names, links, the disk and its errors, and it holds the one lock under which Python's warnings are hushed. It
knows nothing of pictures, or of what is in a file. Every error from here is an OSError: callers make it their own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pconv_cli.errors import TOO_BIG, OutputError

# The filters of warnings are the whole process's: one thread at a time may bend them, whatever library it hushes.
_WARNINGS = threading.Lock()
_VECTORS = (".geojson", ".json", ".shp", ".gpkg", ".kml")
_HELD = re.compile(r"(?:held|with)\.([0-9a-f]{8})\.part")


class Refused(OSError):
    """A place that must not be written to; the text is the reason and the way out."""


def hidden(target: Path) -> Path:
    """A name beside the target that nobody else has, for what is not finished."""
    return target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}.part")


def kept(target: Path) -> Path:
    """A hidden name for what one run leaves for the next: the same each time, and that of no other target."""
    number = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    return target.with_name(f".{target.name[:50]}.kept.{number}.part")


class Held:
    """Two hidden files beside a target that are known to be in use as long as their process lives.

    The first is open from the beginning, and locked; the second, of the same number, may be made and opened by anybody.

    Attributes:
        stream: The first file, open for writing and reading, empty.
        second: Name of the second one. It is not there yet.
    """

    def __init__(self, target: Path) -> None:
        """Make the first file.

        Raises:
            OSError: The disk says no.
        """
        while True:
            self._first, self.second = _held_names(target, secrets.token_hex(4))
            self.stream = self._first.open("x+b")
            if lock(self.stream.fileno(), alone=True) is not None and os.path.lexists(self._first):
                return
            self.stream.close()  # swept by another, just before it was locked

    def close(self) -> None:
        """Remove both."""
        self.second.unlink(missing_ok=True)
        with suppress(OSError):  # after a full disk there may be bytes left that still have no room
            self.stream.close()
        self._first.unlink(missing_ok=True)


def sweep(target: Path) -> int:
    """Remove what killed processes have left of `Held` files for a target, where the file system knows of locks.

    Returns:
        How many files were removed.
    """
    removed = 0
    beginning = f".{target.name[:50]}."
    with suppress(OSError):  # a folder that cannot be looked at
        names = [path.name for path in target.parent.iterdir()]
        found = [name.removeprefix(beginning) for name in names if name.startswith(beginning)]
        for number in {match[1] for match in map(_HELD.fullmatch, found) if match}:
            removed += _swept(*_held_names(target, number))
    return removed


def lock(descriptor: int, *, alone: bool) -> bool | None:
    """Hold an open file together with others, or alone, until it is closed or its process ends, however it ends.

    Returns:
        Whether it is held; False where the system or the folder has no locks, None where another has it.
    """
    try:
        import fcntl  # not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except BlockingIOError:
        return None
    except (ImportError, OSError):
        return False
    return True


def state(path: Path) -> tuple[int, int]:
    """What tells a file from a later state of it: size in bytes, and time of change.

    Raises:
        OSError: It cannot be looked at.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def refuse_same(source: Path, target: Path) -> None:
    """Make sure that a file is not written over the one that it is made from.

    Raises:
        Refused: Both names lead to one file.
    """
    same = False
    with suppress(OSError):  # what is not there, or cannot be looked at, is not the same
        same = source.samefile(target)
    if same:
        raise Refused("would replace its own source: choose another output folder or name")


def refuse_taken(target: Path, *, overwrite: bool) -> None:
    """Make sure that a name is free, or may be taken.

    Raises:
        Refused: Something is there.
    """
    if not overwrite and os.path.lexists(target):
        raise _taken()


def amount(count: int) -> str:
    """Bytes for people, in the largest unit of which there is one."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} bytes"


def refuse_unwritable(folder: Path) -> None:
    """Find out before hours of work, not after, whether files can be made in a folder.

    Raises:
        OSError: They cannot.
    """
    probe = hidden(folder / "probe")
    probe.touch(exist_ok=False)
    probe.unlink()


def prepare(folder: Path, option: str = "", other: str = "OUT") -> None:
    """Make a folder, and sure that files can be written in it.

    Args:
        folder: The folder.
        option: What it was given with, for people.
        other: What they should choose another of.

    Raises:
        OutputError: It cannot be made, or files in it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_unwritable(folder)
    except OSError as error:
        what = f"{option} {folder}".lstrip()
        raise OutputError(f"{what}: cannot write there ({error.strerror or error}); choose another {other}") from error


def keep_rights(part: Path, source: Path, target: Path) -> None:
    """Let nobody read a result who may not read its source; one that is replaced keeps the rights that it has.

    Args:
        part: What is going to be the result.
        source: What it is made from.
        target: Its name later on.
    """
    with suppress(OSError):  # a system or a disk that knows no such rights
        replaced = target.is_file() and not target.is_symlink()
        mode = target.stat().st_mode if replaced else part.stat().st_mode & source.stat().st_mode
        part.chmod(mode & 0o777 | stat.S_IRUSR | stat.S_IWUSR)  # it is yet to be written to


@contextmanager
def whole(target: Path, *, overwrite: bool, source: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file, all of it or nothing.

    Args:
        target: Where to; its folder must be there.
        overwrite: Whether a file that is there may be replaced.
        source: What it is made from, whose rights it shares: see `keep_rights`.

    Yields:
        A stream open for writing and reading. What was written gets its name when the block ends without an error.

    Raises:
        Refused: The target is there, or has appeared meanwhile.
        OSError: The disk says no.
    """
    refuse_taken(target, overwrite=overwrite)
    part = hidden(target)
    try:
        with part.open("x+b") as stream:  # made with the user's own umask, unlike tempfile's
            if source is not None:
                keep_rights(part, source, target)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        place(part, target, overwrite=overwrite)
    finally:
        part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Make sure that what was written to a file is on the disk.

    Raises:
        OSError: The disk says no.
    """
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def place(part: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file its name in one step. The part may stay as a second name: its owner removes it.

    Args:
        part: The finished file, in the target's folder.
        target: Its name from now on.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        Refused: Somebody else has taken the name meanwhile.
        OSError: The disk says no.
    """
    try:
        if overwrite:
            part.replace(target)
        else:
            _link(part, target)
    except FileExistsError as error:
        raise _taken() from error


def why_unreadable(error: Exception) -> str:
    """Reason and way out of an error on reading, for people; empty where neither place nor memory is to blame."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file: check the name"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a picture: name the files in it"
    if isinstance(error, PermissionError):
        return "permission denied: give yourself the right to read it"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "is a link that leads back to itself: put the file in its place"
    if isinstance(error, MemoryError):
        return TOO_BIG
    return ""


def damaged(cause: str) -> str:
    """Reason and way out of a damaged file; what libtiff says (scanline 4294967295) means nothing to anybody."""
    told = "" if re.search(r"\bTIFF[A-Z]\w*:", cause) else f" ({cause})"
    return f"damaged or cut short{told}: fetch it again"


def why_unwritable(error: BaseException) -> str:
    """Reason and way out of an error on writing, for people; empty where neither disk nor memory is to blame."""
    if isinstance(error, MemoryError):
        return TOO_BIG
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        room = "free some room there, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"cannot be written ({error.strerror}): {room}choose another output folder"
    return ""


@contextmanager
def quietly() -> Iterator[None]:
    """Let no warning out, of whatever library. Not for use inside itself: there is one lock for all threads."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def why_no_picture(path: Path) -> str:
    """Why a file is no picture, by its name; empty where that does not tell."""
    if path.suffix.lower() not in _VECTORS:
        return ""
    grid = "-ts WIDTH HEIGHT -te XMIN YMIN XMAX YMAX"
    return (
        "no picture but a vector layer: make a mask of it, with the picture's size and extent "
        f"(gdal_rasterize -burn 255 -ot Byte {grid} {path.name} mask.tif)"
    )


def _held_names(target: Path, number: str) -> tuple[Path, Path]:
    first, second = (target.with_name(f".{target.name[:50]}.{kind}.{number}.part") for kind in ("held", "with"))
    return first, second


def _swept(first: Path, second: Path) -> int:
    """Remove what was held by a process that is no more; how many files that was."""
    try:
        stream = first.open("r+b")
    except FileNotFoundError:  # whoever is at work has it
        return _removed(second)
    with stream:
        return _removed(second) + _removed(first) if lock(stream.fileno(), alone=True) else 0


def _removed(path: Path) -> int:
    try:
        path.unlink()
    except FileNotFoundError:
        return 0
    return 1


def _link(part: Path, target: Path) -> None:
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except (OSError, AttributeError):  # no hard links on this file system: hold the name with an empty file
        target.open("xb").close()
        try:
            part.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _taken() -> Refused:
    return Refused("is there already: pass --overwrite to replace it, or choose another output")
