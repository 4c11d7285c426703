"""Random batches from photographs in a device's memory.

Knows: pictures and masks as tensors, crops, and where a batch's randomness comes from. Does not know: files, networks,
losses. A batch is a pure function of (seed, step) on a device, so a resumed run sees what an unbroken one would have
seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cli.nn.pyramid import reduced
from pconv_cli.training.damage import Damage, random_damage, thin_damage

CELL = 2
"""Side of what becomes one cell of a reduced picture, pixels: enough for cells that are known in part."""

WHOLE = 0.6
"""Least share of a photograph's short side that is shown where most of it is to be."""

UNSCALED = 0.4
"""Share of the crops, whole views aside, that are not scaled: all that is resampled is softer than photographs are."""

AHEAD = 4
"""Steps that damage is drawn for at once."""

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


def whole_views(photos: Sequence[Tensor], size: int) -> list[Tensor]:
    """Reduce photographs to what `make_batch` needs of them where it shows most of each: `(3, h, w)` uint8.

    Args:
        photos: `(3, h, w)` uint8 each, no side below `size`.
        size: Side of the crops, pixels.
    """
    views = []
    for photo in photos:
        height, width = photo.shape[1:]
        scale = min(1.0, -(-size // WHOLE) / min(height, width))
        sides = [max(size, round(scale * side)) for side in (height, width)]
        view = F.interpolate(photo[None].float(), size=sides, mode="bilinear", antialias=True)[0]
        views.append(view.round_().to(torch.uint8))
    return views


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
        whole: Show most of each photograph, as guides do; best of `whole_views`.

    Returns:
        The batch, on the photographs' device.
    """
    rng = np.random.default_rng((seed, step))
    source = torch.Generator(photos[0].device).manual_seed(int(rng.integers(2**62)))
    image = _varied(_crops(photos, batch_size, size, rng, whole), source)
    if thin:
        damage = thin_damage(batch_size, size, source)
    else:
        damage = _drawn(seed, step // AHEAD, batch_size, size, photos[0].device)[step % AHEAD]
        if masks:
            damage = _mixed(damage, masks, size, rng)
    return Batch(image, (~damage.hole).float(), damage.beyond.float())


@lru_cache(maxsize=2)
def _drawn(seed: int, portion: int, count: int, size: int, device: torch.device) -> list[Damage]:
    """Draw damage for several steps at once: it takes a thousand calls, however little each has to do."""
    start = int(np.random.default_rng((seed, portion, AHEAD)).integers(2**62))
    drawn = random_damage(AHEAD * count, size, torch.Generator(device).manual_seed(start))
    parts = zip(torch.split(drawn.hole, count), torch.split(drawn.beyond, count), strict=True)
    return [Damage(hole, beyond) for hole, beyond in parts]


def _crops(photos: Sequence[Tensor], count: int, size: int, rng: np.random.Generator, whole: bool) -> Tensor:
    """Cut crops. All that are scaled are scaled alike, in one call: a GPU waits for every call, however small."""
    picked = [photos[int(i)] for i in rng.integers(len(photos), size=count)]
    most = np.array([min(photo.shape[1:]) for photo in picked]) / size
    if whole:
        scale = rng.uniform(max(1, WHOLE * most.min()), most.min())
        scaled = np.full(count, True)
    else:
        scaled = rng.random(count) >= UNSCALED
        scale = rng.uniform(1, min(2.0, np.quantile(most[scaled], 0.25) if scaled.any() else 1))
        scaled &= most >= scale
    parts = []
    for side, those in ((size, ~scaled), (int(size * scale), scaled)):
        cut = [_cut(photo, side, rng) for photo, of_these in zip(picked, those, strict=True) if of_these]
        if cut:
            part = torch.stack(cut).float()
            if side != size:
                part = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)
            parts.append(part)
    return torch.cat(parts).div_(255)


def _cut(photo: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    y, x = (int(rng.integers(length - side + 1)) for length in photo.shape[1:])
    return photo[:, y : y + side, x : x + side]


def _varied(image: Tensor, source: torch.Generator) -> Tensor:
    """Mirror half of the crops, turn a tenth by a quarter, make a tenth grey and give a third another light."""

    def chance(share: float) -> Tensor:
        return torch.rand(len(image), 1, 1, 1, generator=source, device=image.device) < share

    image = torch.where(chance(0.5), image.flip(-1), image)
    image = torch.where(chance(0.1), image.mT, image)
    image = torch.where(chance(0.1), image.mean(1, keepdim=True), image)
    gamma = torch.randn(len(image), 3, 1, 1, generator=source, device=image.device) * 0.06
    gamma = gamma + torch.randn(len(image), 1, 1, 1, generator=source, device=image.device) * 0.25
    return torch.where(chance(0.33), image.clamp(min=1e-4) ** gamma.exp(), image)


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
