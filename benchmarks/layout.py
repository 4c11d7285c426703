"""Which memory layout and precision the network runs fastest in on this machine, measured alternately.

    python benchmarks/layout.py [--device auto] [--size 512] [--batch 1] [--rounds 7]

Prints one JSON object: median seconds of a forward pass for each variant, and the ratio to the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from pconv_cli.engine import PRECISIONS, autocast, choose_device
from pconv_cli.nn.unet import COMPACT, PartialConvUNet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    torch.backends.cudnn.allow_tf32 = False  # as an engine has it
    image = torch.rand(arguments.batch, 3, arguments.size, arguments.size, device=device)
    known = (torch.rand(arguments.batch, 1, arguments.size, arguments.size, device=device) > 0.2).float()
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    times: dict[str, list[float]] = {}
    network = PartialConvUNet(COMPACT).eval()
    for turn in range(arguments.rounds + 1):
        for layout, memory in formats.items():
            for fold in (False, True):
                for name, precision in PRECISIONS.items():
                    if name == "fp64" or (device.type == "cpu" and name == "fp16"):
                        continue  # the one is not what autocast makes of a network, the other takes a CPU minutes
                    variant = (network.folded() if fold else network).to(device=device, memory_format=memory)
                    given = image.contiguous(memory_format=memory)
                    with torch.inference_mode(), autocast(device, precision):
                        started = time.perf_counter()
                        variant(given, known)
                        if device.type == "cuda":
                            torch.cuda.synchronize(device)
                        took = time.perf_counter() - started
                    if turn:  # the first round warms up
                        times.setdefault(f"{layout} {'folded' if fold else 'plain'} {name}", []).append(took)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    print(
        json.dumps(
            {
                "benchmark": "layout",
                "device": str(device),
                "size": arguments.size,
                "batch": arguments.batch,
                "torch": torch.__version__,
                "seconds": {name: round(value, 4) for name, value in medians.items()},
                "ratio": {name: round(value / first, 3) for name, value in medians.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
