"""Processes that read, cut and write items, while the one that they help computes.

Knows processes, sockets, how arrays travel between them, and which helper has which item. Does not know what items are,
pictures, networks, devices, or in what order things are done.

Python runs one thread of a process at a time: threads that read and write hold each other up, and those that compute
(measured in benchmarks/README.md). An item stays with one helper from reading to writing; only what is to be computed
goes over, and what came of it back.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pconv_cli.errors import DeviceError, ItemError, RunError
from pconv_cli.process import settle

_PATIENCE = 5.0  # seconds that a helper has to end by itself

Item = TypeVar("Item")
Told = TypeVar("Told")
Shape = TypeVar("Shape")
Done = TypeVar("Done")
Item_contra = TypeVar("Item_contra", contravariant=True)
Loaded = TypeVar("Loaded")
Told_co = TypeVar("Told_co", covariant=True)
Done_co = TypeVar("Done_co", covariant=True)


class Piece(Protocol):
    """What is computed of an item: `window` says where it lies, and goes along as it is."""

    @property
    def window(self) -> Any:
        """Where it lies."""
        ...

    def load(self) -> Any:
        """Give what is computed on: a dataclass of arrays and small values."""
        ...

    def land(self, data: Any, result: Any) -> None:
        """Take what came of it, another such dataclass."""
        ...


class Bench(Protocol[Item_contra, Loaded, Told_co, Done_co]):
    """What a helper does: the stages of `pipeline.Stages` that are not computing."""

    def cost(self, item: Item_contra) -> int:
        """See `pipeline.Stages`."""
        ...

    def read(self, item: Item_contra) -> Loaded:
        """See `pipeline.Stages`."""
        ...

    def told(self, loaded: Loaded) -> Told_co:
        """What the other side is to know of an item that was read; small."""
        ...

    def pieces(self, loaded: Loaded) -> Sequence[tuple[Any, Piece]]:
        """See `pipeline.Stages`."""
        ...

    def write(self, loaded: Loaded) -> Done_co:
        """See `pipeline.Stages`."""
        ...


@dataclass(eq=False)
class Parcel:
    """A piece on this side: what is computed on, and then what came of it."""

    window: Any
    _data: Any
    result: Any = None

    def load(self) -> Any:
        """Give what is computed on."""
        return self._data

    def land(self, data: Any, result: Any) -> None:
        """Take what came of it."""
        self._data, self.result = None, result


@dataclass(eq=False)
class Held(Generic[Told]):
    """An item that a helper has.

    Attributes:
        told: What the helper's bench told of it.
    """

    told: Told
    _helper: _Helper
    _number: int
    _parcels: list[Parcel] = field(default_factory=list)


def can_be_had() -> bool:
    """Whether helpers can be had on this system."""
    return sys.platform != "win32" and "forkserver" in multiprocessing.get_all_start_methods()


def prepare(module: str) -> None:
    """Begin to import what helpers will need, in a process that they are made from; to be called early.

    Args:
        module: Its name.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    from multiprocessing import forkserver

    forkserver.ensure_running()


