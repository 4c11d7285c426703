"""What sharing pictures among the workers of a cluster brings and costs, on this machine.

    python benchmarks/cluster.py PICTURES MASKS [--workers 1 2] [--repeat 4] [--rounds 3]

The plain run and runs with 1, 2, ... workers of a local Ray, in turns, over the same pictures (`--repeat`: as many
times each, linked under other names); without start-up, which is told apart: a rate counts from the first picture
done to the last. And what the driver alone can hand out: items that take no time. Prints medians on stderr, one JSON
object last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pconv_cli.distributed import Cluster, Crew
from pconv_cli.events import Event


class Nothing:
    """The work of a worker that has none."""

    def __call__(self, items: Sequence[str], stop: Callable[[], bool]) -> Iterator[tuple[int, str] | Event]:
        yield from enumerate(items)


def rate(source: Path, masks: Path, options: list[str]) -> dict[str, float]:
    """Pictures a second from the first one done on, and the seconds until then."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "pconv_cli", "restore", str(source), str(masks), out, "--json", "-q", *options]
        begun, done = time.perf_counter(), []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            done.extend(time.perf_counter() for line in run.stdout if json.loads(line)["type"] == "item")
    return {"rate": (len(done) - 1) / (done[-1] - done[0]), "first": done[0] - begun, "whole": done[-1] - begun}


def driver_rate(count: int = 20000) -> float:
    """Items a second that one driver hands out and takes back."""
    items = [f"/archive/box{i % 100}/scan{i}.tif" for i in range(count)]
    with Crew(Cluster("local", os.cpu_count()), Nothing) as crew:
        times = [time.perf_counter() for found in crew.do(items) if isinstance(found, tuple)]
    return (count - 1) / (times[-1] - times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        source, masks = Path(place) / "in", Path(place) / "masks"
        for folder in (source, masks):
            folder.mkdir()
        for picture in sorted(given.pictures.iterdir()):
            mask = next(given.masks.glob(f"{picture.stem}*"))
            for i in range(given.repeat):
                (source / f"{picture.stem}x{i}{picture.suffix}").symlink_to(picture.resolve())
                (masks / f"{picture.stem}x{i}{mask.suffix}").symlink_to(mask.resolve())
        count = len(list(source.iterdir()))
        ways = {"plain": []} | {f"workers {n}": ["--cluster", "local", "--workers", str(n)] for n in given.workers}
        for _ in range(given.rounds):
            for name, options in ways.items():
                found.setdefault(name, []).append(rate(source, masks, options))
                print(name, found[name][-1], file=sys.stderr)
    middle = {
        name: {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}
        for name, rounds in found.items()
    }
    plain = middle["plain"]["rate"]
    print(
        json.dumps(
            {
                "cores": os.cpu_count(),
                "pictures": count,
                "ways": middle,
                "to_plain": {name: round(one["rate"] / plain, 3) for name, one in middle.items()},
                "driver_items_a_second": round(driver_rate()),
            }
        )
    )


if __name__ == "__main__":
    main()
