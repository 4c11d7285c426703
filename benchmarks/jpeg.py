"""What changes outside the mask when a JPEG is restored: by its blocks, and by encoding all of it again.

    python benchmarks/jpeg.py PHOTOS MASKS [--most 24] [--quality 90]

Every photograph of a folder becomes a JPEG of each kind, is filled by OpenCV's Telea under a mask of the other folder
(scaled to its size), and written both ways in turns: `_jpeg.patch`, which leaves the blocks alone that the mask does
not touch, and Pillow's encoder with the tables and subsampling of the input. Counted are pixels outside the mask that
are not as they were, in blocks that the mask touches (8 x 8 px, 16 x 16 of subsampled chroma) and in others, and the
time of the processor. Prints a table on stderr, one JSON object last.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pconv_cli import _jpeg, classical

KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:0": {"subsampling": 2},
    "4:2:0 progressive": {"subsampling": 2, "progressive": True},
    "grey": {},
}


def changes(before: NDArray[Any], after: NDArray[Any], where: NDArray[np.bool_]) -> tuple[float, float, int]:
    """Share of pixels changed, mean and largest step, where `where` is True."""
    step = np.abs(before.astype(int) - after.astype(int)).reshape(*where.shape, -1)[where]
    return (float((step.max(1) > 0).mean()), float(step.mean()), int(step.max())) if step.size else (0.0, 0.0, 0)


def touched(hole: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    height, width = hole.shape
    padded = np.pad(hole, ((0, -height % side), (0, -width % side)))
    blocks = padded.reshape(padded.shape[0] // side, side, -1, side).any(axis=(1, 3))
    return np.kron(blocks, np.ones((side, side), np.bool_))[:height, :width]


def timed(work: Callable[[], bytes]) -> tuple[bytes, float]:
    started = time.process_time()
    made = work()
    return made, time.process_time() - started


def measure(photo: Image.Image, hole: NDArray[np.bool_], options: dict[str, Any], quality: int) -> dict[str, Any]:
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=quality, **options)
    original = stream.getvalue()
    with Image.open(io.BytesIO(original)) as image:
        before, tables = np.asarray(image), image.quantization
    fill = classical.fill("telea", np.dstack([before] * 3) if before.ndim == 2 else before, hole)
    wanted = before.copy()
    wanted[hole] = (fill[..., 0] if before.ndim == 2 else fill)[hole]

    def again() -> bytes:
        out = io.BytesIO()
        Image.fromarray(wanted).save(out, "JPEG", qtables=tables, **options)
        return out.getvalue()

    near = touched(hole, 16 if options.get("subsampling") == 2 else 8)
    found: dict[str, Any] = {}
    for name, work in (("blocks", lambda: _jpeg.patch(original, wanted, hole)), ("again", again)):
        made, seconds = timed(work)
        with Image.open(io.BytesIO(made)) as image:
            after = np.asarray(image)
        found[name] = {
            "others": changes(before, after, ~near), "touched": changes(before, after, near & ~hole),
            "bytes": len(made) / len(original), "seconds": seconds,
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--most", type=int, default=24)
    parser.add_argument("--quality", type=int, default=90)
    chosen = parser.parse_args()
    suffixes = {".jpg", ".png", ".webp"}
    photos = sorted(path for path in chosen.photos.rglob("*") if path.suffix in suffixes)[: chosen.most]
    masks = sorted(path for path in chosen.masks.rglob("*") if path.suffix in suffixes)
    document: dict[str, Any] = {"benchmark": "jpeg", "photos": len(photos), "quality": chosen.quality}
    for kind, options in KINDS.items():
        rows = []
        for number, path in enumerate(photos):
            with Image.open(path) as image, Image.open(masks[number % len(masks)]) as mask:
                photo = image.convert("L" if kind == "grey" else "RGB")
                hole = np.asarray(mask.convert("L").resize(photo.size, Image.Resampling.NEAREST)) > 127
            rows.append(measure(photo, hole, options, chosen.quality))
        document[kind] = {}
        for way in ("blocks", "again"):
            told = {
                part: {
                    "share": round(statistics.mean(row[way][part][0] for row in rows), 5),
                    "mean": round(statistics.mean(row[way][part][1] for row in rows), 4),
                    "max": max(row[way][part][2] for row in rows),
                }
                for part in ("others", "touched")
            }
            told["bytes"] = round(statistics.mean(row[way]["bytes"] for row in rows), 3)
            told["milliseconds"] = round(1000 * statistics.median(row[way]["seconds"] for row in rows), 1)
            document[kind][way] = told
            sys.stderr.write(f"{kind:18} {way:7} {told}\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
