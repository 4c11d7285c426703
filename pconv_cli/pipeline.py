"""One stream of work: readers ahead, one computing thread, writers behind, bounded by bytes.

Knows: threads, queues, how much may be in flight, and how pieces of different items share a batch. Does not know:
pictures, tiles, networks, files; the stages are given to it.

All bookkeeping happens in the caller's thread, so there is one place to reason about. Readers wait for bytes; when one
waits, or nothing more is to come, batches run although they are not full, so whatever holds the bytes moves on.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from pconv_cli.errors import ItemError

NICENESS = 10

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Piece = TypeVar("Piece")
Result = TypeVar("Result")
Done = TypeVar("Done")
Item_contra = TypeVar("Item_contra", contravariant=True)
Done_co = TypeVar("Done_co", covariant=True)


class Stages(Protocol[Item_contra, Loaded, Piece, Result, Done_co]):
    """What happens to an item.

    An `ItemError` from `cost`, `read`, `pieces` or `write` fails that item alone; any other error ends the run.
    """

    def cost(self, item: Item_contra) -> int:
        """Bytes that the item holds from reading to writing. Called by a reader thread."""
        ...

    def read(self, item: Item_contra) -> Loaded:
        """Read one item. Called by a reader thread."""
        ...

    def pieces(self, loaded: Loaded) -> Sequence[tuple[Hashable, Piece]]:
        """Cut an item into pieces with the shape of each: only pieces of one shape share a batch.

        Called by the caller's thread, again each time all pieces given before have landed; an item that has none to
        give is ready to be written.
        """
        ...

    def compute(self, shape: Hashable, pieces: Sequence[Piece]) -> Sequence[Result]:
        """Compute one batch. Called by the caller's thread, one at a time."""
        ...

    def land(self, loaded: Loaded, piece: Piece, result: Result) -> None:
        """Put one result into its item. Called by the caller's thread."""
        ...

    def write(self, loaded: Loaded) -> Done_co:
        """Finish an item all of whose pieces have landed. Called by a writer thread."""
        ...


@dataclass(frozen=True)
class Limits:
    """How much may be in flight.

    Attributes:
        readers: Reader threads, and as many writer threads.
        batch_size: Pieces in a full batch.
        bytes: Sum of the items' costs; a single item above it still runs, alone.
    """

    readers: int = max(2, min(8, os.cpu_count() or 2))
    batch_size: int = 4
    bytes: int = 1 << 30


@dataclass(frozen=True)
class Outcome(Generic[Item, Done]):
    """What became of an item: `done`, or the `error` that failed it."""

    item: Item
    done: Done | None
    error: ItemError | None


class Budget:
    """Bytes that may be held at once; `on_wait` is called by a thread that has to wait."""

    def __init__(self, limit: int, on_wait: Callable[[], None]) -> None:
        self._limit = limit
        self._on_wait = on_wait
        self._held = 0
        self._closed = False
        self._change = threading.Condition()
        self.waiting = 0

    def acquire(self, amount: int) -> None:
        """Take bytes, waiting until they fit or nothing else is held; raises `Stopped` once closed."""
        with self._change:
            self.waiting += 1
            try:
                while not self._closed and self._held and self._held + amount > self._limit:
                    self._on_wait()
                    self._change.wait()
            finally:
                self.waiting -= 1
            if self._closed:
                raise Stopped
            self._held += amount

    def release(self, amount: int) -> None:
        """Give bytes back."""
        with self._change:
            self._held -= amount
            self._change.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._change:
            self._closed = True
            self._change.notify_all()


