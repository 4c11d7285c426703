"""How long it takes until something happens: against Python that imports the libraries, nothing else.

    python benchmarks/startup.py [--rounds 15]

Whole processes, in turns: `pconv --help` against `python -c "import typer, rich"`; `pconv restore` of one picture of
256 px against `python -c "import torch"`, less the network's own time (the median of its runs over the same tile).
Prints medians on stderr, one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pconv_cli import weights as store
from pconv_cli.engine import Engine, Tile, choose_device, choose_precision
from pconv_cli.process import settle

PCONV = [sys.executable, "-m", "pconv_cli"]


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def network(pixels: np.ndarray, hole: np.ndarray, rounds: int) -> float:
    """Seconds that the network needs for the picture, warm."""
    settle()
    device = choose_device("auto")
    engine = Engine(store.load_network(None), device, choose_precision("auto", device)[0], lambda _: None)
    tile, found = Tile(pixels, ~hole), []
    for _ in range(rounds):
        started = time.perf_counter()
        engine.fill([tile], (256, 256))
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    pixels, hole = rng.integers(0, 256, (256, 256, 3), np.uint8), np.zeros((256, 256), np.bool_)
    hole[100:130, 50:200] = True
    with tempfile.TemporaryDirectory() as place:
        image, mask, out = (Path(place) / name for name in ("a.png", "m.png", "o.png"))
        Image.fromarray(pixels).save(image)
        Image.fromarray(hole).save(mask)
        commands = {
            "python": [sys.executable, "-c", "pass"],
            "typer_rich": [sys.executable, "-c", "import typer, rich"],
            "help": [*PCONV, "--help"],
            "torch": [sys.executable, "-c", "import torch"],
            "restore": [*PCONV, "restore", str(image), str(mask), str(out), "--overwrite"],
        }
        found: dict[str, list[float]] = {name: [] for name in commands}
        for i in range(options.rounds + 1):
            for name, command in commands.items():
                taken = seconds(command)
                if i:  # one to warm up
                    found[name].append(taken)
    medians = {name: statistics.median(times) for name, times in found.items()}
    spread = {name: [round(min(times), 3), round(max(times), 3)] for name, times in found.items()}
    own = network(pixels, hole, options.rounds)
    result = {
        "benchmark": "startup",
        "torch": torch.__version__,
        "rounds": options.rounds,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "spread": spread,
        "network": round(own, 3),
        "help_over_typer_and_rich": round(medians["help"] / medians["typer_rich"], 2),
        "restore_beyond_torch_and_network": round(medians["restore"] - medians["torch"] - own, 3),
    }
    print(
        f"pconv --help {result['help_over_typer_and_rich']} times import typer, rich; pconv restore "
        f"{result['restore_beyond_torch_and_network']} s beyond import torch and the network",
        file=sys.stderr,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
