"""The Python API: arrays in, arrays out, the same pixels as `pconv restore` writes for such a file.

Knows which arrays are pictures and masks, and in which order results are given. How a picture is filled it leaves to
`restore`: an array becomes a `picture.Picture`, and goes the road of a picture that was read. Does not know: files, the
terminal, tiles, networks.

What a run has to say goes to the logger `pconv_cli`: memory that ran out, masks that look wrong, values that were left.
"""

from __future__ import annotations

import logging
import math
import operator
import re
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray

from pconv_cli import weights as store
from pconv_cli.bench import BYTES_PER_DEEP_PIXEL, BYTES_PER_PIXEL, Planned
from pconv_cli.colours import luminance
from pconv_cli.engine import Engine, choose_devices, choose_precision, described
from pconv_cli.errors import ItemError, RunError, UsageError
from pconv_cli.events import Event, Notice
from pconv_cli.filling import Piece, Shape
from pconv_cli.layers import Raw, View, layers
from pconv_cli.masks import dilate as grown
from pconv_cli.nn.partial_conv import PaddingMode
from pconv_cli.picture import Picture
from pconv_cli.pipeline import Limits, Outcome, run
from pconv_cli.restore import Filler, in_flight
from pconv_cli.settings import SUSPICIOUS, Settings
from pconv_cli.spaces import TYPES, as_held, is_ranged, next_to, nothing

_LOG = logging.getLogger("pconv_cli")

Image = NDArray[Any]


class _WithArray(Protocol):
    """An array of numpy's, a tensor."""

    def __array__(self) -> Any: ...


class _WithInterface(Protocol):
    """A picture of Pillow's."""

    @property
    def __array_interface__(self) -> Any: ...


Given = _WithArray | _WithInterface  # what numpy sees an array in; lists are refused
Pair = tuple[Given, Given]

_TICK = 0.2  # seconds: on Windows, Ctrl-C is not heard while a thread waits

# What pictures may be, whatever the order of their bytes, and what they are filled as.
_FILLED_AS = {np.dtype(name).str[1:]: np.dtype(name) for name in TYPES} | {"f2": np.dtype(np.float32)}

_HALVES = float(np.finfo(np.float16).min), float(np.finfo(np.float16).max)

_UNKNOWN = np.zeros((0, 0), np.uint8)  # a map that nobody asked for

# What Pillow's pictures may be: in others, such as palettes, the numbers of an array are no tones.
_PLAIN_MODES = {"1", "L", "LA", "RGB", "RGBA", "F", "I", "I;16", "I;16B", "I;16L", "I;16N"}


@dataclass(frozen=True, eq=False)
class Restored:
    """What became of a picture, and what there is to know of it: the maps and figures of `pconv restore`.

    Attributes:
        image: As `Restorer.restore` gives it.
        filled: `(h, w)` bool, True where pixels are made up: the damage, and what `dilate` added, without what could
            not be filled.
        confidence: `(h, w)` uint8, pixels to the nearest known one: 1 beside it, 255 from 255 on; 0 where nothing was
            filled.
        unfilled: Damaged pixels that nothing was written to, for a network of raw values does not reach so far; summed
            over the channels that it fills one by one.
        by_pyramid: Those that it could not reach either, and that the pyramid filled; summed in the same way.
        seam_ratio: The mean step across cuts between tiles over that beside them: 1 is no seam. None without cuts.
    """

    image: Image
    filled: NDArray[np.bool_]
    confidence: NDArray[np.uint8]
    unfilled: int
    by_pyramid: int
    seam_ratio: float | None

    def __repr__(self) -> str:
        """Say what there is without every number of it."""
        made = f"{self.image.dtype} {self.image.shape}, {int(self.filled.sum())} pixels filled"
        return f"Restored({made}, unfilled={self.unfilled}, by_pyramid={self.by_pyramid}, seam_ratio={self.seam_ratio})"


