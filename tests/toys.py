"""What other processes do in tests of helpers and of clusters: as little as can be, so that they are there at once.

It imports neither torch nor `conftest`, which takes a process seconds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli.errors import ItemError, UsageError
from pconv_cli.events import Event, Notice


def fail(error: Exception) -> Any:
    raise error


def fail_next(errors: list[Exception]) -> Any:
    """Fail once more, in another way."""
    raise errors.pop(0)


# ---------------------------------------------------------------- of a cluster


@dataclass
class Diarist:
    """Writes down what it begins, and does what an item says."""

    folder: Path

    def __call__(self, items: Sequence[str], stop: Callable[[], bool]) -> Iterator[tuple[int, Any] | Event]:
        for number, item in enumerate(items):
            if stop():
                return
            with (self.folder / "begun").open("a") as file:
                file.write(f"{item} {os.getpid()}\n")
            time.sleep(0.02)
            if item == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "snail":
                time.sleep(3)
            if item == "told":
                yield Notice("told")
            yield number, (item, os.getpid())


# ---------------------------------------------------------------- of helpers


@dataclass(frozen=True, eq=False)
class Data:
    """What is computed on."""

    numbers: NDArray[Any]
    more: NDArray[Any] | None
    word: str


@dataclass(eq=False)
class Sum:
    """A piece: 1 is to be added to its numbers."""

    item: list[Any]
    window: tuple[int, int]
    data: Data

    def load(self) -> Data:
        return self.data

    def land(self, data: Data, result: Data) -> None:
        assert data is self.data
        self.item.append(result)


class Toy:
    """Items are names of arrays; there are two rounds of two pieces each, and what comes of all of them is written."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def cost(self, item: str) -> int:
        return self._arrays[item].nbytes

    def read(self, item: str) -> list[Any]:
        if item == "no item":
            raise ItemError(Path("no item"), "is none")
        if item == "no run":
            raise UsageError("all of this makes no sense")
        if item.startswith("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        return [item]

    def told(self, loaded: list[Any]) -> tuple[str, int]:
        return loaded[0], os.getpid()

    def pieces(self, loaded: list[Any]) -> Sequence[tuple[int, Sum]]:
        if loaded == ["not cut"]:
            raise ItemError("not cut", "cannot be")
        if len(loaded) == 5:
            return ()
        array = self._arrays[loaded[0]]
        return [(7, Sum(loaded, (len(loaded), i), Data(array, array.T if i else None, f"{i}"))) for i in range(2)]

    def write(self, loaded: list[Any]) -> tuple[int, list[tuple[str, tuple[int, ...], bytes, str]]]:
        if loaded[0] == "late poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if loaded[0] == "not written":
            raise ZeroDivisionError("a slip")
        landed = [(d.numbers.dtype.str, d.numbers.shape, d.numbers.tobytes(), d.word) for d in loaded[1:]]
        return os.getpid(), landed


ARRAYS: dict[str, NDArray[Any]] = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    "flags": np.array([[True, False, True]]),
    "floats": np.array([[np.nan, -0.0, np.inf]], np.float32),
    "slice": np.arange(100, dtype=np.int32).reshape(10, 10)[2:7, 1:9:2],
    "none": np.zeros((0, 3), np.uint16),
    "large": np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8),
    "not written": np.zeros(1), "not cut": np.zeros(1), "late poison": np.zeros(1),
}  # fmt: skip
MAKE = partial(Toy, ARRAYS)


class Unheard:
    """Cannot be had in another process."""

    def __reduce__(self) -> Any:
        return divmod, (1, 0)
