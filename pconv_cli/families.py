"""Which network foreign tensors belong to, and the same network in our own terms.

Knows: the key names of public implementations, and in what each departs from `nn/unet.py`: by what it normalises, what
it lays beside what, where it has bias and batch norm, what its numbers mean. Does not know: files, pickles, devices.

With the window's known values counted over all channels, `sum(M)`, there are three normalisers about: `1 / sum(M)`,
`k^2 / sum(M)` and ours, `c k^2 / sum(M)`. They differ by a constant for each layer, which goes into its weights; so
does batch norm, whose variances are at home below its epsilon. All of it is computed in float64, and rounded once at
most.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pconv_cli.errors import WeightsError
from pconv_cli.nn.unet import Activation, UNetConfig

Tones = Literal["unit", "signed", "imagenet", "raw"]
"""What numbers a network takes: tones in [0, 1], in [-1, 1], by ImageNet's mean and deviation, or any, as measured."""

Normaliser = Literal["1 / sum(M)", "k^2 / sum(M)", "c k^2 / sum(M)"]

_TONES: dict[Tones, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "unit": ((0.0,), (1.0,)),
    "signed": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "raw": ((0.0,), (1.0,)),
}


@dataclass(frozen=True)
class Family:
    """One implementation's way of naming and computing.

    `has_bias` and `has_norm` speak of the first block, those between, and the last: `+` has it, `-` has not, `?` may
    have it (norm only), `x` has one that it does not use (norm only).

    Attributes:
        name: What `--family` calls it.
        encoder: Name of an encoder's block, `{}` for its number.
        decoder: Name of a decoder's block; numbered as the encoder's beside it, or see `from_deepest`.
        weight: What follows a block's name in the key of its kernel.
        bias: The same for its bias.
        norm: The same for its batch norm, without the last part.
        ones: The same for the kernel that counts the mask, all ones; empty: there is none.
        zeros: The same for that kernel's bias, all zeros.
        has_bias: Where blocks have a bias.
        has_norm: Where blocks have batch norm.
        counts: Whether `ones` must be there: not where only some versions save it.
        normaliser: By what it normalises.
        first: The number of the first block.
        from_deepest: Whether the decoder is numbered from its deepest block on; where its blocks are named as the
            encoder's, on from those.
        skip_first: Whether the skip lies before what comes up from below.
        slope: Negative slope of the decoder's leaky ReLU.
        epsilon: What batch norm adds to the variance.
        tones: What its numbers mean.
        bgr: Whether the picture's channels are blue, green, red.
        activation: What ends it.
        ratio_twice: See `UNetConfig`.
        head: Whether a 1x1 convolution follows the last block, which then has a leaky ReLU.
        depth: Levels that it runs with where more are in the file; 0: all.
        spare: Beginnings of keys that it never uses to restore.
        told_only: Whether only `--family` may choose it.
    """

    name: str
    encoder: str
    decoder: str
    weight: str = "conv.weight"
    bias: str = "conv.bias"
    norm: str = "bn"
    ones: str = ""
    zeros: str = ""
    has_bias: str = "--+"
    has_norm: str = "-+-"
    counts: bool = True
    normaliser: Normaliser = "c k^2 / sum(M)"
    first: int = 1
    from_deepest: bool = False
    skip_first: bool = False
    slope: float = 0.2
    epsilon: float = 1e-5
    tones: Tones = "imagenet"
    bgr: bool = False
    activation: Activation = "none"
    ratio_twice: bool = False
    head: bool = False
    depth: int = 0
    spare: tuple[str, ...] = ()
    told_only: bool = False


def _counted(name: str, encoder: str, decoder: str, inside: str, **other: Any) -> Family:
    """Make a family with a mask convolution beside each convolution, normalised by `1 / sum(M)`."""
    return Family(
        name, encoder, decoder,
        **{"weight": f"{inside}input_conv.weight", "bias": f"{inside}input_conv.bias",
           "ones": f"{inside}mask_conv.weight", "normaliser": "1 / sum(M)", **other},
    )  # fmt: skip