def restore_image(
    image: Given,
    mask: Given,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    tile_size: int = 512,
    padding: PaddingMode | None = None,
    overlap: int = 0,
    batch_size: int | Literal["auto"] | None = None,
    dilate: int = 0,
    linear: bool = False,
    nodata: float | None = None,
    alpha: bool | None = None,
) -> Image:
    """Restore one picture: see `Restorer`, which keeps the network for the next one.

    >>> import numpy as np
    >>> from pconv_cli import restore_image
    >>> image = np.full((64, 64, 3), 90, np.uint8)
    >>> image[20:30, 20:30] = 255
    >>> fixed = restore_image(image, image[..., 0] == 255, device="cpu")
    >>> fixed.shape, fixed.dtype, bool(fixed.max() < 128)
    ((64, 64, 3), dtype('uint8'), True)

    Args:
        image: See `Restorer.restore`.
        mask: The same.
        weights: See `Restorer`, here and below.
        device: Where.
        precision: In which numbers.
        tile_size: Longest side that one forward pass sees, pixels.
        padding: What lies beyond a tile.
        overlap: Pixels that tiles share.
        batch_size: Tiles computed at once.
        dilate: Pixels that damage is grown by.
        linear: Whether values are linear in light.
        nodata: The value that stands for "nothing here".
        alpha: Whether the last channel is alpha.

    Returns:
        A new array of the same shape and type.

    Raises:
        TypeError: See `Restorer.restore`.
        ValueError: The same.
        RunError: See `Restorer`.
    """
    with Restorer(
        weights, device, precision, tile_size=tile_size, padding=padding, overlap=overlap, batch_size=batch_size,
        dilate=dilate, linear=linear, nodata=nodata, alpha=alpha,
    ) as restorer:  # fmt: skip
        return restorer.restore(image, mask)


