"""`pconv train`: options in, weights out. Heavy modules are imported when the command runs, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pconv_cli.cli.restore import Device, Precision
from pconv_cli.cli.text import ProgressMode
from pconv_cli.errors import ExitCode


def command(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="A folder of undamaged photographs.")],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="Weights to write.")],
    network: Annotated[str, typer.Option(metavar="compact|paper", help="Which architecture.")] = "compact",
    steps: Annotated[int, typer.Option(min=1, help="Batches in all; the last quarter is the second phase.")] = 20000,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Crops in a batch of the second phase; four times as many in the first.")
    ] = 4,
    size: Annotated[
        int, typer.Option(min=64, help="Side of a crop in the second phase, pixels; half of it in the first.")
    ] = 256,
    rate: Annotated[float, typer.Option(min=1e-8, help="Adam's learning rate in the first phase.")] = 1e-3,
    perceptual: Annotated[
        Path | None,
        typer.Option(help="SqueezeNet 1.1 as safetensors, for the perceptual and style losses (default: without)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first weights, the crops and the damage.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside OUT.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace weights that exist.")] = False,
    device: Device = "auto",
    precision: Annotated[Precision, typer.Option(help="auto: half precision on CUDA, fp32 elsewhere.")] = (
        Precision.auto
    ),
    progress: Annotated[ProgressMode, typer.Option(help="What to show on stderr.")] = ProgressMode.auto,
) -> None:
    """Train a network on your own photographs; damage is made up on the way.

    Ctrl-C finishes the step under way and saves; --resume goes on from there.
    """
    from pconv_cli.cli import ui
    from pconv_cli.errors import OutputError
    from pconv_cli.training.loop import TrainSettings, train

    if out.exists() and not (resume or overwrite):
        raise OutputError(f"{out}: exists already; use --resume to go on, or --overwrite to replace it")
    settings = TrainSettings(
        network=network,
        steps=steps,
        batch_size=batch_size,
        size=size,
        rate=rate,
        perceptual=perceptual,
        seed=seed,
        every=every,
        device=device,
        precision=precision.value,
    )
    with ui.view(progress) as show, ui.Stop(show) as stop:
        train(photos, out, settings, stop.listening, resume=resume, stop=stop)
        interrupted = stop()
    raise typer.Exit(ExitCode.INTERRUPTED if interrupted else ExitCode.OK)
