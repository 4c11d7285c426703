"""Holds what a network adds to the floor to what the surroundings of a hole show: quiet where they are quiet.

Knows: a floor, what is to be added to it, and masks, as tensors. Does not know: networks, files, or who made the floor.

A network that has learned photographs of 8 bits adds detail of a level or two wherever it is: not to be seen in most of
them, but a stamped patch in an elevation model and a veil on the white of a page. So what it adds is taken apart into
detail of 1, 2 and 4 pixels and a rest. Detail is held to the strength of the same detail in known pixels around, the
rest to how far their tones lie apart, both judged by the mean of the channels. No weights, any size, linear cost; in
photographs hardly anything changes (benchmarks/TRAINING.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cli.nn.pyramid import pyramid_fill, shifts

BANDS = 3
"""Bands of detail, each of twice the size of the one before. What is around is measured in cells of 2^BANDS pixels."""
PEAK = 2.0
"""How far detail may go in a pixel, in root mean squares of the detail around; softly."""
SPREAD = 2.5
"""How far the rest may go, in standard deviations of the tones around; softly."""
_SMOOTHING = 4
_MOST = 1e30  # not infinity: between one and another, interpolation finds no number
_LEAST = 1e-9  # of mean squares: less than a hundredth of a level of 8 bits


def restrained(added: Tensor, floor: Tensor, known: Tensor, bands: int = BANDS) -> Tensor:
    """Hold what is added to a floor to the detail and the tones of the known pixels around.

    Args:
        added: `(n, c, h, w)`, float, 0 where known.
        floor: `(n, c, h, w)`: the image where known, what is added to elsewhere.
        known: `(n, 1, h, w)`, 1 = known, 0 = hole.
        bands: How many bands of detail are looked at; with 0 all of it is the rest.

    Returns:
        `(n, c, h, w)`; means nothing where known. In an image where nothing is known that could tell, it stays.
    """
    height, width = known.shape[-2:]
    side = 2**bands
    edge = (0, -(-width // side) * side - width, 0, -(-height // side) * side - height)
    # The whole, which says what is around, and what was added are taken apart alike, the first in grey alone. A CPU is
    # quicker where each channel lies by itself.
    level, grey, share = added.contiguous(), _grey(added), known
    whole = _grey(floor) + grey
    if any(edge):
        level, grey, whole = (F.pad(part, edge, mode="replicate") for part in (level, grey, whole))
        share = F.pad(share, edge)
    seen = whole * share
    tones, some = _cells(torch.cat([seen, seen.square(), share], dim=1), bands)
    around, told, inside, parts = [tones], [some, some], [], []
    for left in reversed(range(bands)):
        smaller, less, greyer, share = halved(level), halved(whole), halved(grey), halved(share)
        detail, tone = level - doubled(smaller), grey - doubled(greyer)
        pure = 1 - F.max_pool2d((share < 1).to(share.dtype), 3, 1, 1)  # detail of what lies beside a hole is the hole's
        energy, lost = halved((whole - doubled(less)).square()), 1 - share
        outside, there = _cells(torch.cat([energy * pure, pure], dim=1), left)
        around.append(outside)
        told.append(there)
        inside.append(_cells(torch.cat([halved(tone.square()) * lost, lost], dim=1), left)[0])
        parts.append((detail, tone))
        level, whole, grey = smaller, less, greyer
        share = (share >= 1).to(share.dtype)
    values, masks = torch.cat(around, dim=1), torch.cat(told, dim=1)
    filled = pyramid_fill(values.flatten(0, 1)[:, None], masks.flatten(0, 1)[:, None], _SMOOTHING).view_as(values)
    mean, square, *energies = torch.split(filled, 1, dim=1)
    rest = level * _held(grey, SPREAD**2 * torch.where(_any(some), square - mean.square(), _MOST))
    for i in reversed(range(bands)):
        most = torch.where(_any(told[2 + i]), energies[i].clamp(min=0), _MOST)
        gain = doubled(((inside[i] + _LEAST) / (most + _LEAST)).clamp(min=1).rsqrt(), bands - i)
        detail, tone = parts[i]
        held = _held(tone * gain, PEAK**2 * doubled(most, bands - i)).mul_(gain)
        rest = doubled(rest).addcmul_(detail, held)
    return rest[..., :height, :width]


def _held(grey: Tensor, most: Tensor) -> Tensor:
    """What to multiply by, to hold the square of a grey below `most`; what is well below stays as it is."""
    excess = grey.square().div_(most.clamp(min=0).add_(_LEAST))
    return excess.square_().add_(1).sqrt_().rsqrt_()


def _grey(image: Tensor) -> Tensor:
    """The mean of the channels, `(n, 1, h, w)`."""
    return image.mean(1, keepdim=True)


def _cells(planes: Tensor, halvings: int) -> tuple[Tensor, Tensor]:
    """Give the means of cells of 2^halvings pixels, 0 where there is no weight, and 1 where there is.

    The last of the planes is the weights; the others are multiplied by them already.
    """
    planes = halved(planes, halvings)
    share = planes[:, -1:]
    return planes[:, :-1] / share.clamp(min=1e-6), (share > 0).to(share.dtype)


def halved(image: Tensor, times: int = 1) -> Tensor:
    """Means of 2 x 2, several times over; sides are even each time."""
    for _ in range(times):
        rows = image[..., 0::2, :] + image[..., 1::2, :]  # on a CPU ten times as fast as to pool
        image = 0.25 * (rows[..., 0::2] + rows[..., 1::2])
    return image


def doubled(image: Tensor, times: int = 1) -> Tensor:
    """Twice the size by bilinear interpolation; several times that in one step, which is another interpolation."""
    if times > 1 or not shifts(image):
        size = [side * 2**times for side in image.shape[-2:]]
        return F.interpolate(image, size, mode="bilinear", align_corners=False)
    for dim in (2, 3):
        last = image.shape[dim] - 1
        sides = [2 * side if axis == dim else side for axis, side in enumerate(image.shape)]
        twice = image.new_empty(sides)
        even, odd = twice.view([*image.shape[:dim], last + 1, 2, *image.shape[dim + 1 :]]).unbind(dim + 1)
        before, behind = image.narrow(dim, 0, last), image.narrow(dim, 1, last)
        even.select(dim, 0).copy_(image.select(dim, 0))
        torch.lerp(behind, before, 0.25, out=even.narrow(dim, 1, last))
        torch.lerp(before, behind, 0.25, out=odd.narrow(dim, 0, last))
        odd.select(dim, last).copy_(image.select(dim, last))
        image = twice
    return image


def _any(mask: Tensor) -> Tensor:
    """Whether anything is told of an image, `(n, 1, 1, 1)`."""
    return mask.flatten(1).amax(1).gt(0)[:, None, None, None]
