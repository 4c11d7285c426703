"""The paper's losses (arXiv 1804.07723, section 3.4), every term averaged over its size, and those of our own recipe.

Knows: images, masks, and a feature network given to it. Does not know: files, optimisers, schedules.

Where the paper uses VGG-16 (`VggFeatures`), any ladder of features may stand; `nn/squeeze.py` has one that is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cli.metrics import perceptual_distance

ROUNDED = 1e-5
"""Added under the root of a mean square: at 0 a root is too steep to descend."""

Features = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of equation 7 of the paper.

    Attributes:
        valid: Of the L1 distance in what is known.
        hole: Of the L1 distance in the holes.
        rms: Of the root mean square distance in the holes of each image. Where nobody can know, L1 asks for the median
            of what is likely, this for the mean. Not the paper's.
        distance: Of the perceptual distance (`metrics.perceptual_distance`), divided by the hole's share of each image.
            Not the paper's: cleaner fills than `perceptual` and `style` give with so small a feature network.
        perceptual: Of the feature distance.
        style: Of the Gram matrices' distance.
        tv: Of the total variation.
        adversarial: Of the judge of patches (`training/adversary.py`), in a training that has one. Not the paper's.
        by_area: Average `valid` and `hole` over their own pixels in each image, so that a scratch counts as much as a
            lost corner; False averages over all pixels, as the paper does, where large holes decide everything.
    """

    valid: float = 0.5
    hole: float = 0.0
    rms: float = 1.0
    distance: float = 0.05
    perceptual: float = 0.0
    style: float = 0.0
    tv: float = 0.0
    adversarial: float = 0.04
    by_area: bool = True


PAPER_LOSS = LossWeights(valid=1, hole=6, rms=0, distance=0, perceptual=0.1, style=240, tv=0.1, by_area=False)
"""Equation 7. Output and composite are averaged here and summed there, so two of the weights are twice the paper's."""


def inpainting_loss(
    output: Tensor,
    truth: Tensor,
    known: Tensor,
    weights: LossWeights,
    features: Features | None = None,
    *,
    twice: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum the terms for one batch.

    Args:
        output: `(n, 3, h, w)`, range about [0, 1]: what the network made, unclamped.
        truth: The same shape, range [0, 1].
        known: `(n, 1, h, w)`, 1 = known.
        weights: Weights of the terms.
        features: Maps images to a list of features, or None: none of the terms that need them.
        twice: Look at output and composite, as the paper does; False for a network that answers known pixels with
            themselves, whose output is the composite.

    Returns:
        The weighted sum, and each term unweighted and detached, by name.
    """
    hole = 1 - known
    composite = known * truth + hole * output
    difference = (output - truth).abs()
    terms = {
        "valid": _mean(difference, known, weights.by_area),
        "hole": _mean(difference, hole, weights.by_area),
        "rms": _rms(difference, hole),
        "tv": total_variation(composite, hole),
    }
    if features is not None:
        with torch.no_grad():
            wanted = features(truth)
        made = features(torch.cat([output, composite]) if twice else composite)
        if weights.perceptual or weights.style:
            terms["perceptual"] = perceptual_loss(made, wanted)
            terms["style"] = style_loss(made, wanted)
        if weights.distance:
            distance = perceptual_distance([stage[-len(truth) :] for stage in made], wanted)  # of the composite
            terms["distance"] = (distance / hole.mean((1, 2, 3)).clamp(min=0.02)).mean()
    total = sum((getattr(weights, name) * term for name, term in terms.items()), output.new_zeros(()))
    return total, {name: term.detach() for name, term in terms.items()}


def _mean(difference: Tensor, where: Tensor, by_area: bool) -> Tensor:
    """Average a difference `(n, c, h, w)` over the pixels of `where` in each image, or over all pixels."""
    part = difference * where
    if not by_area:
        return part.mean()
    return (part.mean((1, 2, 3)) / where.mean((1, 2, 3)).clamp(min=1e-6)).mean()


def _rms(difference: Tensor, where: Tensor) -> Tensor:
    """Root mean square of `(n, c, h, w)` over the pixels of `where` in each image, averaged over the images."""
    square = (difference.square() * where).mean((1, 2, 3)) / where.mean((1, 2, 3)).clamp(min=1e-6)
    return ((square + ROUNDED).sqrt() - math.sqrt(ROUNDED)).mean()


def total_variation(composite: Tensor, hole: Tensor) -> Tensor:
    """Mean absolute step between neighbours inside the hole dilated by one pixel."""
    region = F.max_pool2d(hole, 3, stride=1, padding=1)
    across = (composite[..., :, 1:] - composite[..., :, :-1]).abs() * region[..., :, 1:] * region[..., :, :-1]
    down = (composite[..., 1:, :] - composite[..., :-1, :]).abs() * region[..., 1:, :] * region[..., :-1, :]
    return across.mean() + down.mean()


def perceptual_loss(made: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Sum the mean absolute feature differences of all stages; `made` stacks several candidates for each `wanted`."""
    return torch.stack(
        [
            (a - b.repeat(a.shape[0] // b.shape[0], *[1] * (b.ndim - 1))).abs().mean()
            for a, b in zip(made, wanted, strict=True)
        ]
    ).sum()


def style_loss(made: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Sum the mean absolute differences of the Gram matrices of all stages."""
    return perceptual_loss([_gram(a) for a in made], [_gram(b) for b in wanted])


def _gram(features: Tensor) -> Tensor:
    """`(n, c, h, w)` to `(n, c, c)`, divided by the number of values; in float32, since sums are long."""
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


class VggFeatures(nn.Module):
    """VGG-16 up to its third pooling layer, as in the paper: features at 1/2, 1/4 and 1/8 of the picture's size.

    Built from a state dict with torchvision's key names and preprocessing. `forward` takes RGB `(n, 3, h, w)` in [0, 1]
    and returns three tensors.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """Raises KeyError if the state dict is not VGG-16."""
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleList(_conv(state, f"features.{i}") for i in stage) for stage in ((0, 2), (5, 7), (10, 12, 14))
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features after the first three pooling layers."""
        x = (image - self.mean) / self.std
        taps = []
        for stage in self.stages:
            for layer in stage:  # type: ignore[attr-defined]
                x = F.relu(layer(x))
            x = F.max_pool2d(x, 2)
            taps.append(x)
        return taps


def _conv(state: Mapping[str, Tensor], name: str) -> nn.Conv2d:
    weight = state[f"{name}.weight"].float()
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
    conv.load_state_dict({"weight": weight, "bias": state[f"{name}.bias"].float()})
    return conv
