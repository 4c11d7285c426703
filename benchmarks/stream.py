"""How near a whole run comes to the rate of its network: decoding, planning, filling, encoding, writing included.

    python benchmarks/stream.py PHOTOS MASKS [--pictures N] [--rounds 3] [--device auto] [--jobs N] [--growth N]

PHOTOS are cut to 512 x 512 and saved as JPEG, under masks of MASKS in turns. Measured one after the other, round by
round: the whole of `pconv_cli.restore` over the folder; the same batches of the same tiles from memory, network only;
and OpenCV's Telea and Navier-Stokes over the first of the same files (read, fill, write, one after the other, as
scripts do), as seconds for as many as all of them. Importing torch and loading the weights are left out everywhere. A
GPU is busy from when a lane's orders begin to be carried out to their end, by its own clock; a CPU while a lane
computes. Prints medians on stderr, one JSON object last.

With --rest, the same run with a network that gives back what it gets: how fast everything else is, with threads and
with helpers, which is what bounds a fast device.

With --growth N, N small pictures more are run through the stream, and the memory held is noted on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from pconv_cli import restore as use_case
from pconv_cli.engine import Engine, Filled, Tile, choose_devices, choose_precision, precision_name
from pconv_cli.events import ItemDone
from pconv_cli.images import READ_SUFFIXES
from pconv_cli.process import settle

SIDE = 512
PEERS = 32  # pictures that OpenCV fills


class Recorder(Engine):
    """An engine that notes when it was busy, and keeps what it was given where it is told to."""

    kept: list[tuple[Sequence[Tile], tuple[int, int]]] | None = None
    last: Recorder

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.spans: list[tuple[float, float]] = []
        self.clocks = [Clock(copy) for copy in self._copies if copy.device.type == "cuda"]
        Recorder.last = self

    def fill(
        self, tiles: Sequence[Tile], canvas: tuple[int, int], lane: int = 0, beside: int | None = None
    ) -> list[Filled]:
        if Recorder.kept is not None:
            Recorder.kept.append(([replace(t, pixels=t.pixels.copy(), known=t.known.copy()) for t in tiles], canvas))
        started = time.perf_counter()
        results = super().fill(tiles, canvas, lane, beside)
        self.spans.append((started, time.perf_counter()))
        return results

    def busy(self) -> float:
        """Seconds in which at least one lane computed; of several GPUs the mean."""
        if self.clocks:
            return statistics.mean(covered(clock.spans()) for clock in self.clocks)
        return covered(self.spans)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    total, until = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return total


class Clock:
    """Notes when a GPU carried out what each batch had it do."""

    def __init__(self, copy: Any) -> None:
        self.device, self._stream = copy.device, copy._stream
        self.events: list[tuple[Any, Any]] = []
        copy._stream = self.timed

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with self._stream():
            start.record()
            yield
            stop.record()
        self.events.append((start, stop))

    def spans(self) -> list[tuple[float, float]]:
        """Seconds since the first batch."""
        torch.cuda.synchronize(self.device)
        first = self.events[0][0] if self.events else None
        return [(first.elapsed_time(start) / 1e3, first.elapsed_time(stop) / 1e3) for start, stop in self.events]


class Instant(Recorder):
    """A device that takes no time."""

    def fill(
        self, tiles: Sequence[Tile], canvas: tuple[int, int], lane: int = 0, beside: int | None = None
    ) -> list[Filled]:
        now = time.perf_counter()
        self.spans.append((now, now))
        return [Filled(tile.pixels.copy(), np.ones_like(tile.known)) for tile in tiles]


def make_folder(photos: Path, masks: Path, count: int, into: Path, side: int = SIDE) -> None:
    """Save pictures as JPEG and masks as PNG, of one size."""
    found = [sorted(p for p in folder.rglob("*") if p.suffix.lower() in READ_SUFFIXES) for folder in (photos, masks)]
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(files) for files in found]
    for folder in ("in", "masks"):
        (into / folder).mkdir(parents=True)

    def make(i: int) -> None:
        photo, mask = (Image.open(files[i % len(files)]) for files in chosen)
        photo.convert("RGB").resize((side, side)).save(into / "in" / f"{i:05}.jpg", quality=92)
        mask.convert("L").resize((side, side), Image.Resampling.NEAREST).save(into / "masks" / f"{i:05}.png")

    with ThreadPoolExecutor() as pool:
        list(pool.map(make, range(count)))


def stream(folder: Path, settings: use_case.RestoreSettings, emit: Callable[[Any], None]) -> dict[str, float]:
    """One whole run, and how it was spent, in seconds."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        started = time.perf_counter()
        todo = use_case.plan(folder / "in", folder / "masks", out, settings)
        report = use_case.restore(todo, settings, emit)
        whole = time.perf_counter() - started
        assert not report.count("failed"), [item.reason for item in report.items if item.status == "failed"]
        # From the first tile on: before that the weights are loaded, and this measures a stream.
        first, last = min(Recorder.last.spans)[0], max(stop for _, stop in Recorder.last.spans)
        in_lanes = sum(stop - start for start, stop in Recorder.last.spans)
        return {
            "whole": whole - (first - started),
            "first_to_last_tile": last - first,
            "busy": Recorder.last.busy(),
            "lanes_busy": in_lanes / Recorder.last.lanes,
        }


