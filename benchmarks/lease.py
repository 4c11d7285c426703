"""Carry a training from one lent machine to the next: weights and checkpoint in few small files.

    python benchmarks/lease.py pack OUT.safetensors FOLDER [--part-mib 15]
    python benchmarks/lease.py unpack FOLDER OUT.safetensors

Packed are the averaged weights in half precision and Adam's two moments in bfloat16: 6 bytes a weight, where the
checkpoint has 16. What is lost: the last weights, in whose place the averaged ones go on, and bits that training does
not miss. Unpacking writes OUT.safetensors and its checkpoint, and takes along log and sheet. Prints one JSON object
last.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load, save

from pconv_cli import weights as store
from pconv_cli.nn.unet import PartialConvUNet
from pconv_cli.training.loop import beside

ALONG = (".log.jsonl", ".sheet.png")


def pack(out: Path, folder: Path, part: int) -> dict[str, int]:
    tensors, metadata = store.read_tensors(beside(out, ".checkpoint"))
    header, state = store.read(out)
    small = {f"calibrated.{key}": value for key, value in state.items() if "running_" in key}
    for key, value in tensors.items():
        if key.startswith("averaged."):
            small[key] = value.half() if value.ndim > 1 else value
        elif key.startswith("adam."):
            small[key] = value.bfloat16() if value.ndim > 1 else value
    data = save(small, {**metadata, "header": json.dumps(header)})
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("training.*"):
        old.unlink()
    for i, start in enumerate(range(0, len(data), part)):
        (folder / f"training.{i:02}").write_bytes(data[start : start + part])
    for ending in ALONG:
        shutil.copyfile(beside(out, ending), folder / f"along{ending}")
    return {"bytes": len(data), "parts": len(list(folder.glob("training.*"))), "step": int(metadata["step"])}


def unpack(folder: Path, out: Path) -> dict[str, int]:
    data = b"".join(path.read_bytes() for path in sorted(folder.glob("training.*")))
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    header = json.loads(metadata.pop("header"))
    given = {key: value.float() for key, value in load(data).items()}
    averaged = named(given, "averaged.")
    tensors = {key: value for key, value in given.items() if not key.startswith("calibrated.")}
    tensors |= {f"network.{key}": value.clone() for key, value in averaged.items()}
    for key in averaged:
        if key.endswith("running_mean"):
            counter = key.replace("running_mean", "num_batches_tracked")
            tensors[f"network.{counter}"] = torch.tensor(int(metadata["step"]))
    out.parent.mkdir(parents=True, exist_ok=True)
    store.write_tensors(beside(out, ".checkpoint"), tensors, metadata)
    network = PartialConvUNet(store.config_from(header, out))
    about = {key: value for key, value in header.items() if key not in ("format", "architecture")}
    store.write(out, network, averaged | named(given, "calibrated."), about)
    for ending in ALONG:
        shutil.copyfile(folder / f"along{ending}", beside(out, ending))
    return {"tensors": len(tensors), "step": int(metadata["step"])}


def named(tensors: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--part-mib", type=float, default=15)
    options = parser.parse_args()
    done = (
        pack(options.source, options.target, int(options.part_mib * 2**20))
        if options.what == "pack"
        else unpack(options.source, options.target)
    )
    print(json.dumps({"benchmark": "lease", "what": options.what, **done}))


if __name__ == "__main__":
    main()
