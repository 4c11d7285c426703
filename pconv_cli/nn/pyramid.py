"""The floor: holes filled by a pyramid of fixed partial convolutions, without a single trained weight.

Knows: images and masks as tensors. Does not know: trained networks, files, devices.

Pull: partial convolutions of stride 2 with the binomial kernel (1 3 3 1) x (1 3 3 1) / 64, until one pixel is left.
Push: back up with bicubic interpolation, written only where nothing was known, each level smoothed inside its holes.
Any size, any hole, nothing is left unfilled as long as one pixel is known; linear cost. The trained network predicts
what this leaves out, and `--weights none` is this alone.

An exported graph (`torch.export`) must hold for every size: it has a fixed number of levels, and says in few operations
what torch itself runs fastest in many.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cli.nn.partial_conv import hide

SMOOTHING = 16
GUIDE_LEVELS = 3
"""How often a guide is halved against its image: one pixel of it stands for 8 x 8."""
_KEYS = (-0.10546875, 0.87890625, 0.26171875, -0.03515625)
"""Keys' kernel a quarter of a pixel beside the second of four."""
EXPORTED_LEVELS = 13
"""How often an exported graph halves, whatever the size. It fills what the loop fills, up to rounding, unless a hole is
more than 2^13 = 8192 px wide and high: one pixel that is halved again stays as it is."""


def pyramid_fill(image: Tensor, known: Tensor, smoothing: int = SMOOTHING, guide: Tensor | None = None) -> Tensor:
    """Fill the holes of images from their known pixels.

    Args:
        image: `(n, c, h, w)`, float, any range; values in holes do not matter.
        known: `(n, 1, h, w)`, 1 = known, 0 = hole.
        smoothing: Steps of 3 x 3 box smoothing inside the holes at each level; more is smoother and slower.
        guide: `(n, c, ceil(h / 8), ceil(w / 8))`: what the images look like when reduced, holes filled, from whoever
            sees more of the picture than these images show. It takes the place of all coarser levels.

    Returns:
        `(n, c, h, w)`: the image where known, a smooth continuation in the holes; 0 where an image has nothing known
        and no guide.
    """
    holes = known <= 0
    # A CPU is quicker where each channel lies by itself: masks are repeated over them then, not within each pixel.
    level = hide(image.contiguous() if shifts(image) else image, known)
    levels = [(level, holes)]
    while _goes_on(level, len(levels)) if guide is None else len(levels) <= GUIDE_LEVELS:
        level, holes = _pull(level, holes)
        levels.append((level, holes))
    filled = level if guide is None else torch.where(holes, guide, level)
    for level, holes in reversed(levels[:-1]):
        height, width = level.shape[-2:]
        above = _doubled(filled)[..., :height, :width]
        weight = holes if _exporting() else holes.to(level.dtype)
        filled = _put(level, above, weight)
        for _ in range(smoothing):
            filled = _put(filled, _box(filled), weight)
    return filled


