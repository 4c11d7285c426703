"""Puts files in place, whole or not at all: a hidden file beside the target gets its name in one step, at the end.

It knows names, links, the disk and its errors, and it holds the one lock under which Python's warnings are hushed. It
knows nothing of pictures, or of what is in a file. Every error from here is an OSError: callers make it their own.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# The filters of warnings are the whole process's: one thread at a time may bend them, whatever library it hushes.
_WARNINGS = threading.Lock()


class Refused(OSError):
    """A place that must not be written to; the text is the reason and the way out."""


def hidden(target: Path) -> Path:
    """A name beside the target that nobody else has, for what is not finished."""
    return target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}.part")


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


def refuse_unwritable(folder: Path) -> None:
    """Find out before hours of work, not after, whether files can be made in a folder.

    Raises:
        OSError: They cannot.
    """
    probe = hidden(folder / "probe")
    probe.touch(exist_ok=False)
    probe.unlink()


@contextmanager
def whole(target: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Write a file, all of it or nothing.

    Args:
        target: Where to; its folder must be there.
        overwrite: Whether a file that is there may be replaced.

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
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        place(part, target, overwrite=overwrite)
    finally:
        part.unlink(missing_ok=True)


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


def why_unwritable(error: Exception) -> str:
    """Reason and way out of an error on writing, for people; empty where neither disk nor memory is to blame."""
    if isinstance(error, MemoryError):
        return "too big for the memory of this machine: cut it into parts, or use a machine with more"
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