class Restorer:
    """A network, ready on its device, that restores any number of pictures.

    Several threads may share one, and the device with it. To be closed, best by `with`. Processes cannot: in a
    worker that was forked from a process that has used torch, torch may wait for threads that are not there, for ever.
    Use threads, or workers started by `spawn` (`multiprocessing.get_context("spawn")`), each with its own Restorer.

    >>> import numpy as np
    >>> from pconv_cli import Restorer
    >>> frames = [np.full((48, 64), grey, np.uint8) for grey in (60, 80, 100)]
    >>> dust = np.zeros((48, 64), bool)
    >>> dust[10:14, 10:40] = True
    >>> with Restorer(device="cpu") as restorer:
    ...     fixed = list(restorer.restore_many((frame, dust) for frame in frames))
    >>> len(fixed), fixed[0].shape
    (3, (48, 64))

    Attributes:
        device: Where it computes: `cpu`, `cuda:0`, or several with commas between.
        precision: `fp64`, `fp32`, `bf16` or `fp16`.
        weights: Name of the network, `none` for the pyramid alone.
        weights_sha256: SHA-256 of its file, 64 hex digits; empty for the pyramid.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        *,
        tile_size: int = 512,
        padding: PaddingMode | None = None,
        overlap: int = 0,
        batch_size: int | Literal["auto"] | None = None,
        dilate: int = 0,
        linear: bool = False,
        nodata: float | None = None,
        alpha: bool | None = None,
    ) -> None:
        """Load a network and bring it to its device. What is not said is as for `pconv restore`.

        Args:
            weights: A name, a file, `none` for the pyramid alone, or None for the default.
            device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`, or several: `cuda:0,cuda:1` or `cuda:all`. Or a
                `torch.device`.
            precision: `auto`, `fp64`, `fp32`, `bf16` or `fp16`.
            tile_size: Longest side that one forward pass sees, pixels.
            padding: What lies beyond a tile: `partial`, `zero`, `reflect` or `replicate`; None: as trained.
            overlap: Pixels that the tiles of a plain grid share and blend; 0: tiles on the damage, without overlap.
            batch_size: Tiles computed at once; None or `auto`: as many as suit the device.
            dilate: Pixels that damage is grown by.
            linear: Whether values are linear in light, and not encoded for a screen.
            nodata: The value that stands for "nothing here": in uint8 and uint16 where all colours have it, in other
                types where any has it. In floats NaN and infinity always do.
            alpha: Whether the last channel is alpha. None: of 2 and of 4 channels it is, unless the network takes raw
                values. Four channels without alpha are red, green, blue and a further one; other numbers of channels
                but 3 are filled one by one.

        Raises:
            TypeError: A size is no whole number, `nodata` no number, or `linear` or `alpha` not True or False.
            UsageError: Sizes make no sense.
            WeightsError: There are no such weights, or they are damaged.
            DeviceError: There is no such device or precision.
        """
        if nodata is not None and not isinstance(nodata, Real):
            raise TypeError(f"nodata {nodata!r}: must be a number, or None")
        if alpha is not None and not isinstance(alpha, bool | np.bool_):
            raise TypeError(f"alpha {alpha!r}: must be True, False or None")
        if not isinstance(linear, bool | np.bool_):
            raise TypeError(f"linear {linear!r}: must be True or False")
        batch = None if batch_size is None or batch_size == "auto" else _whole("batch_size", batch_size)
        self._settings = Settings(
            None if weights is None else str(weights), str(device), precision, _whole("tile_size", tile_size), padding,
            _whole("overlap", overlap), batch, dilate=_whole("dilate", dilate), linear=bool(linear),
        )  # fmt: skip
        if self._settings.dilate < 0:
            raise UsageError(f"dilate {dilate}: must be 0 or more")
        if batch is not None and batch < 1:
            raise UsageError(f"batch_size {batch}: must be 1 or more")
        if padding not in (None, *get_args(PaddingMode)):
            raise UsageError(f"padding {padding!r}: must be one of {', '.join(get_args(PaddingMode))}, or None")
        self._nodata = None if nodata is None else float(nodata)
        self._alpha = None if alpha is None else bool(alpha)
        with _naming_arguments():
            self._settings.check("tile_size")
            devices = choose_devices(self._settings.device)
            network = store.load_network(self._settings.weights, padding)
            self._view = store.view(self._settings.weights)
            dtype, reason = choose_precision(precision, devices, exact=self._view.raw)
        about = store.told(self._settings.weights) | described(devices, dtype, reason)
        self.device, self.precision = about["device"], about["precision"]
        self.weights, self.weights_sha256 = about["weights"], about["weights_sha256"]
        self._engine: Engine | None = Engine(network, devices, dtype, _log, batch)

    def __repr__(self) -> str:
        return f"Restorer(weights={self.weights!r}, device={self.device!r}, precision={self.precision!r})"

    def __enter__(self) -> Restorer:
        self._opened()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Restorer can be neither pickled nor copied: make one in each process; threads may share one")

    def close(self) -> None:
        """Let go of the network. What is asked for afterwards is refused, the next result of `restore_many` too."""
        self._engine = None

    def restore(self, image: Given, mask: Given) -> Image:
        """Restore one picture.

        Args:
            image: `(h, w)` or `(h, w, 1)` grey, `(h, w, 2)` grey and alpha, `(h, w, 3)` RGB (OpenCV reads BGR:
                `image[..., ::-1]`), `(h, w, 4)` RGBA, or `(h, w, n)` channels that have nothing to do with each other.
                uint8, uint16, or int8, int16, int32, uint32, float32 or float64 of any range, where floats in [0, 1]
                are shown as they are; float16 is filled as float32. Where alpha is 0, or a colour NaN or infinite, the
                picture shows nothing that a fill could go by. What `np.asarray` makes such an array of will do, such
                as a picture of Pillow's (not of a palette) or a tensor on the CPU.
            mask: `(h, w)` bool, True where damaged. Or uint8 or uint16, read as a mask file is: lighter than 50 % grey
                is damaged, in `(h, w, n)` by the luminance, and what is transparent is not. Or any numbers that are all
                0 or 1, or whole ones that are all 0 or 255: what is not 0 is damaged. So a uint8 mask whose greatest
                value is 1 marks what is 1, and a uint16 mask of 0 and 255 what is 255, where files would mark nothing.

        Returns:
            A new array of the same shape and type, bit-identical outside the mask; alpha is as it was. A network of raw
            values that cannot reach all of a hole leaves NaN there (or `nodata`) in floats, and says so.

        Raises:
            TypeError: Not arrays, or of a type that is none of the above.
            ValueError: The shapes do not fit, nothing of the picture is known, or the network takes other channels.
            DeviceError: The device has too little memory for a single small tile.
            RuntimeError: This is closed.
        """
        return self._restored(image, mask).image

    def restore_detailed(self, image: Given, mask: Given) -> Restored:
        """Restore one picture, and tell what was made up in it, how far from what is known, and how well it fits.

        Takes a little longer than `restore`, whose arguments, picture and errors these are.
        """
        return self._restored(image, mask, detailed=True)

    def _restored(self, image: Given, mask: Given, *, detailed: bool = False) -> Restored:
        (result,) = self._results([(image, mask)], "", detailed=detailed)
        if isinstance(result, Exception):
            raise result
        return result

    @overload
    def restore_many(
        self, pairs: Iterable[Pair], *, progress: bool = False, return_exceptions: Literal[False] = False
    ) -> Generator[Image, None, None]: ...

    @overload
    def restore_many(
        self, pairs: Iterable[Pair], *, progress: bool = False, return_exceptions: bool
    ) -> Generator[Image | Exception, None, None]: ...

    def restore_many(
        self, pairs: Iterable[Pair], *, progress: bool = False, return_exceptions: bool = False
    ) -> Generator[Image | Exception, None, None]:
        """Restore pictures in one stream: their tiles share batches, and each comes out as it would alone.

        (On a GPU but for rounding, which may differ with the size of a batch.)

        Pairs are taken ahead of the results, as long as what is under way holds less than about 1 GiB, and by a thread
        of their own: each result is given as soon as it is there and its turn has come, however long the next pair
        takes. To stop early, leave the loop, or `close()` what this gives. An array must stay as it is until its result
        is given.

        Args:
            pairs: Images and masks, each as for `restore`; `zip(images, masks)`, say. Its code runs in that thread,
                beside the loop that takes the results, for one of which it may wait; what belongs to another thread, as
                connections of `sqlite3` do, it cannot use. A pair that is being made when the stream is left is the
                last, and not waited for if it takes long.
            progress: Whether to show a bar, in a notebook too.
            return_exceptions: Whether a pair that cannot be restored gives its error in place of a picture. Else the
                error is raised when it is its turn, and ends the stream.

        Yields:
            For each pair, in order, what `restore` returns.

        Raises:
            TypeError: As in `restore`; the message begins with the pair, counted from 0: `pairs[3]`.
            ValueError: The same.
            DeviceError: As in `restore`.
            RuntimeError: This is closed.
        """
        self._opened()  # now, and not at the first result
        total = len(pairs) if isinstance(pairs, Sized) else None
        return self._many(pairs, total, progress=progress, return_exceptions=return_exceptions)

    def _many(
        self, pairs: Iterable[Pair], total: int | None, *, progress: bool, return_exceptions: bool
    ) -> Generator[Image | Exception, None, None]:
        with closing(self._results(pairs, "pairs[{}]: ")) as results, _bar(total, show=progress) as bar:
            for result in results:
                if isinstance(result, Exception) and not return_exceptions:
                    raise result
                if bar is not None:
                    bar.update()
                yield result if isinstance(result, Exception) else result.image

    def _results(
        self, pairs: Iterable[Pair], name: str, *, detailed: bool = False
    ) -> Generator[Restored | Exception, None, None]:
        """What becomes of each pair, in order; messages begin with `name`, which takes the number of the pair."""
        engine = self._opened()
        limits = in_flight(engine)
        turn, threads = 0, torch.get_num_threads()
        feed = _Feed(pairs, limits, name, threads)
        outcomes = run(feed, _Arrays(self._settings, self._view, engine, self._nodata, self._alpha, detailed), limits)
        assert isinstance(outcomes, Generator)
        waiting: dict[int, Outcome[_Item, Restored]] = {}
        try:
            with closing(outcomes), closing(feed), _naming_arguments():
                for outcome in outcomes:
                    waiting[outcome.item.number] = outcome
                    while turn in waiting:
                        done = waiting.pop(turn)
                        yield _result(done)
                        self._opened()
                        feed.release(done.item.cost)
                        turn += 1
        finally:
            # What a lane sets for itself is what threads of the caller's that are yet to come would begin with.
            torch.set_num_threads(threads)
        if feed.error is not None:
            raise feed.error

    def _opened(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("this Restorer is closed: make another one")
        return self._engine


@dataclass(frozen=True, eq=False)
class _Item:
    """A pair on its way, and how many bytes it is going to hold."""

    number: int
    name: str
    pair: Any
    cost: int


class _Feed:
    """Pairs, one by one, taken by a thread of its own: while a source is waited for, results are to be given.

    None is taken while those under way hold too much, those included that wait for one before them. `pipeline.run` asks
    again whenever one of them has moved on, and gets what is there; only when none is under way it waits. What the
    caller's iterable raises is kept until all that came before has its result.
    """

    def __init__(self, pairs: Iterable[Pair], limits: Limits, name: str, threads: int) -> None:
        """Begin to take; `threads` is how many of torch's own the code of the iterable is to have."""
        self._pairs, self._limits, self._name = enumerate(pairs), limits, name
        self._change = threading.Condition()
        self._taken: deque[_Item] = deque()
        self._under_way = 0  # bytes, of those taken too
        self._ended = False
        self.error: BaseException | None = None
        # One that waits for ever is not to keep the process from ending.
        self._thread = threading.Thread(target=self._take_all, args=(threads,), name="pairs", daemon=True)
        self._thread.start()

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> _Item:
        with self._change:
            while not (self._taken or self._under_way or self._ended):
                self._change.wait(_TICK)
            if not self._taken:
                raise StopIteration
            self._change.notify_all()
            return self._taken.popleft()

    def release(self, cost: int) -> None:
        """Forget a pair whose result was given."""
        with self._change:
            self._under_way -= cost
            self._change.notify_all()

    def close(self) -> None:
        """Take no more pairs; one that is on its way is waited for no longer than this, for it might never come."""
        with self._change:
            self._ended = True
            self._change.notify_all()
        self._thread.join(_TICK)

    def _take_all(self, threads: int) -> None:
        torch.get_num_threads()  # torch gives a thread what was set last, by a lane perhaps, when it first looks
        torch.set_num_threads(threads)
        try:
            while self._has_room():
                self._take()
        except StopIteration:
            pass
        except BaseException as error:  # whatever it is, it is the caller's
            self.error = error
        del self._pairs  # a generator that was left is closed by this, where it ran
        with self._change:
            self._ended = True
            self._change.notify_all()

    def _has_room(self) -> bool:
        """Wait until there is room; False where no more are wanted."""
        with self._change:
            while not self._ended and (
                self._under_way >= self._limits.bytes or len(self._taken) >= self._limits.readers
            ):
                self._change.wait()
            return not self._ended

    def _take(self) -> None:
        number, pair = next(self._pairs)
        item = _Item(number, self._name.format(number), pair, _cost(pair))
        with self._change:
            self._taken.append(item)
            self._under_way += item.cost
            self._change.notify_all()


def _cost(pair: Any) -> int:
    """Bytes that a pair holds until its result is given; 1 for what is no pair of arrays."""
    image = pair[0] if isinstance(pair, tuple | list) and pair else None
    # Arrays and tensors have a shape, pictures of Pillow's a height and a width; none is read before it is its turn.
    shape = getattr(image, "shape", (getattr(image, "height", 0), getattr(image, "width", 0)))
    if not isinstance(shape, tuple) or len(shape) < 2:
        return 1
    shallow = str(getattr(image, "dtype", "uint8")).endswith("uint8")
    each = BYTES_PER_PIXEL if shallow else BYTES_PER_DEEP_PIXEL
    return int(max(shape[0] * shape[1], math.prod(shape) // 3, 1) * each)


@dataclass(eq=False)
class _Work(Planned):
    """An array between reading and writing."""

    image: Image
    name: str


class _Arrays(Filler):
    """The stages of `pipeline.run`, for arrays."""

    def __init__(
        self, settings: Settings, view: View, engine: Engine, nodata: float | None, alpha: bool | None, detailed: bool
    ) -> None:
        super().__init__(engine, _log)
        self._settings, self._view, self._nodata, self._alpha = settings, view, nodata, alpha
        self._detailed = detailed

    def cost(self, item: _Item) -> int:
        return item.cost

    def read(self, item: _Item) -> _Work:
        try:
            return self._read(item)
        except (TypeError, ValueError) as error:
            raise ItemError(item.name, str(error)) from error

    def pieces(self, loaded: _Work) -> Sequence[tuple[Shape, Piece]]:
        return loaded.next_round()

    def _read(self, item: _Item) -> _Work:
        if not isinstance(item.pair, tuple | list) or len(item.pair) != 2:
            raise TypeError("not a pair of an image and a mask")
        image, mask = (_plain(*named) for named in zip(("image", "mask"), item.pair, strict=True))
        alpha = not self._view.raw and np.ndim(image) == 3 and np.shape(image)[2] in (2, 4)
        picture = _picture(image, alpha if self._alpha is None else self._alpha, self._nodata, self._settings.linear)
        drawn = _drawn(mask, image)
        self._look_at(item.name, mask, drawn)
        hole, visible = grown(drawn, self._settings.dilate), picture.visible()
        if self._view.raw and visible is not None:  # each band tells for itself where it holds nothing
            visible = visible | np.isnan(Raw(picture.pixels.dtype, picture.nodata).seen(picture.channels)).any(axis=2)
        known = ~hole if visible is None else ~hole & visible
        if hole.any() and not known.any():
            raise ValueError("nothing of the image is known: the mask marks all of it that shows anything as damaged")
        made = Planned.of(picture, hole, visible, self._settings, self._view)
        return _Work(made.picture, hole, made.layers, made.fillings, image, item.name)

    def _look_at(self, name: str, mask: NDArray[Any], drawn: NDArray[np.bool_]) -> None:
        """Say what looks like a mistake."""
        share = float(drawn.mean())
        if share > SUSPICIOUS:
            _LOG.warning("%sthe mask marks %.0f%% as damaged, read as True or white = damaged", name, 100 * share)
        elif not share and mask.min() != mask.max():
            _LOG.warning("%sthe mask marks nothing, for all of it is darker than 50 %% grey: is it to be bool?", name)

    def write(self, work: _Work) -> Restored:
        image = self._written(work)
        if not self._detailed:
            return Restored(image, work.hole, _UNKNOWN, 0, 0, None)
        filled, fillings = work.restored(), work.fillings
        return Restored(
            image, filled, work.confidence(filled), sum(filling.unfilled for filling in fillings),
            sum(filling.by_pyramid for filling in fillings), fillings[0].seams().ratio(),
        )  # fmt: skip

    def _written(self, work: _Work) -> Image:
        for notice in work.left:
            _LOG.warning("%s%s", work.name, notice)
        picture = work.filled()
        made = picture.channels
        if work.image.dtype.str[1:] == "f2":  # what is a little beyond it, as rounding makes it, is not infinite
            made = np.clip(made, *_HALVES).astype(np.float16)
        if picture.nodata is not None and not picture.as_laid:
            _tell_from_nothing(made[..., : _colours(picture)], work.hole, picture.nodata)
        if made.dtype == work.image.dtype == picture.pixels.dtype:
            return made.reshape(work.image.shape)
        result = np.array(work.image, order="C")
        channels = result.reshape(made.shape)
        for channel in (channel for layer in work.layers for channel in layer.channels):
            channels[work.hole, channel] = made[work.hole, channel]
        return result


def _whole(name: str, value: Any) -> int:
    """A number without a fraction, of whatever kind.

    Raises:
        TypeError: It is none; the message says which argument it is.
    """
    try:
        if not isinstance(value, bool):  # which Python counts with
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} {value!r}: must be a whole number")


@contextmanager
def _naming_arguments() -> Iterator[None]:
    """Let an error that names an option of the command line name the argument that it is here."""
    try:
        yield
    except RunError as error:
        error.args = (re.sub(r"(?<!\S)--(device|precision|overlap|weights)\b", r"\1", str(error)),)
        raise


def _plain(what: str, value: Any) -> NDArray[Any]:
    """Take an array, or what numpy sees one in without looking for numbers: a tensor, a picture of Pillow's.

    Raises:
        TypeError: It is neither, or its numbers would mean something else; `what` is what the message calls it.
    """
    if isinstance(value, np.ndarray):
        return value
    kind = type(value).__name__
    if isinstance(value, list | tuple):
        raise TypeError(f"the {what} is a {kind}, not an array: np.asarray({what}) makes it one")
    if isinstance(value, str | Path):
        raise TypeError(f"the {what} is a {kind}, not an array: read the file first, with PIL.Image.open, say")
    if not (hasattr(value, "__array__") or hasattr(value, "__array_interface__")):
        raise TypeError(f"the {what} is {'None' if value is None else f'of the type {kind}'}, not an array")
    if type(value).__module__.startswith("PIL.") and value.mode not in _PLAIN_MODES:
        raise TypeError(f'the {what} is a picture of mode {value.mode}: {what}.convert("RGB"), or "RGBA", can be taken')
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise TypeError(f"the {what} is a {kind} that numpy makes no array of: {error}") from error


def _picture(image: NDArray[Any], alpha: bool, nodata: float | None, linear: bool) -> Picture:
    """Make of an array what reading a file would make of it.

    Raises:
        TypeError: It is masked, or not of a type that can be filled.
        ValueError: Of a shape that is no picture.
    """
    if isinstance(image, np.ma.MaskedArray):
        raise TypeError("the image is a masked array: image.filled(np.nan), and its mask, say the same in plain ones")
    dtype = _FILLED_AS.get(image.dtype.str[1:])
    if dtype is None:
        raise TypeError(
            f"the image is {image.dtype}, not integers of 8, 16 or 32 bits, float16, float32 or float64: convert a copy"
        )
    if image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"the image has the shape {image.shape}, not (h, w) or (h, w, channels) with a pixel at least")
    pixels = np.ascontiguousarray(image, dtype)
    count = 1 if image.ndim == 2 else image.shape[2]
    colours = count - alpha
    if not colours:
        raise ValueError("the image has one channel, which cannot be alpha: leave out alpha=True")
    together = 3 if colours in (3, 4) else 1
    groups = [tuple(range(together)), *((channel,) for channel in range(together, colours))]
    mode, held = {1: "L", 3: "RGB"}.get(colours, "BANDS"), as_held(nodata, image.dtype)
    picture = replace(
        Picture.nothing(Path()), pixels=pixels[..., 0] if pixels.shape[2:] == (1,) else pixels,
        mode=mode + "A" * (alpha and mode != "BANDS"), alpha=count - 1 if alpha else None, nodata=held,
        layers=layers(groups, dtype, linear=linear, nodata=held),
    )  # fmt: skip
    return replace(picture, shown=_shown(picture))


def _colours(picture: Picture) -> int:
    """How many of the channels are not alpha; they come first."""
    return int(picture.channels.shape[2] - (picture.alpha is not None))


def _shown(picture: Picture) -> NDArray[np.bool_] | None:
    """Where a picture shows anything, (h, w); None where only `alpha` could tell."""
    empty = nothing(picture.channels, picture.nodata, but=picture.alpha)
    if empty is None or not empty.any():
        return None
    return ~empty if picture.alpha is None else ~empty & (picture.channels[..., picture.alpha] > 0)


def _tell_from_nothing(made: NDArray[Any], hole: NDArray[np.bool_], nodata: float) -> None:
    """Let no fill be by chance the value for nothing; in place.

    Args:
        made: (h, w, colours).
        hole: (h, w), True where filled.
        nodata: The value.
    """
    own = made[hole]
    hit = own == nodata
    if not is_ranged(made.dtype):
        hit[:, -1] = hit.all(axis=1)
        hit[:, :-1] = False
    own[hit] = next_to(nodata, made.dtype)
    made[hole] = own


def _drawn(mask: NDArray[Any], image: Image) -> NDArray[np.bool_]:
    """Read a mask, (h, w), True where damaged, as a mask file is read, or as marks.

    Raises:
        TypeError: It is of a type that has no 50 % grey, and holds more than marks.
        ValueError: It does not fit the image.
    """
    count = mask.shape[2] if mask.ndim == 3 else 1
    if mask.ndim not in (2, 3) or mask.shape[:2] != image.shape[:2]:
        raise ValueError(f"the mask has the shape {mask.shape}, the image {image.shape}: height and width must agree")
    if count not in ((1,) if mask.dtype == np.bool_ else (1, 2, 3, 4)):
        raise ValueError(f"the mask has {count} channels, not one: take one, or any(axis=-1)")
    if mask.dtype == np.bool_:
        return np.asarray(mask.reshape(mask.shape[:2]))
    tones = _tones(mask).reshape(*mask.shape[:2], count)
    light = luminance(tones[..., :3]) if count > 2 else tones[..., 0]
    return np.asarray(light > 127 if count % 2 else light.astype(np.uint32) * tones[..., -1] > 127 * 255)


def _tones(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """What a mask's numbers are in a mask file: 0 to 255.

    Raises:
        TypeError: They are neither tones nor marks.
    """
    if mask.dtype.kind in "iuf":
        marked = mask != 0  # NaN too, which is neither 1 nor 255
        for white in (1, 255) if mask.dtype.kind in "iu" else (1,):
            if np.array_equal(marked, mask == white):
                return np.where(marked, 255, 0).astype(np.uint8)
    if mask.dtype.kind == "u" and mask.dtype.itemsize <= 2:
        return (mask >> 8 if mask.dtype.itemsize == 2 else mask).astype(np.uint8)
    raise TypeError(
        f"the mask is {mask.dtype}, and its values are not all 0 or 1: compare it, as in mask > 0.5, or give uint8"
    )


def _result(outcome: Outcome[_Item, Restored]) -> Restored | Exception:
    """The picture and what is told of it, or what was wrong with the pair."""
    if outcome.done is not None:
        return outcome.done
    assert outcome.error is not None
    kind = TypeError if isinstance(outcome.error.__cause__, TypeError) else ValueError
    error = kind(f"{outcome.item.name}{outcome.error.reason}")
    error.__cause__ = outcome.error.__cause__
    return error


def _bar(total: int | None, *, show: bool) -> AbstractContextManager[Any]:
    if not show:
        return nullcontext()
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    bar: AbstractContextManager[Any] = tqdm(total=total, unit=" pictures")
    return bar


def _log(event: Event) -> None:
    if isinstance(event, Notice):
        _LOG.warning(event.text)
