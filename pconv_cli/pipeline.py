"""One stream of work: readers ahead, computing threads, finishers behind, bounded by bytes.

Knows: threads, queues, how much may be in flight, and how pieces of different items share a batch. Does not know:
pictures, tiles, networks, devices, files; the stages are given to it.

All bookkeeping happens in the caller's thread, so there is one place to reason about; all work happens in others, so
that whoever computes waits for nothing else. A batch that is not full runs when few others are being computed, so
whatever holds the bytes that readers wait for moves on.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from pconv_cli.errors import ItemError

NICENESS = 5

_TICK = 0.2  # seconds: on Windows, Ctrl-C is not heard while a thread waits

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Shape = TypeVar("Shape", bound=Hashable)
Piece = TypeVar("Piece")
Done = TypeVar("Done")
Item_contra = TypeVar("Item_contra", contravariant=True)
Done_co = TypeVar("Done_co", covariant=True)


@dataclass(frozen=True)
class Turn:
    """What a batch is told of the others.

    Attributes:
        lane: Which of the computing threads this is, from 0; a lane computes one batch at a time.
        beside: How many batches are computed at once, this one included.
    """

    lane: int = 0
    beside: int = 1


class Stages(Protocol[Item_contra, Loaded, Shape, Piece, Done_co]):
    """What happens to an item, and how large a batch may be. All are called from several threads.

    An `ItemError` from `cost`, `read`, `pieces` or `write` fails that item alone, `Again` has it begun anew; whether
    any other error ends the run, `run` is told.
    """

    def cost(self, item: Item_contra) -> int:
        """Bytes that the item holds from reading to writing. Called by a reader."""
        ...

    def read(self, item: Item_contra) -> Loaded:
        """Read one item. Called by a reader."""
        ...

    def pieces(self, loaded: Loaded) -> Sequence[tuple[Shape, Piece]]:
        """Cut an item into pieces with the shape of each: only pieces of one shape share a batch.

        Called by a finisher, again each time all pieces given before have been computed; an item that has none to give
        is ready to be written.
        """
        ...

    def batch_size(self, shape: Shape) -> int:
        """How many pieces of a shape make a full batch, at least 1. Called by the caller's thread, often."""
        ...

    def compute(self, shape: Shape, pieces: Sequence[Piece], turn: Turn) -> None:
        """Compute one batch and put the results into their items. Called by a computing thread."""
        ...

    def write(self, loaded: Loaded) -> Done_co:
        """Finish an item all of whose pieces have been computed. Called by a finisher."""
        ...


class Again(Exception):
    """An item was lost on the way, without being to blame for it: it is begun anew."""


@dataclass(frozen=True)
class Limits:
    """How much may be in flight.

    Attributes:
        readers: Reader threads, and as many that finish.
        lanes: Computing threads.
        units: What the lanes compute on. While fewer batches than this are computed, one need not be full; nor for a
            lane that has nothing to do while as much waits as a batch holds, but of several shapes.
        ahead: Items begun and not yet done with, at most: so many that no lane waits, so few that a stop is soon.
        bytes: Sum of the items' costs; a single item above it still runs, alone.
    """

    readers: int = 2
    lanes: int = 1
    units: int = 1
    ahead: int = 64
    bytes: int = 1 << 30


@dataclass(frozen=True)
class Outcome(Generic[Item, Done]):
    """What became of an item: `done`, or the `error` that failed it."""

    item: Item
    done: Done | None
    error: ItemError | None


class Budget:
    """Bytes that may be held at once; first come, first served, so that nothing large waits for ever."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._closed = False
        self._line: deque[object] = deque()
        self._change = threading.Condition()

    def acquire(self, amount: int) -> None:
        """Take bytes, waiting until they fit or nothing else is held; raises `Stopped` once closed."""
        me = object()
        with self._change:
            self._line.append(me)
            while not self._closed and (self._line[0] is not me or (self._held and self._held + amount > self._limit)):
                self._change.wait()
            self._line.remove(me)
            self._change.notify_all()
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
    """Let this thread give way to those that compute, where the system knows priorities of threads (Linux).

    On a CPU all of them share the same cores.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            me = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, me, min(19, os.getpriority(os.PRIO_PROCESS, me) + NICENESS))


class Stopped(Exception):
    """A reader that was waiting when the stream ended."""


def run(
    items: Iterable[Item],
    stages: Stages[Item, Loaded, Shape, Piece, Done],
    limits: Limits,
    stop: Callable[[], bool] = lambda: False,
    failure: Callable[[Item, Exception], ItemError] | None = None,
) -> Iterator[Outcome[Item, Done]]:
    """Take items through all stages and yield what became of each, as they finish.

    Args:
        items: What to do, in order.
        stages: How.
        limits: How much at once.
        stop: Once it turns true, no further item is begun, and what was only read so far is dropped; what has gone
            further is finished and yielded.
        failure: Makes what fails an item alone of any other error, or raises what ends the run; None: each ends it.
            With one from `compute` all items in the batch fail, and a second batch in a row ends the run.

    Raises:
        Exception: Whatever a stage raises that fails no item, after the threads have ended.
        KeyboardInterrupt: As it comes, after what is being written, but not what is being read, which may be from a
            place that does not answer any more, or computed.
    """
    stream = _Stream(iter(items), stages, limits, stop, failure)
    at_once = False
    try:
        yield from stream.outcomes()
    except KeyboardInterrupt:
        at_once = True
        raise
    finally:
        stream.end(at_once=at_once)


