"""Processes that read, cut and write items, while the one that they help computes.

Knows processes, sockets, how arrays travel between them, and which helper has which item. Does not know what items are,
pictures, networks, devices, or in what order things are done.

Python runs one thread of a process at a time: threads that read and write hold each other up, and those that compute
(measured in benchmarks/README.md). An item stays with one helper from reading to writing; only what is to be computed
goes over, and what came of it back.

A helper that dies, for want of memory or of what a library makes of a file, is replaced. What it had is begun again;
the item that it was busy with may take one more helper with it, and is then given up.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pconv_cli.errors import DeviceError, ItemError, RunError
from pconv_cli.pipeline import Again
from pconv_cli.process import is_open, settle

_PATIENCE = 5.0  # seconds that a helper has to end by itself
_DEATHS = 4  # for each helper, without a single item that was written between them: then no other is engaged

Item = TypeVar("Item", bound=Hashable)
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
class Held(Generic[Item, Told]):
    """An item that a helper has.

    Attributes:
        item: Which.
        told: What the helper's bench told of it.
    """

    item: Item
    told: Told
    _helper: _Helper
    _number: int
    _parcels: list[Parcel] = field(default_factory=list)


def can_be_had() -> bool:
    """Whether helpers can be had on this system: macOS has its own arithmetic crash in processes that are forked."""
    python = bool(sys.executable) and not getattr(sys, "frozen", False)
    return python and hasattr(os, "fork") and hasattr(socket, "send_fds") and sys.platform != "darwin"


class Nursery:
    """A process that helpers are made from: it imports what they need while whoever asked for it does something else.

    `multiprocessing` has one too. That one runs the user's script again in each helper, is not to be had where the
    script is itself a child of a pool, needs a folder for temporary files, and leaves one behind when a run is stopped.

    Attributes:
        close: Ends it, and so does the end of this process; helpers stay.
    """

    def __init__(self, module: str | None = None) -> None:
        """Begin.

        Args:
            module: The name of what is imported.

        Raises:
            OSError: No process can be had.
        """
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        path = list(map(os.fsdecode, sys.path))
        code = f"import os, sys; sys.path[:] = {path!r}; from pconv_cli.helpers import serve; serve({module!r}); "
        code += "os._exit(0)"  # in helpers too, at once: taking down all that was imported takes its time
        self._line, theirs = socket.socketpair()
        # Blocked from birth: whoever asks decides when helpers end, and not a Ctrl-C that all of them get.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            process = subprocess.Popen(
                [sys.executable, *flags, "-c", code],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=None if is_open(2) else subprocess.DEVNULL,
            )  # fmt: skip
        except BaseException:
            self._line.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.close = weakref.finalize(self, _end, process, self._line)

    def engage(self, make: Callable[[], Bench[Any, Any, Any, Any]], niceness: int) -> _Helper:
        """Give a helper.

        Raises:
            OSError: None can be had.
        """
        ours, theirs = multiprocessing.Pipe()
        line = _Line(ours)
        try:
            with theirs:
                socket.send_fds(self._line, [b"+"], [theirs.fileno()])
            line.send((make, niceness), ())
            pid, _ = line.receive()
            if isinstance(pid, str):
                raise OSError(pid)
        except BaseException as error:
            line.close()
            if isinstance(error, EOFError):
                raise OSError("it ended as soon as it began") from error
            raise
        return _Helper(pid, line)


def _end(process: subprocess.Popen[bytes], line: socket.socket) -> None:
    line.close()
    process.kill()  # it has nothing to lose, and may be importing for seconds yet
    process.wait()


class Crew(Generic[Item, Told, Done]):
    """Helpers, engaged for as long as this is open. Its methods may be called from several threads.

    They raise `Again` where a helper has died that had the item, and what `lost` makes of an item that a second one has
    died of.

    Attributes:
        deaths: How many helpers have died.
    """

    def __init__(
        self, make: Callable[[], Bench[Item, Any, Told, Done]], count: int, lost: Callable[[Item], ItemError],
        niceness: int = 0, nursery: Nursery | None = None,
    ) -> None:  # fmt: skip
        """Say what they are to do; nothing happens before it is opened.

        Args:
            make: Makes what a helper does, in the helper; it must be importable there.
            count: How many.
            lost: What an item fails with that two helpers have died of.
            niceness: How far they stand back.
            nursery: Where they come from, which is closed with the crew; None: one of its own.
        """
        self._make, self._count, self._niceness, self._nursery = make, count, niceness, nursery
        self._lost, self._blamed = lost, Counter[Item]()
        self._helpers: list[_Helper] = []
        self._dead: list[_Helper] = []
        self._choosing = threading.Lock()
        self._in_a_row = 0

    def __enter__(self) -> Crew[Item, Told, Done]:
        try:
            self._nursery = self._nursery or Nursery()
            for _ in range(self._count):
                self._helpers.append(self._nursery.engage(self._make, self._niceness))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        helpers = [*self._helpers, *self._dead]
        for helper in helpers:
            helper.line.hang_up()
        for helper in helpers:
            helper.end()
        if self._nursery is not None:
            self._nursery.close()

    @property
    def deaths(self) -> int:
        """See the class."""
        return len(self._dead)

    def cost(self, item: Item) -> int:
        """See `Bench`."""
        return int(self._ask(self._freest(), item, "cost", item))

    def read(self, item: Item) -> Held[Item, Told]:
        """See `Bench`."""
        helper = self._freest(takes=True)
        try:
            number, told = self._ask(helper, item, "read", item)
        except BaseException:
            self._given_back(helper)
            raise
        return Held(item, told, helper, number)

    def told(self, held: Held[Item, Told]) -> Told:
        """See `Bench`."""
        return held.told

    def pieces(self, held: Held[Item, Told]) -> Sequence[tuple[Any, Parcel]]:
        """Have those landed that were given before, and give the next; see `Bench`."""
        results = [parcel.result for parcel in held._parcels]
        held._parcels = []
        try:
            found = self._ask(held._helper, held.item, "pieces", held._number, results)
        except BaseException:
            self._given_back(held._helper)
            raise
        held._parcels = [Parcel(window, data) for _, window, data in found]
        return [(shape, parcel) for (shape, _, _), parcel in zip(found, held._parcels, strict=True)]

    def write(self, held: Held[Item, Told]) -> Done:
        """See `Bench`."""
        try:
            done: Done = self._ask(held._helper, held.item, "write", held._number)
        finally:
            self._given_back(held._helper)
        self._in_a_row = 0
        return done

    def _freest(self, *, takes: bool = False) -> _Helper:
        with self._choosing:
            if not self._helpers:
                raise _all_gone()
            helper = min(self._helpers, key=lambda one: one.items)
            helper.items += takes
            return helper

    def _given_back(self, helper: _Helper) -> None:
        with self._choosing:
            helper.items -= 1

    def _ask(self, helper: _Helper, item: Item, what: str, about: Any, objects: Sequence[Any] = ()) -> Any:
        busy_with_it = False
        try:
            # The next request lies ready while this one is seen to; answers come in the same order.
            with helper.sending:
                helper.line.send((what, about), objects)
                helper.receiving.acquire()
            try:
                busy_with_it = not helper.gone
                (error, answer), found = helper.line.receive()
            except (EOFError, OSError):
                helper.gone = True
                raise
            finally:
                helper.receiving.release()
        except (EOFError, OSError) as gone:
            self._replace(helper)
            if busy_with_it and self._is_blamed_again(item):
                raise self._lost(item) from gone
            raise Again from gone
        if error is not None:
            raise error
        return [(*row, one) for row, one in zip(answer, found, strict=True)] if what == "pieces" else answer

    def _is_blamed_again(self, item: Item) -> bool:
        with self._choosing:
            self._blamed[item] += 1
            return self._blamed[item] > 1

    def _replace(self, gone: _Helper) -> None:
        """Engage another helper for one that is gone, once; where none is to be had, those go on that are left."""
        with self._choosing:
            if gone not in self._helpers:
                return
            self._in_a_row += 1
            if self._nursery is None or self._in_a_row > _DEATHS * self._count:
                raise _all_gone()
            others = []
            with suppress(OSError):
                others = [self._nursery.engage(self._make, self._niceness)]
            place = self._helpers.index(gone)
            self._helpers[place : place + 1] = others
            self._dead.append(gone)


def _all_gone() -> DeviceError:
    return DeviceError(
        "the processes that read and write pictures are gone: were they killed, or is memory full? "
        "--resume goes on; fewer --jobs take less memory"
    )


@dataclass(eq=False)
class _Helper:
    """A helper, seen from here, and how many items it has."""

    pid: int
    line: _Line
    items: int = 0
    gone: bool = False
    sending: threading.Lock = field(default_factory=threading.Lock)
    receiving: threading.Lock = field(default_factory=threading.Lock)

    def end(self) -> None:
        """Wait until it is gone, once it was hung up on; not for ever."""
        if not self.line.ended(_PATIENCE):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # it holds its end of the line, so the number is its own
        self.line.close()


# ---------------------------------------------------------------- in the nursery, and in the helper


def serve(module: str | None) -> None:
    """Make helpers until the other side, whose line is standard input, is gone. Returns in each of them as well."""
    with suppress(OSError), socket.socket(fileno=os.dup(0)) as asked:
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        if module is not None:
            importlib.import_module(module)
        while True:
            _, descriptors, _, _ = socket.recv_fds(asked, 1, 1)
            if not descriptors:
                return
            line = _Line(Connection(descriptors[0]))
            try:
                child = os.fork()
            except OSError as error:  # no more processes
                child = -1
                line.send(str(error), ())
            if not child:
                asked.close()
                _help(line)
            line.close()
            if not child:
                return


def _help(line: _Line) -> None:
    """Do what is asked for until the other side is gone."""
    settle()
    bench: _Hand | None = None
    with suppress(EOFError, OSError):
        try:
            (make, niceness), _ = line.receive()
        except (EOFError, OSError):
            raise
        except Exception as unknown:  # of a module that cannot be imported here
            return line.send(f"{type(unknown).__name__}: {unknown}", ())
        if niceness:
            os.nice(niceness)
        line.send(os.getpid(), ())
        while True:
            request, objects = line.receive()
            found: list[Any] = []
            try:
                bench = bench or _Hand(make())
                answer, found = bench(request, objects)
                error: BaseException | None = None
            except (ItemError, RunError, MemoryError) as refused:
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

    def hang_up(self) -> None:
        """Let the other side know that nothing more comes; what it still says can be heard."""
        with suppress(OSError):  # it is gone
            self._socket.shutdown(socket.SHUT_WR)

    def ended(self, seconds: float) -> bool:
        """Whether the other side hangs up as well while there is silence for no longer than that."""
        self._socket.settimeout(seconds)
        with suppress(ConnectionError):
            try:
                while self._socket.recv(1 << 16):
                    pass
            except TimeoutError:
                return False
        return True

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
