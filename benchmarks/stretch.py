"""One stretch of training on a machine that is lent for minutes: train, keep snapshots, bring them home in few files.

    python -m benchmarks.stretch train PHOTOS RUN HOME --minutes 8 [options]
    python -m benchmarks.stretch rates PHOTOS [--batch-size 64]
    python -m benchmarks.stretch mix HOME OUT.safetensors --share end=0.5 --share exact=0.5

`train` trains `deep` in RUN and writes to HOME what is worth the way: the coarse part once, the fine part at the end of
each phase (`exact`: without features; `features`: without a judge; `end`), all in half precision, log and sheet. With
`--start WEIGHTS` it goes on from there.
`rates` compiles, and tells how many crops a second each phase takes. `mix` makes weights of one snapshot, or of the
mean of several. Every command prints one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pconv_cli import weights as store
from pconv_cli.engine import choose_precision
from pconv_cli.events import Event, TrainStep, Validated
from pconv_cli.nn.unet import PartialConvUNet
from pconv_cli.training import loop
from pconv_cli.training.loop import TrainSettings, beside
from pconv_cli.training.photos import take_photos


def settings_from(options: argparse.Namespace) -> TrainSettings:
    default = TrainSettings()
    return replace(
        default, network="deep", start_from=options.start, minutes=options.minutes, batch_size=options.batch_size,
        size=options.size, small_first=False, rate=options.rate, second_rate=options.second_rate,
        second_share=options.second, coarse_share=options.coarse, adversarial_share=options.adversarial,
        adversarial_rate=options.judge_rate, compiled=options.compile, every=options.every, seed=options.seed,
        fixed_norms=options.fixed_norms,
        loss=replace(default.loss, distance=options.distance, adversarial=options.judge), precision=options.precision,
    )  # fmt: skip


def train(options: argparse.Namespace) -> dict[str, Any]:
    settings = settings_from(options)
    out = options.run / "w.safetensors"
    options.home.mkdir(parents=True, exist_ok=True)
    # Snapshots: the last weights that were saved before each of these shares of the training.
    ends = {
        "exact": 1 - settings.second_share,
        "features": 1 - settings.adversarial_share,
        "middle": 1 - settings.adversarial_share / 2,
    }
    begun = time.monotonic()

    def emit(event: Event) -> None:
        if isinstance(event, TrainStep):
            for name in [name for name, end in ends.items() if event.progress >= end]:
                del ends[name]
                if out.exists():
                    keep(out, options.home, name)
            if event.step % 100 == 0:
                terms = {k: round(v, 4) for k, v in event.losses.items() if v}
                print(f"{time.monotonic() - begun:.0f} s, step {event.step}: {event.loss:.4f} {terms}", flush=True)
        else:
            print(f"{time.monotonic() - begun:.0f} s {event}", flush=True)
            if isinstance(event, Validated):
                for ending in (".log.jsonl", ".sheet.png"):  # of the validation before: this one is not saved yet
                    if beside(out, ending).exists():
                        shutil.copyfile(beside(out, ending), options.home / f"along{ending}")

    loop.train(options.photos, out, settings, emit, resume=beside(out, ".checkpoint").exists())
    keep(out, options.home, "end")
    coarse = {k: v.contiguous() for k, v in store.read(out)[1].items() if k.startswith("coarse.")}
    save_file(halved(coarse), options.home / "coarse.safetensors", {"header": json.dumps(store.read_header(out))})
    for ending in (".log.jsonl", ".sheet.png"):
        shutil.copyfile(beside(out, ending), options.home / f"along{ending}")
    return {"what": "train", "header": store.read_header(out)}


def keep(out: Path, home: Path, name: str) -> None:
    fine = {k: v.contiguous() for k, v in store.read(out)[1].items() if not k.startswith("coarse.")}
    save_file(halved(fine), home / f"{name}.safetensors")


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.half() if v.ndim > 1 else v for k, v in state.items()}


def rates(options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = device.type == "cuda"
    settings = settings_from(options)
    photos, _ = take_photos(options.photos, settings.size, None, settings.held_out, print, device)
    seen = loop._Seen(photos, loop.whole_views(photos, settings.size // 4 * loop.CELL), [])
    precision, _ = choose_precision(settings.precision, device, training=True)
    features = loop._features("squeeze", device, precision)
    found: dict[str, Any] = {"what": "rates", "photographs": len(photos)}
    state = loop._start(settings, device)
    forward = loop._passes(state.network, settings.compiled)
    for phase in (loop.COARSE, loop.FIRST, loop.SECOND, "judge"):
        if phase == "judge":
            phase = loop.SECOND
            state.judge = loop._appointed(settings, device)
        moment = loop._Moment(phase, 0.1, 300)

        def step(moment: loop._Moment = moment) -> int:
            batch = loop._batch(seen, settings, moment.phase, 0, state.step)
            loop._step(state, settings, moment, batch, forward, features, precision)
            return len(batch.image)

        def sync() -> float:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter()

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = sync()
        for _ in range(3):
            step()
        ready = sync()
        for _ in range(options.steps):
            count = step()
        issued = time.perf_counter()
        done = sync()
        for i in range(options.steps):
            loop._batch(seen, settings, moment.phase, 0, state.step + i)
        batches = sync()
        name = phase if state.judge is None else "judge"
        found[name] = {
            "first": round(ready - began, 1), "ms": round(1000 * (done - ready) / options.steps, 1),
            "issued_ms": round(1000 * (issued - ready) / options.steps, 1),
            "batch_ms": round(1000 * (batches - done) / options.steps, 1),
            "crops_a_second": round(count * options.steps / (done - ready)),
        }  # fmt: skip
        if device.type == "cuda":
            found[name]["gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 1)
        print(name, found[name], flush=True)
    return found


def mix(options: argparse.Namespace) -> dict[str, Any]:
    shares = {name: float(share) for name, share in (pair.split("=") for pair in options.share)}
    state = {k: v.float() for k, v in load_file(options.home / "coarse.safetensors").items()}
    for name, share in shares.items():
        for key, value in load_file(options.home / f"{name}.safetensors").items():
            state[key] = state.get(key, 0) + value.float() * share / sum(shares.values())
    with safe_open(options.home / "coarse.safetensors", "pt") as file:
        header = json.loads(file.metadata()["header"])
    network = PartialConvUNet(store.config_from(header, options.home))
    store.load_strictly(network, state, options.home)
    about = {"name": options.out.stem, "training": {**header["training"], "mixed": shares}}
    store.write(options.out, network, state, about)
    return {"what": "mix", "shares": shares, "out": str(options.out)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("train", train), ("rates", rates)):
        command = commands.add_parser(name)
        command.set_defaults(does=run)
        command.add_argument("photos", type=Path, help="a folder")
        if name == "train":
            command.add_argument("run", type=Path)
            command.add_argument("home", type=Path)
        command.add_argument("--start", help="weights to go on from; for example with --coarse 0 --second 1")
        command.add_argument("--minutes", type=float, default=8)
        command.add_argument("--batch-size", type=int, default=64)
        command.add_argument("--size", type=int, default=256)
        command.add_argument("--rate", type=float, default=1e-3)
        command.add_argument("--second-rate", type=float, default=4e-4)
        command.add_argument("--second", type=float, default=0.57)
        command.add_argument("--coarse", type=float, default=0.18)
        command.add_argument("--adversarial", type=float, default=0.3)
        command.add_argument("--distance", type=float, default=0.05)
        command.add_argument("--judge", type=float, default=0.04)
        command.add_argument("--judge-rate", type=float, default=2e-4)
        command.add_argument("--precision", default="bf16")
        command.add_argument("--compile", action="store_true")
        command.add_argument("--fixed-norms", action="store_true", help="batch statistics stay as they are")
        command.add_argument("--every", type=int, default=500)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--steps", type=int, default=20)
    command = commands.add_parser("mix")
    command.set_defaults(does=mix)
    command.add_argument("home", type=Path)
    command.add_argument("out", type=Path)
    command.add_argument("--share", action="append", required=True)
    options = parser.parse_args()
    print(json.dumps({"benchmark": "stretch", **options.does(options)}))


if __name__ == "__main__":
    main()
