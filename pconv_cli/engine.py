"""Runs batches of tiles through a network on a device.

Knows: devices, precision, memory formats, and what to do when memory runs out. Does not know: pictures, files, where a
tile came from, or who waits for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pconv_cli.errors import DeviceError
from pconv_cli.events import Listener, Notice
from pconv_cli.nn.grain import grain
from pconv_cli.nn.partial_conv import PartialConv2d
from pconv_cli.nn.pyramid import GUIDE_LEVELS

PRECISIONS = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HALF = (torch.bfloat16, torch.float16)
GUIDED: int = 2**GUIDE_LEVELS
"""Pixels of a tile that one of its guide stands for, along each side."""
BATCH_PIXELS = 32 * 512 * 512
"""Pixels of the largest batch for a GPU: enough that it does not wait for its orders. An estimate, not yet measured."""
CPU_BATCH_PIXELS = 512 * 512
"""Pixels of the largest batch for a core: small windows are computed twice as fast together, large ones hardly."""
MEMORY_SHARE = 0.8
"""Of a GPU's free memory, what batches may take."""
_ALIKE = 128 * 128
"""Pixels of a canvas up to which a CPU computes batches in fp32, and never a tile alone: its library takes another way
through small deep layers for one picture than for several, and the last bits differ. As it is, a tile gives the same
bytes whoever keeps it company. (In bf16 one and several were found to agree.)"""
_MOST_HELPERS = 32
_MUCH = 4
"""Times as many pixels as memory was measured on that make it worth measuring again."""
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "alloc_failed",
    "allocation_failed",  # as cuDNN says it from version 9 on
    "unable to find an engine to execute this computation",  # cuDNN: none of them got the memory that it works in
)
SMALLEST_SPLIT = 64
"""A tile is not halved below this side when memory runs out, pixels."""


@dataclass(frozen=True)
class Tile:
    """What one forward pass sees of a picture.

    Attributes:
        pixels: `(h, w, c)`, RGB or grey, uint8, or float32 in [0, 1]; of any range for networks of raw values.
        known: `(h, w)` bool, True = known.
        guide: `(ceil(h / 8), ceil(w / 8), c)` float32 in [0, 1], the tile reduced, holes filled; or None.
        reduced: Whether the picture is a reduced one, to make a guide of.
        grain: Where in the field of noise it lies, row and column, if what is filled in gets the grain around; or None.
    """

    pixels: NDArray[Any]
    known: NDArray[np.bool_]
    guide: NDArray[np.float32] | None = None
    reduced: bool = False
    grain: tuple[int, int] | None = None


@dataclass(frozen=True)
class Filled:
    """What came back: `pixels` in the tile's own type, and `reached`, False where nothing could be filled in."""

    pixels: NDArray[Any]
    reached: NDArray[np.bool_]


def choose_devices(name: str) -> tuple[torch.device, ...]:
    """Turn what the user asks for into devices that are there, as `choose_device` does.

    Args:
        name: As for `choose_device`, or several CUDA devices: `cuda:all`, or their names with commas between.

    Returns:
        The devices, each once.

    Raises:
        DeviceError: If one is not there, or the name means nothing.
    """
    if name == "cuda:all":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise DeviceError(f"--device {name}: {_there(count)}; use --device auto or cpu")
        return tuple(torch.device("cuda", index) for index in range(count))
    devices = tuple(dict.fromkeys(choose_device(part.strip()) for part in name.split(",")))
    if len(devices) > 1 and any(device.type != "cuda" for device in devices):
        raise DeviceError(f"--device {name}: only GPUs can be combined, by number: cuda:0,cuda:1 or cuda:all")
    return devices


