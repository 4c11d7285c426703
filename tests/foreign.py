"""Other people's networks: small checkpoints as their programs save them, and what those programs compute, in float64.

Written from the formulas, layer by layer and with a mask for every channel; it knows nothing of `pconv_cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT, SIGNED = ((0.0,), (1.0,)), ((0.5,), (0.5,))


@dataclass(frozen=True)
class Foreign:
    """One implementation. `names` gives its blocks, encoder from the picture on, then decoder from the deepest on."""

    names: Callable[[int], list[str]]
    weight: str = ".conv.weight"
    bias: str = ".conv.bias"
    ones: str | None = None
    zeros: str | None = None
    norm: str = ".bn"
    biased: str = "last"  # all, last, unless normed
    normed: str = "inner"  # none, inner, all, not last
    numerator: str = "1"  # of the ratio: 1, k2, ck2
    one_plane: bool = False  # the encoder's masks have one channel
    skip_first: bool = False
    hole_is_bias: bool = False
    twice: bool = False  # the last block multiplies by its ratio twice
    slope: float = 0.2
    epsilon: float = 1e-5
    tones: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    bgr: bool = False
    end: Callable[[Tensor], Tensor] = lambda x: x
    head: str | None = None  # a 1x1 convolution after the last block
    idle: dict[str, tuple[int, ...]] | None = None  # tensors that are saved and never used
    wrap: Callable[[State], Any] = lambda state: {"n_iter": 3, "model": state, "optimizer": {"state": {}}}

    def has_bias(self, i: int, count: int) -> bool:
        return self.biased == "all" or (i == count - 1 if self.biased == "last" else not self.has_norm(i, count))

    def has_norm(self, i: int, count: int) -> bool:
        inner = 0 < i < count - 1
        return {"none": False, "inner": inner, "all": True, "not last": i < count - 1}[self.normed]


def numbered(encoder: str, decoder: str) -> Callable[[int], list[str]]:
    """Decoder blocks bear the number of the encoder's block at their side."""
    return lambda n: [encoder.format(i + 1) for i in range(n)] + [decoder.format(i) for i in range(n, 0, -1)]


NAOTO = Foreign(
    numbered("enc_{}", "dec_{}"), ".conv.input_conv.weight", ".conv.input_conv.bias", ".conv.mask_conv.weight"
)
CRAI = Foreign(
    lambda n: [f"{side}.{i}.partial_conv" for side in ("encoder", "decoder") for i in range(n)],
    ".input_conv.weight", ".input_conv.bias", ".mask_conv.weight", slope=0.01, tones=UNIT,
    wrap=lambda state: {"labels": ["2", "10"], "stat_target": None, "2": None,
                        "10": {"n_iter": 10, "model": {f"module.{k}": v for k, v in state.items()}, "optimizer": {}}},
)  # fmt: skip
KERAS = Foreign(
    lambda n: [f"p_conv2d_{i + 9}" for i in range(2 * n)], ".img_kernel", ".bias", biased="all", numerator="k2",
    skip_first=True, hole_is_bias=True, epsilon=1e-3, tones=UNIT, end=torch.sigmoid, head="outputs_img",
)  # fmt: skip
FOREIGN = {
    "naoto": NAOTO,
    "naoto, first version": replace(
        NAOTO, weight=".conv.conv2d.weight", bias=".conv.conv2d.bias", ones=".conv.mask2d.weight",
        zeros=".conv.mask2d.bias", biased="all",
    ),
    "bobqywei": replace(
        NAOTO, names=numbered("encoder_{}", "decoder_{}"), weight=".input_conv.weight", bias=".input_conv.bias",
        ones=".mask_conv.weight", norm=".batch_normalization",
        wrap=lambda state: {"epoch": 1, "iteration": 7, "model": state, "optimizer": {}},
    ),
    "crai": CRAI,
    "crai, all normed": replace(CRAI, normed="all", wrap=lambda state: {"n_iter": 9, "model": state, "optimizer": {}}),
    "tani": Foreign(numbered("enc_{}", "dec_{}"), normed="none", numerator="ck2", twice=True, tones=UNIT),
    "nvidia": Foreign(
        numbered("enc_{}", "dec_{}"), numerator="ck2", tones=UNIT,
        wrap=lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ),
    "ryan": Foreign(
        lambda n: [f"{side}{i + 1}" for side in ("encoder", "decoder") for i in range(n)],
        ".pconv.weight", ".pconv.bias", norm=".batchnorm", biased="all", numerator="ck2", skip_first=True,
        idle={"convfinal.weight": (3, 3, 1, 1), "convfinal.bias": (3,)}
        | {f"{name}.batchnorm.{part}": (width,) for name, width in (("encoder1", 5), ("decoder4", 3))
           for part in ("weight", "bias", "running_mean", "running_var")},
        wrap=lambda state: state,
    ),
    "xiefan": Foreign(
        numbered("ec_images_{}", "dc_images_{}"), numerator="ck2", tones=UNIT, end=torch.tanh,
        wrap=lambda state: {"n_iter": 6, "generator": state},
    ),
    "xyf": Foreign(
        numbered("encoder{}", "decoder{}.partial_conv"), bias=".bias", ones=".mask_conv_weight", norm=".norm",
        biased="all", numerator="ck2", tones=SIGNED, wrap=lambda state: {"model": state},
    ),
    "jacobaustin": Foreign(
        lambda n: [f"conv{i + 1}" for i in range(2 * n)], normed="not last", numerator="ck2", one_plane=True,
        end=torch.tanh, wrap=lambda state: {f"module.{key}": value for key, value in state.items()},
    ),
    "mmagic": Foreign(
        numbered("encoder.enc{}", "decoder.dec{}"), ones=".conv.weight_mask_updater", biased="unless normed",
        numerator="ck2", tones=SIGNED, bgr=True, idle={"loss_percep.vgg.mean": (1, 3, 1, 1)},
        wrap=lambda state: {"meta": {"epoch": 1}, "state_dict": {
            key if key.startswith("loss") else f"generator.{key}": value for key, value in state.items()}},
    ),
    "keras": KERAS,
}  # fmt: skip
LEVELS = ((5, 7), (6, 5), (8, 5), (8, 3))
"""Width and kernel of the encoder's blocks."""


