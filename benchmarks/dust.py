"""What dust costs: many specks on a large picture, of which next to nothing is damaged.

    python benchmarks/dust.py [--side 4096] [--specks 2000] [--rounds 3] [--device auto] [PHOTO]

Specks of 2 to 9 px anywhere; PHOTO is repeated to the size wanted, without it the picture is smooth noise. Measured in
turns: the plan alone; the whole fill (plan, windows, network) in memory; the same by the plain grid of tiles that hold
damage; OpenCV's Telea and Navier-Stokes and, if there is one, GDAL's fill (--slow: scikit-image's biharmonic) over the
whole picture.
Pixels computed are counted as a share of the picture's own. Prints a table on stderr, one JSON object last.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pconv_cli import classical
from pconv_cli import weights as store
from pconv_cli.engine import Engine, choose_devices, choose_precision, precision_name
from pconv_cli.filling import ArraySurface, Filling, Piece
from pconv_cli.images import read_picture
from pconv_cli.process import settle
from pconv_cli.tiles import TilePlan, plan_grid, plan_tiles

SIZE = 512


def dust(side: int, specks: int) -> NDArray[np.bool_]:
    """Ellipses of 2 to 9 px."""
    rng = np.random.default_rng(0)
    mask = np.zeros((side, side), np.uint8)
    for _ in range(specks):
        centre = tuple(int(place) for place in rng.integers(0, side, 2))
        axes = tuple(int(radius) for radius in rng.integers(1, 5, 2))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    return mask > 0


def picture(photo: Path | None, side: int) -> NDArray[np.uint8]:
    if photo is None:
        rough = np.random.default_rng(1).integers(0, 256, (side // 32, side // 32, 3), np.uint8)
        return np.asarray(cv2.resize(rough, (side, side), interpolation=cv2.INTER_CUBIC))
    one = read_picture(photo).rgb()
    times = -(-side // min(one.shape[:2]))
    return np.ascontiguousarray(np.tile(np.concatenate([one, one[:, ::-1]], 1), (times, times, 1))[:side, :side])


def fill(engine: Engine, pixels: NDArray[np.uint8], hole: NDArray[np.bool_], plan: TilePlan) -> Filling:
    """Go through all rounds with all lanes."""
    filling = Filling(ArraySurface(pixels.copy()), plan)

    def batches(pieces: list[Piece]) -> list[list[Piece]]:
        shapes: dict[object, list[Piece]] = {}
        for piece in pieces:
            shapes.setdefault(piece.shape, []).append(piece)
        found = []
        for some in shapes.values():
            count = engine.batch_size(some[0].canvas)
            found += [some[at : at + count] for at in range(0, len(some), count)]
        return found

    with ThreadPoolExecutor(engine.lanes) as pool:
        for pieces in filling.rounds():
            left = iter(batches(list(pieces)))

            def work(lane: int, left: object = left) -> None:
                for batch in left:  # type: ignore[attr-defined]
                    tiles = [piece.load() for piece in batch]
                    results = engine.fill(tiles, batch[0].canvas, lane, engine.lanes)
                    for piece, tile, result in zip(batch, tiles, results, strict=True):
                        piece.land(tile, result)

            list(pool.map(work, range(engine.lanes)))
    return filling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, nargs="?")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--specks", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--slow", action="store_true", help="biharmonic too: minutes")
    options = parser.parse_args()
    settle()
    devices = choose_devices(options.device)
    precision, _ = choose_precision(options.precision, devices)
    engine = Engine(store.load_network(None), devices, precision, lambda _: None)
    hole, pixels = dust(options.side, options.specks), picture(options.photo, options.side)
    gdal = ["fillnodata"] if importlib.util.find_spec("rasterio") else []
    methods = ["telea", "ns", *gdal, *(["biharmonic"] if options.slow else [])]
    peers = {name: lambda name=name: classical.fill(name, pixels, hole) for name in methods}
    counted: dict[str, int] = {}

    def ours(plan: Callable[[NDArray[np.bool_], int], TilePlan]) -> Callable[[], object]:
        def run() -> None:
            filling = fill(engine, pixels, hole, plan(hole, SIZE))
            counted[plan.__name__] = filling.pixels

        return run

    runs = {
        "plan": lambda: plan_tiles(hole, SIZE),
        "pconv": ours(plan_tiles),
        "plain_grid": ours(plan_grid),
        **peers,
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for name in ("pconv", "plain_grid"):  # to warm up
        runs[name]()
    for _ in range(options.rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - started)
    planned = plan_tiles(hole, SIZE)
    result = {
        "benchmark": "dust",
        "device": ",".join(map(str, devices)),
        "precision": precision_name(precision),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "side": options.side,
        "specks": options.specks,
        "damaged_share": round(float(hole.mean()), 5),
        "windows": len(planned.windows),
        "pixels_of_the_picture": round(counted["plan_tiles"] / hole.size, 3),
        "pixels_of_the_picture_by_plain_grid": round(counted["plan_grid"] / hole.size, 3),
        "seconds": {name: round(statistics.median(times), 3) for name, times in found.items()},
        "spread": {name: [round(min(times), 3), round(max(times), 3)] for name, times in found.items()},
    }
    print(
        f"{options.specks} specks on {options.side} px: {result['pixels_of_the_picture']} of its pixels computed in "
        f"{result['seconds']['pconv']} s; by the plain grid {result['pixels_of_the_picture_by_plain_grid']} in "
        f"{result['seconds']['plain_grid']} s",
        file=sys.stderr,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
