"""Measure all that depends on the device, one benchmark after the other, and keep what each prints.

    python -m benchmarks.everything PHOTOS MASKS OUT.json [--device auto] [--minutes 8] [--each 180]

OUT.json, one file for all, is written anew after each: how it ended, the JSON object that it printed last, and the end
of what it printed besides. What takes more than `--each` seconds is ended, and all of it after so many minutes; the
most telling ones come first. Nothing needs to be installed. Prints one JSON object last: how each ended, and when.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pconv_cli.engine import choose_device

HERE = Path(__file__).parent
KEPT = 20_000  # characters of what one prints


def measured(command: list[str], limit: float) -> dict[str, Any]:
    """Run one, with all processes that it starts, for so many seconds at most."""
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}  # or what is ended takes it along
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as besides:  # no pipes: one can fill up
        child = subprocess.Popen(command, stdout=out, stderr=besides, env=environment, start_new_session=True)
        try:
            ended: int | str = child.wait(max(limit, 0))
        except subprocess.TimeoutExpired:
            ended = "took too long"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        out.seek(0)
        besides.seek(0)
        *lines, last = out.read().splitlines() or [""]
        printed = besides.read()
    try:
        result = json.loads(last)
    except ValueError:
        lines, result = [*lines, last], None
    seconds = round(time.monotonic() - started, 1)
    return {"exit": ended, "seconds": seconds, "result": result, "printed": "\n".join([*lines, printed])[-KEPT:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--each", type=float, default=180, help="seconds")
    options = parser.parse_args()
    device, inputs = ["--device", options.device], [str(options.photos), str(options.masks)]
    gpu = choose_device(options.device).type == "cuda"
    plan = {
        "ceilings": ["ceilings.py", *device],
        "stream": ["stream.py", *inputs, *device, "--rest"],
        "layer": ["layer.py", *device, "--rounds", "25"],
        "compile": ["compile.py", *device, "--batch", "16" if gpu else "1"],
        "stream-fp32": ["stream.py", *inputs, *device, "--precision", "fp32"],
        "dust": ["dust.py", *device],
        "layout": ["layout.py", *device, "--batch", "16" if gpu else "1"],
        "startup": ["startup.py", *(["--rounds", "3"] if gpu else [])],
    }
    begun, told = time.monotonic(), {}
    for name, (script, *arguments) in plan.items():
        left = 60 * options.minutes - (time.monotonic() - begun)
        command = [sys.executable, str(HERE / script), *arguments]
        told[name] = measured(command, min(options.each, left)) if left > 0 else {"exit": "left out"}
        options.out.write_text(json.dumps(told, indent=1) + "\n")
        shown = told[name].get("result") or told[name].get("printed", "")[-2000:]
        print(name, told[name]["exit"], told[name].get("seconds"), shown, flush=True)
    ended = {name: [one["exit"], one.get("seconds")] for name, one in told.items()}
    print(json.dumps({"benchmark": "everything", "device": options.device, "ended": ended}))


if __name__ == "__main__":
    main()