def choose_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `mps` into a device that is there.

    A GPU comes with its number: which one torch takes without it differs from thread to thread.

    Raises:
        DeviceError: If it is not there, or the name means nothing.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            raise DeviceError(f"--device {name}: {_there(count)}; use --device auto or cpu")
        if device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError(
                "--device mps: this machine or this build of torch has no Metal device; use --device auto"
            )
    elif device.type != "cpu" or device.index is not None:
        raise DeviceError(f"--device {name}: not supported; use auto, cpu, cuda, cuda:N or mps")
    return device


def choose_precision(
    name: str, devices: torch.device | Sequence[torch.device], *, training: bool = False, exact: bool = False
) -> tuple[torch.dtype, str]:
    """Turn `auto`, `fp64`, `fp32`, `bf16` or `fp16` into a type, and say why it is this one.

    `auto` takes the narrowest type that the device computes in natively: half of the memory is moved, and inside holes
    results differ by an eighth of a level of 255 in the mean (bf16). It computes in fp32 where that brings nothing.

    Args:
        name: What is asked for.
        devices: Where; of several GPUs `auto` goes by the one that can do least.
        training: Whether weights are trained, for which `auto` takes bf16 on CUDA only, and fp16 is none: what is small
            among gradients is 0 in it.
        exact: Whether results are numbers to go on with, and not colours to look at: `auto` takes fp64 then, where the
            device has it, since such networks are small and their values may have five digits before the point. Tiles
            come and go as fp32, whose seven digits no sum inside the network then costs.

    Returns:
        The type, and the reason in a few words.

    Raises:
        DeviceError: If there is no such precision.
    """
    devices = (devices,) if isinstance(devices, torch.device) else devices
    device = devices[0]
    if name != "auto":
        if name not in PRECISIONS:
            raise DeviceError(f"--precision {name}: not a precision; use auto, fp64, fp32, bf16 or fp16")
        if training and name in ("fp64", "fp16"):
            raise DeviceError(f"--precision {name}: weights are not trained in it; use auto, fp32 or bf16")
        if name == "fp64" and device.type == "mps":
            raise DeviceError("--precision fp64: this device does not compute in it; use auto or fp32")
        return PRECISIONS[name], "as asked for"
    if exact:
        return torch.float32 if device.type == "mps" else torch.float64, "raw values keep the digits of fp32 in it"
    if device.type == "cuda":
        if torch.version.hip is not None or min(map(torch.cuda.get_device_capability, devices)) >= (8, 0):
            return torch.bfloat16, "this GPU computes in it"
        return torch.float32 if training else torch.float16, "this GPU does not compute in bf16"
    if device.type == "cpu" and not training and _cpu_computes_in_bf16():
        return torch.bfloat16, "this CPU computes in it"
    return torch.float32, "half precision is not faster here" if device.type == "cpu" else "not measured in less here"


def _cpu_computes_in_bf16() -> bool:
    """Tell whether the CPU multiplies bf16 natively; where it only emulates that, bf16 is the slower one."""
    asked = (getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in ("avx512_bf16", "amx_tile"))
    return any(ask is not None and ask() for ask in asked)


def precision_name(precision: torch.dtype) -> str:
    """Return the short name of a precision."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def described(devices: Sequence[torch.device], precision: torch.dtype, reason: str) -> dict[str, str]:
    """Say where and how is computed, for a report; `reason` is that of `choose_precision`.

    No network is compiled. On a CPU that makes it a fifth slower and takes two minutes for each shape of tile
    (benchmarks/compile.py); what it brings on a GPU has not been measured.
    """
    cpu = devices[0].type == "cpu"
    return {
        "device": ",".join(map(str, devices)),
        "precision": precision_name(precision),
        "precision_reason": reason,
        "compiled": "no: on a CPU it never pays" if cpu else "no: not measured on this device",
    }


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which convolutions compute in the given precision, if it is half precision."""
    if precision not in HALF:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)