FAMILIES = (
    _counted("naoto", "enc_{}", "dec_{}", "conv."),
    Family(  # its first version
        "naoto", "enc_{}", "dec_{}", "conv.conv2d.weight", "conv.conv2d.bias", "bn", "conv.mask2d.weight",
        "conv.mask2d.bias", has_bias="+++", normaliser="1 / sum(M)",
    ),
    _counted("bobqywei", "encoder_{}", "decoder_{}", "", norm="batch_normalization"),
    _counted(
        "crai", "encoder.{}.partial_conv", "decoder.{}.partial_conv", "", has_norm="?+?", first=0, from_deepest=True,
        slope=0.01, tones="raw",
    ),
    Family("tani", "enc_{}", "dec_{}", has_norm="---", tones="unit", ratio_twice=True, depth=7),
    *(
        Family(
            "nvidia", "enc_{}", "dec_{}", ones="conv.weight_maskUpdater", counts=False, has_bias=bias, has_norm=norm,
            tones="unit",
        )
        for norm in ("-+-", "---")
        for bias in ("--+", "+++")
    ),
    # The same names as naoto's in copies that normalise as NVIDIA does: no key tells them apart.
    _counted("nvidia", "enc_{}", "dec_{}", "conv.", normaliser="c k^2 / sum(M)", told_only=True),
    Family(
        "ryan", "encoder{}", "decoder{}", "pconv.weight", "pconv.bias", "batchnorm", has_bias="+++", has_norm="x+x",
        from_deepest=True, skip_first=True, spare=("convfinal.", "vgg16extractor.", "lossCompute."),
    ),
    Family("xiefan", "ec_images_{}", "dc_images_{}", tones="unit", activation="tanh"),
    Family(
        "xyf", "encoder{}", "decoder{}.partial_conv", "conv.weight", "bias", "norm", "mask_conv_weight",
        has_bias="+++", tones="signed",
    ),
    Family("jacobaustin", "conv{}", "conv{}", has_norm="++-", from_deepest=True, activation="tanh"),
    Family(
        "mmagic", "encoder.enc{}", "decoder.dec{}", ones="conv.weight_mask_updater", has_bias="+-+", tones="signed",
        bgr=True, spare=("loss_percep.",),
    ),
    Family(
        "keras", "p_conv2d_{}", "p_conv2d_{}", "img_kernel", "bias", has_bias="+++", normaliser="k^2 / sum(M)",
        from_deepest=True, skip_first=True, epsilon=1e-3, tones="unit", activation="sigmoid", head=True,
    ),
)  # fmt: skip
NAMES = tuple(dict.fromkeys(family.name for family in FAMILIES))


@dataclass(frozen=True)
class Converted:
    """A network in our terms.

    Attributes:
        config: Its architecture.
        state: Its tensors, keyed as in `PartialConvUNet`'s state dict; float32, for raw values float64.
        about: What was found and done, for the file's header.
    """

    config: UNetConfig
    state: dict[str, Tensor]
    about: dict[str, Any]

    def summary(self) -> str:
        """Say in one line what was recognised and what was taken for granted."""
        about, count = self.about, self.config.channels
        of = "" if about["levels"] == about["levels_in_file"] else f" of {about['levels_in_file']}"
        order = f" ({about['channel_order']})" if about["channel_order"] else ""
        parts = [
            f"{about['family']}, {about['levels']}{of} levels, {count} channel{'s' * (count > 1)}{order}",
            f"normalised by {about['normaliser']}",
            about["concatenation"],
            f"values: {about['tones']}",
        ]
        if about["left_out"]:
            parts.append(f"left out: {', '.join(about['left_out'][:4])}" + " ..." * (len(about["left_out"]) > 4))
        return "; ".join(parts)


class _Block(NamedTuple):
    """Full keys of one block; empty where it has no such thing. `norm`: gamma, beta, mean, variance."""

    weight: str
    bias: str
    ones: str
    zeros: str
    norm: tuple[str, ...]
    norm_used: bool
    tracked: str


