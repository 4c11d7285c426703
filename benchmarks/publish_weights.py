"""Put trained weights in the box: complete their header, copy them to `weights/`, write their line in the manifest.

    python benchmarks/publish_weights.py TRAINED.safetensors --name photo-3 --summary "..." --data "..." \
        --metrics evaluation.json --default

`--metrics` is what `pconv evaluate PHOTOS MASKS --weights TRAINED.safetensors --json` printed. The licence of the
weights is that of the project. With `--default`, the default before goes out of the box.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pconv_cli import files
from pconv_cli import weights as store
from pconv_cli.nn.unet import PartialConvUNet

FOLDER = Path(__file__).parent.parent / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--summary", required=True)
    parser.add_argument("--data", required=True, help="what it was trained on, in a sentence")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--default", action="store_true")
    arguments = parser.parse_args()
    header, state = store.read(arguments.trained)
    network = PartialConvUNet(store.config_from(header, arguments.trained))
    store.load_strictly(network, state, arguments.trained)
    buckets = json.loads(arguments.metrics.read_text("utf-8"))["buckets"]
    measured = {share: {"n": found["n"], **found["means"][arguments.trained.stem]} for share, found in buckets.items()}
    about = {
        "name": arguments.name,
        "summary": arguments.summary,
        "licence": "Apache-2.0",
        "training": {**header.get("training", {}), "data": arguments.data},
        "metrics": {**header.get("metrics", {}), "by_bucket": measured},
    }
    path = FOLDER / f"{arguments.name}.safetensors"
    store.write(path, network, network.state_dict(), about)
    manifest = FOLDER / "manifest.json"
    document = json.loads(manifest.read_text("utf-8"))
    entries = [e for e in document["weights"] if e["name"] != arguments.name]
    if arguments.default:
        for old in [e for e in entries if e["default"]]:
            (FOLDER / old["file"]).unlink()
            entries.remove(old)
    entry = {"name": arguments.name, "file": path.name, "sha256": files.sha256(path)}
    entries.append({**entry, "default": arguments.default, "summary": arguments.summary})
    manifest.write_text(json.dumps({**document, "weights": entries}, indent=2) + "\n", "utf-8")
    print(json.dumps({**entry, "bytes": path.stat().st_size}))


if __name__ == "__main__":
    main()
