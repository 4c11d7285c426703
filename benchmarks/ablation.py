"""What the papers rest on, trained alike: partial against plain convolution, partial against zero padding.

    python benchmarks/ablation.py PHOTOS [--steps 1500] [--batch-size 16] [--size 128] [--held-out 64] [--seed 0]

One small U-Net without the pyramid under it, trained from the same start on the same batches in each variant: partial
convolution with partial padding; the same with zeros beyond the border; plain convolution with zeros beyond the border,
which takes everything for known, on pictures whose holes are filled with their mean colour, or with grey. Measured on
held-out crops: PSNR inside the holes, by share of damage, and in the holes within 16 px of the border. One JSON object
last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pconv_cli.engine import autocast, choose_device, choose_precision
from pconv_cli.metrics import psnr
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig
from pconv_cli.training.data import Batch, make_batch
from pconv_cli.training.losses import LossWeights, inpainting_loss
from pconv_cli.training.photos import load_photos

SMALL = UNetConfig(encoder=((32, 5), (64, 3), (128, 3), (160, 3), (160, 3)), mean=(0.5,) * 3, std=(0.25,) * 3)
BORDER = 16
VALIDATION_SEED = 7


class Plain(nn.Module):
    """A plain convolutional network: holes are filled beforehand, and everything counts as known."""

    def __init__(self, config: UNetConfig, mean: bool) -> None:
        super().__init__()
        self.network, self.mean = PartialConvUNet(config), mean

    def forward(self, image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        colour = image.new_full((len(image), 3, 1, 1), 0.5)
        if self.mean:
            colour = (image * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
        return self.network(torch.where(known > 0, image, colour), torch.ones_like(known))


VARIANTS = {
    "partial": lambda: PartialConvUNet(SMALL),
    "partial, zero padding": lambda: PartialConvUNet(replace(SMALL, padding_mode="zero")),
    "plain, mean colour": lambda: Plain(replace(SMALL, padding_mode="zero"), mean=True),
    "plain, grey": lambda: Plain(replace(SMALL, padding_mode="zero"), mean=False),
}


def whole(batch: Batch) -> Batch:
    """Take what lies beyond a tile's edge as a hole like any other, so that all variants are asked the same."""
    return Batch(batch.image, batch.known, torch.zeros_like(batch.beyond))


def trained(network: nn.Module, photos: list[Tensor], options: argparse.Namespace, precision: torch.dtype) -> float:
    optimiser = torch.optim.Adam(network.parameters(), lr=options.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.rate, options.steps, pct_start=0.1)
    started = time.perf_counter()
    for step in range(options.steps):
        batch = whole(make_batch(photos, (), options.seed, step, options.batch_size, options.size))
        with autocast(batch.image.device, precision):
            output, _ = network(batch.image, batch.known)
            loss, _ = inpainting_loss(output, batch.image, batch.known, LossWeights(valid=0.5, hole=1, rms=0))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"  step {step + 1}: loss {float(loss.detach()):.4f}", file=sys.stderr, flush=True)
    return time.perf_counter() - started


@torch.no_grad()
def measured(network: nn.Module, photos: list[Tensor], options: argparse.Namespace) -> dict[str, float]:
    network.eval()
    found: dict[str, list[float]] = {}
    for step in range(options.held_out // 8):
        batch = whole(make_batch(photos, (), VALIDATION_SEED, step, 8, options.size))
        output, _ = network(batch.image, batch.known)
        filled = torch.where(batch.hole > 0, output.float().clamp(0, 1), batch.image)
        rim = torch.ones_like(batch.hole)
        rim[..., BORDER:-BORDER, BORDER:-BORDER] = 0
        everywhere = psnr(filled, batch.image, batch.hole).tolist()
        at_rim = psnr(filled, batch.image, batch.hole * rim).tolist()
        shares = batch.hole.mean((1, 2, 3)).tolist()
        for share, value, near, some in zip(
            shares, everywhere, at_rim, (batch.hole * rim).flatten(1).any(1).tolist(), strict=True
        ):
            found.setdefault("all", []).append(value)
            found.setdefault(f"{min(int(share * 10), 6) * 10:02}+", []).append(value)
            if some:
                found.setdefault("border", []).append(near)
    return {name: round(sum(values) / len(values), 3) for name, values in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--held-out", type=int, default=256, help="crops to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)
    precision, _ = choose_precision(options.precision, device, training=True)
    photos, _ = load_photos(options.photos, options.size)
    moved = [torch.tensor(photo, device=device).permute(2, 0, 1).contiguous() for photo in photos]
    held, kept = moved[::20], [photo for i, photo in enumerate(moved) if i % 20]
    rows = {}
    for name, make in VARIANTS.items():
        torch.manual_seed(options.seed)
        network = make().to(device=device, memory_format=torch.channels_last)
        seconds = trained(network, kept, options, precision)
        rows[name] = {**measured(network, held, options), "seconds": round(seconds, 1)}
        print(name, rows[name], file=sys.stderr, flush=True)
    about = {name: value for name, value in vars(options).items() if name != "photos"}
    print(json.dumps({"benchmark": "ablation", "torch": torch.__version__, "settings": about, "psnr_hole": rows}))


if __name__ == "__main__":
    main()
