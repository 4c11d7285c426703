"""How near does the network come to what the device can do at best?

    python benchmarks/ceilings.py [--device auto] [--side 512] [--batch N] [--rounds 9]

Measured on the device itself: multiplying square matrices (operations a second), copying memory (bytes read and
written a second), and on a GPU copying from and to page-locked memory of the host. Then the folded default network over
tiles of `--side` px, its floor and its coarse part included: operations counted by torch as it runs, a second, and as a
share of what matrices reach in the same precision (`tf32`: fp32 in which a GPU rounds what it multiplies to 10 bits).
Two operations are one multiplication and addition. Prints one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from layer import in_turns
from torch.utils.flop_counter import FlopCounterMode

from pconv_cli import weights as store
from pconv_cli.engine import _narrowed, autocast, choose_device
from pconv_cli.nn.pyramid import reduced
from pconv_cli.process import settle


def seconds(run: Callable[[], Any], device: torch.device, rounds: int) -> float:
    return in_turns({"it": run}, rounds, device)["it"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    settle()
    device = choose_device(options.device)
    gpu = device.type == "cuda"
    batch, size = options.batch or (16 if gpu else 1), 8192 if gpu else 2048
    found: dict[str, Any] = {"benchmark": "ceilings", "device": str(device), "torch": torch.__version__}
    found["threads"] = torch.get_num_threads()
    if gpu:
        found["name"] = torch.cuda.get_device_name(device)
    block = torch.ones(1 << (30 if gpu else 28), dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    found["copy_gb_s"] = round(2 * block.nbytes / seconds(lambda: other.copy_(block), device, options.rounds) / 1e9, 1)
    if gpu:
        host = torch.ones(1 << 28, dtype=torch.uint8, pin_memory=True)
        there = block[: len(host)]
        found["to_device_gb_s"] = round(
            host.nbytes / seconds(lambda: there.copy_(host), device, options.rounds) / 1e9, 1
        )
        found["from_device_gb_s"] = round(
            host.nbytes / seconds(lambda: host.copy_(there), device, options.rounds) / 1e9, 1
        )
    network = store.load_network(None).to(device, memory_format=torch.channels_last)
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(batch, options.side, options.side, 3, generator=rng).permute(0, 3, 1, 2).to(device)
    known = (torch.rand(batch, 1, options.side // 32, options.side // 32, generator=rng) < 0.8).float()
    known = F.interpolate(known, scale_factor=32).to(device)

    def fill() -> Any:
        guide = network.coarse(*reduced(image, known))[0].clamp(0, 1)
        return network(image, known, guide)[0]

    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            fill()
        operations = counter.get_total_flops()
        found["network"] = {"batch": batch, "side": options.side, "gflop_a_tile": round(operations / batch / 1e9, 1)}
        for name in ("fp32", *(["tf32"] if gpu else []), "bf16"):
            precision = torch.bfloat16 if name == "bf16" else torch.float32
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
            network = _narrowed(network, precision) if name == "bf16" else network
            matrix = torch.rand(size, size, device=device).to(precision)
            at_best = 2 * size**3 / seconds(lambda m=matrix: m @ m, device, options.rounds)  # type: ignore[misc]
            with autocast(device, precision):
                taken = seconds(fill, device, options.rounds)
            found["network"][name] = {
                "tiles_a_second": round(batch / taken, 2), "tflop_s": round(operations / taken / 1e12, 3),
                "matrices_tflop_s": round(at_best / 1e12, 3), "share": round(operations / taken / at_best, 3),
            }  # fmt: skip
            print(name, found["network"][name], file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
