"""Runs batches of tiles through a network on a device.

Knows: devices, precision, memory formats, and what to do when memory runs out. Does not know: pictures, files, where a
tile came from, or who waits for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pconv_cli.errors import DeviceError
from pconv_cli.events import Listener, Notice
from pconv_cli.nn.pyramid import GUIDE_LEVELS

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GUIDED: int = 2**GUIDE_LEVELS
"""Pixels of a tile that one of its guide stands for, along each side."""
SMALLEST_SPLIT = 64
"""A tile is not halved below this side when memory runs out, pixels."""


@dataclass(frozen=True)
class Tile:
    """What one forward pass sees of a picture.

    Attributes:
        pixels: `(h, w, 3)` RGB, uint8, or float32 in [0, 1].
        known: `(h, w)` bool, True = known.
        guide: `(ceil(h / 8), ceil(w / 8), 3)` float32 in [0, 1], the tile reduced, holes filled; or None.
        reduced: Whether the picture is a reduced one, to make a guide of.
    """

    pixels: NDArray[Any]
    known: NDArray[np.bool_]
    guide: NDArray[np.float32] | None = None
    reduced: bool = False


@dataclass(frozen=True)
class Filled:
    """What came back: `pixels` in the tile's own type, and `reached`, False where nothing could be filled in."""

    pixels: NDArray[Any]
    reached: NDArray[np.bool_]


def choose_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `mps` into a device that is there.

    Raises:
        DeviceError: If it is not there, or the name means nothing.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            raise DeviceError(f"--device {name}: {_there(count)}; use --device auto or cpu")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError(
                "--device mps: this machine or this build of torch has no Metal device; use --device auto"
            )
    elif device.type != "cpu" or device.index is not None:
        raise DeviceError(f"--device {name}: not supported; use auto, cpu, cuda, cuda:N or mps")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn `auto`, `fp32`, `bf16` or `fp16` into a type; `auto` is half precision on CUDA, float32 elsewhere.

    Raises:
        DeviceError: If the device cannot compute in it.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name not in PRECISIONS:
        raise DeviceError(f"--precision {name}: not a precision; use auto, fp32, bf16 or fp16")
    return PRECISIONS[name]