@dataclass
class _Flight(Generic[Item, Loaded]):
    """An item under way."""

    item: Item
    cost: int = 0
    loaded: Loaded | None = None
    open_pieces: int = 0
    computed: bool = False  # or being computed
    failed: bool = False


class _Batches(Generic[Item, Loaded, Shape, Piece]):
    """Pieces that wait for company, by shape; of equally full batches the shape that has waited longest comes first."""

    def __init__(self, size: Callable[[Shape], int]) -> None:
        self._size = size
        self._waiting: dict[Shape, list[tuple[_Flight[Item, Loaded], Piece]]] = {}

    def add(self, shape: Shape, flight: _Flight[Item, Loaded], piece: Piece) -> None:
        self._waiting.setdefault(shape, []).append((flight, piece))

    def __len__(self) -> int:
        """How many pieces wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def full(self) -> float:
        """How many full batches what waits would make, if shapes could be mixed."""
        return sum(len(pieces) / self._size(shape) for shape, pieces in self._waiting.items())

    def drop(self, which: Callable[[_Flight[Item, Loaded]], bool]) -> list[_Flight[Item, Loaded]]:
        """Let go of the pieces of some items, and give those that had any."""
        dropped: dict[int, _Flight[Item, Loaded]] = {}
        for shape, queue in list(self._waiting.items()):
            dropped |= {id(flight): flight for flight, _ in queue if which(flight)}
            self._waiting[shape] = [(flight, piece) for flight, piece in queue if not which(flight)]
            if not self._waiting[shape]:
                del self._waiting[shape]
        return list(dropped.values())

    def take(self, most: int | None) -> tuple[Shape, list[tuple[_Flight[Item, Loaded], Piece]]] | None:
        """Take a full batch, or None if there is none; with `most` the fullest one, but no more pieces than that."""
        filled = {shape: min(1.0, len(pieces) / self._size(shape)) for shape, pieces in self._waiting.items()}
        shape = max(filled, key=filled.__getitem__, default=None)
        if shape is None or (most is None and filled[shape] < 1):
            return None
        size = self._size(shape) if most is None else min(most, self._size(shape))
        queue = self._waiting[shape]
        self._waiting[shape] = queue[size:]  # keeps its place in the line
        if not queue[size:]:
            del self._waiting[shape]
        return shape, queue[:size]


class _Stream(Generic[Item, Loaded, Shape, Piece, Done]):
    def __init__(
        self, items: Iterator[Item], stages: Stages[Item, Loaded, Shape, Piece, Done], limits: Limits,
        stop: Callable[[], bool], failure: Callable[[Item, Exception], ItemError] | None,
    ) -> None:  # fmt: skip
        self._items, self._stages, self._limits, self._stop = items, stages, limits, stop
        self._failure = failure
        self._inbox: SimpleQueue[Callable[[], Outcome[Item, Done] | None]] = SimpleQueue()
        self._budget = Budget(limits.bytes)
        self._readers = ThreadPoolExecutor(limits.readers, "read", stand_back)
        self._lanes = ThreadPoolExecutor(limits.lanes, "compute", self._enter_lane)
        self._finishers = ThreadPoolExecutor(limits.readers, "finish", stand_back)
        self._batches: _Batches[Item, Loaded, Shape, Piece] = _Batches(stages.batch_size)
        self._reads: set[Future[Any]] = set()
        self._begun = 0
        self._lane, self._lane_numbers = threading.local(), itertools.count()
        self._computing = 0
        self._batch_failed = False  # the last one
        self._finishing = 0
        self._stopping = False

    def outcomes(self) -> Iterator[Outcome[Item, Done]]:
        while True:
            self._admit()
            self._dispatch()
            if not (self._reads or self._computing or self._finishing) and self._inbox.empty():
                return
            try:
                outcome = self._inbox.get(timeout=_TICK)()
            except Empty:
                continue
            if outcome is not None:
                self._begun -= 1
                yield outcome

    def end(self, *, at_once: bool) -> None:
        self._budget.close()
        self._lanes.shutdown(wait=not at_once, cancel_futures=True)
        self._readers.shutdown(wait=not at_once, cancel_futures=True)
        self._finishers.shutdown(wait=True, cancel_futures=True)

    def _admit(self) -> None:
        """Keep items on their way; after a stop, drop what no reader has begun."""
        if self._stop():
            self._stopping = True
            self._reads -= {future for future in self._reads if future.cancel()}
            for flight in self._batches.drop(lambda flight: not flight.computed):
                self._drop(flight)
            return
        for item in itertools.islice(self._items, max(0, self._limits.ahead - self._begun)):
            self._begun += 1
            self._begin(item)

    def _begin(self, item: Item) -> None:
        flight: _Flight[Item, Loaded] = _Flight(item)
        future = self._readers.submit(self._read, flight)
        self._reads.add(future)
        future.add_done_callback(lambda f: self._inbox.put(lambda: self._loaded(flight, f)))

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
        except Again:
            self._begin_again(flight)
            return None
        except Exception as error:
            return self._failed(flight, error)
        if self._stopping:
            self._drop(flight)
        else:
            self._go_on(flight)
        return None

    def _go_on(self, flight: _Flight[Item, Loaded]) -> None:
        """Have the next pieces of an item cut, or the item written when there are none."""
        self._finishing += 1
        future = self._finishers.submit(self._cut_or_write, flight)
        future.add_done_callback(lambda f: self._inbox.put(lambda: self._cut_or_written(flight, f)))

    def _cut_or_write(self, flight: _Flight[Item, Loaded]) -> Sequence[tuple[Shape, Piece]] | Outcome[Item, Done]:
        assert flight.loaded is not None
        pieces = self._stages.pieces(flight.loaded)
        return pieces if pieces else Outcome(flight.item, self._stages.write(flight.loaded), None)

    def _cut_or_written(
        self, flight: _Flight[Item, Loaded], future: Future[Sequence[tuple[Shape, Piece]] | Outcome[Item, Done]]
    ) -> Outcome[Item, Done] | None:
        self._finishing -= 1
        try:
            result = future.result()
        except Again:
            self._begin_again(flight)
            return None
        except Exception as error:
            return self._failed(flight, error)
        if isinstance(result, Outcome):
            self._drop(flight)
            return result
        flight.open_pieces = len(result)
        for shape, piece in result:
            self._batches.add(shape, flight, piece)
        return None

    def _dispatch(self) -> None:
        """Keep each lane busy, and one batch for it waiting: it must not stand still until this thread has its turn."""
        lanes, units = self._limits.lanes, self._limits.units
        while self._computing < 2 * lanes:
            # More may come at any moment while anything is being read or cut.
            coming = lanes if self._reads or self._finishing else self._computing + len(self._batches)
            idle = units - self._computing
            if idle <= 0 and self._computing < lanes and self._batches.full >= 1:
                idle = 1
            batch = self._batches.take(-(-len(self._batches) // idle) if idle > 0 else None)
            if batch is None:
                return
            self._computing += 1
            shape, company = batch
            beside = max(1, min(lanes, coming))
            future = self._lanes.submit(self._compute, shape, [piece for _, piece in company], beside)
            flights = [flight for flight, _ in company]
            for flight in flights:
                flight.computed = True
            future.add_done_callback(lambda f, flights=flights: self._inbox.put(lambda: self._computed(flights, f)))  # type: ignore[misc]

    def _enter_lane(self) -> None:
        self._lane.number = next(self._lane_numbers)

    def _compute(self, shape: Shape, pieces: Sequence[Piece], beside: int) -> None:
        self._stages.compute(shape, pieces, Turn(self._lane.number, beside))

    def _computed(self, flights: Sequence[_Flight[Item, Loaded]], future: Future[None]) -> None:
        self._computing -= 1
        try:
            future.result()
            self._batch_failed = False
        except Exception as error:
            self._fail_together(flights, error)
        for flight in flights:
            flight.open_pieces -= 1
            if not (flight.open_pieces or flight.failed):
                self._go_on(flight)

    def _fail_together(self, flights: Sequence[_Flight[Item, Loaded]], error: Exception) -> None:
        """Fail the items of a batch that nobody could compute; for a second one in a row no item is to blame."""
        others = {id(flight): flight for flight in flights if not flight.failed}  # than those of a batch before
        if self._failure is None or (others and self._batch_failed):
            raise error
        self._batch_failed = True
        for flight in others.values():
            outcome = self._failed(flight, error)
            self._inbox.put(partial(lambda outcome: outcome, outcome))
        self._batches.drop(lambda flight: flight.failed)

    def _drop(self, flight: _Flight[Item, Loaded]) -> None:
        flight.loaded = None
        self._budget.release(flight.cost)

    def _failed(self, flight: _Flight[Item, Loaded], error: Exception) -> Outcome[Item, Done]:
        if not isinstance(error, ItemError):
            if self._failure is None:
                raise error
            error = self._failure(flight.item, error)
        flight.failed = True
        self._drop(flight)
        return Outcome(flight.item, None, error)

    def _begin_again(self, flight: _Flight[Item, Loaded]) -> None:
        self._drop(flight)
        self._begin(flight.item)
