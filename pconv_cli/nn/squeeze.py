"""SqueezeNet 1.1 as a ladder of features, for measuring and for losses.

Knows: the network and what its weights expect of a picture. Does not know: files, or what the features are used for.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016
(arXiv 1602.07360), in the authors' version 1.1. The classifier at its end is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = 7
"""How many stages there are."""

SMALLEST = 17
"""Shortest side of a picture, pixels, of which something is left at the deepest stage."""

_FIRES = ((3, 4), (6, 7), (9,), (10,), (11,), (12,))  # of each stage after the first, by their number in the state dict
_POOLED = 3  # so many of those stages begin with a halving


class SqueezeFeatures(nn.Module):
    """Features of a picture after relu1, fire3, fire5, fire6, fire7, fire8 and fire9, or the first few of them.

    Frozen, and to be used in any mode: nothing in it behaves differently in training.
    """

    mean: Tensor

    def __init__(self, state: Mapping[str, Tensor], stages: int = 3) -> None:
        """Build the network round weights.

        Args:
            state: Weights of the authors' Caffe network under torchvision's key names (`features.0.weight`, ...), of
                any float type. Only what `stages` need is looked at.
            stages: How many features to give, 1 to 7.

        Raises:
            KeyError: If a tensor is missing.
            ValueError: If there are no such stages.
        """
        super().__init__()
        if not 1 <= stages <= STAGES:
            raise ValueError(f"stages must be 1 to {STAGES}, got {stages}")
        self.stem = _conv(state, "features.0", stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Fire(state, f"features.{number}") for number in numbers))
            for numbers in _FIRES[: stages - 1]
        )
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68])[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features, the finest first.

        Args:
            image: `(n, 3, h, w)`, RGB in [0, 1]; at least 17 px a side for all stages. The network's own convention,
                BGR in 0..255 minus the mean, is made here.

        Returns:
            As many tensors as stages: 64 channels at 1/2 of the size, 128 at 1/4, 256 at 1/8, then 384, 384, 512 and
            512 at 1/16.
        """
        x = F.relu(self.stem(image.flip(1) * 255 - self.mean))
        features = [x]
        for number, stage in enumerate(self.stages):
            if number < _POOLED:
                x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
            x = stage(x)
            features.append(x)
        return features


class _Fire(nn.Module):
    """Squeeze to few channels, then expand by 1 x 1 and by 3 x 3 kernels side by side."""

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
