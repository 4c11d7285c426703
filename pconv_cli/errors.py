"""What can go wrong, as types, and the exit code each one means.

    PconvError
      RunError            the whole run ends at once
        UsageError           2   the command line or the pairing makes no sense
        NothingToDo          3   no picture was found
        WeightsError         4   weights are missing, damaged or of another kind
        OutputError          5   the output place cannot be used
        DeviceError          6   the device asked for is not there
      ItemError           one picture failed; the others go on (exit code 1 at the end)

A message is one line: which file, what is wrong, the way out. This module does not know who shows it. What nobody
raises on purpose is a bug: it fails the picture that was worked on, or ends the run where that was about no picture.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

# To 254, so that what is damaged does not become the nodata value of masks in which that is 255.
OF_ONES = "of 0 and 1: gdal_translate -scale 0 1 0 254 -ot Byte mask.tif mask254.tif"
"""How to make a mask of a file in which 1 is damage."""


class ExitCode(IntEnum):
    """Exit codes of every command: stable, documented in the guide."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    NOTHING_TO_DO = 3
    WEIGHTS = 4
    OUTPUT = 5
    DEVICE = 6
    BUG = 70
    INTERRUPTED = 130


class PconvError(Exception):
    """Root of every error that this package raises on purpose."""


class RunError(PconvError):
    """The run cannot go on; `exit_code` says how it ends."""

    exit_code = ExitCode.BUG


class UsageError(RunError):
    """What was asked for makes no sense as it stands."""

    exit_code = ExitCode.USAGE


class NothingToDo(RunError):
    """There is no picture to work on."""

    exit_code = ExitCode.NOTHING_TO_DO


class WeightsError(RunError):
    """Weights are missing, damaged, or not for this network."""

    exit_code = ExitCode.WEIGHTS


class OutputError(RunError):
    """The place for the results cannot be used."""

    exit_code = ExitCode.OUTPUT


class DeviceError(RunError):
    """The device or precision asked for is not available."""

    exit_code = ExitCode.DEVICE


class ItemError(PconvError):
    """One picture cannot be restored. `path` names the file at fault, `reason` the cause and the way out."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ItemError], tuple[str, str]]:
        """Take it to another process: by what it was made of."""
        return type(self), (self.path, self.reason)


class NoRoom(ItemError):
    """One picture cannot be written, for the disk is full: the next could hardly be."""


def bug(error: BaseException) -> str:
    """What to say of an error that nobody has raised on purpose."""
    return f"this is a bug in pconv: {type(error).__name__}: {error}; PCONV_DEBUG=1 shows where, please report it"


def failure(path: Path | str, error: Exception) -> ItemError:
    """What a picture fails with alone, whatever was raised while it was worked on: a bug must not end the batch.

    Raises:
        Exception: `error`, where it is about the whole run; with `PCONV_DEBUG` also a bug, to show where it is.
    """
    if isinstance(error, ItemError):
        return error
    if isinstance(error, MemoryError):
        return ItemError(path, TOO_BIG)
    if isinstance(error, RunError) or os.environ.get("PCONV_DEBUG"):
        raise error
    return ItemError(path, f"{bug(error)} with the picture")


class Loss(str):
    """A notice of something that is lost; others tell of what is merely not as one might expect."""

    __slots__ = ()


def unwritable(path: Path | str, error: BaseException, reason: str) -> ItemError:
    """What a picture fails by whose result could not be written; `reason` is for people."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (NoRoom if full else ItemError)(path, reason)


CHANGED = "was changed while it was being restored: run it again"
TAKEN = "the output exists already; use --overwrite to replace it"
OURS = "is there from an earlier run; --resume leaves out what is done, --overwrite does it again"
TOO_BIG = "too big for the memory of this machine: cut it into parts, or use a machine with more"
"""Reasons of an `ItemError`: about a picture or a mask, about results that are there, and about either."""


def unseen(what: str, count: int, way_out: str) -> str:
    """What to say of damaged pixels that are not to be seen in the result: what of it is so, how many, the way out."""
    pixels = f"{count} pixel{'s' * (count > 1)}"
    return f"{what}: {pixels}; if the damage is what that marks, {way_out}: it is filled and shown then"


def refuse_losses(path: Path, notices: Sequence[str], way_out: str = "leave it out to accept that") -> None:
    """Make sure that nothing is lost: what `--strict` asks for.

    Raises:
        ItemError: A notice is a `Loss`.
    """
    losses = [notice for notice in notices if isinstance(notice, Loss)]
    if losses:
        raise ItemError(path, f"--strict refuses what would be lost: {'; '.join(losses)}; {way_out}")
