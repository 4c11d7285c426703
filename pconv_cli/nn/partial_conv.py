"""Partial convolution: the layer everything here stands on.

Knows: features, masks of what is known, and how many known values a window holds. Does not know: networks, pictures,
devices, or what it computed the last time (no mask and no feature is kept between calls).

Sources: Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", arXiv 1804.07723, equations 1
and 2; Liu et al., "Partial Convolution based Padding", arXiv 1811.11718, equations 4 and 5.

Masks are never as wide as the features. All channels of one *feature group* (a picture, a decoder's output, a skip
connection) share one mask channel, so the number of known values in a window is a weighted box sum of a few planes,
exact in float32, where the usual implementation runs a second full convolution.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

PaddingMode = Literal["partial", "zero", "reflect", "replicate"]
_MODES = get_args(PaddingMode)
_BAND = 1 << 17  # values that are worked on together where they should stay in a core's cache
Pair = tuple[int, int]


def partial_conv2d(
    features: Tensor,
    known: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    feature_groups: Sequence[int] | None = None,
    padding_mode: PaddingMode = "partial",
) -> tuple[Tensor, Tensor]:
    """Convolve what is known and renormalise by how much of each window that was (1804.07723, equations 1 and 2).

    `out = (W * (features known)) * sum(1)/sum(known) + b` where the window holds a known value, else exactly 0, the
    bias included. The bias is not scaled.

    Args:
        features: `(n, c, h, w)`, any float type; values under `known == 0` do not matter, NaN included.
        known: `(n, g, h, w)`, 1 = known, 0 = hole; one channel for each feature group. Of bools and whole numbers all
            above 0 is known, 255 as well as 1. Floats must be 0 and 1, which is not looked at: what is above 0 is seen,
            but counts for as much as it says. None: everything is known.
        weight: `(out, c / groups, kh, kw)`, for the `sum(1)/sum(known)` normaliser (version 2 of the paper).
        bias: `(out,)` or None.
        stride: Step of the window, pixels.
        padding: Pixels added on each side.
        dilation: Distance between the window's taps, pixels.
        groups: Groups of the convolution, as in `torch.nn.functional.conv2d`.
        feature_groups: Channels that share each channel of `known`, in order; sums to `c`. None: one group of all.
        padding_mode: What lies beyond the border. `partial`: holes (1811.11718); `zero`: known zeros; `reflect` and
            `replicate`: the picture's own pixels, holes reflected with them.

    Returns:
        `(n, out, h', w')` in the features' type, and the updated mask `(n, m, h', w')`, float32, or float64 where one
        of the two is: `m` is 1, or `groups` where several feature groups meet several convolution groups (their windows
        then hold different counts).

    Raises:
        ValueError: If the features are no batch of floats, the masks do not fit them, the padding mode is unknown, or a
            window does not fit.
    """
    _check_batch(features)
    if not features.is_floating_point():
        raise ValueError(f"features must be of a float type, not {features.dtype}")
    sizes = _feature_groups(features.shape[1], feature_groups)
    shape = (features.shape[0], len(sizes), *features.shape[2:])
    if known is not None and known.shape != shape:
        raise ValueError(
            f"known is {tuple(known.shape)}, features are {tuple(features.shape)} in groups {sizes}: it must be {shape}"
        )
    counted = torch.ones(shape, device=features.device) if known is None else known
    if features.dtype == torch.float64:  # or ratios would be rounded to float32
        counted = _countable(counted).double()
    ratio, updated = known_ratio(
        counted,
        _pair(weight.shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        feature_groups=sizes,
        padding_mode=padding_mode,
    )
    visible = features if known is None else hide(features, known, sizes)
    out = renormalised_conv2d(
        visible, ratio, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        padding_mode=padding_mode,
    )  # fmt: skip
    return out, updated


@torch.no_grad()
def known_ratio(
    known: Tensor,
    kernel_size: Pair,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    feature_groups: Sequence[int] = (1,),
    padding_mode: PaddingMode = "partial",
) -> tuple[Tensor, Tensor]:
    """Compute a layer's `sum(1)/sum(known)` and its updated mask: the half of a layer that needs no features.

    Args:
        known: `(n, g, h, w)`, see `partial_conv2d`.
        kernel_size: Height and width of the window.
        stride: As in `partial_conv2d`.
        padding: As in `partial_conv2d`.
        dilation: As in `partial_conv2d`.
        groups: As in `partial_conv2d`.
        feature_groups: Channels behind each channel of `known`.
        padding_mode: As in `partial_conv2d`.

    Returns:
        Ratio and updated mask, both `(n, m, h', w')` float32, or float64 where `known` is. The ratio is 0 where nothing
        is known. Counts stay below 2^24, so float32 holds them exactly; half precision would not (and would give
        inf * 0 on an empty window).

    Raises:
        ValueError: If channels and groups do not divide, the padding mode is unknown, or a window does not fit.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    _check_window(kernel_size, stride, padding, dilation, known.shape[2:])
    shares = _shares(feature_groups, groups)
    window = float(sum(feature_groups) // groups * kernel_size[0] * kernel_size[1])
    planes, pad = _pad(_countable(known), padding, padding_mode, outside=1.0)
    if len(feature_groups) == 1:
        window /= shares[0][0]  # all or none of the channels are known
    else:
        # Share by share: a tensor of them would have to be sent to the device, which a GPU's host waits for.
        weighted = [[planes[:, i] * share for i, share in enumerate(row) if share] for row in shares]
        planes = torch.stack([torch.stack(row).sum(0) for row in weighted], dim=1)
    count = _box_sums(planes, kernel_size, stride, pad, dilation)
    some = count.sign()
    return (window / count.clamp_(min=1.0)).mul_(some), some


def _countable(known: Tensor) -> Tensor:
    """Give a mask as floats, in which whole numbers above 0 are 1."""
    if known.dtype == torch.float64:
        return known
    return (known if known.is_floating_point() or known.dtype == torch.bool else known > 0).float()


def _box_sums(planes: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """Sum over each window by shifted additions: exact, and for one plane cheaper than a convolution or a pooling."""
    total = F.pad(planes, (padding[1], padding[1], padding[0], padding[0]))
    for axis in range(2):
        taps, step, far = kernel[axis], stride[axis], dilation[axis]
        reach = total.shape[2 + axis] - far * (taps - 1)
        first, *others = (total.narrow(2 + axis, tap * far, reach) for tap in range(taps))
        total = _each(first, axis, step)
        for i, other in enumerate(others):
            total = total + _each(other, axis, step) if i == 0 else total.add_(_each(other, axis, step))
    return total.clone() if kernel == (1, 1) else total


def _each(planes: Tensor, axis: int, step: int) -> Tensor:
    """Every `step`-th row (axis 0) or column (axis 1)."""
    return planes[..., ::step, :] if axis == 0 else planes[..., ::step]


def renormalised_conv2d(
    visible: Tensor,
    ratio: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "partial",
    some_empty: bool = True,
) -> Tensor:
    """Convolve features whose holes are already 0 and scale by a given ratio: the other half of a layer.

    Args:
        visible: `(n, c, h, w)`, 0 in the holes.
        ratio: `(n, m, h', w')` from `known_ratio`.
        weight: As in `partial_conv2d`.
        bias: As in `partial_conv2d`; added where the ratio is not 0.
        stride: As in `partial_conv2d`.
        padding: As in `partial_conv2d`.
        dilation: As in `partial_conv2d`.
        groups: As in `partial_conv2d`.
        padding_mode: As in `partial_conv2d`.
        some_empty: False promises that no ratio is 0, which saves a pass over the result.

    Returns:
        `(n, out, h', w')` in the type that the convolution computes in.
    """
    out, _ = _convolved(visible, weight, None, stride, padding, dilation, groups, padding_mode)
    if ratio.shape[1] > 1:
        ratio = ratio.repeat_interleave(out.shape[1] // ratio.shape[1], dim=1)
    if out.device.type == "cpu" and out.dtype in (torch.bfloat16, torch.float16) and _in_place():
        return _rescaled(out, ratio, bias, some_empty)
    scale = ratio.to(out.dtype)
    # Not in place, a pass over a large result costs a CPU ten times as much: the memory for another has to be found.
    in_place = _in_place()
    if bias is not None and not some_empty:
        return torch.addcmul(bias.to(out.dtype)[:, None, None], out, scale, out=out if in_place else None)
    out = out.mul_(scale) if in_place else out * scale
    if bias is None:
        return out
    bias = bias.to(out.dtype)[:, None, None]
    return out.addcmul_(bias, scale.sign()) if in_place else torch.addcmul(out, bias, scale.sign())


def _in_place() -> bool:
    """Whether results may be worked on where they are."""
    return not (torch.is_grad_enabled() or _recording())


def _recording() -> bool:
    """Whether a graph is being made: what is looked at in Python now will not be looked at when it runs."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _rescaled(out: Tensor, ratio: Tensor, bias: Tensor | None, some_empty: bool) -> Tensor:
    """Scale a convolution in half precision in place, and add the bias, in float32.

    Where operands are repeated over channels, a CPU is several times slower in half precision than in float32. In bands
    that stay in its cache the conversions cost little.
    """
    rows = max(1, _BAND // max(1, out.numel() // out.shape[2]))  # a batch may be empty
    for part, scale in zip(torch.split(out, rows, 2), torch.split(ratio, rows, 2), strict=True):
        wide = part.float()
        if bias is None:
            wide.mul_(scale)
        elif some_empty:
            wide.mul_(scale).addcmul_(bias[:, None, None], scale.sign())
        else:
            torch.addcmul(bias[:, None, None].float(), wide, scale, out=wide)
        part.copy_(wide)
    return out


def known_conv2d(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "partial",
) -> Tensor:
    """Convolve features that are known everywhere: `partial_conv2d` where no mask has to be looked at.

    A plain convolution then, but for windows that reach over the border, whose ratio is a matter of geometry alone.

    Args:
        features: `(n, c, h, w)`, any float type.
        weight: As in `partial_conv2d`.
        bias: As in `partial_conv2d`.
        stride: As in `partial_conv2d`.
        padding: As in `partial_conv2d`; not so wide that a window lies beyond the border entirely.
        dilation: As in `partial_conv2d`.
        groups: As in `partial_conv2d`.
        padding_mode: As in `partial_conv2d`.

    Returns:
        `(n, out, h', w')` in the type that the convolution computes in.

    Raises:
        ValueError: If the features are no batch, the padding mode is unknown, or a window lies beyond the border
            entirely.
    """
    _check_batch(features)
    out, pad = _convolved(features, weight, bias, stride, padding, dilation, groups, padding_mode)
    if padding_mode != "partial" or not any(pad):
        return out
    geometry = [(weight.shape[2 + i], _pair(stride)[i], pad[i], _pair(dilation)[i]) for i in range(2)]
    shift = None if bias is None else bias.to(out.dtype)
    if _recording():  # sizes may stand for any size there
        scale = torch.outer(*(_traced_ratio(out, features.shape[2 + i], *geometry[i]) for i in range(2))).to(out.dtype)
        return out * scale if shift is None else torch.lerp(shift[:, None, None], out, scale)
    down, across = (_axis_ratio(features.shape[2 + i], *geometry[i]) for i in range(2))
    if out.device.type != "cpu" or out.requires_grad:  # one pass over everything, where many small ones cost more
        # From the bias by `scale` towards the result: the ratio for the rest alone. Exactly the result where it is 1.
        scale = torch.outer(_laid_out(down, out), _laid_out(across, out))
        return out * scale if shift is None else torch.lerp(shift[:, None, None], out, scale)
    for dim, ratios in ((2, down), (3, across)):
        for i, ratio in enumerate(ratios):
            if ratio != 1:
                strip = out.select(dim, i).mul_(ratio)
                if shift is not None:
                    strip.add_((shift * (1 - ratio))[:, None])
    return out


def _convolved(
    features: Tensor, weight: Tensor, bias: Tensor | None, stride: int | Pair, padding: int | Pair,
    dilation: int | Pair, groups: int, padding_mode: PaddingMode,
) -> tuple[Tensor, Pair]:  # fmt: skip
    """Convolve over padded features; gives also the padding that the convolution itself has added, as zeros."""
    padded, pad = _pad(features, _pair(padding), padding_mode, outside=0.0)
    dilation = _pair(dilation)
    # A stride along which there is one window says nothing. torch 2.13 leaves parts of the weights' gradient unwritten
    # where one pixel is convolved with a stride in bfloat16 on a CPU.
    windows = [padded.shape[2 + i] + 2 * pad[i] - dilation[i] * (weight.shape[2 + i] - 1) for i in range(2)]
    steps = [1 if count == 1 else step for count, step in zip(windows, _pair(stride), strict=True)]
    return F.conv2d(padded, weight, bias, steps, pad, dilation, groups), pad


def _laid_out(ratios: Sequence[float], like: Tensor) -> Tensor:
    """Make a vector of ratios, nearly all of them 1, where `like` is; nothing is sent there."""
    vector = torch.ones(len(ratios), dtype=like.dtype, device=like.device)
    for i, ratio in enumerate(ratios):
        if ratio != 1:
            vector[i] = ratio
    return vector


@lru_cache(maxsize=256)
def _axis_ratio(size: int, kernel: int, stride: int, padding: int, dilation: int) -> list[float]:
    """Taps of each window along one axis, by those of them that lie inside."""
    starts = range(-padding, size + padding - dilation * (kernel - 1), stride)
    inside = [sum(0 <= start + dilation * tap < size for tap in range(kernel)) for start in starts]
    if not all(inside):
        raise ValueError(f"a window of {kernel} taps lies beyond the border: padding {padding} is too wide")
    return [kernel / taps for taps in inside]


def _traced_ratio(like: Tensor, size: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """The same by tensors' operations alone, which record no size; where `like` is."""
    windows = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    start = torch.arange(windows, device=like.device) * stride - padding
    before = ((dilation - 1 - start) // dilation).clamp(min=0)
    behind = ((start + dilation * kernel - size) // dilation).clamp(min=0)
    taps = (kernel - before - behind).to(torch.promote_types(like.dtype, torch.float32))
    return (kernel / taps).to(like.dtype)


def hide(features: Tensor, known: Tensor, feature_groups: Sequence[int] = (1,)) -> Tensor:
    """Set features to 0 where they are not known, whatever stands there, NaN included.

    Args:
        features: `(n, c, h, w)`, any float type.
        known: `(n, g, h, w)`, above 0 = known, else hole; one channel for each feature group.
        feature_groups: Channels that share each channel of `known`, in order; of no matter where there is one.

    Returns:
        `(n, c, h, w)`, new.
    """
    if len(feature_groups) > 1:
        starts = accumulate(feature_groups, initial=0)
        parts = enumerate(zip(starts, feature_groups, strict=False))
        return torch.cat([hide(features.narrow(1, *part), known[:, i : i + 1]) for i, part in parts], dim=1)
    if (
        features.requires_grad
        or known.requires_grad
        or features.device.type != "cpu"
        or _recording()
        or any(map(is_batchedtensor, (features, known)))  # `vmap` sees no bits before torch 2.10
    ):
        return torch.where(known > 0, features, features.new_zeros(()))
    # The same by bits, which a CPU does as fast as it copies; `where` takes several times as long.
    size = features.element_size()
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    if known.dtype == torch.bool:
        seen = known.to(bits).neg_()
    elif known.dtype == features.dtype:
        seen = (0 - known).view(bits).bitwise_right_shift_(8 * size - 1)  # the sign in every bit
    else:
        seen = torch.gt(known, 0, out=torch.empty_like(known, dtype=bits)).neg_()
    return (features.view(bits) & seen).view(features.dtype)


class PartialConv2d(nn.Module):
    """A partial convolution with weights: `forward(features, known) -> (features, known)`.

    A pure function of its arguments: no mask is kept between calls. The state dict holds `weight` and `bias` only.
    Weights start as in `torch.nn.Conv2d`. Shapes, polarity and errors are those of `partial_conv2d`.

    NVIDIA's layer of this name has the same weights, polarity and ratios (with `padding_mode="partial"`); how it is
    called differs. There is no `return_mask`: output and mask always come, as a pair, also where the mask is None and
    everything known (`convolve_known(features)` is quicker then, and gives no mask). And there is no `multi_channel`,
    for all channels share one mask channel, `(n, 1, h, w)`, unless `in_channels` names groups that have one each:
    `(64, 3)` for a decoder that joins 64 features with a picture, `(1,) * 64` for what `multi_channel` does. The mask
    that comes out has one channel then too, since all outputs see the same windows.

    >>> import torch
    >>> from pconv_cli.nn import PartialConv2d
    >>> layer = PartialConv2d(3, 8, 3, padding="same")
    >>> known = torch.ones(1, 1, 32, 32)
    >>> known[..., 8:20, 8:20] = 0
    >>> output, known = layer(torch.rand(1, 3, 32, 32), known)
    >>> tuple(output.shape), int((known == 0).sum())
    ((1, 8, 32, 32), 100)
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "partial",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make a layer; `in_channels` is a number, or the sizes of several feature groups that each have a mask.

        `padding="same"` keeps the size, `"valid"` is 0.

        Raises:
            TypeError: If a number has a fraction.
            ValueError: If the padding mode is unknown, there are no channels, channels and groups do not divide, or
                `padding="same"` meets a stride or a window that has no middle.
        """
        super().__init__()
        check_padding_mode(padding_mode)
        channels = in_channels if isinstance(in_channels, Iterable) else (in_channels,)
        self.feature_groups = tuple(operator.index(count) for count in channels)
        if min(self.feature_groups, default=0) < 1 or operator.index(out_channels) < 1:
            raise ValueError(f"in_channels {in_channels!r} and out_channels {out_channels!r} must be 1 or more")
        self.kernel_size, self.dilation = _pair(kernel_size), _pair(dilation)
        self.stride, self.groups, self.padding_mode = _pair(stride), operator.index(groups), padding_mode
        if padding == "same":
            self.padding = _same(self.kernel_size, self.stride, self.dilation)
        else:
            self.padding = (0, 0) if padding == "valid" else _pair(padding)
        _check_window(self.kernel_size, self.stride, self.padding, self.dilation)
        like = nn.Conv2d(
            sum(self.feature_groups), operator.index(out_channels), self.kernel_size, groups=self.groups, bias=bias,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.weight = like.weight
        self.bias = like.bias

    def forward(self, features: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `partial_conv2d`."""
        return partial_conv2d(
            features, known, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups, feature_groups=self.feature_groups, padding_mode=self.padding_mode,
        )  # fmt: skip

    def ratio(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """See `known_ratio`: what this layer makes of a mask, whatever the features."""
        return known_ratio(
            known, self.kernel_size, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups, feature_groups=self.feature_groups, padding_mode=self.padding_mode,
        )  # fmt: skip

    def convolve(self, visible: Tensor, ratio: Tensor, some_empty: bool = True) -> Tensor:
        """See `renormalised_conv2d`: `forward` for features whose holes are 0 and a ratio known beforehand."""
        return renormalised_conv2d(
            visible, ratio, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups, padding_mode=self.padding_mode, some_empty=some_empty,
        )  # fmt: skip

    def convolve_known(self, features: Tensor) -> Tensor:
        """See `known_conv2d`: `forward` for features that are known everywhere."""
        return known_conv2d(
            features, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups, padding_mode=self.padding_mode,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Show what `print(layer)` shows of a convolution, and the padding mode in any case."""
        groups = self.feature_groups
        shown = f"{groups[0] if len(groups) == 1 else groups}, {len(self.weight)}, kernel_size={self.kernel_size}"
        shown += f", stride={self.stride}"
        for name, usual in (("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1)):
            if getattr(self, name) != usual:
                shown += f", {name}={getattr(self, name)}"
        return f"{shown}{', bias=False' if self.bias is None else ''}, padding_mode={self.padding_mode}"


def check_padding_mode(mode: str) -> None:
    """Refuse a padding mode that is none.

    Raises:
        ValueError: If it is none.
    """
    if mode not in _MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(_MODES)}, not {mode!r}")


def _check_batch(features: Tensor) -> None:
    if features.dim() != 4:
        raise ValueError(f"features must be (n, c, h, w), not {tuple(features.shape)}; features[None] makes a batch")


def _check_window(kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Sequence[int] = ()) -> None:
    if min(*kernel, *stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError(
            f"kernel_size {kernel}, stride {stride} and dilation {dilation} must be 1 or more, "
            f"padding {padding} 0 or more"
        )
    for length, pad, taps, far in zip(size, padding, kernel, dilation, strict=False):
        if length + 2 * pad < far * (taps - 1) + 1:
            raise ValueError(
                f"a window of {kernel}, dilation {dilation}, is larger than features of {tuple(size)} with padding "
                f"{padding} on each side"
            )


def _same(kernel: Pair, stride: Pair, dilation: Pair) -> Pair:
    """Give the padding that keeps the size: the same on each side."""
    down, across = (far * (taps - 1) for far, taps in zip(dilation, kernel, strict=True))
    if stride != (1, 1) or down % 2 or across % 2:
        raise ValueError(
            "padding='same' needs a stride of 1 and a window with a middle (odd, or of even dilation), not kernel_size "
            f"{kernel}, stride {stride}, dilation {dilation}; give pixels"
        )
    return down // 2, across // 2


def _pair(value: int | Sequence[int]) -> Pair:
    if isinstance(value, int):
        return value, value
    if not isinstance(value, Sequence):  # numpy's numbers are none of Python's
        return operator.index(value), operator.index(value)
    if isinstance(value, str) or len(value) != 2:
        raise ValueError(f"{value!r} is neither a whole number nor two, for height and width")
    first, second = value
    return operator.index(first), operator.index(second)


def _feature_groups(channels: int, feature_groups: Sequence[int] | None) -> tuple[int, ...]:
    sizes = (channels,) if feature_groups is None else tuple(feature_groups)
    if sum(sizes) != channels:
        raise ValueError(f"feature groups {sizes} sum to {sum(sizes)}, the features have {channels} channels")
    return sizes


def _shares(feature_groups: Sequence[int], groups: int) -> list[list[float]]:
    """Count, for each distinct window, how many of its channels belong to each feature group."""
    total = sum(feature_groups)
    if total % groups:
        raise ValueError(f"{total} channels do not divide into {groups} groups")
    width = total // groups
    if len(feature_groups) == 1:
        return [[float(width)]]
    starts = [sum(feature_groups[:i]) for i in range(len(feature_groups))]
    return [
        [
            float(max(0, min(start + size, (j + 1) * width) - max(start, j * width)))
            for start, size in zip(starts, feature_groups, strict=True)
        ]
        for j in range(groups)
    ]


def _pad(planes: Tensor, padding: Pair, mode: PaddingMode, *, outside: float) -> tuple[Tensor, Pair]:
    """Return padded planes and the padding that the convolution itself still has to add."""
    check_padding_mode(mode)
    vertical, horizontal = padding
    if mode == "partial" or (mode == "zero" and outside == 0.0) or not (vertical or horizontal):
        return planes, padding
    if mode == "zero":
        return F.pad(planes, (horizontal, horizontal, vertical, vertical), value=outside), (0, 0)
    for dim, pad in ((-1, horizontal), (-2, vertical)):
        planes = _extend(planes, dim, pad, mode)
    return planes, (0, 0)


def _extend(planes: Tensor, dim: int, pad: int, mode: PaddingMode) -> Tensor:
    """Reflect or replicate along one dimension; reflects as far as there is something to reflect, then replicates."""
    length = planes.shape[dim]
    index = torch.arange(-pad, length + pad, device=planes.device)
    if mode == "reflect":
        index = torch.where(index < 0, -index, torch.where(index > length - 1, 2 * (length - 1) - index, index))
    return planes.index_select(dim, index.clamp(0, length - 1))
