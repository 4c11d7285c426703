"""Finds the grain of a picture in what is known of it, and gives fills as much of it as they lack.

Knows: filled images and masks, as tensors. Does not know: networks, files, who filled the images.

A network makes the mean of what it knows, and a mean has no grain: in a scan of film a fill of more than some 20 pixels
is a smooth patch. Noise hides where texture is, so it is measured where there is little else: the quietest blocks of
each tone, if several of them are about as quiet and even in themselves. Grain is everywhere, so no block can have less
than it; and if all are as uneven as fur or leaves are, nothing is said of grain, and nothing added. What it is worth:
benchmarks/TRAINING.md.

What is added is cut from a field of Gaussian noise that is fixed for all pictures and laid over each as a whole, so
windows that share pixels add the same. It is a mixture of fine and coarse, as strong in each channel and each band as
the quietest block of that tone, and channels are as alike as they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cli.nn.restraint import BANDS, doubled, halved

PERIOD = 512
"""Pixels after which the field of noise comes again."""
SPOTS = (0.0, 0.7, 1.5)
"""Standard deviations of the spots that the noise is made of, pixels: as many as there are bands of detail."""
_SIDE = 2**BANDS  # pixels of a cell's side
_BLOCK = 4  # cells of a block's side
_TONES = 8
_NEAR = 0.75  # tones between that of a block and one that it tells of; so black and white borders tell of no other
_UNEVEN = 3.0  # times a block's energy that its strongest cell may have: Gaussian noise hardly comes to that
_SHARE = 0.8  # of the energy around for a fill: a tenth less in strength is not seen, and lies closer to the truth
_QUIET = 1.5  # times the energy of the quietest block of a tone that others like it have
_ENOUGH = 8  # blocks like it
_SLOPE = 2.0  # times the energy of a tone that the next one may have
_MOST = 0.06**2  # of energy: beyond that it is no grain
_LEAST = 1e-7  # a twelfth of a level of 8 bits
_NONE = 1e30


def grain(filled: Tensor, known: Tensor, origins: Sequence[tuple[int, int]]) -> Tensor:
    """Make what the fills of images lack of the grain around.

    Args:
        filled: `(n, c, h, w)`, float in [0, 1], whole images: 1 channel or several colours.
        known: `(n, 1, h, w)`, 1 = known, 0 = filled.
        origins: Row and column of each image's first pixel in the field of noise.

    Returns:
        `(n, c, h, w)`, to be added: 0 where known, and in images whose grain cannot be told.
    """
    height, width = known.shape[-2:]
    nothing = torch.zeros_like(filled)
    if min(height, width) < _BLOCK * _SIDE:
        return nothing
    edge = (0, -width % _SIDE, 0, -height % _SIDE)
    grey, share = filled.mean(1, keepdim=True).nan_to_num_(), known  # what no network reached may be anything
    if any(edge):
        filled, grey = (F.pad(image, edge, mode="replicate") for image in (filled, grey))
        share = F.pad(known, edge)
    energies, present = _energies(grey, share)
    tones = halved(grey, BANDS)
    chosen, limit = _quietest(energies.sum(0), tones, _all_known(share))
    if filled.is_cpu and not limit.any():  # a GPU would be waited for
        return nothing
    tones = tones.clamp(0, 1) * (_TONES - 1)
    level = torch.stack([_by_tone(_of_blocks(energy, chosen) * limit, tones) for energy in energies])
    lacking = level * (1 - present / level.clamp(min=1e-12)).clamp(min=0)
    strengths, alike = _colours(filled, chosen, limit)
    parts = 1 if filled.is_cpu and bool((alike == 1).all()) else 1 + filled.shape[1]
    basis = _basis(parts, filled.device, filled.dtype)
    shares = _mixed(lacking, basis).sqrt()
    cuts = [_cut(basis.fields, origin, (height, width)) for origin in origins]
    field = torch.stack(cuts, dim=1) if len(cuts) > 1 else cuts[0][:, None]
    spots = [doubled(kind, BANDS)[..., :height, :width] for kind in shares]
    noise = field[0] * spots[0]
    for kind, spot in zip(field[1:], spots[1:], strict=True):
        noise = noise.addcmul_(kind, spot)
    if parts > 1:
        noise = torch.addcmul(alike.sqrt() * noise[:, :1], (1 - alike).sqrt(), noise[:, 1:])
    colours = doubled(_by_tone(strengths, tones), BANDS)[..., :height, :width]
    return noise * colours * (1 - known)


def _energies(grey: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squares of the detail of each band in cells, `(bands, n, 1, rows, columns)`: of all, and of what was filled.

    The latter is 0 where nothing was.
    """
    energies, present = [], []
    for left in reversed(range(BANDS)):
        smaller = halved(grey)
        square, filled = (grey - doubled(smaller)).square(), (share < 1).to(grey.dtype)
        energies.append(halved(square, left + 1))
        present.append(halved(square * filled, left + 1) / halved(filled, left + 1).clamp(min=1e-6))
        grey, share = smaller, halved(1 - filled)
    return torch.stack(energies), torch.stack(present)


