"""Who computes the windows of one picture: this process, workers on other machines, or an earlier run that did it.

Knows how windows become a stream, and what a worker must be told so that it sees what this machine would: the file, the
window, what is known in it, and what has been filled but stands in no file yet; how results are packed, to be sent or
kept. Does not know: Ray, plans, which windows a round has and why, how results are kept, who writes the picture.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from pconv_cli import distributed
from pconv_cli import weights as store
from pconv_cli.engine import Engine, Filled, Tile, choose_devices, choose_precision
from pconv_cli.errors import ItemError
from pconv_cli.events import Event, Listener, TilesDone
from pconv_cli.filling import Piece, Shape
from pconv_cli.keeping import Kept, Key
from pconv_cli.layers import Layer
from pconv_cli.pipeline import Limits, Turn, run
from pconv_cli.planning import IN_FLIGHT, PER_PIXEL, listed
from pconv_cli.process import settle
from pconv_cli.regions import Window
from pconv_cli.settings import Settings
from pconv_cli.tiff import Source

ON_ITS_WAY = 1 << 30  # bytes of windows between reading and laying for a GPU, whose batches are larger

Compute = Callable[[Sequence[Piece]], None]
"""Computes the pieces of a round, and lays what comes of them. It raises what goes wrong."""

Keep = Callable[[Piece, "Computed"], None]
"""Is given what came of each piece before it is laid, in several threads."""


def here(
    engine: Engine, settings: Settings, emit: Listener, stop: Callable[[], bool], keep: Keep | None = None
) -> Compute:
    """What computes a round in this process; once `stop` turns true, what is in flight is finished."""

    def land(piece: Piece, tile: Tile, filled: Filled) -> None:
        if keep is not None:
            keep(piece, Computed.of(tile, filled))
        piece.land(tile, filled)

    stages = _Windows[Piece, None](engine, Piece.load, land, emit)
    tiles = 2 * engine.lanes * settings.tile_size**2 * PER_PIXEL
    limits = _limits(engine, settings, max(IN_FLIGHT, tiles) if engine.devices[0].type == "cpu" else ON_ITS_WAY)

    def compute(pieces: Sequence[Piece]) -> None:
        for outcome in run(pieces, stages, limits, stop):
            if outcome.error is not None:
                raise outcome.error

    return compute


@contextmanager
def elsewhere(
    cluster: distributed.Cluster, settings: Settings, path: Path, layer: Layer, emit: Listener,
    stop: Callable[[], bool], keep: Keep | None = None,
) -> Iterator[Compute]:  # fmt: skip
    """What has a round computed by the workers of a cluster; once `stop` turns true, what is in flight is finished."""
    with distributed.Crew(cluster, partial(Worker, settings, path, layer)) as crew:

        def compute(pieces: Sequence[Piece]) -> None:
            for found in crew.do(Packing(pieces), stop):
                if not isinstance(found, tuple):
                    emit(found)
                    continue
                number, done = found
                if isinstance(done, distributed.Lost):
                    window = listed(pieces[number].window)
                    raise ItemError(path, f"two workers of the cluster died of the window {window}")
                if isinstance(done, Exception):
                    raise done
                if keep is not None:
                    keep(pieces[number], done)
                done.land(pieces[number])
                emit(TilesDone(1, pieces[number].window.area))

        yield compute


class Keeping:
    """Keeps what comes of each round, and lays what is kept: nobody computes that again.

    The rounds must be those of the run before, window by window.

    Attributes:
        kept: Where results are.
        laid: How many were laid that had been there.
    """

    def __init__(
        self, kept: Kept, settings: Settings, emit: Listener, stop: Callable[[], bool],
        failed: Callable[[OSError], None],
    ) -> None:  # fmt: skip
        """Say where.

        Args:
            kept: Where results are to be.
            settings: How many threads.
            emit: Told of what is laid.
            stop: Once it turns true, no further piece is begun.
            failed: Told, once, why no more is kept; the work goes on.
        """
        self.kept, self.laid = kept, 0
        self._emit, self._stop, self._failed = emit, stop, failed
        self._limits = Limits(readers=settings.jobs or os.cpu_count() or 1, bytes=IN_FLIGHT)
        self._keys: dict[Piece, Key] = {}

    def keep(self, piece: Piece, done: Computed) -> None:
        """See `Keep`."""
        try:
            self.kept.add(self._keys[piece], done.packed())
        except OSError as error:
            self._failed(error)

    def over(self, compute: Compute, layer: int) -> Compute:
        """What lays what is kept of a round, and has the rest computed; `layer` is a number."""
        rounds = itertools.count()

        def go_on(pieces: Sequence[Piece]) -> None:
            number = next(rounds)
            self._keys = {piece: (layer, number, place) for place, piece in enumerate(pieces)}
            there = [piece for piece in pieces if self._keys[piece] in self.kept]
            laid: set[Piece] = set()
            for outcome in run(there, _Laid(self._found), self._limits, self._stop) if there else ():
                if outcome.error is not None:
                    raise outcome.error
                if outcome.done:
                    laid.add(outcome.item)
                    self.laid += 1
                    self._emit(TilesDone(1, outcome.item.window.area, done_before=True))
            compute([piece for piece in pieces if piece not in laid])

        return go_on

    def _found(self, piece: Piece) -> Computed | None:
        data = self.kept.find(self._keys[piece])
        return None if data is None else Computed.unpacked(data)


@dataclass(frozen=True, eq=False)
class Sent:
    """A window as it is sent.

    Attributes:
        window: Where it lies in the picture.
        shape: What it shares with others of its batch.
        known: (h, w) bool, packed.
        laid: (h, w) bool, packed: where something was filled that the network is to see; empty: nowhere.
        values: (k, c), what was filled there.
        pixels: All of the tile where no file holds it; None: the window of the picture.
        guide: As in `Tile`.
        grain: As in `Tile`.
    """

    window: Window
    shape: Shape
    known: bytes
    laid: bytes
    values: NDArray[Any] | None
    pixels: NDArray[Any] | None
    guide: NDArray[np.float32] | None
    grain: tuple[int, int] | None

    @classmethod
    def of(cls, piece: Piece) -> Sent:
        """Pack a piece."""
        filling, window = piece.filling, piece.window
        known, guide, grain = filling.known(window, piece.damage), filling.guide(piece), filling.grain(window)
        if filling.reduced:
            return cls(window, piece.shape, _packed(known), b"", None, filling.surface.read(window), guide, grain)
        laid = known & filling.plan.damage.window(window)
        values = filling.surface.read(window)[laid] if laid.any() else None
        marks = b"" if values is None else _packed(laid)
        return cls(window, piece.shape, _packed(known), marks, values, None, guide, grain)

    def tile(self, source: Source, layer: Layer) -> Tile:
        """Unpack it, where the file can be read."""
        pixels = self.pixels
        if pixels is None:
            pixels = layer.seen(source.read(self.window))
        if self.values is not None:
            pixels = pixels.copy()
            pixels[_unpacked(self.laid, self.window)] = self.values
        return Tile(pixels, _unpacked(self.known, self.window), self.guide, self.shape[3], self.grain)


@dataclass(frozen=True, eq=False)
class Computed:
    """What came of a window: `values` (k, c) of the k pixels that were not known, and which of them were reached."""

    values: NDArray[Any]
    reached: bytes

    @classmethod
    def of(cls, tile: Tile, filled: Filled) -> Computed:
        """Pack a result."""
        return cls(filled.pixels[~tile.known], np.packbits(filled.reached[~tile.known]).tobytes())

    def land(self, piece: Piece) -> None:
        """Lay it into the picture."""
        unknown = ~piece.filling.known(piece.window, piece.damage)
        pixels = np.zeros((*unknown.shape, self.values.shape[1]), self.values.dtype)
        pixels[unknown] = self.values
        reached = np.ones(unknown.shape, np.bool_)
        reached[unknown] = np.unpackbits(np.frombuffer(self.reached, np.uint8), count=len(self.values)).astype(np.bool_)
        filled = Filled(pixels, reached)
        # What the network did not reach is filled from what it saw.
        piece.land(Tile(pixels, ~unknown) if reached.all() else piece.load(), filled)

    def packed(self) -> bytes:
        """Pack it further, for a file."""
        stream = BytesIO()
        np.save(stream, self.values, allow_pickle=False)
        return stream.getvalue() + self.reached

    @classmethod
    def unpacked(cls, data: bytes) -> Computed:
        """Give what was `packed`."""
        stream = BytesIO(data)
        return cls(np.load(stream, allow_pickle=False), stream.read())


class Packing(Sequence[Sent]):
    """Pieces, each packed when it is asked for: all of them at once would be as large as the picture."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, index: int) -> Sent: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sent]: ...

    def __getitem__(self, index: int | slice) -> Sent | Sequence[Sent]:
        if isinstance(index, slice):
            return Packing(self._pieces[index])
        return Sent.of(self._pieces[index])


