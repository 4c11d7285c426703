"""What one picture larger than memory takes: time and peak memory of `pconv tile`, beside Pillow on the same file.

    python benchmarks/bigtiff.py [--sides 4096 16384 40000] [--folder DIR] [--damage 0.01] [--batch-size 4] [--repeat 5]

Makes square RGB TIFF files (tiles of 512, deflate, compressible) and masks with about the given share of damage:
blotches of up to 700 px, and scratches across the whole picture. Several times over, one after the other, it measures:
loading the libraries; copying the file and flushing it to disk; the tiles, read, computed and written back; and
`pconv tile` as it comes. Of all that it gives medians, and `over_sum`, the median time of `pconv tile` over that of the
sum of the others. Then, once: `pconv tile` at a batch size for its memory, and Pillow. One JSON object last.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as Part

from pconv_cli import weights as store
from pconv_cli.engine import GUIDED, Engine, Tile, choose_device, choose_precision
from pconv_cli.regions import Window
from pconv_cli.settings import Settings
from pconv_cli.tiff import Source
from pconv_cli.tile import plan
from pconv_cli.tiles import TilePlan, canvas

BLOCK = 512


def make_picture(path: Path, side: int) -> None:
    """Waves that go on smoothly from block to block and pack well."""
    y, x = np.mgrid[0:BLOCK, 0:BLOCK] * (2 * np.pi / BLOCK)
    waves = [np.sin((3 + c) * x + c) + np.sin((5 - c) * y + 2 * x) + 0.2 * np.sin(40 * x - 31 * y) for c in range(3)]
    block = (127 + 50 * np.stack(waves)).round().astype(np.uint8)
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "tiled": True,
        "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "zlevel": 1, "photometric": "RGB",
        "BIGTIFF": "YES",
    }  # fmt: skip
    with rasterio.Env(GDAL_CACHEMAX=64 * 2**20), rasterio.open(path, "w", **profile) as file:
        for top in range(0, side, BLOCK):
            for left in range(0, side, BLOCK):
                height, width = min(BLOCK, side - top), min(BLOCK, side - left)
                file.write(block[:, :height, :width], window=Part(left, top, width, height))


def make_mask(path: Path, side: int, share: float) -> None:
    """Blotches and scratches, drawn strip by strip."""
    rng = np.random.default_rng(16)
    scratches = [(rng.uniform(0, side), rng.uniform(-0.3, 0.3), rng.uniform(3, 8)) for _ in range(3)]
    left = share * side * side - sum(width * side for _, _, width in scratches)
    blotches = []
    while left > 0:
        radius = min(350, side / 8) * rng.uniform(0.02, 1) ** 2 + 2
        blotches.append((rng.uniform(0, side), rng.uniform(0, side), radius))
        left -= np.pi * radius**2
    blotches.sort(key=lambda blotch: blotch[1])
    x = np.arange(side)
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint8", "tiled": True,
        "blockxsize": 256, "blockysize": 256, "compress": "deflate", "zlevel": 1,
    }  # fmt: skip
    with rasterio.Env(GDAL_CACHEMAX=64 * 2**20), rasterio.open(path, "w", **profile) as file:
        for top in range(0, side, 256):
            y = np.arange(top, min(side, top + 256))
            strip = np.zeros((len(y), side), np.uint8)
            for start, lean, width in scratches:
                strip[np.abs(x[None, :] - start - lean * y[:, None]) < width / 2] = 255
            for cx, cy, radius in blotches:
                if cy + radius > top and cy - radius < top + 256:
                    low, high = max(0, int(cx - radius)), min(side, int(cx + radius) + 1)
                    near = (x[None, low:high] - cx) ** 2 + (y[:, None] - cy) ** 2 < radius**2
                    strip[:, low:high][near] = 255
            file.write(strip[None], window=Part(0, top, side, len(y)))


def copy(source: Path, target: Path) -> float:
    started = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - started


def work(big: Path, out: Path, planned: TilePlan) -> dict[str, float]:
    """Seconds for the plan's tiles, healing included, one thing after another: read, computed (a sample), written."""
    windows = [window for plan in (planned, *planned.heals) for window in plan.windows]
    started = time.perf_counter()
    with Source(big) as source:
        tiles = [source.read(window) for window in windows]
    read = time.perf_counter() - started
    device = choose_device("auto")
    engine = Engine(store.load_network(None), device, choose_precision("auto", device)[0], lambda _: None)
    rng = np.random.default_rng(0)
    shapes = [canvas(w.width, w.height, planned.size) for w in windows]
    picked = rng.choice(len(windows), min(len(windows), 96), replace=False)
    given = [Tile(tiles[i], rng.random(tiles[i].shape[:2]) > 0.1, guide(planned, windows[i])) for i in picked]
    left = iter(zip(given, (shapes[i] for i in picked), strict=True))

    def compute(lane: int) -> None:
        for tile, shape in left:
            engine.fill([tile], shape, lane, engine.lanes)

    engine.fill(given[:1], shapes[picked[0]])
    started = time.perf_counter()
    with ThreadPoolExecutor(engine.lanes) as pool:
        list(pool.map(compute, range(engine.lanes)))
    computed = time.perf_counter() - started
    computed *= sum(w * h for w, h in shapes) / sum(shapes[i][0] * shapes[i][1] for i in picked)
    blocks = {
        (y, x)
        for window in planned.windows
        for y in range(window.y // BLOCK, -(-window.bottom // BLOCK))
        for x in range(window.x // BLOCK, -(-window.right // BLOCK))
        if planned.damage.window(_block(planned, x, y)).any()
    }
    started = time.perf_counter()
    with rasterio.Env(GDAL_CACHEMAX=64 * 2**20), rasterio.open(out, "r+", NUM_THREADS="ALL_CPUS") as file:
        for y, x in sorted(blocks):
            block = _block(planned, x, y)
            part = Part(block.x, block.y, block.width, block.height)
            pixels = file.read(window=part)
            pixels[:, ::50, ::50] ^= 1
            file.write(pixels, window=part)
    written = time.perf_counter() - started
    return {"read_seconds": read, "network_seconds": computed, "write_seconds": written}


def guide(planned: TilePlan, window: Window) -> Any:
    """Something of the shape of a guide where a run gives one: a window with a hole so deep that a cell is lost."""
    x, y = -(-window.x // GUIDED) * GUIDED, -(-window.y // GUIDED) * GUIDED
    across, down = (window.right - x) // GUIDED, (window.bottom - y) // GUIDED
    if window not in planned.windows or min(across, down) < 1:
        return None
    cells = planned.damage.window(Window(x, y, across * GUIDED, down * GUIDED)).reshape(down, GUIDED, across, GUIDED)
    rows, columns = -(-window.height // GUIDED), -(-window.width // GUIDED)
    return np.full((rows, columns, 3), 0.5, np.float32) if cells.all(axis=(1, 3)).any() else None


def _block(planned: TilePlan, x: int, y: int) -> Window:
    width, height = min(BLOCK, planned.width - x * BLOCK), min(BLOCK, planned.height - y * BLOCK)
    return Window(x * BLOCK, y * BLOCK, width, height)


PILLOW = """
import sys, time
from PIL import Image
from pconv_cli.report import peak_memory
Image.MAX_IMAGE_PIXELS = None
started = time.perf_counter()
with Image.open(sys.argv[1]) as image:
    image.load()
    image.save(sys.argv[2], compression="tiff_adobe_deflate", big_tiff=True)
print(time.perf_counter() - started, peak_memory())
"""


def run(big: Path, mask: Path, out: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pconv_cli", "tile", str(big), "--mask", str(mask), "-o", str(out)]
    done = subprocess.run([*command, "--overwrite", "--json", *options], check=True, capture_output=True, text=True)
    return next(one for one in map(json.loads, done.stdout.splitlines()) if one["type"] == "item")


def measure(folder: Path, side: int, share: float, batch: int, repeat: int) -> dict[str, Any]:
    big, mask, out = folder / "big.tif", folder / "mask.tif", folder / "out.tif"
    make_picture(big, side)
    make_mask(mask, side, share)
    planned = plan(big, mask, Settings(batch_size=batch))
    rounds = []
    for _ in range(repeat):
        parts = {"start_up_seconds": start_up(), "copy_seconds": copy(big, out), **work(big, out, planned.plan)}
        out.unlink()
        started = time.perf_counter()
        item = run(big, mask, out)
        took = time.perf_counter() - started
        # The tiles of the guide are computed like others, but only a run knows them.
        parts["network_seconds"] *= item["pixels_computed"] / planned.plan.pixels_to_compute
        rounds.append({"seconds": took, "sum_seconds": sum(parts.values()), **parts})
    at_batch = run(big, mask, out, "--batch-size", str(batch))
    found = {
        "side": side,
        "megapixels": round(side * side / 1e6, 1),
        "file_mb": round(big.stat().st_size / 1e6, 1),
        "hole_share": item["hole_share"],
        "tiles": item["tiles"],
        "pixels_computed": item["pixels_computed"],
        "crossings": item["crossings"],
        "seam_ratio": item["seam_ratio"],
        "peak_mib": round(item["peak_memory_bytes"] / 2**20),
        "peak_at_batch_mib": round(at_batch["peak_memory_bytes"] / 2**20),
        "memory_planned_mib": round(planned.memory_bytes / 2**20),
        **{name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]},
        "over_sum_each": [round(one["seconds"] / one["sum_seconds"], 3) for one in rounds],
    }
    found["over_sum"] = round(found["seconds"] / found["sum_seconds"], 3)
    out.unlink()
    whole = subprocess.run(
        [sys.executable, "-c", PILLOW, str(big), str(out)], capture_output=True, text=True, check=False
    )
    if whole.returncode == 0:
        seconds, peak = whole.stdout.split()
        found |= {"pillow_seconds": round(float(seconds), 2), "pillow_peak_mib": round(int(peak) / 2**20)}
    return found


def start_up() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, rasterio"], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 16384, 40000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--damage", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for side in options.sides:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows.append(measure(Path(folder), side, options.damage, options.batch_size, options.repeat))
            print(rows[-1], file=sys.stderr, flush=True)
    base = subprocess.run(
        [sys.executable, "-c", "import torch; from pconv_cli.report import peak_memory; print(peak_memory())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    torch_alone = round(int(base.stdout) / 2**20)
    document = {"benchmark": "bigtiff", "torch": torch.__version__, "torch_alone_mib": torch_alone, "sizes": rows}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
