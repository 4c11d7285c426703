"""How good the fill is: hole known pictures, restore them with several methods, measure by hole-ratio bucket.

    python benchmarks/quality.py PHOTOS MASKS [--weights NAME|FILE ...] [--methods telea,ns,...] [--per-bucket 20]

PHOTOS is a folder of undamaged pictures, MASKS has one folder per bucket (00-10, 10-20, ...) of masks (white = hole).
Each bucket takes the same pairs for every method, drawn evenly from the kinds of masks (the part of a mask's name
before the first "_"). Prints a table on stderr, one JSON object last on stdout. `biharmonic` needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from pconv_cli import weights as store
from pconv_cli.engine import Engine, choose_device, choose_precision
from pconv_cli.filling import ArraySurface, Filling, fill
from pconv_cli.images import READ_SUFFIXES, read_mask, read_picture
from pconv_cli.metrics import l1, psnr, ssim
from pconv_cli.tiles import plan_tiles

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


def network(name: str, device: str, precision: str) -> Fill:
    where = choose_device(device)
    engine = Engine(store.load_network(name), where, choose_precision(precision, where), lambda _: None)

    def filled(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
        filling = Filling(ArraySurface(picture.copy()), plan_tiles(hole, 512))
        fill(filling, engine)
        return filling.surface.pixels

    return filled


def opencv(flag: str) -> Fill:
    import cv2

    return lambda picture, hole: cv2.inpaint(picture, hole.astype(np.uint8), 3, getattr(cv2, flag))


def biharmonic(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    from skimage.restoration import inpaint_biharmonic

    filled = inpaint_biharmonic(picture, hole, channel_axis=-1)
    return (np.clip(filled, 0, 1) * 255).round().astype(np.uint8)


def pairs(photos: Path, bucket: Path, count: int, shift: int) -> list[tuple[Path, Path]]:
    pictures = sorted(p for p in photos.iterdir() if p.suffix.lower() in READ_SUFFIXES)
    kinds = defaultdict(list)
    for mask in sorted(bucket.iterdir()):
        kinds[mask.name.split("_")[0]].append(mask)
    rng = np.random.default_rng(2018)
    for masks in kinds.values():
        rng.shuffle(masks)
    masks = [mask for row in zip_longest(*kinds.values()) for mask in row if mask is not None]
    return [(pictures[(i * 7 + shift) % len(pictures)], masks[i % len(masks)]) for i in range(count)]


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].double() / 255


def measure(filled: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> dict[str, float]:
    composite = np.where(hole[..., None], filled, truth)
    a, b, where = tensor(composite), tensor(truth), torch.from_numpy(hole)[None, None]
    return {
        "psnr_hole": float(psnr(a, b, where)),
        "psnr": float(psnr(a, b)),
        "ssim": float(ssim(a, b)),
        "ssim_hole": float(ssim(a, b, where)),
        "l1_hole": float(l1(a, b, where)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--weights", action="append", default=[])
    parser.add_argument("--methods", default="telea,ns,biharmonic")
    parser.add_argument("--per-bucket", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    classical: dict[str, Callable[[], Fill]] = {
        "telea": lambda: opencv("INPAINT_TELEA"),
        "ns": lambda: opencv("INPAINT_NS"),
        "biharmonic": lambda: biharmonic,
    }
    methods: dict[str, Fill] = {
        name: network(name, arguments.device, arguments.precision) for name in arguments.weights
    }
    methods |= {name: classical[name]() for name in arguments.methods.split(",") if name}
    rows = []
    for i, bucket in enumerate(sorted(path for path in arguments.masks.iterdir() if path.is_dir())):
        for photo, mask in pairs(arguments.photos, bucket, arguments.per_bucket, i):
            truth, hole = read_picture(photo).rgb(), read_mask(mask).hole
            holed = np.where(hole[..., None], np.uint8(255), truth)
            for name, method in methods.items():
                started = time.perf_counter()
                filled = method(holed, hole)
                took = time.perf_counter() - started
                kind = mask.name.split("_")[0]
                about = {"bucket": bucket.name, "method": name, "kind": kind, "seconds": took}
                rows.append(about | measure(filled, truth, hole))
        show(rows, bucket.name)
    by_kind = means(rows, ("bucket", "kind", "method"))
    print(json.dumps({"fills": len(rows), "means": means(rows, ("bucket", "method")), "by_kind": by_kind}))


def means(rows: list[dict], keys: tuple[str, ...]) -> dict[str, dict[str, float]]:
    groups = defaultdict(list)
    for row in rows:
        groups[" ".join(row[key] for key in keys)].append(row)
    names = ("psnr_hole", "psnr", "ssim", "ssim_hole", "l1_hole", "seconds")
    return {
        group: {n: round(float(np.mean([r[n] for r in members if math.isfinite(r[n])])), 4) for n in names}
        | {"n": len(members)}
        for group, members in groups.items()
    }


def show(rows: list[dict], bucket: str) -> None:
    for group, values in means([r for r in rows if r["bucket"] == bucket], ("bucket", "method")).items():
        print(f"{group:28}" + "  ".join(f"{k} {v:.4f}" for k, v in values.items()), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
