"""Random batches from photographs in memory.

Knows: pictures as arrays, crops, and where a batch's randomness comes from. Does not know: networks, losses, steps'
meaning. A batch is a pure function of (seed, step), so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pconv_cli.training.damage import random_damage

Photo = NDArray[np.uint8]


def make_batch(photos: Sequence[Photo], seed: int, step: int, batch_size: int, size: int) -> tuple[Tensor, Tensor]:
    """Cut random crops, scaled and flipped at random, and damage them at random.

    Returns:
        Images `(n, 3, size, size)` in [0, 1] and masks `(n, 1, size, size)`, 1 = known.
    """
    rng = np.random.default_rng((seed, step))
    crops, masks = [], []
    for _ in range(batch_size):
        crops.append(_crop(photos[int(rng.integers(len(photos)))], size, rng))
        masks.append(~random_damage(size, rng))
    known = torch.from_numpy(np.stack(masks)).float()[:, None]
    return torch.stack(crops), known


def batches(
    photos: Sequence[Photo], seed: int, steps: range, batch_size: int, size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batch of each step in order, made ahead by worker processes, or without any in this one.

    Threads would not do: drawing holds the interpreter's lock, and training waits for it at every operation.
    """
    if multiprocessing.get_start_method() != "fork":
        workers = 0  # other ways to start a process would copy all photographs into it
    if not steps:
        return
    making = _Batches(photos, seed, steps, batch_size, size)
    yield from DataLoader(making, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)


@dataclass(frozen=True)
class _Batches(Dataset[tuple[Tensor, Tensor]]):
    photos: Sequence[Photo]
    seed: int
    steps: range
    batch_size: int
    size: int

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return make_batch(self.photos, self.seed, self.steps[index], self.batch_size, self.size)


def _crop(photo: Photo, size: int, rng: np.random.Generator) -> Tensor:
    height, width = photo.shape[:2]
    side = int(size * rng.uniform(1, min(2.0, min(height, width) / size)))
    y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
    piece = torch.from_numpy(photo[y : y + side, x : x + side].copy()).permute(2, 0, 1)[None].float() / 255
    if side != size:
        piece = F.interpolate(piece, size=(size, size), mode="bilinear", antialias=True)
    if rng.random() < 0.5:
        piece = piece.flip(-1)
    if rng.random() < 0.1:
        piece = piece.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return piece[0].contiguous()