def make(foreign: Foreign, levels: tuple[tuple[int, int], ...] = LEVELS, channels: int = 3, seed: int = 0) -> State:
    """Tensors in the order and under the names of a state dict; every number is one that counts."""
    rng = torch.Generator().manual_seed(seed)
    widths = [channels, *(width for width, _ in levels)]
    shapes = [(widths[i + 1], widths[i], side) for i, (_, side) in enumerate(levels)]
    shapes += [(widths[i - 1], widths[i] + widths[i - 1], 3) for i in range(len(levels), 0, -1)]
    state: State = {}
    for i, (name, (out, into, side)) in enumerate(zip(foreign.names(len(levels)), shapes, strict=True)):
        window = into * side * side
        gain = {"1": window, "k2": into, "ck2": 1}[foreign.numerator] * (2 / window) ** 0.5
        # The last result stays where tanh and sigmoid still tell values apart. Before batch norm numbers are small, so
        # that the variances lie about epsilon, as they do in files from training.
        small = 0.01 if foreign.has_norm(i, len(shapes)) else 1.0
        size = small * (1 if i < len(shapes) - 1 else 0.005)
        if small < 1:
            variance = 10 ** (torch.rand(out, generator=rng) * 4 - 6)
            state[f"{name}{foreign.norm}.weight"] = (variance + foreign.epsilon).sqrt() / small * _about_one(rng, out)
            state[f"{name}{foreign.norm}.bias"] = torch.randn(out, generator=rng) * 0.3
            state[f"{name}{foreign.norm}.running_mean"] = torch.randn(out, generator=rng) * size
            state[f"{name}{foreign.norm}.running_var"] = variance
            state[f"{name}{foreign.norm}.num_batches_tracked"] = torch.tensor(500)
        state[name + foreign.weight] = torch.randn(out, into, side, side, generator=rng) * gain * size
        if foreign.ones:
            state[name + foreign.ones] = torch.ones(out, into, side, side)
        if foreign.zeros:
            state[name + foreign.zeros] = torch.zeros(out)
        if foreign.has_bias(i, len(shapes)):
            state[name + foreign.bias] = torch.randn(out, generator=rng) * 0.3 * small
    if foreign.head:
        state[f"{foreign.head}.kernel"] = torch.randn(channels, channels, 1, 1, generator=rng)
        state[f"{foreign.head}.bias"] = torch.randn(channels, generator=rng)
    for key, shape in (foreign.idle or {}).items():
        state[key] = torch.randn(shape, generator=rng)
    return state


