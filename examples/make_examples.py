"""Render the example pictures, damage them, and write the masks that cover the damage.

    python examples/make_examples.py [OUTDIR] [--only NAME ...] [--seed N]

Six pictures are rendered from nothing but noise functions and a little geometry, so they belong to nobody:
they are dedicated to the public domain (CC0). For each of them three files are written under OUTDIR (by
default the folder of this script):

    originals/NAME.EXT   the picture before anything happened to it
    damaged/NAME.EXT     the same picture, scratched, torn, stained or scribbled on
    masks/NAME.png       white where the damage is, a few pixels of margin included, black elsewhere

Outside its mask a damaged picture equals its original exactly, up to what a lossy encoder then does to both.
For one seed, and one version of NumPy and Pillow (the only dependencies), the files come out byte for byte the
same every time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gallery.chart import paint_map
from gallery.damage import Sheet
from gallery.fruit import paint_fruit
from gallery.lake import paint_lake
from gallery.lighthouse import paint_lighthouse
from gallery.night import paint_night
from gallery.noise import Array
from gallery.ruin import damage_fruit, damage_lake, damage_lighthouse, damage_map, damage_night, damage_window
from gallery.window import paint_window
from PIL import Image


@dataclass(frozen=True)
class Example:
    """One picture: how to paint it, how to ruin it, and how to store it."""

    paint: Callable[[int], Array]
    ruin: Callable[[Sheet], None]
    picture: str
    mask: str
    margin: int
    options: dict[str, Any]


JPEG: dict[str, Any] = {"quality": 93, "subsampling": 0, "optimize": True}
EXAMPLES: dict[str, Example] = {
    "lake": Example(paint_lake, damage_lake, "lake.jpg", "lake.png", 4, JPEG),
    "lighthouse": Example(
        paint_lighthouse,
        damage_lighthouse,
        "archive/lighthouse.png",
        "archive/lighthouse_mask.png",
        2,
        {"optimize": True},
    ),
    "map": Example(paint_map, damage_map, "archive/map.png", "archive/map_mask.png", 2, {"optimize": True}),
    "fruit": Example(paint_fruit, damage_fruit, "fruit.webp", "fruit.png", 4, {"quality": 93, "method": 6}),
    "window": Example(paint_window, damage_window, "window.png", "window.png", 2, {"optimize": True}),
    "night": Example(
        paint_night, damage_night, "night.tif", "night.png", 2, {"compression": "tiff_lzw", "tiffinfo": {317: 2}}
    ),
}
PALETTE = {"map"}


def share_palette(original: Array, damaged: Array) -> tuple[Image.Image, Image.Image]:
    """Reduce both pictures to one palette of 256 colours, so that equal pixels stay equal."""
    both = Image.fromarray(np.concatenate([original, damaged])).quantize(256, Image.Quantize.MEDIANCUT, kmeans=1)
    first, second = (Image.fromarray(a).quantize(palette=both, dither=Image.Dither.NONE) for a in (original, damaged))
    return first, second


def save(image: Image.Image, path: Path, options: dict[str, Any]) -> None:
    """Write one picture, making its folder first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def make(name: str, out: Path, seed: int) -> str:
    """Paint, ruin and store one example; returns a line that sums it up."""
    example, began = EXAMPLES[name], time.perf_counter()
    original = example.paint(seed)
    sheet = Sheet(original, np.random.default_rng([seed, *name.encode()]))
    example.ruin(sheet)
    damaged, mask = sheet.finish(example.margin)
    whole, broken = Image.fromarray(original), Image.fromarray(damaged)
    if name in PALETTE:
        whole, broken = share_palette(original, damaged)
        keep = mask == 0
        assert np.array_equal(np.asarray(whole)[keep], np.asarray(broken)[keep]), "palettes differ outside the mask"
    save(whole, out / "originals" / example.picture, example.options)
    save(broken, out / "damaged" / example.picture, example.options)
    save(Image.fromarray(mask).convert("1"), out / "masks" / example.mask, {"optimize": True})
    height, width = mask.shape
    share, took = float((mask > 0).mean()), time.perf_counter() - began
    return f"{example.picture:<24} {width:>5} x {height:<4} {broken.mode:<5} damaged {share:5.1%}   {took:4.1f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and make the pictures."""
    parser = argparse.ArgumentParser(description="Render the example pictures, their damage and their masks.")
    parser.add_argument("outdir", nargs="?", type=Path, default=Path(__file__).resolve().parent, metavar="OUTDIR")
    parser.add_argument("--only", nargs="+", choices=sorted(EXAMPLES), help="make just these pictures")
    parser.add_argument(
        "--seed", type=int, default=7, help="another seed gives other stars, houses, grapes and scratches"
    )
    options = parser.parse_args(arguments)
    for name in options.only or EXAMPLES:
        print(make(name, options.outdir, options.seed), flush=True)


if __name__ == "__main__":
    main()
