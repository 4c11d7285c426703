"""A judge of texture: tells patches of fills from patches of photographs, and pulls the fills towards what it believes.

Knows: images and holes as tensors, the hinge losses of both sides. Does not know: the network that fills, optimisers,
schedules.

Sources: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017 (a judge of patches);
Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018; Lim and Ye, "Geometric GAN", 2017
(the hinge). The judge is used for training alone: it is not shipped, and it sees whole pictures, so it has no use for
partial convolutions.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

STRIDE = 8
"""Pixels between the centres of two patches, along each side."""


class Adversary(nn.Module):
    """`forward(image, hole) -> (n, 1, h / 8, w / 8)`: how much each patch looks like a photograph, in no unit.

    Images are `(n, 3, h, w)` in [0, 1], holes `(n, 1, h, w)`, 1 = filled: it is told where to look.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = (4, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for incoming, outgoing in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(incoming, outgoing, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        layers.append(spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        """See the class."""
        judged: Tensor = self.layers(torch.cat([image * 2 - 1, hole], dim=1))
        return judged


def judge_loss(adversary: Adversary, truth: Tensor, filled: Tensor, hole: Tensor) -> Tensor:
    """What the judge is trained with: hinge, over the patches that hold a part of a hole.

    Args:
        adversary: The judge.
        truth: `(n, 3, h, w)`, range [0, 1].
        filled: The same pictures with their holes filled.
        hole: `(n, 1, h, w)`, 1 = filled.

    Returns:
        A scalar; 0 for a judge that is sure, and right, everywhere.
    """
    believed, doubted = adversary(torch.cat([truth, filled.detach()]), torch.cat([hole, hole])).float().chunk(2)
    return _mean(F.relu(1 - believed), hole) + _mean(F.relu(1 + doubted), hole)


def fill_loss(adversary: Adversary, filled: Tensor, hole: Tensor) -> Tensor:
    """What the network that fills is trained with: the less the judge believes its patches, the more."""
    return _mean(-adversary(filled, hole).float(), hole)


def _mean(values: Tensor, hole: Tensor) -> Tensor:
    """Average over the patches that hold a part of a hole."""
    where = F.adaptive_max_pool2d(hole, values.shape[-2:])
    return (values * where).sum() / where.sum().clamp(min=1)