def precision_name(precision: torch.dtype) -> str:
    """Return the short name of a precision."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which convolutions compute in the given precision."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)


class Engine:
    """Fills tiles with a network of the shape of those in `nn/unet.py`.

    `network(image, known) -> (output, known)`, or `network(image, known, guide)` where tiles bring guides. Tiles of
    reduced pictures go to `network.coarse`, where there is one.
    """

    def __init__(self, network: nn.Module, device: torch.device, precision: torch.dtype, emit: Listener) -> None:
        self.device = device
        self.precision = precision
        self._network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._coarse: nn.Module = getattr(network, "coarse", None) or self._network
        self._emit = emit
        # A CPU gains nothing from batches as a GPU has them: at 512 px one of four takes 1.6 times as long. It gains
        # from tiles side by side, a core each: cores that share one convolution wait for the slowest at every layer.
        self.cores = torch.get_num_threads() if device.type == "cpu" else 0
        self._largest: int | None = 1 if self.cores else None
        self._pool: ThreadPoolExecutor | None = None
        self._too_large: set[tuple[int, int]] = set()

    @property
    def batch_size(self) -> int:
        """How many tiles to give at once when nobody says."""
        return 8 if not self.cores else 1 if self.cores == 1 else 4 * self.cores

    def company(self, shape: Hashable) -> Hashable:
        """What tiles must have in common to share a batch: their shape; on several cores of a CPU nothing."""
        return None if self.cores > 1 else shape

    def fill_all(self, tiles: Sequence[Tile], canvases: Sequence[tuple[int, int]]) -> list[Filled]:
        """Fill tiles that share a batch, each on its canvas; see `fill` and `company`."""
        if self.cores <= 1:
            return self.fill(tiles, canvases[0])
        threads = max(1, self.cores // len(tiles))

        def one(tile: Tile, canvas: tuple[int, int]) -> Filled:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            return self.fill([tile], canvas)[0]

        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.cores, "compute")
        # The largest first, so that no core is left alone with one at the end.
        order = sorted(range(len(tiles)), key=lambda i: -canvases[i][0] * canvases[i][1])
        begun = {i: self._pool.submit(one, tiles[i], canvases[i]) for i in order}
        return [begun[i].result() for i in range(len(tiles))]

    def fill(self, tiles: Sequence[Tile], canvas: tuple[int, int]) -> list[Filled]:
        """Fill one batch.

        Args:
            tiles: Tiles of one pixel type; all with a guide or all without, all of reduced pictures or none.
            canvas: Width and height of the shared shape; what a tile leaves of it is a hole like any other.

        Returns:
            The filled tiles, in order, each of its own size. A result never depends on its neighbours in the batch.
            Out of device memory, the batch is halved, then the tile; each is said once.

        Raises:
            DeviceError: If the device runs out of memory even so.
        """
        out: list[Filled] = []
        while len(out) < len(tiles):
            count = min(len(tiles) - len(out), self._largest or len(tiles))
            part = tiles[len(out) : len(out) + count]
            done = None if canvas in self._too_large else self._attempt(part, canvas)
            if done is not None:
                out += done
            elif count > 1 and canvas not in self._too_large:
                self._largest = count // 2
                self._emit(Notice(f"{self.device} ran out of memory: going on with batches of {self._largest}"))
            else:
                out += [self._split(tile, canvas) for tile in part]
        return out

    def _attempt(self, tiles: Sequence[Tile], canvas: tuple[int, int]) -> list[Filled] | None:
        """Fill one batch, or give None when memory ran out; by then nothing of the failed pass is held."""
        try:
            return self._forward(tiles, canvas)
        except RuntimeError as error:  # torch's own out-of-memory error is one
            if not _out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _forward(self, tiles: Sequence[Tile], canvas: tuple[int, int]) -> list[Filled]:
        width, height = canvas
        pixels = np.zeros((len(tiles), height, width, 3), tiles[0].pixels.dtype)
        known = np.zeros((len(tiles), height, width), np.bool_)
        for i, tile in enumerate(tiles):
            h, w = tile.known.shape
            pixels[i, :h, :w] = tile.pixels
            known[i, :h, :w] = tile.known
        with torch.inference_mode(), autocast(self.device, self.precision):
            # (n, h, w, 3) seen as (n, 3, h, w) is channels_last already; bytes travel, floats are made there.
            image = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
            mask = torch.from_numpy(known).to(self.device)[:, None].float()
            guides = [tile.guide for tile in tiles if tile.guide is not None]
            inputs = [_to_float(image), mask]
            if guides:
                guide = torch.from_numpy(_stacked(guides, width, height)).to(self.device)
                inputs.append(guide.permute(0, 3, 1, 2))
            output, reached = (self._coarse if tiles[0].reduced else self._network)(*inputs)
            filled = _from_float(output.float(), image.dtype).permute(0, 2, 3, 1).cpu().numpy()
            covered = (reached[:, 0] > 0).cpu().numpy()
        sizes = [tile.known.shape for tile in tiles]
        return [Filled(filled[i, :h, :w], covered[i, :h, :w]) for i, (h, w) in enumerate(sizes)]

    def _split(self, tile: Tile, canvas: tuple[int, int]) -> Filled:
        """Fill a tile that is too large for the device in four parts."""
        height, width = tile.known.shape
        if max(height, width) < 2 * SMALLEST_SPLIT:
            raise DeviceError(
                f"{self.device} has too little free memory for a tile of {width} x {height} px; "
                "free some, or use --device cpu"
            )
        if canvas not in self._too_large:
            self._too_large.add(canvas)
            self._emit(Notice(f"{self.device} ran out of memory: halving tiles of {width} x {height} px"))
        pixels, reached = np.empty_like(tile.pixels), np.empty_like(tile.known)
        # Whole pixels of the guide on both sides.
        half_width, half_height = (-(-side // (2 * GUIDED)) * GUIDED for side in canvas)
        for rows in (slice(0, half_height), slice(half_height, height)):
            for cols in (slice(0, half_width), slice(half_width, width)):
                if not tile.known[rows, cols].size:
                    continue
                guide = _part_of(tile.guide, rows, cols)
                part = Tile(tile.pixels[rows, cols], tile.known[rows, cols], guide, tile.reduced)
                down, across = (-(-side // GUIDED) * GUIDED for side in part.known.shape)
                done = self.fill([part], (across, down))[0]
                pixels[rows, cols], reached[rows, cols] = done.pixels, done.reached
        return Filled(pixels, reached)


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


def _to_float(image: Tensor) -> Tensor:
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()


def _from_float(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Back to the tile's own type, rounded to the nearest."""
    if dtype == torch.uint8:
        return image.clamp(0, 1).mul(255).round().to(torch.uint8)
    return image.to(dtype)


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def _there(count: int) -> str:
    if count == 0:
        return "no CUDA device that this build of torch can use"
    return f"there are only {count}, cuda:0 to cuda:{count - 1}" if count > 1 else "there is only cuda:0"