def _all_known(share: Tensor) -> Tensor:
    """1 for cells that are known, with all cells around: nothing filled has a part in their detail."""
    return 1 - F.max_pool2d((halved(share, BANDS) < 1).to(share.dtype), 3, 1, 1)


def _quietest(energy: Tensor, tones: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Find the blocks of cells that show nothing but grain.

    Args:
        energy: `(n, 1, rows, columns)` of cells, all bands together.
        tones: Their tones, alike.
        whole: 1 for cells that may be gone by, alike.

    Returns:
        For each tone, `(n, 1, tones)`, the number of a block, and what to multiply its energy by: 0 where none tells.
    """
    block = F.avg_pool2d(energy, _BLOCK, 1)
    tone = F.avg_pool2d(tones, _BLOCK, 1) * (_TONES - 1)
    seen = F.avg_pool2d(whole, _BLOCK, 1) > 1 - 0.5 / _BLOCK**2
    even = F.max_pool2d(energy, _BLOCK, 1) <= _UNEVEN * block
    at = torch.arange(_TONES, device=tone.device, dtype=tone.dtype)[:, None, None]
    near = seen & ((tone - at).abs() <= _NEAR)
    least = torch.where(near, block, _NONE).flatten(2).amin(2)
    like = near & even & (block <= _QUIET * least[..., None, None]) & (block <= _MOST)
    best, chosen = torch.where(like, block, _NONE).flatten(2).min(2)
    told = (like.flatten(2).sum(2) >= _ENOUGH) & (best > _LEAST)
    # Nothing has less than its grain, and grain goes gently from tone to tone. But black and white are cut off.
    steps = torch.arange(_TONES, device=tone.device)
    slope = _SLOPE ** (steps[:, None] - steps[1:-1]).abs().to(least.dtype)
    most = torch.minimum(least, (least[:, None, 1:-1] * slope).amin(2))
    return chosen[:, None], torch.where(told, _SHARE * most / best.clamp(min=1e-20), 0)[:, None]


def _of_blocks(energy: Tensor, chosen: Tensor) -> Tensor:
    """Energies of numbered blocks: `(n, c, rows, columns)` of cells, `(n, 1, k)` to `(n, c, k)`."""
    blocks = F.avg_pool2d(energy, _BLOCK, 1).flatten(2)
    return blocks.gather(2, chosen.expand(-1, blocks.shape[1], -1))


def _by_tone(values: Tensor, tones: Tensor) -> Tensor:
    """Interpolate `(n, c, tones)` at tones of cells, `(n, 1, rows, columns)`, to `(n, c, rows, columns)`."""
    below = tones.floor().clamp(max=_TONES - 2)
    index = below.long().flatten(2).expand(-1, values.shape[1], -1)
    size = (*values.shape[:2], *tones.shape[2:])
    low, high = (values.gather(2, index + i).view(size) for i in (0, 1))
    return torch.lerp(low, high, tones - below)


class _Basis(NamedTuple):
    """What grain is mixed of.

    Attributes:
        fields: `(kinds, parts, PERIOD, PERIOD)`, noise of each kind, variance 1: what channels share, then each.
        energies: `(kinds,)`: of a kind, all bands together.
        inverse: `(kinds, bands)`: variances of the kinds from energies of the bands.
    """

    fields: Tensor
    energies: Tensor
    inverse: Tensor


def _mixed(energies: Tensor, basis: _Basis) -> Tensor:
    """Variances, none below 0, of the kinds of spots that together have the energies of the bands: `(kinds, ...)`."""
    # Not by `matmul`, which autocast has in half precision.
    wide = (len(SPOTS), -1) + (1,) * (energies.dim() - 1)
    shares: Tensor = (basis.inverse.view(wide) * energies).sum(1).clamp(min=0)
    # What would have been below 0 is taken from the others.
    had = (basis.energies.view(wide)[:, 0] * shares).sum(0)
    return shares.mul_(energies.sum(0) / had.clamp(min=1e-12))


def _colours(image: Tensor, chosen: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Tell how strong grain is in each channel and how alike channels are, from the blocks chosen.

    Returns:
        For each tone, `(n, c, tones)`, times the strength in grey; and from 0 for channels that have nothing in common
        to 1 for such as are the same, `(n, 1, 1, 1)`.
    """
    columns = image.shape[3] // _SIDE - _BLOCK + 1
    along = torch.arange(_BLOCK * _SIDE, device=image.device)
    rows, columns = ((start * _SIDE)[:, 0, :, None] + along for start in (chosen // columns, chosen % columns))
    every = torch.arange(len(image), device=image.device)[:, None, None, None]
    patch = image[every, :, rows[..., None], columns[:, :, None, :]].movedim(-1, 2)  # (n, tones, c, side, side)
    patch = torch.cat([patch.mean(2, keepdim=True), patch], dim=2).flatten(0, 1)
    energy = (patch - doubled(halved(patch, BANDS), BANDS)).square().mean((2, 3)).view(len(image), _TONES, -1)
    whole, each = energy[..., :1], energy[..., 1:]
    strengths = (each / whole.clamp(min=1e-12)).sqrt().transpose(1, 2)
    # The mean of channels of the strengths s has an energy between that of those that are all alike, mean(s)^2, and
    # of those that have nothing in common, mean(s^2) / count.
    count, told = each.shape[2], limit.transpose(1, 2)
    whole, each = ((energy * told).sum(1) for energy in (whole, each))
    alone = each.sum(1, keepdim=True)
    alike = (count**2 * whole - alone) / (each.sqrt().sum(1, keepdim=True).square() - alone).clamp(min=1e-12)
    if count == 1:
        alike = torch.ones_like(alike)
    return strengths, (1.001 * alike).clamp(0, 1)[..., None, None]  # what is grey must not get colours by rounding


def _cut(field: Tensor, origin: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """A part of a field that comes again and again; by slices, for to pick each pixel took longer than all the rest."""
    for dim, start, length in zip((-2, -1), origin, size, strict=True):
        first = start % PERIOD
        pieces = [
            field.narrow(dim, max(first - at, 0), min(PERIOD, first + length - at) - max(first - at, 0))
            for at in range(0, first + length, PERIOD)
        ]
        field = torch.cat(pieces, dim) if len(pieces) > 1 else pieces[0]
    return field


@lru_cache(maxsize=64)
def _basis(parts: int, device: torch.device, dtype: torch.dtype) -> _Basis:
    """Draw the fields, the same first ones however many parts and threads there are: in double precision."""
    shape = (parts, len(SPOTS), PERIOD, PERIOD)
    white = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squares = torch.fft.fftfreq(PERIOD, dtype=white.dtype)[:, None] ** 2
    squares = squares + torch.fft.rfftfreq(PERIOD, dtype=white.dtype) ** 2
    fields, energies = [], []
    for noise, spot in zip(torch.fft.rfft2(white).unbind(1), SPOTS, strict=True):
        # Blurred as if it came again beyond its sides, so that it does.
        field = torch.fft.irfft2(noise * torch.exp(-2 * torch.pi**2 * spot**2 * squares), s=shape[2:])
        fields.append(field / field.square().mean((1, 2), keepdim=True).sqrt())
        sample = fields[-1][None, :1]
        energies.append(_energies(sample, torch.ones_like(sample))[0].mean((1, 2, 3, 4)))
    matrix = torch.stack(energies, dim=1)
    # Inverted here, once: a GPU would be waited for.
    made = torch.stack(fields), matrix.sum(0), torch.linalg.inv(matrix)
    return _Basis(*(tensor.to(device, dtype) for tensor in made))
