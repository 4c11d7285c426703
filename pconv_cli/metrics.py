"""How far a filled picture is from the true one.

Knows: images, masks and features as tensors. Does not know: files, methods, tables, whose features they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EXACT = 100.0
"""dB, what a fill without any error counts as in a mean: its PSNR is infinite."""


def l1(image: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Mean absolute difference of each image.

    Args:
        image: `(n, c, h, w)`, range [0, 1].
        truth: The same shape.
        where: `(n, 1, h, w)`, 1 = counted; None: all pixels. At least one pixel of each image must count.

    Returns:
        `(n,)`, same unit as the images.
    """
    return _mean((image - truth).abs(), where)


def psnr(image: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each image, `10 log10(1 / mse)`.

    Args:
        image: `(n, c, h, w)`, range [0, 1].
        truth: The same shape.
        where: `(n, 1, h, w)`, 1 = counted; None: all pixels.

    Returns:
        `(n,)` in dB; infinite where there is no difference.
    """
    return -10 * torch.log10(_mean((image - truth).square(), where))


def ssim(image: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Structural similarity with the usual Gaussian window (11 px, sigma 1.5), on each channel, then averaged.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004. The map covers the
    whole picture: windows at the border are filled up by reflection.

    Args:
        image: `(n, c, h, w)`, range [0, 1]; at least 6 px a side.
        truth: The same shape.
        where: `(n, 1, h, w)`, 1 = counted; None: all pixels.

    Returns:
        `(n,)`, 1 = identical.
    """
    axis = torch.arange(-5, 6, dtype=image.dtype, device=image.device)
    row = torch.exp(-(axis**2) / (2 * 1.5**2))
    row = row / row.sum()
    channels = image.shape[1]

    def blur(x: Tensor) -> Tensor:
        x = F.pad(x, (5, 5, 5, 5), mode="reflect")
        x = F.conv2d(x, row[None, None, None].expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(x, row[None, None, :, None].expand(channels, 1, -1, 1), groups=channels)

    mu, nu = blur(image), blur(truth)
    var, war = blur(image * image) - mu * mu, blur(truth * truth) - nu * nu
    cov = blur(image * truth) - mu * nu
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mu * nu + c1) * (2 * cov + c2)) / ((mu * mu + nu * nu + c1) * (var + war + c2))
    return _mean(similarity, where)


def perceptual_distance(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Distance of each image's features from the true picture's.

    At every stage and position, features are scaled to unit length over their channels, and the squared differences
    summed; that is averaged over the positions, and the stages are added up. Zhang et al., "The Unreasonable
    Effectiveness of Deep Features as a Perceptual Metric", 2018, without learned weights of the channels.

    Args:
        made: Features of the images, one tensor `(n, c, h, w)` a stage, as of `nn.squeeze.SqueezeFeatures`.
        wanted: Those of the true pictures, of the same shapes.

    Returns:
        `(n,)`, 0 = the same features; a stage adds at most 4, and 2 where features are never negative.

    Raises:
        ValueError: If the numbers of stages differ.
    """
    stages = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
        for a, b in zip(made, wanted, strict=True)
    ]
    return torch.stack(stages).sum(0)


def _mean(values: Tensor, where: Tensor | None) -> Tensor:
    if where is None:
        return values.flatten(1).mean(1)
    weight = where.to(values.dtype).expand_as(values).flatten(1)
    return (values.flatten(1) * weight).sum(1) / weight.sum(1)