class _Layout(NamedTuple):
    """A family's blocks for one file, decoder from the deepest on, and the 1x1 convolution at the end, if any."""

    encoder: list[_Block]
    decoder: list[_Block]
    end: tuple[str, ...] = ()

    def fit(self, keys: Iterable[str], family: Family) -> tuple[int, list[str], list[str]]:
        """Compare with a file: how many keys are known, which are not, which are missing."""
        blocks = [*self.encoder, *self.decoder]
        needed = dict.fromkeys(
            key
            for block in blocks
            for key in (block.weight, block.bias, block.ones if family.counts else "", block.zeros, *block.norm)
            if key
        )
        needed |= dict.fromkeys(self.end)
        known = needed.keys() | {key for block in blocks for key in (block.ones, block.tracked) if key}
        given = dict.fromkeys(keys)
        unknown = [key for key in given if key not in known and not key.startswith(family.spare)]
        return sum(key in known for key in given), unknown, [key for key in needed if key not in given]


def convert(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    family: str | None = None,
    levels: int | None = None,
    tones: Tones | None = None,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Converted:
    """Recognise a network by its keys and turn it into ours.

    Args:
        tensors: As in the checkpoint.
        path: The checkpoint, for messages.
        family: One of `NAMES`, or None to tell by the keys.
        levels: How many levels the network uses, counted from the picture; None: all that were trained.
        tones: What numbers it takes; None: what its family uses, or the statistics say.
        statistics: Mean and scale of the data it was trained on, one or one for each channel.

    Returns:
        The network, whose every tensor has the place and shape that its family gives it.

    Raises:
        WeightsError: If a key is unknown or missing, a shape is wrong, or a mask's kernel is not all ones.
    """
    chosen, layout = _identify(tensors, path, family)
    _check_constants(chosen, layout, tensors, path)
    in_file = len(layout.encoder)
    used = levels or _trained(chosen, layout, tensors)
    if used > in_file:
        raise WeightsError(f"{path}: has {in_file} levels; ask for that many with --layers or fewer")
    kept = _Layout(layout.encoder[:used], layout.decoder[in_file - used :], layout.end)
    config, state = _rebuild(chosen, kept, tensors, path)
    config, meaning = _with_tones(config, chosen, path, tones, statistics)
    masks = {block.ones for block in (*kept.encoder, *kept.decoder)}
    return Converted(
        config,
        # Numbers to go on with are worth twice the room that colours need.
        {key: value.contiguous() if config.values == "raw" else value.float() for key, value in state.items()},
        {
            "family": chosen.name,
            "levels": used,
            "levels_in_file": in_file,
            "normaliser": chosen.normaliser,
            "concatenation": "skip first" if chosen.skip_first else "decoder first",
            "epsilon": chosen.epsilon,
            "slope": chosen.slope,
            "tones": meaning,
            "channel_order": _order(chosen, config),
            "mask_kernels": sum(key in tensors for key in masks),
            "left_out": _left_out(kept, tensors),
        },
    )


def _identify(tensors: Mapping[str, Tensor], path: Path, name: str | None) -> tuple[Family, _Layout]:
    """Choose the family that knows most of the keys; it has to know all of them and miss none."""
    candidates = [f for f in FAMILIES if f.name == name or (name is None and not f.told_only)]
    layouts = [_layout(family, tensors) for family in candidates]
    fits = [layout.fit(tensors, family) for layout, family in zip(layouts, candidates, strict=True)]
    best = max(range(len(fits)), key=lambda i: (fits[i][0], -len(fits[i][2]) if fits[i][0] else 0))
    _, unknown, missing = fits[best]
    if unknown or missing:
        faults = [
            f"{what} key {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
            for what, keys in (("unknown", unknown), ("missing", missing))
            if keys
        ]
        nearest = candidates[best].name + ("" if name else ", the family that it comes nearest to")
        raise WeightsError(
            f"{path}: is no network of {nearest}: {', '.join(faults)}; pconv reads {', '.join(NAMES)}, whole and as is"
        )
    return candidates[best], layouts[best]


def _layout(family: Family, tensors: Mapping[str, Tensor]) -> _Layout:
    if family.name == "keras":
        return _keras_layout(family, tensors)
    encoder, decoder = (re.escape(name).replace(r"\{\}", r"(\d{1,2})") for name in (family.encoder, family.decoder))
    numbers = [
        int(found[1]) + 1 - family.first
        for key in tensors
        for pattern in (encoder, decoder)
        if (found := re.match(rf"{pattern}\.", key))
    ]
    levels = max([1, *numbers])
    beyond = 0
    if family.encoder == family.decoder:
        levels = beyond = (levels + 1) // 2
    order = range(levels) if family.from_deepest else reversed(range(levels))
    names = [family.encoder.format(i + family.first) for i in range(levels)]
    names += [family.decoder.format(i + family.first + beyond) for i in order]
    blocks = []
    for i, name in enumerate(names):
        place = 0 if i == 0 else 2 if i == len(names) - 1 else 1
        norm = tuple(f"{name}.{family.norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
        has_norm, has_bias = family.has_norm[place], family.has_bias[place]
        bias = f"{name}.{family.bias}"
        with_norm = has_norm in "+x" or (has_norm == "?" and any(key in tensors for key in norm))
        blocks.append(
            _Block(
                weight=f"{name}.{family.weight}",
                bias=bias if has_bias == "+" else "",
                ones=f"{name}.{family.ones}" if family.ones else "",
                zeros=f"{name}.{family.zeros}" if family.zeros else "",
                norm=norm if with_norm else (),
                norm_used=has_norm != "x",
                tracked=f"{name}.{family.norm}.num_batches_tracked" if with_norm else "",
            )
        )  # fmt: skip
    return _Layout(blocks[:levels], blocks[levels:])


def _keras_layout(family: Family, tensors: Mapping[str, Tensor]) -> _Layout:
    """Keras numbers layers by the order in which a session has made them: only their order in the file says which."""
    layers = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
    convolutions = [name for name in layers if f"{name}.{family.weight}" in tensors]
    norms = [name for name in layers if f"{name}.gamma" in tensors]
    ends = [name for name in layers if f"{name}.kernel" in tensors] or ["outputs_img"]
    levels = max(1, (len(convolutions) + 1) // 2)
    convolutions += [family.encoder.format(i + 1) for i in range(len(convolutions), 2 * levels)]
    # Every block but the first and the last has batch norm; the encoder's stand before the decoder's.
    norms += [f"batch_normalization_{i + 1}" for i in range(len(norms), 2 * levels - 2)]
    blocks = []
    for i, name in enumerate(convolutions):
        inner = 0 < i < len(convolutions) - 1
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        norm = tuple(f"{norms[i - 1]}.{part}" for part in parts) if inner else ()
        blocks.append(_Block(f"{name}.{family.weight}", f"{name}.{family.bias}", "", "", norm, True, ""))
    return _Layout(blocks[:levels], blocks[levels:], (f"{ends[0]}.kernel", f"{ends[0]}.bias"))


def _check_constants(family: Family, layout: _Layout, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Make sure that masks are counted plainly: anything else would be another network."""
    for block in (*layout.encoder, *layout.decoder):
        if block.ones in tensors:
            ones, weight = tensors[block.ones], tensors[block.weight]
            # One plane stands for all where the number of channels cancels out: then the ratio is the same.
            if ones.shape != weight.shape and (family.counts or ones.shape != (1, 1, *weight.shape[2:])):
                raise _shape_error(path, block.ones, ones, tuple(weight.shape))
            if not (ones == 1).all():
                raise WeightsError(f"{path}: {block.ones} is not all ones: its masks are weighted, which none here is")
        if block.zeros in tensors and not (tensors[block.zeros] == 0).all():
            raise WeightsError(f"{path}: {block.zeros} is not all zeros: its masks are shifted, which none here is")


def _trained(family: Family, layout: _Layout, tensors: Mapping[str, Tensor]) -> int:
    """Count the levels that training has touched: some programs make more than they use."""
    levels = len(layout.encoder)
    if family.depth and levels > family.depth:
        return family.depth
    untouched = [_untouched(block, tensors) for block in (*layout.encoder, *layout.decoder)]
    if all(state is not False for state in untouched):
        return levels  # nothing was trained: no evidence
    while levels > 1 and untouched[levels - 1] and untouched[len(untouched) - levels]:
        levels -= 1
    return levels


def _untouched(block: _Block, tensors: Mapping[str, Tensor]) -> bool | None:
    """Whether batch norm has never seen a batch; None: there is none to ask."""
    if not block.tracked or block.tracked not in tensors or not block.norm_used:
        return None
    mean, variance = (tensors[key] for key in block.norm[2:])
    return bool((tensors[block.tracked] == 0).all() and (mean == 0).all() and (variance == 1).all())


def _rebuild(
    family: Family, layout: _Layout, tensors: Mapping[str, Tensor], path: Path
) -> tuple[UNetConfig, dict[str, Tensor]]:
    """Check every shape against the first block's, and compute every layer's weight and bias in float64."""
    channels = _kernel(layout.encoder[0].weight, tensors, path, family).shape[1]
    bgr = [2, 1, 0] if family.bgr and channels == 3 else None
    encoder: list[tuple[int, int]] = []
    state: dict[str, Tensor] = {}
    incoming = channels
    for i, block in enumerate(layout.encoder):
        kernel = _kernel(block.weight, tensors, path, family)
        width, _, side, _ = kernel.shape
        weight, bias = _linear(family, block, kernel, (width, incoming, side, side), tensors, path)
        state[f"encoder.{i}.conv.weight"] = weight if i or bgr is None else weight[:, bgr]
        state[f"encoder.{i}.conv.bias"] = bias
        encoder.append((width, side))
        incoming = width
    skips = [channels, *(width for width, _ in encoder[:-1])]
    for i, block in enumerate(layout.decoder):
        skip = skips.pop()
        last = not skips
        kernel = _kernel(block.weight, tensors, path, family)
        given = kernel.shape[0]
        if last and given != channels:
            raise WeightsError(
                f"{path}: takes {channels} channels ({layout.encoder[0].weight}) and gives {given} ({block.weight}); "
                "networks here give what they take"
            )
        weight, bias = _linear(family, block, kernel, (skip, incoming + skip, 3, 3), tensors, path)
        if family.skip_first:
            weight = torch.cat([weight[:, skip:], weight[:, :skip]], dim=1)
        if last and bgr is not None:
            weight, bias = torch.cat([weight[:, :-3], weight[:, -3:][:, bgr]], dim=1)[bgr], bias[bgr]
        name = f"decoder.{i}.conv" if not last else "head.conv" if layout.end else "out"
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
        incoming = skip
    if layout.end:
        kernel = _kernel(layout.end[0], tensors, path, family)
        bias = tensors[layout.end[1]].double()
        _expect(kernel, (channels, channels, 1, 1), layout.end[0], path)
        _expect(bias, (channels,), layout.end[1], path)
        state |= {"out.weight": kernel, "out.bias": bias}
    config = UNetConfig(
        encoder=tuple(encoder),
        channels=channels,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        slope=family.slope,
        head=channels if layout.end else 0,
        norm=False,
        last_kernel=1 if layout.end else 3,
        activation=family.activation,
        ratio_twice=family.ratio_twice,
    )
    return config, state


def _kernel(key: str, tensors: Mapping[str, Tensor], path: Path, family: Family) -> Tensor:
    """Read a kernel in float64, `(out, in, k, k)`."""
    kernel = tensors[key]
    if kernel.ndim != 4 or not kernel.is_floating_point():
        raise _shape_error(path, key, kernel, "(out, in, k, k)")
    kernel = kernel.double()
    if family.name == "keras":
        kernel = kernel.permute(3, 2, 0, 1)
    if kernel.shape[2] != kernel.shape[3] or kernel.shape[2] % 2 == 0 or not kernel.numel():
        raise _shape_error(path, key, kernel, "(out, in, k, k) with an odd k")
    return kernel


def _linear(
    family: Family, block: _Block, kernel: Tensor, shape: tuple[int, ...], tensors: Mapping[str, Tensor], path: Path
) -> tuple[Tensor, Tensor]:
    """Take normaliser and batch norm into one kernel and one bias.

    Exact: `norm(s (W * x) + b)` with the ratio `s` of the window is again a kernel times `s`, and a bias.
    """
    _expect(kernel, shape, block.weight, path)
    width, incoming, side, _ = shape
    count = {"1 / sum(M)": incoming * side * side, "k^2 / sum(M)": incoming, "c k^2 / sum(M)": 1}[family.normaliser]
    weight = kernel / count
    bias = weight.new_zeros(width)
    if block.bias:
        bias = tensors[block.bias].double()
        _expect(bias, (width,), block.bias, path)
    if block.norm:
        for key in block.norm:
            _expect(tensors[key], (width,), key, path)
    if block.norm and block.norm_used:
        gamma, beta, mean, variance = (tensors[key].double() for key in block.norm)
        scale = gamma / torch.sqrt(variance + family.epsilon)
        weight, bias = weight * scale[:, None, None, None], (bias - mean) * scale + beta
    return weight, bias


def _with_tones(
    config: UNetConfig,
    family: Family,
    path: Path,
    asked: Tones | None,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> tuple[UNetConfig, str]:
    """Say what numbers the network takes, and name it in a word."""
    tones: Tones = asked or family.tones
    if tones == "imagenet" and config.channels != 3:
        if asked:
            raise WeightsError(f"{path}: has {config.channels} channels, ImageNet's tones have 3; choose other tones")
        tones = "raw"  # no picture, but some measurement
    mean, std = _TONES[tones]
    meaning: str = tones
    if statistics is not None and asked is None:
        (mean, std), meaning = statistics, "raw, by the mean and deviation in the file"
        tones = "raw"
        if not (len(mean) == len(std) in (1, config.channels)) or not all(s > 0 for s in std):
            raise WeightsError(
                f"{path}: the mean and deviation in it are no fit for {config.channels} channels; say what the "
                "network takes with --tones"
            )
    repeat = config.channels // len(mean)
    values: Literal["unit", "raw"] = "raw" if tones == "raw" else "unit"
    return replace(config, mean=mean * repeat, std=std * repeat, values=values), meaning


def _order(family: Family, config: UNetConfig) -> str | None:
    """Name the order of the colours in the checkpoint; here it is always RGB."""
    if config.channels != 3 or config.values == "raw":
        return None
    return "BGR, turned to RGB" if family.bgr else "RGB"


def _left_out(kept: _Layout, tensors: Mapping[str, Tensor]) -> list[str]:
    """Name the modules of which nothing is used: not the masks' kernels, of which every layer has one."""
    blocks = (*kept.encoder, *kept.decoder)
    used = {key for b in blocks for key in (b.weight, b.bias, b.ones, b.zeros, *b.norm * b.norm_used)} | {*kept.end}
    used |= {block.tracked for block in blocks if block.norm_used}
    return list(dict.fromkeys(key.rpartition(".")[0] for key in tensors if key not in used))


def _expect(tensor: Tensor, shape: tuple[int, ...], key: str, path: Path) -> None:
    if tuple(tensor.shape) != shape:
        raise _shape_error(path, key, tensor, shape)


def _shape_error(path: Path, key: str, tensor: Tensor, expected: object) -> WeightsError:
    return WeightsError(f"{path}: {key} is {tuple(tensor.shape)} where {expected} belongs; it is another network")