def replay(kept: Sequence[tuple[Sequence[Tile], tuple[int, int]]]) -> float:
    """Seconds for the batches that were kept, from memory, by all lanes."""
    engine = Recorder.last
    left = iter(kept)

    def work(lane: int) -> None:
        for tiles, canvas in left:  # an iterator over a sequence may be shared by threads
            engine.fill(tiles, canvas, lane, engine.lanes)

    started = time.perf_counter()
    with ThreadPoolExecutor(engine.lanes) as pool:
        list(pool.map(work, range(engine.lanes)))
    return time.perf_counter() - started


def rest(folder: Path, pictures: int, settings: use_case.RestoreSettings) -> dict[str, float]:
    """Pictures a second where the network takes no time: medians of three, with threads and with helpers."""
    kept, worth = use_case.Engine, (use_case.WORTH_HELPERS, use_case.WORTH_HELPERS_OF_A_GPU)
    use_case.Engine = Instant  # type: ignore[misc]
    found: dict[str, list[float]] = {"threads": [], "helpers": []}
    for way in [*found] * 3:
        use_case.WORTH_HELPERS = use_case.WORTH_HELPERS_OF_A_GPU = 1 if way == "helpers" else 10**9
        found[way].append(pictures / stream(folder, settings, lambda event: None)["whole"])
    use_case.Engine = kept  # type: ignore[misc]
    use_case.WORTH_HELPERS, use_case.WORTH_HELPERS_OF_A_GPU = worth
    return {way: round(statistics.median(rates), 1) for way, rates in found.items()}


def opencv(folder: Path, method: int) -> float:
    """Read, fill and write with OpenCV: some of the pictures, and so many seconds for all."""
    paths = sorted((folder / "in").iterdir())
    with tempfile.TemporaryDirectory(dir=folder) as out:
        started = time.perf_counter()
        for path in paths[:PEERS]:
            mask = cv2.imread(str(folder / "masks" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
            filled = cv2.inpaint(cv2.imread(str(path)), mask, 3, method)
            cv2.imwrite(str(Path(out) / path.name), filled)
        return (time.perf_counter() - started) * len(paths) / len(paths[:PEERS])


def growth(folder: Path, photos: Path, masks: Path, count: int, settings: use_case.RestoreSettings) -> dict[int, float]:
    """MiB held after so many small pictures."""
    make_folder(photos, masks, count, folder, 64)
    held: dict[int, float] = {}
    done = itertools.count(1)

    def emit(event: Any) -> None:
        if isinstance(event, ItemDone):
            number = next(done)
            if number in (count // 100, count // 10, count // 2, count):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                held[number] = round(pages * 4096 / (1 << 20), 1)

    stream(folder, settings, emit)
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--pictures", type=int, help="256, or 512 for a GPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--growth", type=int, default=0)
    parser.add_argument("--rest", action="store_true")
    options = parser.parse_args()
    settle()
    use_case.Engine = Recorder  # type: ignore[misc]
    devices = choose_devices(options.device)
    options.pictures = options.pictures or (512 if devices[0].type == "cuda" else 256)
    precision = precision_name(choose_precision(options.precision, devices)[0])
    settings = use_case.RestoreSettings(device=options.device, precision=options.precision, jobs=options.jobs)
    rows: list[dict[str, float]] = []
    held: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "stream"
        make_folder(options.photos, options.masks, options.pictures, folder)
        Recorder.kept = []
        stream(folder, settings, lambda event: None)  # to warm up, and to keep the batches
        kept, Recorder.kept = Recorder.kept, None
        for _ in range(options.rounds):
            row = stream(folder, settings, lambda event: None)
            row["network"] = replay(kept)
            row["telea"], row["ns"] = opencv(folder, cv2.INPAINT_TELEA), opencv(folder, cv2.INPAINT_NS)
            rows.append(row)
            print({name: round(value, 3) for name, value in row.items()}, file=sys.stderr)
        without = rest(folder, options.pictures, settings) if options.rest else {}
        if options.growth:
            held = growth(Path(place) / "growth", options.photos, options.masks, options.growth, settings)
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    shares = [row["network"] / row["whole"] for row in rows]
    result = {
        "benchmark": "stream",
        "device": ",".join(map(str, Recorder.last.devices)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pictures": options.pictures,
        "precision": precision,
        "tiles": sum(len(tiles) for tiles, _ in kept),
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "pictures_per_second": {
            name: round(options.pictures / medians[name], 2) for name in ("whole", "network", "telea", "ns")
        },
        "share_of_the_network_rate": {
            "median": round(statistics.median(shares), 3), "least": round(min(shares), 3), "most": round(max(shares), 3)
        },
        "busy_between_first_and_last_tile": round(medians["busy"] / medians["first_to_last_tile"], 3),
        "lanes_busy_between_first_and_last_tile": round(medians["lanes_busy"] / medians["first_to_last_tile"], 3),
        "pictures_per_second_without_network": without,
        "mib_held_after_pictures": held,
    }  # fmt: skip
    print(
        f"{result['share_of_the_network_rate']} of the network's rate; the device was busy "
        f"{result['busy_between_first_and_last_tile']:.0%} of the time",
        file=sys.stderr,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
