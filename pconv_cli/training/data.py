"""Random batches from photographs in memory.

Knows: pictures as arrays, crops, and where a batch's randomness comes from. Does not know: networks, losses, steps'
meaning. A batch is a pure function of (seed, step), so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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
    photos: Sequence[Photo], seed: int, steps: range, batch_size: int, size: int, ahead: int = 4
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batch of each step in order, made a few ahead by a thread."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: list[Future[tuple[Tensor, Tensor]]] = []
        try:
            for step in [*steps, *([None] * ahead)]:
                if step is not None:
                    waiting.append(pool.submit(make_batch, photos, seed, step, batch_size, size))
                if waiting and (len(waiting) > ahead or step is None):
                    yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


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
