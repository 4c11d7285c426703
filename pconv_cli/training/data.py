"""Random batches from photographs in a device's memory.

Knows: pictures and masks as tensors, crops, and where a batch's randomness comes from. Does not know: files, networks,
losses. A batch is a pure function of (seed, step) on a device, so a resumed run sees what an unbroken one would have
seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cli.nn.pyramid import reduced
from pconv_cli.training.damage import Damage, random_damage, thin_damage

CELL = 2
"""Side of what becomes one cell of a reduced picture, pixels: enough for cells that are known in part."""

FROM_FOLDER = 0.5
"""Share of the crops that get a mask of the user's, where there are any; the others get drawn damage."""


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        image: `(n, 3, s, s)`, float32 in [0, 1].
        known: `(n, 1, s, s)`, float32, 1 = known to the network.
        beyond: `(n, 1, s, s)`, float32, 1 = beyond the edge of a tile: unknown, and nothing is asked for there.
    """

    image: Tensor
    known: Tensor
    beyond: Tensor

    @property
    def hole(self) -> Tensor:
        """`(n, 1, s, s)`, 1 = to be filled."""
        return (1 - self.known) * (1 - self.beyond)

    def reduced(self) -> Batch:
        """Reduce as a guide's picture is: a cell is known by the mean of what is known in it, a hole if nothing is."""
        seen, known = reduced(self.image, self.known, CELL)
        image = torch.where(known > 0, seen, F.avg_pool2d(self.image, CELL))
        return Batch(image, known, -F.max_pool2d(-self.beyond, CELL))


def make_batch(
    photos: Sequence[Tensor], masks: Sequence[Tensor], seed: int, step: int, batch_size: int, size: int,
    *, thin: bool = False, whole: bool = False,
) -> Batch:  # fmt: skip
    """Cut random crops, scaled, flipped and turned at random, and damage them at random.

    Args:
        photos: `(3, h, w)` uint8 each, all on the device that the batch is to be on; no side below `size`.
        masks: `(h, w)` bool each, True = damaged, on the same device; may be none.
        seed: Of the run.
        step: Which batch of it.
        batch_size: Crops.
        size: Their side, pixels.
        thin: Only thin scratches and hairs, see `thin_damage`.
        whole: Show most of each photograph, however much it has to be reduced, as guides do.

    Returns:
        The batch, on the photographs' device.
    """
    rng = np.random.default_rng((seed, step))
    source = torch.Generator(photos[0].device).manual_seed(int(rng.integers(2**62)))
    image = torch.stack([_crop(photos[int(rng.integers(len(photos)))], size, rng, whole) for _ in range(batch_size)])
    if thin:
        damage = thin_damage(batch_size, size, source)
    else:
        damage = random_damage(batch_size, size, source)
        if masks:
            damage = _mixed(damage, masks, size, rng)
    return Batch(image, (~damage.hole).float(), damage.beyond.float())


def _crop(photo: Tensor, size: int, rng: np.random.Generator, whole: bool) -> Tensor:
    height, width = photo.shape[1:]
    most = min(height, width) / size
    side = int(size * (rng.uniform(max(1, 0.6 * most), most) if whole else rng.uniform(1, min(2.0, most))))
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    piece = photo[None, :, y : y + side, x : x + side].float() / 255
    if side != size:
        piece = F.interpolate(piece, size=(size, size), mode="bilinear", antialias=True)
    piece = _turned(piece, rng, quarter=0.1)
    if rng.random() < 0.1:
        piece = piece.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return piece[0]


def _mixed(damage: Damage, masks: Sequence[Tensor], size: int, rng: np.random.Generator) -> Damage:
    """Put masks of the user's in the place of some drawn ones; a part of one that marks all or nothing is not used."""
    hole = damage.hole.clone()
    for i in range(len(hole)):
        if rng.random() >= FROM_FOLDER:
            continue
        mask = masks[int(rng.integers(len(masks)))]
        side = int(rng.integers(min(size, *mask.shape), min(mask.shape) + 1))
        y, x = int(rng.integers(mask.shape[0] - side + 1)), int(rng.integers(mask.shape[1] - side + 1))
        part = mask[None, None, y : y + side, x : x + side].float()
        part = _turned(F.interpolate(part, size=(size, size), mode="nearest"), rng, quarter=0.5)[0] > 0.5
        asked = part & ~damage.beyond[i]
        usable = asked.any() & (asked | damage.beyond[i]).logical_not().any()
        hole[i] = torch.where(usable, part | damage.beyond[i], hole[i])
    return Damage(hole, damage.beyond)


def _turned(piece: Tensor, rng: np.random.Generator, quarter: float) -> Tensor:
    """Mirror half of the pieces; turn some by a quarter."""
    if rng.random() < 0.5:
        piece = piece.flip(-1)
    return piece.rot90(1 + 2 * int(rng.integers(2)), (-2, -1)) if rng.random() < quarter else piece