class PyramidFill(nn.Module):
    """`pyramid_fill` in the shape of a network: `forward(image, known, guide=None) -> (output, known)`.

    The returned mask is 1 everywhere in an image that has a known pixel or a guide, 0 everywhere in one without.
    """

    def forward(self, image: Tensor, known: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `pyramid_fill`."""
        return pyramid_fill(image, known, guide=guide), something_known(known, guide)


def something_known(known: Tensor, guide: Tensor | None = None) -> Tensor:
    """Return `(n, 1, h, w)` float32: 1 in every pixel of an image that has a known pixel or a guide, else 0."""
    if guide is not None:
        return torch.ones_like(known, dtype=torch.float32)
    return known.flatten(1).amax(1).gt(0).float()[:, None, None, None].expand(-1, 1, *known.shape[-2:])


def reduced(image: Tensor, known: Tensor, factor: int = 2**GUIDE_LEVELS) -> tuple[Tensor, Tensor]:
    """Reduce images with holes to cells, as guides are made of.

    A cell is known if a known pixel lies in it or about half a cell from it: what it lacks there a partial convolution
    makes up, the mean of 3 x 3 cells of half the side. The mean of the few pixels that a cell may have left would
    mislead whoever fills the cells beyond.

    Args:
        image: `(n, c, h, w)`, float, any range; values in holes do not matter.
        known: `(n, 1, h, w)`, 1 = known, 0 = hole.
        factor: Side of a cell, pixels; those at the right and bottom edge may be smaller.

    Returns:
        `(n, c, ceil(h / factor), ceil(w / factor))`, the mean of what is known in each cell or near to that, 0 where
        there is nothing; and `(n, 1, ...)`, 1 = there is something.
    """
    half = factor // 2 if factor % 2 == 0 else 1
    return completed(*_means(image, known, half), factor // half)


def completed(image: Tensor, known: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Do the rest of `reduced`, for who has a faster way to reduce to half of it: `factor` is what is left."""
    share = F.avg_pool2d(known, 3, 1, 1)
    around = F.avg_pool2d(hide(image, known), 3, 1, 1) / share.clamp(min=1e-12)
    return _means(torch.where(known > 0, image, around), (share > 0).to(known.dtype), factor)


def _means(image: Tensor, known: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Give the mean of what is known in each cell, 0 where nothing is, and where something is."""
    share = F.avg_pool2d(known, factor, ceil_mode=True)
    total = F.avg_pool2d(hide(image, known), factor, ceil_mode=True)
    return total / share.clamp(min=1e-12), (share > 0).to(known.dtype)


def _exporting() -> bool:
    """Tell whether a graph is being exported; torch 2.6 cannot tell it from one that is compiled."""
    return bool(getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)())


def _goes_on(level: Tensor, levels: int) -> bool:
    """Tell whether there is a coarser level than those so far."""
    return levels <= EXPORTED_LEVELS if _exporting() else max(level.shape[-2:]) > 1


def _put(under: Tensor, over: Tensor, holes: Tensor) -> Tensor:
    """Take `over` in the holes, `under` elsewhere; the holes are bool, or 0 and 1 in the type of the others."""
    if holes.dtype == torch.bool:
        return torch.where(holes, over, under)
    # Exact at 0 and 1, and on a CPU several times as fast as `where`.
    return torch.lerp(under, over, holes)


def _pull(level: Tensor, holes: Tensor) -> tuple[Tensor, Tensor]:
    """Halve: each pixel becomes the binomial mean of what is known in its 4 x 4 window."""
    channels = level.shape[1]
    planes = torch.cat([level, (~holes).to(level.dtype)], dim=1)
    planes = F.pad(planes, (1, 2, 1, 2))  # of even sides, the last row and column are not looked at
    if _exporting():
        line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=planes.dtype, device=planes.device)
        kernel = torch.outer(line, line).expand(channels + 1, 1, 4, 4)
        planes = F.conv2d(planes, kernel, stride=2, groups=channels + 1)
    else:  # strided sums: on few channels a convolution is four times slower
        planes = 3 * (planes[..., 1:-2:2, :] + planes[..., 2:-1:2, :]) + planes[..., 0:-3:2, :] + planes[..., 3::2, :]
        planes = 3 * (planes[..., 1:-2:2] + planes[..., 2:-1:2]) + planes[..., 0:-3:2] + planes[..., 3::2]
    weight = planes[:, channels:]  # 64 times the known share; both sums carry the factor
    empty = weight <= 0
    return torch.where(empty, planes.new_zeros(()), planes[:, :channels] / weight.clamp(min=1e-12)), empty


def shifts(image: Tensor) -> bool:
    """Whether to say in shifted sums what a library's call would do: on few channels a CPU is faster so.

    A GPU waits for each call, however little there is to do.
    """
    return image.device.type == "cpu" and not (image.requires_grad or _exporting())


def _doubled(image: Tensor) -> Tensor:
    """Double both sides by bicubic interpolation (Keys, a = -3/4; pixels are areas, edges are repeated)."""
    if not shifts(image):
        doubled = [2 * side for side in image.shape[-2:]]
        return F.interpolate(image, doubled, mode="bicubic", align_corners=False)
    for dim in (2, 3):
        length = image.shape[dim]
        first, last = image.narrow(dim, 0, 1), image.narrow(dim, length - 1, 1)
        wide = torch.cat([first, first, image, last, last], dim)
        taps = [wide.narrow(dim, tap, length) for tap in range(5)]
        sides = [2 * length if axis == dim else side for axis, side in enumerate(image.shape)]
        image = image.new_empty(sides)
        pairs = image.view([*image.shape[:dim], length, 2, *image.shape[dim + 1 :]])
        for half, seen in enumerate((taps[3::-1], taps[1:])):  # from the near side outwards, mirrored
            total = torch.mul(seen[0], _KEYS[0])
            for tap, weight in zip(seen[1:-1], _KEYS[1:-1], strict=True):
                total.add_(tap, alpha=weight)
            torch.add(total, seen[-1], alpha=_KEYS[-1], out=pairs.select(dim + 1, half))
    return image


def _box(image: Tensor) -> Tensor:
    """Means over 3 x 3, edges repeated."""
    if not shifts(image):
        return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    for dim in (2, 3):
        length = image.shape[dim]
        total = torch.empty_like(image)
        inner = max(length - 2, 0)
        middle = total.narrow(dim, min(1, length - 1), inner)
        torch.add(image.narrow(dim, 0, inner), image.narrow(dim, min(1, length - 1), inner), out=middle)
        middle.add_(image.narrow(dim, length - inner, inner))
        for edge, beside in ((0, min(1, length - 1)), (length - 1, max(length - 2, 0))):
            torch.add(image.select(dim, beside), image.select(dim, edge), alpha=2, out=total.select(dim, edge))
        image = total
    return image.div_(9)