def evaluate(foreign: Foreign, state: State, picture: Tensor, known: Tensor, levels: int = 4) -> tuple[Tensor, Tensor]:
    """Compute what the original computes for `(1, c, h, w)` float64 tones and `(1, 1, h, w)`; output and its mask."""
    channels = picture.shape[1]
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in foreign.tones)
    order = [2, 1, 0] if foreign.bgr and channels == 3 else list(range(channels))
    x = ((picture - mean) / std)[:, order]
    mask = known.double() if foreign.one_plane else known.double().expand(-1, channels, -1, -1)
    skips, names = [(x, mask)], foreign.names(levels)
    for i, name in enumerate(names[:levels]):
        x, mask = _block(foreign, state, name, x, mask, i, 2 * levels)
        if foreign.one_plane:
            mask = mask[:, :1]
        skips.append((x, mask))
    skips.pop()
    for i, name in enumerate(names[levels:], levels):
        skip, skip_mask = skips.pop()
        x, mask = (F.interpolate(value, size=skip.shape[-2:], mode="nearest") for value in (x, mask))
        mask, skip_mask = mask[:, :1].expand_as(x), skip_mask[:, :1].expand_as(skip)
        both, masks = [x, skip], [mask, skip_mask]
        if foreign.skip_first:
            both, masks = both[::-1], masks[::-1]
        x, mask = _block(foreign, state, name, torch.cat(both, 1), torch.cat(masks, 1), i, 2 * levels)
    if foreign.head:
        x = F.conv2d(x, state[f"{foreign.head}.kernel"].double(), state[f"{foreign.head}.bias"].double())
    return foreign.end(x)[:, order] * std + mean, mask[:, :1]


def _block(
    foreign: Foreign, state: State, name: str, x: Tensor, mask: Tensor, i: int, count: int
) -> tuple[Tensor, Tensor]:
    weight = state[name + foreign.weight].double()
    side, last, stride = weight.shape[-1], i == count - 1, 2 if i < count // 2 else 1
    known = F.conv2d(mask, mask.new_ones(weight.shape[0], mask.shape[1], side, side), None, stride, side // 2)
    reached = (known > 0).double()
    above = {"1": 1, "k2": side * side, "ck2": mask.shape[1] * side * side}[foreign.numerator]
    ratio = torch.where(known > 0, above / known.clamp(min=1), torch.zeros(()).double())
    x = F.conv2d(x * mask, weight, None, stride, side // 2) * ratio
    if foreign.has_bias(i, count):
        x = x + state[name + foreign.bias].double()[:, None, None]
    if last and foreign.twice:
        x = x * ratio
    elif not foreign.hole_is_bias:
        x = x * reached
    if foreign.has_norm(i, count):
        parts = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, var = (state[f"{name}{foreign.norm}.{part}"].double()[:, None, None] for part in parts)
        x = (x - mean) / (var + foreign.epsilon).sqrt() * gamma + beta
    slope = 0.0 if i < count // 2 else foreign.slope
    if not last or foreign.head:
        x = F.leaky_relu(x, slope)
    return x, reached


def _about_one(rng: torch.Generator, count: int) -> Tensor:
    return (0.5 + torch.rand(count, generator=rng)) * torch.randn(count, generator=rng).sign()


def keras_file(path: Path, state: State, levels: int = 4, inside: str = "", last: str = "outputs_img") -> None:
    """Write what Keras writes: a group for each layer in the order of the network, kernels as (h, w, in, out)."""
    layers: dict[str, dict[str, Tensor]] = {"inputs_img": {}, "inputs_mask": {}}
    for i in range(2 * levels):
        name = f"p_conv2d_{i + 9}"
        layers[name] = {"img_kernel": state[f"{name}.img_kernel"].permute(2, 3, 1, 0), "bias": state[f"{name}.bias"]}
        if 0 < i < 2 * levels - 1:
            norm = f"EncBN{i}" if i < levels else f"batch_normalization_{i - levels + 8}"
            own = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
            layers[norm] = {new: state[f"{name}.bn.{old}"] for old, new in own.items()}
        layers[f"leaky_re_lu_{i}"] = {}
    layers[last] = {"kernel": state["outputs_img.kernel"].permute(2, 3, 1, 0), "bias": state["outputs_img.bias"]}
    with h5py.File(path, "w") as file:
        top = file.create_group(inside) if inside else file
        top.attrs["layer_names"] = [name.encode() for name in layers]
        for name, tensors in layers.items():
            group = top.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{part}:0".encode() for part in tensors]
            for part, tensor in tensors.items():
                group.create_dataset(f"{name}/{part}:0", data=tensor.numpy())
