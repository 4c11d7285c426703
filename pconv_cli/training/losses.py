"""The paper's losses (arXiv 1804.07723, section 3.4), every term averaged over its size.

Knows: images, masks, and a feature network given to it. Does not know: files, optimisers, schedules.

Where the paper uses VGG-16, any ladder of features may stand; `SqueezeFeatures` is one that is small. So that the
weights of the terms keep their meaning whatever the ladder's scale, each feature difference is taken relative to the
mean magnitude of the true picture's features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Features = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of equation 7 of the paper.

    Attributes:
        valid: Of the L1 distance in what is known.
        hole: Of the L1 distance in the holes.
        perceptual: Of the feature distance.
        style: Of the Gram matrices' distance.
        tv: Of the total variation.
        by_area: Average `valid` and `hole` over their own pixels in each image, so that a scratch counts as much as a
            lost corner; False averages over all pixels, as the paper does, where large holes decide everything.
    """

    valid: float = 0.5
    hole: float = 1.0
    perceptual: float = 0.005
    style: float = 0.002
    tv: float = 0.0
    by_area: bool = True


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
        features: Maps images to a list of features, or None: no perceptual and no style term.
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
        "tv": total_variation(composite, hole),
    }
    if features is not None:
        with torch.no_grad():
            wanted = features(truth)
        made = features(torch.cat([output, composite]) if twice else composite)
        terms["perceptual"] = perceptual_loss(made, wanted)
        terms["style"] = style_loss(made, wanted)
    total = sum((getattr(weights, name) * term for name, term in terms.items()), output.new_zeros(()))
    return total, {name: term.detach() for name, term in terms.items()}


def _mean(difference: Tensor, where: Tensor, by_area: bool) -> Tensor:
    """Average a difference `(n, c, h, w)` over the pixels of `where` in each image, or over all pixels."""
    part = difference * where
    if not by_area:
        return part.mean()
    return (part.mean((1, 2, 3)) / where.mean((1, 2, 3)).clamp(min=1e-6)).mean()


def total_variation(composite: Tensor, hole: Tensor) -> Tensor:
    """Mean absolute step between neighbours inside the hole dilated by one pixel."""
    region = F.max_pool2d(hole, 3, stride=1, padding=1)
    across = (composite[..., :, 1:] - composite[..., :, :-1]).abs() * region[..., :, 1:] * region[..., :, :-1]
    down = (composite[..., 1:, :] - composite[..., :-1, :]).abs() * region[..., 1:, :] * region[..., :-1, :]
    return across.mean() + down.mean()


def perceptual_loss(made: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Mean absolute feature difference, relative to the wanted features; `made` stacks several candidates."""
    terms = [
        (a - b.repeat(a.shape[0] // b.shape[0], 1, 1, 1)).abs().mean() / b.abs().mean().clamp(min=1e-6)
        for a, b in zip(made, wanted, strict=True)
    ]
    return torch.stack(terms).sum()


def style_loss(made: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Mean absolute difference of the Gram matrices, relative to the wanted ones."""
    terms = []
    for a, b in zip(made, wanted, strict=True):
        target = _gram(b)
        difference = (_gram(a) - target.repeat(a.shape[0] // b.shape[0], 1, 1)).abs().mean()
        terms.append(difference / target.abs().mean().clamp(min=1e-12))
    return torch.stack(terms).sum()


def _gram(features: Tensor) -> Tensor:
    """`(n, c, h, w)` to `(n, c, c)`, divided by the number of values; in float32, since sums are long."""
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


class SqueezeFeatures(nn.Module):
    """The first stages of SqueezeNet 1.1: features at 1/2, 1/4 and 1/8 of the picture's size.

    Built from a state dict with torchvision's key names; expects weights of the original Caffe network, whose input is
    BGR in 0..255 minus the mean. `forward` takes RGB `(n, 3, h, w)` in [0, 1] and returns three tensors.
    """

    mean: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """Raises KeyError if the state dict is not SqueezeNet 1.1."""
        super().__init__()
        self.stem = _conv(state, "features.0", stride=2)
        self.fires = nn.ModuleList(_Fire(state, f"features.{i}") for i in (3, 4, 6, 7))
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68])[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features after the first layer, after fire 3 and after fire 5."""
        x = F.relu(self.stem(image.flip(1) * 255 - self.mean))
        taps = [x]
        for i in (0, 2):
            x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
            x = self.fires[i + 1](self.fires[i](x))
            taps.append(x)
        return taps


class _Fire(nn.Module):
    def __init__(self, state: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.squeeze = _conv(state, f"{name}.squeeze")
        self.expand1 = _conv(state, f"{name}.expand1x1")
        self.expand3 = _conv(state, f"{name}.expand3x3", padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1(x), self.expand3(x)], dim=1))


def _conv(state: Mapping[str, Tensor], name: str, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    weight = state[f"{name}.weight"].float()
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], (weight.shape[2], weight.shape[3]), stride, padding)
    conv.load_state_dict({"weight": weight, "bias": state[f"{name}.bias"].float()})
    return conv