class Worker:
    """What a worker does with windows of one layer of a picture."""

    def __init__(self, settings: Settings, path: Path, layer: Layer) -> None:
        settle()
        if not path.exists():
            where = f"not to be found on {socket.gethostname()}"
            way_out = "all machines of a cluster must see it; what has a URL lies in TMPDIR meanwhile"
            raise ItemError(path, f"{where}: {way_out}")
        self._events = deque[Event]()
        devices = choose_devices(settings.device)
        network, view = store.load_network(settings.weights, settings.padding), store.view(settings.weights)
        precision, _ = choose_precision(settings.precision, devices, exact=view.raw)
        engine = Engine(network, devices, precision, self._events.append, settings.batch_size)
        load = partial(Sent.tile, source=Source(path), layer=layer)
        self._stages = _Windows[Sent, Computed](engine, load, lambda _, tile, filled: Computed.of(tile, filled))
        self._limits = _limits(engine, settings, ON_ITS_WAY)

    def __call__(
        self, windows: Sequence[Sent], stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Computed | Exception] | Event]:
        """See `distributed.Work`."""
        numbers = {window: number for number, window in enumerate(windows)}
        for outcome in run(numbers, self._stages, self._limits, stop):
            while self._events:
                yield self._events.popleft()
            yield numbers[outcome.item], outcome.done if outcome.error is None else outcome.error  # type: ignore[misc]


