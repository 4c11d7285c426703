"""What partial convolution costs over a plain one, layer by layer and for the default network.

    python benchmarks/layer.py [--rounds 15] [--device cpu] [--weights NAME|FILE]

All are measured in turns, in one run: `torch.nn.Conv2d`; a layer of the same shape with a mask of scattered holes
(`partial`); the same where holes are 0 already, as they are behind another such layer (`chain`: ratio, convolution);
a layer that knows that everything is known, which is what most layers on a floor are (`known`); and the paper's formula
as it stands, with a mask of as many channels as the features and a convolution of it (`formula`). Then the folded
network and the same with plain convolutions. On a GPU layers have 16 at once, so that it has something to do. Prints
medians and ratios on stderr, one JSON object last.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cli import weights as store
from pconv_cli.engine import autocast, choose_device
from pconv_cli.nn.partial_conv import PartialConv2d, hide
from pconv_cli.process import settle

LAYERS = [  # channels in, out, kernel, stride, side: of the default network at 512 px, and the paper's first
    (40, 96, 3, 2, 256),
    (96, 192, 3, 2, 128),
    (96, 96, 3, 1, 128),
    (136, 40, 3, 1, 256),
    (288, 96, 3, 1, 128),
    (448, 192, 3, 1, 64),
    (3, 64, 7, 2, 512),
]


class Plain(PartialConv2d):
    """The same weights in a plain convolution: masks are passed on, and not looked at."""

    def ratio(self, known: Tensor) -> tuple[Tensor, Tensor]:
        height, width = known.shape[2:]
        return known, known[:, :1, : -(-height // self.stride[0]), : -(-width // self.stride[1])]

    def convolve(self, visible: Tensor, ratio: Tensor, some_empty: bool = True) -> Tensor:
        return self.convolve_known(visible)

    def convolve_known(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Formula(nn.Conv2d):
    """Equations 1 and 2 of arXiv 1804.07723 as they stand."""

    def forward(self, features: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        mask = known.to(features.dtype).expand_as(features)
        ones = torch.ones_like(self.weight)
        count = F.conv2d(mask, ones, None, self.stride, self.padding, self.dilation, self.groups)
        some = count.clamp(0, 1)
        out = F.conv2d(features * mask, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        out = out * (self.weight[0].numel() / (count + 1e-6) * some)
        assert self.bias is not None
        return (out + self.bias[:, None, None]) * some, some


def plain(network: nn.Module) -> nn.Module:
    twin = copy.deepcopy(network)
    for module in twin.modules():
        if isinstance(module, PartialConv2d):
            module.__class__ = Plain
    return twin


def in_turns(runs: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, measured one after the other, round by round."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 2):
        for name, run in runs.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i > 1:  # two to warm up
                found[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", default=None)
    options = parser.parse_args()
    settle()
    device = choose_device(options.device)
    torch.backends.cudnn.allow_tf32 = False  # as an engine has it
    results, batch = [], 16 if device.type == "cuda" else 1
    rng = torch.Generator().manual_seed(0)
    for precision in (torch.float32, torch.bfloat16):
        name = "fp32" if precision == torch.float32 else "bf16"
        with torch.inference_mode(), autocast(device, precision):
            for incoming, outgoing, kernel, stride, side in LAYERS:
                layer = PartialConv2d(incoming, outgoing, kernel, stride, kernel // 2)
                conv = nn.Conv2d(incoming, outgoing, kernel, stride, kernel // 2)
                formula = Formula(incoming, outgoing, kernel, stride, kernel // 2)
                layer, conv, formula = (m.to(device, memory_format=torch.channels_last) for m in (layer, conv, formula))
                features = torch.rand(batch, incoming, side, side, generator=rng).to(device, precision)
                features = features.contiguous(memory_format=torch.channels_last)
                noise = torch.rand(batch, 1, side, side, generator=rng)
                known = (F.avg_pool2d(noise, 9, 1, 4) < 0.51).float().to(device)
                visible = hide(features, known)
                runs = {
                    "conv": lambda m=conv, x=features: m(x),
                    "partial": lambda m=layer, x=features, k=known: m(x, k),
                    "chain": lambda m=layer, x=visible, k=known: m.convolve(x, m.ratio(k)[0]),
                    "known": lambda m=layer, x=features: m.convolve_known(x),
                    "formula": lambda m=formula, x=features, k=known: m(x, k),
                }
                medians = in_turns(runs, options.rounds, device)
                results.append({"precision": name, "layer": [incoming, outgoing, kernel, stride, side], **medians})
                show(
                    f"{incoming} -> {outgoing}, {kernel} x {kernel}, stride {stride}, {side} px", name, medians, "conv"
                )
            network = store.load_network(options.weights).to(device, memory_format=torch.channels_last)
            twin = plain(network)
            for count, side in ((1, 512), (4, 256)) if device.type == "cpu" else ((8, 512), (32, 256)):
                image = torch.rand(count, 3, side, side, generator=rng).to(device)
                known = (torch.rand(count, 1, side // 16, side // 16, generator=rng) < 0.8).float()
                known = F.interpolate(known, scale_factor=16).to(device)
                runs = {
                    "plain": lambda m=twin, x=image, k=known: m(x, k),
                    "partial": lambda m=network, x=image, k=known: m(x, k),
                }
                medians = in_turns(runs, options.rounds, device)
                results.append({"precision": name, "network": [count, side], **medians})
                show(f"network, {count} of {side} px", name, medians, "plain")
    about = {
        "benchmark": "layer",
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps({**about, "rounds": options.rounds, "batch": batch, "results": results}))


def show(what: str, precision: str, medians: dict[str, float], base: str) -> None:
    others = ", ".join(f"{name} {value / medians[base]:.2f}" for name, value in medians.items() if name != base)
    print(f"{precision} {what}: {base} {1e3 * medians[base]:.2f} ms; {others}", file=sys.stderr)


if __name__ == "__main__":
    main()