def stand_back() -> None:
    """Let this thread give way to the one that computes, where the system knows priorities of threads (Linux).

    On a CPU all of them share the same cores, and where threads share one convolution they wait for the slowest: with
    all of two cores on each tile this made a run a sixth shorter.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Stopped(Exception):
    """A reader that was waiting when the stream ended."""


def run(
    items: Iterable[Item],
    stages: Stages[Item, Loaded, Piece, Result, Done],
    limits: Limits,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome[Item, Done]]:
    """Take items through all stages and yield what became of each, as they finish.

    Args:
        items: What to do, in order.
        stages: How.
        limits: How much at once.
        stop: Once it turns true, no further item is begun; what is in flight is finished and yielded.

    Raises:
        Exception: Whatever a stage raises that is no `ItemError`, after the threads have ended.
    """
    stream = _Stream(iter(items), stages, limits, stop)
    try:
        yield from stream.outcomes()
    finally:
        stream.end()


@dataclass
class _Flight(Generic[Item, Loaded]):
    """An item under way."""

    item: Item
    cost: int = 0
    loaded: Loaded | None = None
    open_pieces: int = 0


@dataclass
class _Batches(Generic[Item, Loaded, Piece]):
    """Pieces that wait for company, by shape."""

    size: int
    waiting: dict[Hashable, list[tuple[_Flight[Item, Loaded], Piece]]] = field(default_factory=dict)

    def add(self, shape: Hashable, flight: _Flight[Item, Loaded], piece: Piece) -> None:
        self.waiting.setdefault(shape, []).append((flight, piece))

    def take(self, partial: bool) -> Iterator[tuple[Hashable, list[tuple[_Flight[Item, Loaded], Piece]]]]:
        """Take full batches, and with `partial` the rest too."""
        for shape in list(self.waiting):
            queue = self.waiting[shape]
            while len(queue) >= self.size or (partial and queue):
                batch, self.waiting[shape] = queue[: self.size], queue[self.size :]
                queue = self.waiting[shape]
                yield shape, batch
            if not queue:
                del self.waiting[shape]


class _Stream(Generic[Item, Loaded, Piece, Result, Done]):
    def __init__(
        self, items: Iterator[Item], stages: Stages[Item, Loaded, Piece, Result, Done], limits: Limits,
        stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._items, self._stages, self._limits, self._stop = items, stages, limits, stop
        self._inbox: SimpleQueue[Callable[[], Outcome[Item, Done] | None]] = SimpleQueue()
        self._budget = Budget(limits.bytes, lambda: self._inbox.put(lambda: None))
        self._readers = ThreadPoolExecutor(limits.readers, "read", stand_back)
        self._writers = ThreadPoolExecutor(limits.readers, "write", stand_back)
        self._batches: _Batches[Item, Loaded, Piece] = _Batches(limits.batch_size)
        self._reads: set[Future[Any]] = set()
        self._writing = 0

    def outcomes(self) -> Iterator[Outcome[Item, Done]]:
        while True:
            self._admit()
            while self._compute(partial=not self._reads or self._budget.waiting > 0):
                pass  # what has landed may have given further pieces
            if not self._reads and not self._writing and self._inbox.empty():
                return
            outcome = self._inbox.get()()
            if outcome is not None:
                yield outcome

    def end(self) -> None:
        self._budget.close()
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._writers.shutdown(wait=True, cancel_futures=True)

    def _admit(self) -> None:
        """Keep two items for each reader and two batches on their way; after a stop, drop what no reader has begun."""
        if self._stop():
            self._reads -= {future for future in self._reads if future.cancel()}
            return
        ahead = 2 * max(self._limits.readers, self._limits.batch_size)
        for item in islice(self._items, max(0, ahead - len(self._reads))):
            flight: _Flight[Item, Loaded] = _Flight(item)
            future = self._readers.submit(self._read, flight)
            self._reads.add(future)
            future.add_done_callback(lambda f, flight=flight: self._inbox.put(lambda: self._loaded(flight, f)))  # type: ignore[misc]

    def _read(self, flight: _Flight[Item, Loaded]) -> Loaded:
        cost = self._stages.cost(flight.item)
        self._budget.acquire(cost)
        flight.cost = cost
        return self._stages.read(flight.item)

    def _loaded(self, flight: _Flight[Item, Loaded], future: Future[Loaded]) -> Outcome[Item, Done] | None:
        if future.cancelled():
            return None
        self._reads.discard(future)
        try:
            flight.loaded = future.result()
        except ItemError as error:
            return self._failed(flight, error)
        return self._go_on(flight)

    def _go_on(self, flight: _Flight[Item, Loaded]) -> Outcome[Item, Done] | None:
        """Give the next pieces of an item to the batches, or the item to the writers when there are none."""
        assert flight.loaded is not None
        try:
            pieces = self._stages.pieces(flight.loaded)
        except ItemError as error:
            return self._failed(flight, error)
        flight.open_pieces = len(pieces)
        for shape, piece in pieces:
            self._batches.add(shape, flight, piece)
        if not pieces:
            self._write(flight)
        return None

    def _compute(self, partial: bool) -> bool:
        """Run the batches that are ready; tells whether there were any."""
        ran = False
        for shape, batch in self._batches.take(partial):
            ran = True
            results = self._stages.compute(shape, [piece for _, piece in batch])
            for (flight, piece), result in zip(batch, results, strict=True):
                assert flight.loaded is not None
                self._stages.land(flight.loaded, piece, result)
                flight.open_pieces -= 1
                if not flight.open_pieces:
                    outcome = self._go_on(flight)
                    if outcome is not None:
                        self._inbox.put(lambda outcome=outcome: outcome)  # type: ignore[misc]
        return ran

    def _write(self, flight: _Flight[Item, Loaded]) -> None:
        assert flight.loaded is not None
        self._writing += 1
        future = self._writers.submit(self._stages.write, flight.loaded)
        flight.loaded = None
        future.add_done_callback(lambda f: self._inbox.put(lambda: self._written(flight, f)))

    def _written(self, flight: _Flight[Item, Loaded], future: Future[Done]) -> Outcome[Item, Done]:
        self._writing -= 1
        try:
            done = future.result()
        except ItemError as error:
            return self._failed(flight, error)
        self._budget.release(flight.cost)
        return Outcome(flight.item, done, None)

    def _failed(self, flight: _Flight[Item, Loaded], error: ItemError) -> Outcome[Item, Done]:
        self._budget.release(flight.cost)
        return Outcome(flight.item, None, error)
