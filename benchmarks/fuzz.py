"""What hostile input does: malformed pictures and masks through the real command, good ones among them.

    python benchmarks/fuzz.py [--seed 0] [--masks 3] [--tiles 40] [--keep FOLDER]

One `pconv restore` over all pictures of `tests/malformed.py`, and over good pictures with malformed masks, in a process
with limits of time and address space; then a share of the TIFFs through `pconv tile`, a process each. Every item must
be restored, unchanged outside its mask, or fail with one line that names it; good pictures must come out as they do
without bad company. The pyramid fills (`--weights none`): this is about files, not about fills.

Prints every breach and a table on stderr, one JSON object last. Exit code 1 where there is a breach.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from conftest import box, texture
from malformed import Malformed, changed_outside, good, malformed

from pconv_cli.strips import mask_strips

PCONV = [sys.executable, "-m", "pconv_cli"]
OPTIONS = ["--weights", "none", "--device", "cpu", "--progress", "none", "--json"]
PATIENCE = 900  # seconds for the one big run
PATIENCE_TILE = 120
MEMORY = 8 << 30
WIDTH, HEIGHT = 48, 40
HOLE = box(WIDTH, HEIGHT, 18, 14, 30, 26)  # the same from all sides
SAID = ("failed ", "restored ", "copied ", "note: ")  # how the lines of a run without progress begin
EVERY = 20  # a good picture after so many others


def limited(command: list[str], patience: float) -> tuple[int | None, str, str]:
    """Exit code (None: it hung), stdout, stderr of a process that may not take more than its share."""

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    try:
        done = subprocess.run(command, capture_output=True, timeout=patience, preexec_fn=limits)
    except subprocess.TimeoutExpired as error:
        return None, _text(error.stdout), _text(error.stderr)
    return done.returncode, _text(done.stdout), _text(done.stderr)


def _text(data: bytes | str | None) -> str:
    return (data or b"").decode("utf-8", "replace") if not isinstance(data, str) else data


def items_of(stdout: str) -> dict[str, dict[str, Any]]:
    """Items of a report by name: one JSON object a line."""
    return {found["name"]: found for found in map(json.loads, stdout.splitlines()) if found["type"] == "item"}


def holes_of(mask: Path) -> NDArray[np.bool_]:
    """Where a mask that can be read may mark damage: at least all that it marks."""
    if mask.read_bytes()[:2] in (b"II", b"MM"):  # Pillow takes some damaged ones for other pictures
        return np.concatenate(list(mask_strips(mask)))
    with Image.open(mask) as image:
        own = np.asarray(image)
        light = own > 32000 if own.dtype == np.uint16 else np.asarray(image.convert("RGB").convert("L")) > 120
    return light


def lay_out(place: Path, seed: int, every_mask: int) -> dict[str, str]:
    """Fill `in`, `masks`, and `good/in` with the good ones alone; give each malformed item's kind by its name."""
    pictures, masks = place / "in", place / "masks"
    for folder in (pictures, masks, place / "good"):
        folder.mkdir(parents=True)
    marked = Image.fromarray(np.where(HOLE, 255, 0).astype(np.uint8))
    drawing = texture(WIDTH, HEIGHT)
    kinds = {}
    healthy = {name: data for name, data in good(drawing).items() if name.partition(".")[0] in ("rgb", "raw", "grey")}
    for number, case in enumerate(malformed(drawing, seed)):
        pictures.joinpath(case.name).write_bytes(case.data)
        marked.save(masks / f"{Path(case.name).stem}.png")
        kinds[case.name] = case.kind
        if number % EVERY == 0:
            name, data = list(healthy.items())[number // EVERY % len(healthy)]
            for folder in (pictures, place / "good"):
                folder.joinpath(f"{number:04}-good-{name}").write_bytes(data)
            marked.save(masks / f"{number:04}-good-{Path(name).stem}.png")
    white = np.repeat(np.where(HOLE, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    for case in list(malformed(white, seed + 1))[::every_mask]:
        masks.joinpath(f"mask-{case.name}").write_bytes(case.data)
        name = f"mask-{Path(case.name).stem}.png"
        Image.fromarray(drawing).save(pictures / name)
        kinds[name] = f"mask {case.kind}"
    pictures.joinpath("folder.png").mkdir()
    masks.joinpath("foldered.png").mkdir()
    Image.fromarray(drawing).save(pictures / "foldered.png")
    kinds["foldered.png"] = "mask folder"
    return kinds


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def restored_all(place: Path, kinds: dict[str, str]) -> tuple[list[str], Counter[tuple[str, str]], dict[str, Any]]:
    """Run over everything: what is amiss, outcomes by kind, figures."""
    pictures, masks, out = place / "in", place / "masks", place / "out"
    before, started = digest(pictures) | digest(masks), time.monotonic()
    code, stdout, stderr = limited([*PCONV, "restore", str(pictures), str(masks), str(out), *OPTIONS], PATIENCE)
    seconds = time.monotonic() - started
    figures: dict[str, Any] = {"seconds": round(seconds, 1), "exit": code}
    place.joinpath("stdout").write_text(stdout)
    place.joinpath("stderr").write_text(stderr)
    if code != 1:
        said = stderr.splitlines()[-1:] or ["nothing"]
        return [f"exit code {code} after {seconds:.0f} s; last line: {said[0][:300]}"], Counter(), figures
    amiss = [f"changed: {name}" for name, value in (digest(pictures) | digest(masks)).items() if before[name] != value]
    items = items_of(stdout)
    failed = {name: item for name, item in items.items() if item["status"] == "failed"}
    lines = stderr.splitlines()
    told = Counter(re.split(r": | \(", line.removeprefix("failed "))[0] for line in lines if line.startswith("failed "))
    amiss += [f"{told[name]} lines for {name}" for name in failed if told[name] != 1]
    strays = [line for line in lines if not line.startswith(SAID)]
    amiss += [f"{len(strays)} lines that no item owns, such as: {strays[0][:200]}"] if strays else []
    figures["stray_lines"] = len(strays)
    outcomes: Counter[tuple[str, str]] = Counter()
    for name, kind in kinds.items():
        wrong = amiss_with(items.get(name), kind, pictures, masks, out)
        outcomes[kind, "amiss" if wrong else items[name]["status"]] += 1
        amiss += [f"{kind}: {name}: {wrong}"] if wrong else []
    code, _, _ = limited([*PCONV, "restore", str(place / "good"), str(masks), str(place / "alone"), *OPTIONS], PATIENCE)
    alone, together = digest(place / "alone"), digest(out)
    amiss += [f"the good ones alone: exit code {code}"] if code != 0 else []
    for name, value in alone.items():
        if journal(name):
            continue
        fine = together.get(name) == value
        outcomes["good", "restored" if fine else "amiss"] += 1
        amiss += [] if fine else [f"good: {name}: not as it is without bad company"]
    finished = {name for name, item in items.items() if item["status"] in ("restored", "copied")}
    amiss += [f"left over in OUT: {name}" for name in together if name not in finished and not journal(name)]
    figures["good"] = len(alone)
    figures["peak_memory_mb"] = max((item.get("peak_memory_bytes") or 0) for item in items.values()) >> 20
    return amiss, outcomes, figures


def journal(name: str) -> bool:
    """What a run may leave behind on purpose: hidden, and no unfinished picture."""
    return name.startswith(".pconv") and not name.endswith(".part")


def amiss_with(item: dict[str, Any] | None, kind: str, pictures: Path, masks: Path, out: Path) -> str:
    """What is wrong with one item's outcome; empty where nothing is."""
    if item is None:
        return "not in the report"
    if item["status"] == "failed":
        reason = item["reason"] or ""
        if not reason.strip() or len(reason.splitlines()) != 1:
            return f"no one-line reason: {reason!r}"
        return "" if item["path"] in (item["image"], item["mask"], item["output"]) else f"blames {item['path']}"
    if item["status"] not in ("restored", "copied"):
        return f"status {item['status']}"
    if kind == "bomb":
        return "a bomb was restored"
    source, name = Path(item["image"]), item["name"]
    hole = HOLE
    if kind.startswith("mask"):
        try:
            hole = holes_of(Path(item["mask"]))
        except Exception as error:
            return f"restored, but Pillow cannot read the mask ({type(error).__name__}: {error})"
    return changed_outside(source, out / name, hole)


def tiled(place: Path, case: Malformed) -> tuple[str, str]:
    """One file through `pconv tile`: outcome, and what is wrong."""
    big, out, mask = place / case.name, place / f"out-{case.name}", place / "mask.png"
    big.write_bytes(case.data)
    command = [*PCONV, "tile", str(big), "--mask", str(mask), "-o", str(out), *OPTIONS]
    code, _, stderr = limited(command, PATIENCE_TILE)
    lines = stderr.splitlines()
    if code == 0:
        wrong = changed_outside(big, out, HOLE, by_gdal=True)
        return "amiss" if wrong else "restored", wrong
    wrong = "" if code == 1 else f"exit code {code}"
    wrong = wrong or ("" if len(lines) == 1 else f"{len(lines)} lines: {' | '.join(lines)[:300]}")
    wrong = wrong or ("" if case.name in stderr else f"does not name the file: {stderr[:200]}")
    wrong = wrong or ("left an output" if out.exists() else "")
    return "amiss" if wrong else "failed", wrong


def tiled_share(place: Path, seed: int, most: int) -> tuple[list[str], Counter[tuple[str, str]]]:
    place.mkdir()
    Image.fromarray(np.where(HOLE, 255, 0).astype(np.uint8)).save(place / "mask.png")
    cases = [case for case in malformed(texture(WIDTH, HEIGHT), seed) if case.name.endswith(".tif")]
    share = cases[:: -(-len(cases) // most)] if most else []
    amiss, outcomes = [], Counter[tuple[str, str]]()
    with ThreadPoolExecutor(2) as pool:
        for case, (outcome, wrong) in zip(share, pool.map(lambda case: tiled(place, case), share), strict=True):
            outcomes[f"tile {case.kind}", outcome] += 1
            amiss += [f"tile: {case.name}: {wrong}"] if wrong else []
    return amiss, outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--masks", type=int, default=3, metavar="N", help="every Nth kind of damage to masks")
    parser.add_argument("--tiles", type=int, default=40, metavar="N", help="about so many TIFFs through pconv tile")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work there (it must not exist), and leave it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow's, about the files that are looked at here
    place = options.keep or Path(tempfile.mkdtemp())
    try:
        kinds = lay_out(place, options.seed, options.masks)
        amiss, outcomes, figures = restored_all(place, kinds)
        more, tiles = tiled_share(place / "tile", options.seed, options.tiles)
    finally:
        if options.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    for line in (amiss := amiss + more):
        print(line, file=sys.stderr)
    counts: dict[str, dict[str, int]] = {}
    for (kind, outcome), count in (outcomes + tiles).items():
        counts.setdefault(kind, {})[outcome] = count
    columns = ("failed", "restored", "copied", "amiss")
    print(f"{'kind':18}" + "".join(f"{column:>10}" for column in columns), file=sys.stderr)
    for kind, found in counts.items():
        print(f"{kind:18}" + "".join(f"{found.get(column, 0):>10}" for column in columns), file=sys.stderr)
    result = {"benchmark": "fuzz", "seed": options.seed, "malformed": len(kinds), "tiled": sum(tiles.values())}
    print(json.dumps(result | figures | {"amiss": len(amiss), "kinds": counts}))
    sys.exit(1 if amiss else 0)


if __name__ == "__main__":
    main()
