"""Measure all that depends on the device, one benchmark after the other, and keep what each prints.

    python -m benchmarks.everything PHOTOS MASKS OUT [--device auto] [--minutes 8]

OUT gets NAME.json (the last line) and NAME.txt (the rest) of each. What would begin after so many minutes is left out,
the most telling ones come first. Prints one JSON object last: how each ended, and how long it took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from pconv_cli.engine import choose_device

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=8)
    options = parser.parse_args()
    device, inputs = ["--device", options.device], [str(options.photos), str(options.masks)]
    gpu = choose_device(options.device).type == "cuda"
    plan = {
        "ceilings": ["ceilings.py", *device],
        "stream": ["stream.py", *inputs, *device, "--rest", *(["--pictures", "1024"] if gpu else [])],
        "layer": ["layer.py", *device, "--rounds", "25"],
        "compile": ["compile.py", *device, "--batch", "16" if gpu else "1"],
        "stream-fp32": ["stream.py", *inputs, *device, "--precision", "fp32"],
        "dust": ["dust.py", *device],
        "layout": ["layout.py", *device, "--batch", "16" if gpu else "1"],
        "startup": ["startup.py"],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    begun, told = time.monotonic(), {}
    for name, (script, *arguments) in plan.items():
        if time.monotonic() - begun > 60 * options.minutes:
            told[name] = {"left_out": True}
            continue
        started = time.monotonic()
        done = subprocess.run([sys.executable, str(HERE / script), *arguments], capture_output=True, text=True)
        lines = done.stdout.splitlines() or [""]
        (options.out / f"{name}.json").write_text(lines[-1] + "\n")
        (options.out / f"{name}.txt").write_text("\n".join([*lines[:-1], done.stderr]))
        told[name] = {"exit": done.returncode, "seconds": round(time.monotonic() - started, 1)}
        print(name, told[name], lines[-1] if done.returncode == 0 else done.stderr[-2000:], flush=True)
    print(json.dumps({"benchmark": "everything", "device": options.device, "ended": told}))


if __name__ == "__main__":
    main()