class Engine:
    """Fills tiles with a network of the shape of those in `nn/unet.py`, on one device or several.

    `network(image, known) -> (output, known)`, or `network(image, known, guide)` where tiles bring guides. Tiles of
    reduced pictures go to `network.coarse`, where there is one.

    A CPU has tiles side by side, a core each: cores that share one convolution wait for the slowest at every layer.

    On a GPU, to make one sets `torch.backends.cudnn.allow_tf32` to False for the whole process: by default cuDNN rounds
    what it multiplies to 10 bits, and fp32 would not be more exact than fp16.

    Attributes:
        lanes: How many calls of `fill` may run at once, each with a lane of its own. On a GPU two: while one batch is
            computed, another is copied.
        devices: Where the lanes compute, in turns.
        units: Cores or GPUs behind the lanes. One that has nothing to do should not wait for a full batch.
        helpers: How many should read and write: on a CPU they take its cores from the lanes.
        ahead: How many pictures should be on their way between those threads, so that no lane waits.
    """

    def __init__(
        self, network: nn.Module, devices: torch.device | Sequence[torch.device], precision: torch.dtype,
        emit: Listener, batch_size: int | None = None,
    ) -> None:  # fmt: skip
        self.devices = (devices,) if isinstance(devices, torch.device) else tuple(devices)
        if self.devices[0].type == "cuda":
            torch.backends.cudnn.allow_tf32 = False
        self._copies = [
            _Copy(network if i == 0 else deepcopy(network), device, precision, emit)
            for i, device in enumerate(self.devices)
        ]
        self._emit = emit
        self._asked, self._exact = batch_size, precision not in HALF
        kind = self.devices[0].type
        self._cores = torch.get_num_threads() if kind == "cpu" else 0
        if self._cores:
            self.lanes = self.units = min(self._cores, batch_size or self._cores)
            self.helpers = max(1, self._cores // 2)
            self.ahead = 6 * self.lanes
        else:
            self.units = len(self.devices)
            self.lanes = self.units * (2 if kind == "cuda" else 1)
            self.helpers = max(2, min(_MOST_HELPERS, os.cpu_count() or 2))
            self.ahead = 256 * len(self.devices)

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on the cores that others work on too."""
        return self._cores > 0

    def batch_size(self, canvas: tuple[int, int]) -> int:
        """Say how many tiles of a shape to give at once: what was asked for, or what suits the device."""
        if self._cores:
            most = CPU_BATCH_PIXELS // (canvas[0] * canvas[1])
            if self._exact and canvas[0] * canvas[1] > _ALIKE:
                most = 1
            return max(1, most if self._asked is None else min(most, self._asked // self.lanes))
        if self._asked is not None:
            return self._asked
        pixels = min(copy.room() for copy in self._copies)
        return max(1, pixels // (canvas[0] * canvas[1]))

    def fill(
        self, tiles: Sequence[Tile], canvas: tuple[int, int], lane: int = 0, beside: int | None = None
    ) -> list[Filled]:
        """Fill one batch.

        Args:
            tiles: Tiles of one pixel type; all with a guide or all without, and with grain, and of reduced pictures.
            canvas: Width and height of the shared shape; what a tile leaves of it is a hole like any other.
            lane: Which of the `lanes` calls.
            beside: How many lanes are at work, this one included: they share the cores of a CPU. None: leave that.

        Returns:
            The filled tiles, in order, each of its own size. A result does not depend on its neighbours in the batch,
            but for rounding. Out of device memory, the batch is halved, then the tile; each is said once, remembered.

        Raises:
            DeviceError: If the device runs out of memory even so.
        """
        if self._cores and beside is not None:
            threads = max(1, self._cores // beside)
            if torch.get_num_threads() != threads:  # of this thread, that is
                torch.set_num_threads(threads)
        copy = self._copies[lane % len(self._copies)]
        if self._cores and self._exact and len(tiles) == 1 and canvas[0] * canvas[1] <= _ALIKE:
            return self._fill(copy, (*tiles, *tiles), canvas)[:1]  # see `_ALIKE`
        return self._fill(copy, tiles, canvas)

    def _fill(self, copy: _Copy, tiles: Sequence[Tile], canvas: tuple[int, int]) -> list[Filled]:
        out: list[Filled] = []
        area = canvas[0] * canvas[1]
        while len(out) < len(tiles):
            count = len(tiles) - len(out)
            if copy.largest is not None:
                count = max(1, min(count, copy.largest // area))
            part = tiles[len(out) : len(out) + count]
            done = None if canvas in copy.too_large else copy.attempt(part, canvas)
            if done is None and count == 1 and canvas not in copy.too_large:
                done = copy.attempt(part, canvas, alone=True)  # the memory may have been taken by another lane
            if done is not None:
                out += done
            elif count > 1 and canvas not in copy.too_large:
                half = count // 2
                if copy.largest is None or copy.largest > half * area:  # another lane may have found less room yet
                    copy.largest = half * area
                    what = f"{f'{half} tiles' if half > 1 else 'one tile'} of {canvas[0]} x {canvas[1]} px"
                    self._emit(Notice(f"{copy.device} ran out of memory: going on with batches of {what}"))
            else:
                out += [self._split(copy, tile, canvas) for tile in part]
        return out

    def _split(self, copy: _Copy, tile: Tile, canvas: tuple[int, int]) -> Filled:
        """Fill a tile that is too large for the device in four parts."""
        height, width = tile.known.shape
        if max(height, width) < 2 * SMALLEST_SPLIT:
            raise DeviceError(
                f"{copy.device} has too little free memory for a tile of {width} x {height} px; "
                f"free some, or use --device cpu (torch: {copy.complaint})"
            )
        if canvas not in copy.too_large:
            copy.too_large.add(canvas)
            self._emit(Notice(f"{copy.device} ran out of memory: halving tiles of {width} x {height} px"))
        pixels, reached = np.empty_like(tile.pixels), np.empty_like(tile.known)
        # Whole pixels of the guide on both sides.
        half_width, half_height = (-(-side // (2 * GUIDED)) * GUIDED for side in canvas)
        for rows in (slice(0, half_height), slice(half_height, height)):
            for cols in (slice(0, half_width), slice(half_width, width)):
                if not tile.known[rows, cols].size:
                    continue
                guide = _part_of(tile.guide, rows, cols)
                origin = None if tile.grain is None else (tile.grain[0] + rows.start, tile.grain[1] + cols.start)
                part = Tile(tile.pixels[rows, cols], tile.known[rows, cols], guide, tile.reduced, origin)
                down, across = (-(-side // GUIDED) * GUIDED for side in part.known.shape)
                done = self._fill(copy, [part], (across, down))[0]
                pixels[rows, cols], reached[rows, cols] = done.pixels, done.reached
        return Filled(pixels, reached)


class _Copy:
    """The network on one device, and what has been learnt about the memory there."""

    def __init__(self, network: nn.Module, device: torch.device, precision: torch.dtype, emit: Listener) -> None:
        self.device, self._precision, self._emit = device, precision, emit
        self._floats = torch.float64 if precision == torch.float64 else torch.float32
        self._wide: nn.Module = network.to(  # type: ignore[call-overload]
            device=device, dtype=self._floats, memory_format=torch.channels_last
        )
        self._network = _narrowed(self._wide, precision) if precision in HALF else self._wide
        self.largest: int | None = None  # batch, pixels
        self.too_large: set[tuple[int, int]] = set()
        self.complaint = ""  # torch's own words for the last lack of memory
        self._per_pixel: float | None = None  # bytes; unknown before the first batch
        self._seen = 0  # pixels of the batch that this was measured on
        self._free = 0
        self._change = threading.Condition()
        self._computing, self._alone, self._to_be_alone = 0, False, 0
        self._streams: SimpleQueue[Any] = SimpleQueue()
        self._overflown = False

    def room(self) -> int:
        """Pixels that a batch may have: as many as fill the device, if the memory found free holds two such batches."""
        if self.device.type != "cuda":
            return BATCH_PIXELS // 4
        if self._per_pixel is None:
            return 0  # one tile, to see what it takes
        return min(BATCH_PIXELS, int(MEMORY_SHARE * self._free / 2 / self._per_pixel))

    def attempt(self, tiles: Sequence[Tile], canvas: tuple[int, int], *, alone: bool = False) -> list[Filled] | None:
        """Fill one batch, or give None when memory ran out; by then nothing of the failed pass is held.

        `alone`: while no other lane computes here, and with what the library keeps in store given back before.
        """
        # What a small batch takes says little of a large one: much of it is room for the library to work in.
        much_larger = len(tiles) * canvas[0] * canvas[1] >= _MUCH * max(self._seen, 1)
        measured = self.device.type == "cuda" and much_larger and not tiles[0].reduced
        try:
            with self._turn(alone=alone or measured):
                if alone and self.device.type == "cuda":
                    torch.cuda.empty_cache()
                return self._measured(tiles, canvas) if measured else self._forward(tiles, canvas)
        except RuntimeError as error:  # torch's own out-of-memory error is one
            complaint = lack_of_memory(error)
            if complaint is None:
                raise
            self.complaint = complaint
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    @contextlib.contextmanager
    def _turn(self, *, alone: bool) -> Iterator[None]:
        """Compute beside others, or once they have finished and before any other begins.

        Who wants to be alone goes before all who come later, or there would always be another.
        """
        with self._change:
            self._to_be_alone += alone
            try:
                while self._alone or (self._computing if alone else self._to_be_alone):
                    self._change.wait()
            finally:  # also when interrupted
                self._to_be_alone -= alone
                self._change.notify_all()
            self._alone = alone
            self._computing += 1
        try:
            yield
        finally:
            with self._change:
                self._alone = False
                self._computing -= 1
                self._change.notify_all()

    def _measured(self, tiles: Sequence[Tile], canvas: tuple[int, int]) -> list[Filled]:
        """Fill a batch and note what it takes."""
        torch.cuda.empty_cache()  # what engines before this one left in store is free
        self._free, _ = torch.cuda.mem_get_info(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        filled = self._forward(tiles, canvas)
        taken = torch.cuda.max_memory_allocated(self.device) - before
        self._seen = len(tiles) * canvas[0] * canvas[1]
        self._per_pixel = max(taken, 1) / self._seen
        return filled

    def _forward(self, tiles: Sequence[Tile], canvas: tuple[int, int]) -> list[Filled]:
        width, height = canvas
        # Page-locked memory can be copied while the device computes; torch keeps what it has of it.
        locked = self.device.type == "cuda"
        dtype = torch.uint8 if tiles[0].pixels.dtype == np.uint8 else torch.float32
        channels = tiles[0].pixels.shape[2]
        pixels = torch.zeros((len(tiles), height, width, channels), dtype=dtype, pin_memory=locked)
        known = torch.zeros((len(tiles), 1, height, width), dtype=torch.bool, pin_memory=locked)
        for i, tile in enumerate(tiles):
            h, w = tile.known.shape
            pixels.numpy()[i, :h, :w] = tile.pixels
            known.numpy()[i, 0, :h, :w] = tile.known
        with torch.inference_mode(), self._stream(), autocast(self.device, self._precision):
            # (n, h, w, c) seen as (n, c, h, w) is channels_last already; bytes travel, floats are made there.
            image = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            inputs = [_to_float(image, self._floats), known.to(self.device, non_blocking=True).to(self._floats)]
            guides = [tile.guide for tile in tiles if tile.guide is not None]
            if guides:
                guide = torch.from_numpy(_stacked(guides, width, height))
                guide = guide.pin_memory() if locked else guide
                inputs.append(guide.to(self.device, self._floats, non_blocking=True).permute(0, 3, 1, 2))
            output, reached = _for(tiles, self._network)(*inputs)
            if self._precision in HALF and not bool(output.isfinite().all()):
                self._say_overflown()
                with torch.autocast(self.device.type, enabled=False):
                    output, reached = _for(tiles, self._wide)(*inputs)
            output = output.float()
            origins = [tile.grain for tile in tiles if tile.grain is not None]
            if origins:
                image, seen = inputs[:2]
                output = output + grain(torch.where(seen > 0, image, output), seen, origins)
            filled = self._back(_from_float(output, dtype).permute(0, 2, 3, 1))
            covered = self._back(reached[:, 0] > 0)
            if locked:
                torch.cuda.current_stream(self.device).synchronize()
        sizes = [tile.known.shape for tile in tiles]
        return [Filled(filled[i, :h, :w], covered[i, :h, :w]) for i, (h, w) in enumerate(sizes)]

    def _say_overflown(self) -> None:
        if not self._overflown:
            self._overflown = True
            name = precision_name(self._precision)
            self._emit(Notice(f"{name} was too narrow for a tile, which is computed in fp32; so are others like it"))

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        """Take a queue of orders on a GPU that no other lane uses, so that one copies while the other computes."""
        if self.device.type != "cuda":
            yield
            return
        try:
            stream = self._streams.get_nowait()
        except Empty:
            stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.default_stream(self.device))  # the weights may still be on their way
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            self._streams.put(stream)  # it keeps memory in store, so it is used again

    def _back(self, result: Tensor) -> NDArray[Any]:
        """Bring a result to the host; from a GPU it is there once the stream has been waited for."""
        if self.device.type != "cuda":
            return result.cpu().numpy()
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        return host.copy_(result, non_blocking=True).numpy()


def _narrowed(network: nn.Module, precision: torch.dtype) -> nn.Module:
    """The same with the convolutions' weights in half precision, or `autocast` makes them so at every pass."""
    twin = deepcopy(network)
    for module in twin.modules():
        if isinstance(module, PartialConv2d):
            module.weight.data = module.weight.data.to(precision)
    return twin


def _for(tiles: Sequence[Tile], network: nn.Module) -> nn.Module:
    """The network, or its part for reduced pictures where it has one and the tiles are such."""
    coarse: nn.Module | None = getattr(network, "coarse", None)
    return coarse if tiles[0].reduced and coarse is not None else network


def _stacked(guides: Sequence[NDArray[np.float32]], width: int, height: int) -> NDArray[np.float32]:
    """Lay guides into one batch; where a tile leaves something of the shared shape, the guide's edge goes on."""
    rows, columns = -(-height // GUIDED), -(-width // GUIDED)
    edges = [((0, rows - g.shape[0]), (0, columns - g.shape[1]), (0, 0)) for g in guides]
    return np.stack([np.pad(guide, edge, mode="edge") for guide, edge in zip(guides, edges, strict=True)])


def _part_of(guide: NDArray[np.float32] | None, rows: slice, columns: slice) -> NDArray[np.float32] | None:
    if guide is None:
        return None
    top, left = rows.start // GUIDED, columns.start // GUIDED
    return guide[top : -(-rows.stop // GUIDED), left : -(-columns.stop // GUIDED)]


def _to_float(image: Tensor, dtype: torch.dtype) -> Tensor:
    return image.to(dtype).div_(255) if image.dtype == torch.uint8 else image.to(dtype)


def _from_float(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Back to the tile's own type, rounded to the nearest."""
    if dtype == torch.uint8:
        return image.clamp(0, 1).mul(255).round().to(torch.uint8)
    return image.to(dtype)


def lack_of_memory(error: Exception) -> str | None:
    """Give what an error says in one line if it is about a device's memory, or None."""
    short = isinstance(error, torch.OutOfMemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)
    return str(error).partition("\n")[0] if short else None


def _there(count: int) -> str:
    if count == 0:
        return "no CUDA device that this build of torch can use"
    return f"there are only {count}, cuda:0 to cuda:{count - 1}" if count > 1 else "there is only cuda:0"