_Item = TypeVar("_Item", Piece, Sent)
_Done = TypeVar("_Done")


@dataclass(eq=False)
class _Loaded(Generic[_Item]):
    item: _Item
    tile: Tile
    filled: Filled | None = None


@dataclass(frozen=True, eq=False)
class _Windows(Generic[_Item, _Done]):
    """The stages of `pipeline.run`, where each window is an item of its own."""

    engine: Engine
    load: Callable[[_Item], Tile]
    land: Callable[[_Item, Tile, Filled], _Done]
    emit: Listener = lambda event: None

    def cost(self, item: _Item) -> int:
        return item.window.area * PER_PIXEL

    def read(self, item: _Item) -> _Loaded[_Item]:
        return _Loaded(item, self.load(item))

    def pieces(self, loaded: _Loaded[_Item]) -> Sequence[tuple[Shape, _Loaded[_Item]]]:
        return [(loaded.item.shape, loaded)] if loaded.filled is None else []

    def batch_size(self, shape: Shape) -> int:
        return self.engine.batch_size(shape[:2])

    def compute(self, shape: Shape, pieces: Sequence[_Loaded[_Item]], turn: Turn) -> None:
        results = self.engine.fill([loaded.tile for loaded in pieces], shape[:2], turn.lane, turn.beside)
        for loaded, filled in zip(pieces, results, strict=True):
            loaded.filled = filled
        self.emit(TilesDone(len(pieces), sum(loaded.item.window.area for loaded in pieces)))

    def write(self, loaded: _Loaded[_Item]) -> _Done:
        assert loaded.filled is not None
        return self.land(loaded.item, loaded.tile, loaded.filled)


@dataclass(frozen=True, eq=False)
class _Laid:
    """The stages of `pipeline.run` for pieces whose results are kept; what is done is whether one was found."""

    found: Callable[[Piece], Computed | None]

    def cost(self, item: Piece) -> int:
        return item.window.area * PER_PIXEL

    def read(self, item: Piece) -> tuple[Piece, Computed | None]:
        return item, self.found(item)

    def pieces(self, loaded: tuple[Piece, Computed | None]) -> Sequence[tuple[None, Piece]]:
        return ()

    def batch_size(self, shape: None) -> int:
        return 1

    def compute(self, shape: None, pieces: Sequence[Piece], turn: Turn) -> None:
        raise NotImplementedError  # there are none

    def write(self, loaded: tuple[Piece, Computed | None]) -> bool:
        piece, done = loaded
        if done is None:
            return False
        done.land(piece)
        return True


def _limits(engine: Engine, settings: Settings, held: int) -> Limits:
    readers = settings.jobs or engine.helpers
    return Limits(readers, engine.lanes, engine.units, engine.ahead + 2 * readers, held)


def _packed(where: NDArray[np.bool_]) -> bytes:
    return np.packbits(where).tobytes()


def _unpacked(bits: bytes, window: Window) -> NDArray[np.bool_]:
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=window.area)
    return flat.astype(np.bool_).reshape(window.height, window.width)
