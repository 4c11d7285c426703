"""The U-Net of partial convolutions: the paper's eight levels as one configuration, two of our own beside it.

Knows: layers, masks and images as tensors. Does not know: files, weights' places, devices, tiles.

Source: arXiv 1804.07723, table 2 and section 3.2. Any height and width from 1 px up: the decoder upsamples to the size
of the skip it joins.

Our own stand on the floor of `nn/pyramid.py`: the network sees the floor and the mask beside the picture and predicts
what the floor leaves out, so an untrained network already gives the floor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cli.nn.partial_conv import PaddingMode, PartialConv2d, hide
from pconv_cli.nn.pyramid import pyramid_fill, something_known
from pconv_cli.nn.restraint import BANDS, restrained

Masks = Tensor | None
"""`(n, g, h, w)`, 1 = known, a channel for each feature group; or None: everything is."""

Values = Literal["unit", "raw"]
Activation = Literal["none", "tanh", "sigmoid"]


@dataclass(frozen=True)
class UNetConfig:
    """The architecture, complete: what a weights file must say to be rebuilt.

    Attributes:
        encoder: Channels and kernel size of each level; every level halves the picture.
        blocks: Residual blocks behind the halving of each level, and as many again where the decoder comes back to it
            from below; empty for none (as in the paper).
        channels: Channels of the picture, 3 for RGB, 1 for grey.
        mean: Mean of the picture, subtracted inside the network, one for each channel.
        std: Scale of the picture, divided by inside the network, one for each channel.
        slope: Negative slope of the decoder's leaky ReLU; the encoder's is 0.
        floor: Smoothing steps of the pyramid that the network stands on, or None for a network without a floor.
        head: Channels of one more layer at full size before the output, or 0 for none (as in the paper).
        padding_mode: What lies beyond the border, see `partial_conv2d`.
        upsample: How the decoder doubles its features: `nearest`, as in the paper, or `bilinear`, which leaves no grid
            in large holes and needs a floor, since it has no eye for what is empty.
        coarse: The network that fills reduced pictures, from which guides are made; None: this one does that too.
        values: What the picture's values are: `unit` for tones in [0, 1], or `raw` for any numbers, as measured.
        norm: Whether blocks between the first and the last normalise by batch; without it every block has a bias.
        last_kernel: Side of the output layer's window, pixels.
        activation: What the output layer's result goes through before it is scaled back.
        ratio_twice: Whether that result is multiplied by its ratio once more, the bias with it. A slip of one public
            implementation, which its weights have learnt to live with.
    """

    encoder: tuple[tuple[int, int], ...]
    blocks: tuple[int, ...] = ()
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    slope: float = 0.2
    floor: int | None = None
    head: int = 0
    padding_mode: PaddingMode = "partial"
    upsample: Literal["nearest", "bilinear"] = "nearest"
    coarse: UNetConfig | None = None
    values: Values = "unit"
    norm: bool = True
    last_kernel: int = 3
    activation: Activation = "none"
    ratio_twice: bool = False

    def __post_init__(self) -> None:
        """Check that the parts fit.

        Raises:
            ValueError: If they do not.
        """
        if not self.encoder:
            raise ValueError("a network needs at least one level")
        if self.blocks and (len(self.blocks) != len(self.encoder) or min(self.blocks) < 0):
            raise ValueError(f"blocks must be {len(self.encoder)} numbers, one for each level, none below 0")
        if min(self.channels, self.last_kernel, *(min(level) for level in self.encoder)) < 1:
            raise ValueError("channels and kernels must be 1 or more")
        if self.last_kernel % 2 == 0:
            raise ValueError("last_kernel must be odd, or the output would be of another size than the picture")
        if self.values not in get_args(Values) or self.activation not in get_args(Activation):
            raise ValueError("values must be unit or raw, activation none, tanh or sigmoid")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one for each channel")
        if self.upsample not in ("nearest", "bilinear") or (self.upsample == "bilinear" and self.floor is None):
            raise ValueError("upsample must be nearest, or on a floor bilinear")
        if self.coarse is not None and (self.floor is None or self.coarse.coarse is not None):
            raise ValueError("only a network on a floor has a coarse part, and that has none of its own")


PAPER = UNetConfig(encoder=((64, 7), (128, 5), (256, 5), (512, 3), (512, 3), (512, 3), (512, 3), (512, 3)))
"""Table 2 of the paper: 32.86 million weights."""

COMPACT = UNetConfig(
    encoder=((32, 5), (64, 3), (128, 3), (192, 3), (256, 3), (256, 3)),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    floor=4,
    head=16,
)
"""Stands on the floor, quick to train. 3.82 million weights."""

DEEP = replace(
    COMPACT,
    encoder=((40, 5), (96, 3), (192, 3), (256, 3)),
    blocks=(0, 1, 1, 2),
    head=24,
    upsample="bilinear",
    coarse=replace(
        COMPACT,
        encoder=((64, 5), (128, 3), (192, 3), (256, 3)),
        blocks=(1, 1, 1, 0),
        head=48,
        upsample="bilinear",
    ),
)
"""The default: two networks, one for the picture and one for its guide, with residual blocks. 9.86 million weights."""


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class PartialConvUNet(nn.Module):
    """`forward(image, known, guide=None) -> (output, known)`.

    Image and output are `(n, channels, h, w)`, RGB order, range [0, 1] unless the values are raw (the output is not
    clamped); masks are `(n, 1, h, w)`, 1 = known. The returned mask is 0 where the network could not reach: there the
    output means nothing. A guide, see `pyramid_fill`, serves the floor; a network without a floor has no use for it.
    `coarse` is the network for reduced pictures where the weights have one; `forward` does not call it. What is added
    to a floor is held to what is around, see `restrained`, unless it is to be learned from or `bands` is None.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        # What every level but the deepest can join: the picture, and with a floor the floor and the mask.
        picture = (config.channels,) if config.floor is None else (config.channels, config.channels + 1)
        widths = [channels for channels, _ in config.encoder]
        blocks = config.blocks or (0,) * len(widths)
        self.encoder = nn.ModuleList()
        incoming: Sequence[int] = picture
        for i, (width, kernel) in enumerate(config.encoder):
            halving = _Block(config, incoming, width, kernel, 2, norm=config.norm and i > 0, slope=0.0)
            self.encoder.append(_level(halving, config, width, blocks[i]))
            incoming = (width,)
        self.decoder = nn.ModuleList()
        below = widths[-1]
        for width, count in zip(reversed(widths[:-1]), reversed(blocks[:-1]), strict=True):
            joining = _Block(config, (below, width), width, norm=config.norm, slope=config.slope)
            self.decoder.append(_level(joining, config, width, count))
            below = width
        last: tuple[int, ...] = (below, *picture)
        self.head = None
        if config.head:
            self.head = _Block(config, last, config.head, norm=False, slope=config.slope)
            last = (config.head,)
        self.out = PartialConv2d(
            last, config.channels, config.last_kernel, padding="same", padding_mode=config.padding_mode
        )
        self.register_buffer("mean", torch.tensor(config.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(config.std)[:, None, None], persistent=False)
        if not self.out.weight.is_meta:
            self._start()
        self.coarse = None if config.coarse is None else PartialConvUNet(config.coarse)
        self.bands: int | None = BANDS
        if self.coarse is not None:
            self.coarse.bands = 0  # cells of a reduced picture are tones

    @classmethod
    def bare(cls, config: UNetConfig) -> PartialConvUNet:
        """Make a network whose weights have shapes and no numbers: they are to be assigned from a file.

        To draw numbers that a file replaces takes longer than to read it.
        """
        with torch.device("meta"):
            network = cls(config)
        for unet in network.modules():
            if isinstance(unet, PartialConvUNet):
                unet._scale(torch.float32)
        return network

    def _scale(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        """Set mean and scale to what the configuration says."""
        self.mean = torch.tensor(self.config.mean, dtype=dtype, device=device)[:, None, None]
        self.std = torch.tensor(self.config.std, dtype=dtype, device=device)[:, None, None]

    def _start(self) -> None:
        """He initialisation; residual blocks add nothing at first, and with a floor the output is the floor's."""
        for module in self.modules():
            if isinstance(module, PartialConv2d):
                nn.init.kaiming_normal_(module.weight, a=self.config.slope)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, _Residual):
                nn.init.zeros_(module.second.weight)
        if self.config.floor is not None:
            nn.init.zeros_(self.out.weight)

    def forward(self, image: Tensor, known: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill one batch; see the class for shapes and ranges."""
        base, features, masks = self._input(image, known, guide)
        out, masks = self.body(features, masks, base is None)
        if base is not None:
            # Known pixels are answered already; without the gate, fear of touching them keeps the holes at the floor.
            out, masks = out * (1 - known), something_known(known, guide)
            if not (out.requires_grad or self.bands is None):
                out = restrained(out, base, known, self.bands) * (1 - known)
            out = base + out
        assert masks is not None
        return out * self.std + self.mean, masks

    def body(self, features: Tensor, masks: Masks, some_empty: bool) -> tuple[Tensor, Masks]:
        """Go down, up and out: everything that has weights, from what `forward` has laid out for it.

        Args:
            features: `(n, c, h, w)`: the picture normalised, and with a floor the floor and the mask.
            masks: A channel for each of their groups.
            some_empty: Whether windows may hold nothing known, see `renormalised_conv2d`.

        Returns:
            `(n, channels, h, w)`, not scaled back, and its mask.
        """
        skips = [(features, masks)]
        for block in self.encoder:
            features, masks = block(features, masks)
            skips.append((features, masks))
        skips.pop()
        for block in self.decoder:
            features, masks = block(*self._join(features, masks, *skips.pop()))
        features, masks = self._join(features, masks, *skips.pop())
        if self.head is not None:
            features, masks = self.head(features, masks)
        if masks is None:
            out = self.out.convolve_known(features)
        else:
            ratio, masks = self.out.ratio(masks)
            out = self.out.convolve(features, ratio, some_empty)
            out = out * ratio if self.config.ratio_twice else out
        return _ACTIVATIONS[self.config.activation](out if out.dtype == torch.float64 else out.float()), masks

    def _input(self, image: Tensor, known: Tensor, guide: Tensor | None) -> tuple[Tensor | None, Tensor, Masks]:
        """Normalise; with a floor, lay it under the picture. Returns the floor, the first features, their masks."""
        image = (image - self.mean) / self.std
        picture = hide(image, known)
        if self.config.floor is None:
            return None, picture, known
        guide = None if guide is None else (guide - self.mean) / self.std
        base = pyramid_fill(picture, known, self.config.floor, guide)
        everywhere = something_known(known, guide)
        features = torch.cat([picture, base, known], dim=1).contiguous(memory_format=torch.channels_last)
        return base, features, torch.cat([known, everywhere], dim=1)

    def _join(self, features: Tensor, masks: Masks, skip: Tensor, skip_masks: Masks) -> tuple[Tensor, Masks]:
        """Bring the decoder up to the skip's size and lay the skip beside it, decoder first; the same for the masks."""
        size = skip.shape[-2:]
        doubles = all(side == 2 * half for side, half in zip(size, features.shape[-2:], strict=True))
        if doubles and self.config.upsample == "bilinear" and features.requires_grad and not features.is_cpu:
            above = _doubled(features)
        else:
            above = _interpolated(features, size, self.config.upsample)
        # In half precision the picture is the only skip that is not; convolutions would narrow both of them anyway.
        joined = torch.cat([above, skip.to(above.dtype)], dim=1)
        if skip_masks is None:
            return joined, None
        ones = torch.ones_like(skip_masks[:, :1])
        above_masks = ones if masks is None else F.interpolate(masks, size=size, mode="nearest")
        return joined, torch.cat([above_masks, skip_masks], dim=1)

    def double(self) -> PartialConvUNet:
        """Widen to float64; mean and scale become what the configuration says, not what float32 held of it."""
        super().double()
        self._scale(torch.float64, self.mean.device)
        return self

    def freeze_encoder_norm(self) -> None:
        """Keep the encoder's batch statistics as they are: the paper's second phase. Call after `train()`."""
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def folded(self) -> PartialConvUNet:
        """Return the same network for inference, as `fold` makes it; this one stays as it is."""
        return copy.deepcopy(self).fold()

    def fold(self) -> PartialConvUNet:
        """Become a network for inference, batch norm folded into the weights.

        Exact up to rounding: the ratio multiplies the linear part only, so `norm(conv)` is a convolution with scaled
        weights and another bias.
        """
        for module in self.modules():
            if isinstance(module, _Block):
                module.fold()
        return self.eval().requires_grad_(False)


def _interpolated(features: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Interpolate in the features' own type: on a GPU autocast would widen them, and all that is laid beside them."""
    if not torch.is_autocast_enabled(features.device.type):  # an exported graph has no place for the switch
        return F.interpolate(features, size=size, mode=mode)
    with torch.autocast(features.device.type, enabled=False):
        return F.interpolate(features, size=size, mode=mode)


def _doubled(features: Tensor) -> Tensor:
    """Double both sides as bilinear interpolation does, in operations whose gradients are as cheap as they are.

    The gradient of the interpolation itself took a GPU a quarter of each training step; on a CPU it is the cheaper one.
    """
    for dim in (2, 3):
        last = features.shape[dim] - 1
        before = torch.cat([features.narrow(dim, 0, 1), features.narrow(dim, 0, last)], dim)
        behind = torch.cat([features.narrow(dim, 1, last), features.narrow(dim, last, 1)], dim)
        pair = torch.stack([0.75 * features + 0.25 * before, 0.75 * features + 0.25 * behind], dim + 1)
        features = pair.flatten(dim, dim + 1)
    return features


def _level(first: _Block, config: UNetConfig, width: int, blocks: int) -> nn.Module:
    """One level on the way down or up: what brings features there, and the residual blocks that work on them."""
    return _Level([first, *(_Residual(config, width) for _ in range(blocks))]) if blocks else first


class _Level(nn.ModuleList):
    """Blocks in turn, each with the features and masks of the one before."""

    def forward(self, features: Tensor, masks: Masks) -> tuple[Tensor, Masks]:
        """See `_Block`."""
        for block in self:
            features, masks = block(features, masks)
        return features, masks


class _Residual(nn.Module):
    """Two partial convolutions whose result is added to what came in: nothing, before training."""

    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        self.first = _Block(config, (width,), width, norm=config.norm, slope=config.slope)
        self.second = PartialConv2d(width, width, 3, padding="same", padding_mode=config.padding_mode)

    def forward(self, features: Tensor, masks: Masks) -> tuple[Tensor, Masks]:
        """See `_Block`; what the two convolutions reach is known afterwards."""
        inner, masks = self.first(features, masks)
        if masks is None:
            return features + self.second.convolve_known(inner), None
        ratio, masks = self.second.ratio(masks)
        return features + self.second.convolve(inner, ratio), masks


class _Block(nn.Module):
    """Partial convolution, batch norm, leaky ReLU."""

    def __init__(
        self, config: UNetConfig, incoming: Sequence[int], width: int, kernel: int = 3, stride: int = 1, *, norm: bool,
        slope: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = PartialConv2d(
            incoming, width, kernel, stride, padding=kernel // 2, bias=not norm, padding_mode=config.padding_mode
        )
        self.norm: nn.Module = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.slope = slope
        # With a floor no window is ever empty, unless a whole image is: then nothing that comes out means anything.
        self.some_empty = config.floor is None

    def forward(self, features: Tensor, masks: Masks) -> tuple[Tensor, Masks]:
        """Take features that are 0 in their holes and give such features back."""
        if masks is None:
            features = self.conv.convolve_known(features)
        else:
            ratio, masks = self.conv.ratio(masks)
            features = self.conv.convolve(features, ratio, self.some_empty)
        features = F.leaky_relu(self.norm(features), self.slope, inplace=not torch.is_grad_enabled())
        if not self.some_empty:
            return features, None
        if masks is not None and isinstance(self.norm, nn.BatchNorm2d):  # it lifts holes off 0
            features = hide(features, masks)
        return features, masks

    @torch.no_grad()
    def fold(self) -> None:
        """Take batch norm into weights and bias."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.conv.weight = nn.Parameter(self.conv.weight * scale[:, None, None, None])
        self.conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
        self.norm = nn.Identity()
