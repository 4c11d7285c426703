"""What fills best where no tile could reach: the pyramid over the whole picture, or further rounds of the network.

    python benchmarks/reach.py PHOTOS [--weights NAME|FILE] [--tile 128] [--hole 320] [--count 12]

A square hole larger than a tile is cut into each picture; the tiles inside it see nothing known. `pyramid` fills them
from everything that was filled around them; `rounds` runs the network again on windows of twice the tile's side, the
filled rim now known, until nothing is left. PSNR is taken over the unreached pixels. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from pconv_cli import weights as store
from pconv_cli.engine import Engine, Tile
from pconv_cli.images import READ_SUFFIXES, read_picture
from pconv_cli.nn.pyramid import pyramid_fill
from pconv_cli.tiles import plan_tiles


def first_pass(engine: Engine, truth: np.ndarray, hole: np.ndarray, tile: int) -> tuple[np.ndarray, np.ndarray]:
    fill, unreached = truth.copy(), np.zeros_like(hole)
    fill[hole] = 0
    for window in plan_tiles(hole, tile).windows:
        at = window.slices
        done = engine.fill([Tile(fill[at], ~hole[at])], (window.width, window.height))[0]
        inside = hole[at] & done.reached
        fill[at][inside] = done.pixels[inside]
        unreached[at] = hole[at] & ~done.reached
    return fill, unreached


def by_pyramid(fill: np.ndarray, unreached: np.ndarray) -> np.ndarray:
    image = torch.from_numpy(fill).permute(2, 0, 1)[None].float() / 255
    filled = pyramid_fill(image, torch.from_numpy(~unreached)[None, None].float())
    return filled.clamp(0, 1).mul(255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()


def by_rounds(engine: Engine, fill: np.ndarray, unreached: np.ndarray, tile: int) -> np.ndarray:
    fill, unknown = fill.copy(), unreached.copy()
    height, width = unknown.shape
    while unknown.any():
        progress = False
        for window in plan_tiles(unknown, tile).windows:
            top, left = max(0, window.y - tile // 2), max(0, window.x - tile // 2)
            at = slice(top, min(height, window.bottom + tile // 2)), slice(left, min(width, window.right + tile // 2))
            if unknown[at].all():
                continue
            done = engine.fill([Tile(fill[at], ~unknown[at])], (at[1].stop - left, at[0].stop - top))[0]
            inside = unknown[window.slices]
            dy, dx = window.y - top, window.x - left
            fill[window.slices][inside] = done.pixels[dy : dy + window.height, dx : dx + window.width][inside]
            unknown[window.slices] = False
            progress = True
        if not progress:
            raise SystemExit("no window sees anything known")
    return fill


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    return float(-10 * np.log10((((a[where].astype(float) - b[where]) / 255) ** 2).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", default=None)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--hole", type=int, default=320)
    parser.add_argument("--count", type=int, default=12)
    arguments = parser.parse_args()
    engine = Engine(store.load_network(arguments.weights), torch.device("cpu"), torch.float32, lambda _: None)
    paths = sorted(p for p in arguments.photos.iterdir() if p.suffix.lower() in READ_SUFFIXES)
    scores: dict[str, list[float]] = {"pyramid": [], "rounds": []}
    for path in paths[:: max(1, len(paths) // arguments.count)][: arguments.count]:
        truth = read_picture(path).rgb()
        hole = np.zeros(truth.shape[:2], np.bool_)
        y, x = (side // 2 - arguments.hole // 2 for side in hole.shape)
        hole[y : y + arguments.hole, x : x + arguments.hole] = True
        fill, unreached = first_pass(engine, truth, hole, arguments.tile)
        scores["pyramid"].append(psnr(by_pyramid(fill, unreached), truth, unreached))
        scores["rounds"].append(psnr(by_rounds(engine, fill, unreached, arguments.tile), truth, unreached))
    result = {name: {"mean": float(np.mean(v)), "median": float(np.median(v))} for name, v in scores.items()}
    print(json.dumps({"pictures": len(scores["pyramid"]), "psnr_unreached": result}))


if __name__ == "__main__":
    main()
