"""What tiles without overlap cost: seams, closeness to the truth, pixels computed; against other ways of tiling.

    python benchmarks/seams.py PHOTOS MASKS [--weights NAME|FILE] [--size 512] [--mosaics 8]

PHOTOS is a folder of undamaged pictures of one size, MASKS has one folder per bucket (00-10, 10-20, ...) of masks of
that size (white = hole). Four pictures make a mosaic, shifted so that its own borders do not fall on the lines of the
grid, under one mask of a bucket, twice as large as it was (as they are, hardly a hole needs cutting at size 512),
shifted too. All ways fill the same holes with the same network, in floating point: 8 bits would round small steps away.

The seam ratio is the mean absolute step across the cuts of a way, where they run through a hole, over the mean step 6
to 14 px beside them in the same holes. `whole` has no cuts: its figure, on the lines of the plain grid, is the noise.
Overlapping windows are measured at the borders of their windows. Prints a table on stderr, one JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pconv_cli import weights as store
from pconv_cli.engine import Engine, choose_device, choose_precision
from pconv_cli.filling import ArraySurface, Filling, fill
from pconv_cli.images import READ_SUFFIXES, read_mask, read_picture
from pconv_cli.nn.partial_conv import PaddingMode
from pconv_cli.seams import SeamMeter
from pconv_cli.tiles import TilePlan, plan_grid, plan_overlapping, plan_tiles


@dataclass(frozen=True)
class Way:
    """One way of tiling."""

    plan: Callable[[np.ndarray, int], TilePlan]
    padding: PaddingMode | None = None
    overlap: float = 0
    guided: bool = False
    healed: bool = False


def whole(hole: np.ndarray, size: int) -> TilePlan:
    return plan_grid(hole, max(hole.shape))


def ways() -> dict[str, Way]:
    return {
        "whole picture": Way(whole),
        "whole picture + guide": Way(whole, guided=True),
        "plain grid, partial padding": Way(plan_grid),
        "+ shared low frequencies": Way(plan_grid, guided=True),
        "+ windows on damage": Way(plan_tiles, guided=True),
        "+ heal (the default)": Way(plan_tiles, guided=True, healed=True),
        "the default without the guide": Way(plan_tiles, healed=True),
        "plain grid, zero padding": Way(plan_grid, padding="zero"),
        "plain grid, reflect padding": Way(plan_grid, padding="reflect"),
        "plain grid, replicate padding": Way(plan_grid, padding="replicate"),
        **{f"overlap 1/{n}": Way(plan_grid, overlap=1 / n) for n in (8, 4, 3)},
        **{f"overlap 1/{n} + guide": Way(plan_grid, overlap=1 / n, guided=True) for n in (8, 4, 3)},
    }


def meter_of(filled: np.ndarray, hole: np.ndarray, columns: set[int], rows: set[int]) -> SeamMeter:
    """Measure on whole lines."""
    meter = SeamMeter()
    for x in columns:
        meter.add(filled, hole, x)
    for y in rows:
        meter.add(filled.swapaxes(0, 1), hole.T, y)
    return meter


def seams(way: Way, filling: Filling, filled: np.ndarray, hole: np.ndarray, size: int) -> SeamMeter:
    height, width = hole.shape
    if way.plan is whole or way.overlap:
        windows = [at.window for at in plan_overlapping(hole, size, round(size * way.overlap))]
        columns = {edge for w in windows for edge in (w.x, w.right)} - {0, width}
        rows = {edge for w in windows for edge in (w.y, w.bottom)} - {0, height}
        return meter_of(filled, hole, columns, rows)
    return filling.seams()


def mosaic(parts: list[np.ndarray], shift: tuple[int, int]) -> np.ndarray:
    sheet = np.concatenate([np.concatenate(parts[:2], axis=1), np.concatenate(parts[2:], axis=1)])
    return np.roll(sheet, shift, axis=(0, 1))


def mosaics(photos: Path, bucket: Path, count: int):
    pictures = sorted(p for p in photos.iterdir() if p.suffix.lower() in READ_SUFFIXES)
    masks = sorted(bucket.iterdir())
    rng = np.random.default_rng(1811)
    masks = [masks[i] for i in rng.permutation(len(masks))]
    for at in range(count):
        those = [pictures[(at * 4 + i + 5 * len(bucket.name) + int(bucket.name[:2])) % len(pictures)] for i in range(4)]
        truth = mosaic([read_picture(path).rgb().astype(np.float32) / 255 for path in those], (201, 277))
        hole = np.roll(np.kron(read_mask(masks[at % len(masks)]).hole, np.ones((2, 2), np.bool_)), (119, 87), (0, 1))
        yield truth, hole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--mosaics", type=int, default=8)
    parser.add_argument("--buckets", nargs="*")
    options = parser.parse_args()
    device = choose_device(options.device)
    precision, _ = choose_precision("auto", device)
    engines = {
        padding: Engine(store.load_network(options.weights, padding), device, precision, lambda _: None)
        for padding in (None, "zero", "reflect", "replicate")
    }
    results: dict[str, dict[str, dict[str, float | None]]] = {}
    everything: dict[str, list[SeamMeter]] = defaultdict(list)
    for bucket in sorted(path for path in options.masks.iterdir() if path.is_dir()):
        if options.buckets and bucket.name not in options.buckets:
            continue
        meters: dict[str, SeamMeter] = defaultdict(SeamMeter)
        errors: dict[str, list[float]] = defaultdict(list)
        computed: dict[str, int] = defaultdict(int)
        for truth, hole in mosaics(options.photos, bucket, options.mosaics):
            for name, way in ways().items():
                filling = Filling(
                    ArraySurface(np.where(hole[..., None], 0, truth)), way.plan(hole, options.size),
                    overlap=round(options.size * way.overlap), guided=way.guided, healed=way.healed,
                )  # fmt: skip
                fill(filling, engines[way.padding])
                filled = filling.surface.pixels
                assert filling.unfilled == 0 and (filled[~hole] == truth[~hole]).all()
                difference = filled[hole].astype(np.float64) - truth[hole]
                errors[name].append(-10 * math.log10((difference**2).mean()))
                computed[name] += filling.pixels
                meter = seams(way, filling, filled, hole, options.size)
                meters[name].merge(meter)
        grid = computed["plain grid, partial padding"]
        results[bucket.name] = {
            name: {
                "seam_ratio": meters[name].ratio(),
                "seam_ratio_median": meters[name].median_ratio(),
                "psnr_hole": float(np.mean(errors[name])),
                "pixels_of_plain_grid": computed[name] / grid,
            }
            for name in ways()
        }
        for name in ways():
            everything[name].append(meters[name])
        print(f"\n{bucket.name}", file=sys.stderr)
        for name, row in results[bucket.name].items():
            print(_line(name, row), file=sys.stderr, flush=True)
    print("\nall buckets", file=sys.stderr)
    summary = {}
    for name in ways():
        together = SeamMeter()
        for meter in everything[name]:
            together.merge(meter)
        summary[name] = {
            "seam_ratio": together.ratio(),
            "seam_ratio_median": together.median_ratio(),
            "psnr_hole": float(np.mean([results[bucket][name]["psnr_hole"] for bucket in results])),
            "pixels_of_plain_grid": float(np.mean([results[b][name]["pixels_of_plain_grid"] for b in results])),
        }
        print(_line(name, summary[name]), file=sys.stderr)
    document = {
        "benchmark": "seams", "weights": options.weights or store.listed()[0].name, "device": str(device),
        "size": options.size, "mosaics_per_bucket": options.mosaics, "torch": torch.__version__,
        "all": summary, "buckets": results,
    }  # fmt: skip
    print(json.dumps(document))


def _line(name: str, row: dict[str, float | None]) -> str:
    ratio, median = row["seam_ratio"], row["seam_ratio_median"]
    seam = "     -      - " if ratio is None or median is None else f"{ratio:6.2f} {median:6.2f} "
    return f"  {name:32s} seam {seam} psnr {row['psnr_hole']:6.2f}  pixels {row['pixels_of_plain_grid']:.3f}"


if __name__ == "__main__":
    main()
