"""Does compiling the network pay, and after how many tiles?

    python benchmarks/compile.py [--side 512] [--batch 1] [--rounds 9] [--device auto] [--precision auto]

`torch.compile` of the default network for one shape: seconds that it takes with an empty cache and with a full one (in
a new process), then eager and compiled in turns. On a CPU with one thread, as a lane has it.
Prints the verdict on stderr, one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

from pconv_cli import weights as store
from pconv_cli.engine import autocast, choose_device, choose_precision, precision_name
from pconv_cli.process import settle


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds to compile, and medians of eager and compiled passes, in this process."""
    settle()
    device = choose_device(options.device)
    torch.backends.cudnn.allow_tf32 = False  # as an engine has it
    precision, _ = choose_precision(options.precision, device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    network = store.load_network(None).to(device, memory_format=torch.channels_last)
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(options.batch, options.side, options.side, 3, generator=rng).permute(0, 3, 1, 2).to(device)
    known = (torch.rand(options.batch, 1, options.side // 16, options.side // 16, generator=rng) < 0.8).float()
    known = F.interpolate(known, scale_factor=16).to(device)
    compiled = torch.compile(network, dynamic=False)
    with torch.inference_mode(), autocast(device, precision):

        def seconds(run: torch.nn.Module) -> float:
            started = time.perf_counter()
            run(image, known)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - started

        seconds(network)
        found = {"compile": seconds(compiled)}
        times: dict[str, list[float]] = {"eager": [], "compiled": []}
        for _ in range(options.rounds):
            times["eager"].append(seconds(network))
            times["compiled"].append(seconds(compiled))
    return found | {name: statistics.median(some) for name, some in times.items()}


def inside(cache: str) -> dict[str, float]:
    """Measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--inside"], env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{done.stderr}\nexit code {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = inside(cache), inside(cache)
    gain = warm["eager"] - warm["compiled"]
    device = choose_device(options.device)
    result = {
        "benchmark": "compile",
        "device": str(device),
        "precision": precision_name(choose_precision(options.precision, device)[0]),
        "torch": torch.__version__,
        "shape": [options.batch, options.side, options.side],
        "seconds_to_compile": {"cold": round(cold["compile"], 1), "from_the_cache": round(warm["compile"], 1)},
        "seconds": {name: round(warm[name], 4) for name in ("eager", "compiled")},
        "compiled_over_eager": round(warm["compiled"] / warm["eager"], 3),
        "pays_after_batches": round(warm["compile"] / gain) if gain > 0 else None,
    }
    print(
        f"compiled {result['compiled_over_eager']} of eager; pays after {result['pays_after_batches']} batches",
        file=sys.stderr,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
