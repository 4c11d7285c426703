"""How well damage is found: undamaged pictures are damaged on purpose, by kind, and what is found is compared.

    python benchmarks/detect.py PHOTOS MASKS [--pictures 50] [--sensitivity 0.5] [--seed 7] [--sheet FILE.png]

PHOTOS is a folder of undamaged pictures, MASKS one with the shapes of dust and hairs (white = damaged, any size; they
are repeated over the picture, and what covers more than 900 px is left out). Dust is bright or dark with soft edges, a
scratch runs along the picture and is out of sight here and there, a tear is as light as paper and begins at the border.
Damage counts where a pixel changed by more than 12 of 255.

Precision is the share of what was found that lies within two pixels of damage, recall the share of damage within two
pixels of what was found; "specks" is the share of separate places of damage that were touched. Each kind is looked for
by name, and by `auto`. `false` is the share of the undamaged pictures that is taken for damage. Prints a table on
stderr, one JSON object last; the sheet shows, for a few pictures, damage and what was found of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_cli.detection import Detect, Kind, find
from pconv_cli.images import READ_SUFFIXES, read_mask, read_picture
from pconv_cli.pairs import find_files
from pconv_cli.regions import Window

Pixels = NDArray[np.uint8]
Hole = NDArray[np.bool_]
SQUARE = np.ones((5, 5), np.uint8)  # what lies within two pixels
VISIBLE = 12
LARGEST_SPECK = 900
SHOWN = 8


def blended(picture: Pixels, share: NDArray[np.float32], value: Any) -> Pixels:
    mixed = picture * (1 - share[..., None]) + share[..., None] * value
    return np.asarray(mixed.clip(0, 255).round().astype(np.uint8))


def dust(picture: Pixels, shapes: Hole, rng: np.random.Generator) -> Pixels:
    """Specks and hairs of real shapes, all bright or all dark, more or less opaque."""
    height, width = picture.shape[:2]
    times = -(-height // shapes.shape[0]), -(-width // shapes.shape[1])
    plane = np.tile(shapes, times)[:height, :width]
    plane = cv2.erode(
        np.ascontiguousarray(plane[:, :: rng.choice([1, -1])]).astype(np.uint8), np.ones((3, 3), np.uint8)
    )
    count, labels, facts, _ = cv2.connectedComponentsWithStats(plane)
    opacity = rng.uniform(0.45, 1, count).astype(np.float32)
    opacity[(facts[:, 4] < 4) | (facts[:, 4] > LARGEST_SPECK)] = 0
    value = rng.uniform(225, 255) if rng.random() < 0.7 else rng.uniform(5, 35)
    return blended(picture, cv2.GaussianBlur(opacity[labels], (0, 0), rng.uniform(0.6, 1.1)), value)


def scratches(picture: Pixels, _: Hole, rng: np.random.Generator) -> Pixels:
    """One to three lines along the picture, three times in four upright."""
    lying = rng.random() < 0.25
    seen = picture.transpose(1, 0, 2) if lying else picture
    height, width = seen.shape[:2]
    share = np.zeros((height, width), np.float32)
    y = np.arange(height)
    for _number in range(rng.integers(1, 4)):
        x = rng.uniform(0.05, 0.95) * width + np.cumsum(rng.normal(0, 0.06, height))
        x += (y - height / 2) * rng.normal(0, 0.003)
        opacity = rng.uniform(0.3, 0.9) + np.interp(y, np.linspace(0, height, 12), rng.normal(0, 0.12, 12))
        if rng.random() < 0.4:
            begin = rng.integers(0, max(height - 60, 1))
            opacity[begin : begin + rng.integers(10, 60)] = 0
        away = np.abs(np.arange(width)[None] - x[:, None])
        line = (rng.uniform(0.8, 3) / 2 + 0.5 - away).clip(0, 1) * opacity.clip(0, 1)[:, None]
        share = np.maximum(share, line.astype(np.float32))
    value = rng.uniform(215, 255) if rng.random() < 0.6 else rng.uniform(5, 40)
    made = blended(seen, cv2.GaussianBlur(share, (0, 0), 0.6), value)
    return np.ascontiguousarray(made.transpose(1, 0, 2)) if lying else made


def tears(picture: Pixels, _: Hole, rng: np.random.Generator) -> Pixels:
    """One or two ragged ways from a border inwards, in paper white."""
    height, width = picture.shape[:2]
    plane = np.zeros((height, width), np.uint8)
    for _number in range(rng.integers(1, 3)):
        side = int(rng.integers(4))
        begins = [(rng.uniform(0, width), 0), (rng.uniform(0, width), height)]
        begins += [(0, rng.uniform(0, height)), (width, rng.uniform(0, height))]
        here = np.array(begins[side], float)
        angle = (np.pi / 2, -np.pi / 2, 0, np.pi)[side] + rng.uniform(-0.6, 0.6)
        steps, thick = int(rng.uniform(0.2, 0.6) * min(height, width) / 3), rng.uniform(5, 16)
        for step in range(steps):
            angle += rng.normal(0, 0.15)
            there = here + 3 * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.7, 2)
            wide = max(1, round(thick * (1 - step / steps) * rng.uniform(0.6, 1.3)))
            cv2.line(plane, [int(v) for v in here], [int(v) for v in there], 1, wide)
            here = there
    paper = rng.uniform(232, 252) + rng.normal(0, 3, (height, width, 1)) - np.array([0, 2, 8]) * rng.random()
    return blended(picture, cv2.GaussianBlur(plane.astype(np.float32), (0, 0), 0.7), paper)


DAMAGES: dict[Kind, Callable[[Pixels, Hole, np.random.Generator], Pixels]] = {
    "dust": dust,
    "scratches": scratches,
    "tears": tears,
}


def found_in(picture: Pixels, kind: Kind, sensitivity: float) -> Hole:
    damage = find(picture, Detect((kind,), sensitivity))
    return damage.window(Window(0, 0, damage.width, damage.height))


def grown(plane: Hole) -> Hole:
    return np.asarray(cv2.dilate(plane.astype(np.uint8), SQUARE) > 0)


class Tally:
    """Pixels and places, added up over pictures."""

    def __init__(self) -> None:
        self.found = self.right = self.damaged = self.met = self.places = self.touched = 0

    def add(self, found: Hole, true: Hole) -> None:
        near = grown(found)
        self.found += int(found.sum())
        self.right += int((found & grown(true)).sum())
        self.damaged += int(true.sum())
        self.met += int((true & near).sum())
        count, labels = cv2.connectedComponents(true.astype(np.uint8))
        self.places += count - 1
        self.touched += len(np.unique(labels[near & true]))

    def told(self) -> dict[str, float]:
        return {
            "precision": round(self.right / max(self.found, 1), 3),
            "recall": round(self.met / max(self.damaged, 1), 3),
            "specks": round(self.touched / max(self.places, 1), 3),
        }


def pictures(paths: dict[str, Path], most: int, seed: int) -> Iterator[Pixels]:
    order = np.random.default_rng(seed).permutation(sorted(paths))
    for name in order[:most]:
        yield read_picture(paths[name]).rgb()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--sensitivity", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    photos, masks = find_files(options.photos, options.masks, READ_SUFFIXES)
    shapes = [read_mask(path).hole for _, path in sorted(masks.items())]
    rng = np.random.default_rng(options.seed)
    tallies = {kind: (Tally(), Tally()) for kind in DAMAGES}
    false: dict[str, list[float]] = {kind: [] for kind in (*DAMAGES, "auto")}
    rows: list[Pixels] = []
    pixels, started = 0, time.perf_counter()
    for number, picture in enumerate(pictures(photos, options.pictures, options.seed)):
        for kind in (*DAMAGES, "auto"):
            false[kind].append(float(found_in(picture, kind, options.sensitivity).mean()))
        row = []
        for kind, damage in DAMAGES.items():
            damaged = damage(picture, shapes[number % len(shapes)], rng)
            true = np.abs(damaged.astype(np.int16) - picture).max(axis=2) > VISIBLE
            by_name = found_in(damaged, kind, options.sensitivity)
            tallies[kind][0].add(by_name, true)
            tallies[kind][1].add(found_in(damaged, "auto", options.sensitivity), true)
            shown = damaged.copy()
            shown[grown(by_name)] = (255, 0, 255)
            row += [cv2.resize(one, (330, 220), interpolation=cv2.INTER_AREA) for one in (damaged, shown)]
        pixels += picture.shape[0] * picture.shape[1]
        if number < SHOWN:
            rows.append(np.hstack(row))
    seconds = time.perf_counter() - started
    result = {
        "benchmark": "detect",
        "pictures": len(false["auto"]),
        "megapixels": round(pixels / 1e6, 1),
        "sensitivity": options.sensitivity,
        "seed": options.seed,
        "opencv": cv2.__version__,
        "by_name": {kind: by_name.told() for kind, (by_name, _) in tallies.items()},
        "by_auto": {kind: by_auto.told() for kind, (_, by_auto) in tallies.items()},
        "false": {kind: round(float(np.mean(shares)), 6) for kind, shares in false.items()},
        "untouched": {
            kind: round(float(np.mean([not share for share in shares])), 3) for kind, shares in false.items()
        },
        "seconds": round(seconds, 1),
    }
    for how in ("by_name", "by_auto"):
        for kind, told in result[how].items():  # type: ignore[attr-defined]
            print(f"{how:8} {kind:10} {told}", file=sys.stderr)
    if options.sheet is not None and rows:
        Image.fromarray(np.vstack(rows)).save(options.sheet)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