class Crew(Generic[Item, Told, Done]):
    """Helpers, engaged for as long as this is open. Its methods may be called from several threads."""

    def __init__(self, make: Callable[[], Bench[Item, Any, Told, Done]], count: int, niceness: int = 0) -> None:
        """Say what they are to do; nothing happens before it is opened.

        Args:
            make: Makes what a helper does, in the helper; it must be importable there.
            count: How many.
            niceness: How far they stand back.
        """
        self._make, self._count, self._niceness = make, count, niceness
        self._helpers: list[_Helper] = []
        self._choosing = threading.Lock()

    def __enter__(self) -> Crew[Item, Told, Done]:
        context = multiprocessing.get_context("forkserver")
        try:
            for _ in range(self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_help, args=(theirs, self._make, self._niceness), daemon=True)
                process.start()
                theirs.close()
                self._helpers.append(_Helper(process, _Line(ours)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for helper in self._helpers:
            helper.line.close()  # that is how it knows
        for helper in self._helpers:
            helper.process.join(_PATIENCE)
            helper.process.kill()
            helper.process.join()

    def cost(self, item: Item) -> int:
        """See `Bench`."""
        return int(self._ask(self._freest(), "cost", item))

    def read(self, item: Item) -> Held[Told]:
        """See `Bench`."""
        helper = self._freest(takes=True)
        try:
            number, told = self._ask(helper, "read", item)
        except BaseException:
            self._given_back(helper)
            raise
        return Held(told, helper, number)

    def told(self, held: Held[Told]) -> Told:
        """See `Bench`."""
        return held.told

    def pieces(self, held: Held[Told]) -> Sequence[tuple[Any, Parcel]]:
        """Have those landed that were given before, and give the next; see `Bench`."""
        results = [parcel.result for parcel in held._parcels]
        held._parcels = []
        try:
            found = self._ask(held._helper, "pieces", held._number, results)
        except BaseException:
            self._given_back(held._helper)
            raise
        held._parcels = [Parcel(window, data) for _, window, data in found]
        return [(shape, parcel) for (shape, _, _), parcel in zip(found, held._parcels, strict=True)]

    def write(self, held: Held[Told]) -> Done:
        """See `Bench`."""
        try:
            done: Done = self._ask(held._helper, "write", held._number)
        finally:
            self._given_back(held._helper)
        return done

    def _freest(self, *, takes: bool = False) -> _Helper:
        with self._choosing:
            helper = min(self._helpers, key=lambda one: one.items)
            helper.items += takes
            return helper

    def _given_back(self, helper: _Helper) -> None:
        with self._choosing:
            helper.items -= 1

    def _ask(self, helper: _Helper, what: str, item: Any, objects: Sequence[Any] = ()) -> Any:
        try:
            # The next request lies ready while this one is seen to; answers come in the same order.
            with helper.sending:
                helper.line.send((what, item), objects)
                helper.receiving.acquire()
            try:
                (error, answer), found = helper.line.receive()
            finally:
                helper.receiving.release()
        except (EOFError, OSError) as gone:
            raise DeviceError(
                "a process that reads and writes pictures is gone: was it killed, or memory full? "
                "--resume goes on; fewer --jobs take less memory"
            ) from gone
        if error is not None:
            raise error
        return [(*row, one) for row, one in zip(answer, found, strict=True)] if what == "pieces" else answer


@dataclass(eq=False)
class _Helper:
    """A helper, seen from here, and how many items it has."""

    process: Any
    line: _Line
    items: int = 0
    sending: threading.Lock = field(default_factory=threading.Lock)
    receiving: threading.Lock = field(default_factory=threading.Lock)


# ---------------------------------------------------------------- in the helper


def _help(connection: Connection, make: Callable[[], Bench[Any, Any, Any, Any]], niceness: int) -> None:
    """Do what is asked for until the other side is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever asks decides when to end
        signal.signal(number, signal.SIG_IGN)
    settle()
    if niceness:
        os.nice(niceness)
    line = _Line(connection)
    bench: _Hand | None = None
    with suppress(EOFError, OSError):
        while True:
            request, objects = line.receive()
            found: list[Any] = []
            try:
                bench = bench or _Hand(make())
                answer, found = bench(request, objects)
                error: BaseException | None = None
            except (ItemError, RunError) as refused:
                answer, error = None, refused
            except Exception as failed:
                where = traceback.extract_tb(failed.__traceback__)[-1]
                place = f"{Path(where.filename).name}, line {where.lineno}"
                answer, error = None, RuntimeError(f"{type(failed).__name__}: {failed} (in a helper: {place})")
            line.send((error, answer), found)


class _Hand:
    """Items under way in a helper."""

    def __init__(self, bench: Bench[Any, Any, Any, Any]) -> None:
        self._bench = bench
        self._items: dict[int, tuple[Any, list[tuple[Any, Any]]]] = {}  # with the pieces that are away, and their data
        self._count = 0

    def __call__(self, request: tuple[str, Any], objects: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Do one thing; gives an answer, and dataclasses of arrays."""
        what, item = request
        if what == "cost":
            return self._bench.cost(item), []
        if what == "read":
            loaded = self._bench.read(item)
            self._count += 1
            self._items[self._count] = (loaded, [])
            return (self._count, self._bench.told(loaded)), []
        loaded, away = self._items.pop(item)  # for good, unless all goes well
        if what == "write":
            return self._bench.write(loaded), []
        for (piece, data), result in zip(away, objects, strict=True):
            piece.land(data, result)
        pieces = self._bench.pieces(loaded)
        away = [(piece, piece.load()) for _, piece in pieces]
        self._items[item] = (loaded, away)
        return [(shape, piece.window) for shape, piece in pieces], [data for _, data in away]


# ---------------------------------------------------------------- what travels


class _Array(NamedTuple):
    """Stands for an array that follows."""

    dtype: str
    shape: tuple[int, ...]


class _Line:
    """One end of a connection. Values are pickled by `multiprocessing`; arrays follow as the bytes that they are."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def close(self) -> None:
        self._socket.close()
        self._connection.close()

    def send(self, value: Any, objects: Sequence[Any]) -> None:
        """Send a value, and dataclasses of arrays and small values.

        Raises:
            OSError: The other side is gone.
        """
        arrays: list[NDArray[Any]] = []

        def stands_for(part: Any) -> Any:
            if not isinstance(part, np.ndarray):
                return part
            arrays.append(np.ascontiguousarray(part))
            return _Array(part.dtype.str, part.shape)

        heads = [(type(one), [stands_for(getattr(one, of.name)) for of in fields(one)]) for one in objects]
        self._connection.send((value, heads))
        for array in arrays:
            if array.size:
                self._socket.sendall(array.data.cast("B"))

    def receive(self) -> tuple[Any, list[Any]]:
        """Receive what was sent.

        Raises:
            EOFError: The other side is gone.
            OSError: The same, in the middle.
        """
        value, heads = self._connection.recv()
        return value, [kind(*map(self._filled, parts)) for kind, parts in heads]

    def _filled(self, part: Any) -> Any:
        if not isinstance(part, _Array):
            return part
        array = np.empty(part.shape, part.dtype)
        left = array.data.cast("B") if array.size else memoryview(b"")
        while left:
            count = self._socket.recv_into(left)
            if not count:
                raise EOFError
            left = left[count:]
        return array
