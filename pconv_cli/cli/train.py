"""`pconv train`: options in, weights out. Heavy modules are imported when the command runs, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pconv_cli.cli.options import Precision, one_of
from pconv_cli.cli.text import ProgressMode
from pconv_cli.errors import ExitCode


def command(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="A folder of undamaged photographs.")],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="Weights to write.")],
    masks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Masks to mix into the made-up damage; white = damaged."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(**one_of("default|paper"), help="What other options begin with.", show_default="default"),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(**one_of("deep|compact|paper"), help="Which architecture (default: the recipe's)."),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Go on from weights, a name or a file: with the second phase alone, at half its rate, and with their "
            "batch statistics.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Batches in all, those before --resume included.", show_default="20000"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="MINUTES", help="Train for so long instead, by the clock; in all, too."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Crops in a batch of the second phase; the default recipe has four times as many in the first.",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=64,
            metavar="PIXELS",
            help="Side of a crop in the second phase; the default recipe halves it in the first.",
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1e-8, metavar="RATE", help="Adam's learning rate in the first phase.")
    ] = None,
    second_rate: Annotated[
        float | None, typer.Option(min=1e-8, metavar="RATE", help="The same in the second phase.")
    ] = None,
    coarse: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Share of the training, at its start, for the part that fills reduced pictures, where the network has "
            "one.",
        ),
    ] = None,
    perceptual: Annotated[
        str | None,
        typer.Option(
            **one_of("squeeze|none|FILE"),
            help="Feature network of the losses that need one: the shipped one, or SqueezeNet 1.1 or VGG-16 as "
            "safetensors.",
        ),
    ] = None,
    adversarial: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Share of the training, at its end, with a judge of texture beside the network: sharper, less exact.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the first weights, the crops and the damage.", show_default="0")
    ] = None,
    every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Steps between validations.", show_default="500")
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Photographs kept for validation, a tenth of all at most (of fewer than 10: none).",
            show_default="32",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on from the checkpoint beside FILE, with its options but for those given anew."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace weights, and a checkpoint, that exist.")
    ] = False,
    compiled: Annotated[bool | None, typer.Option("--compile", help="Compile the network first; pays on GPUs.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            **one_of("auto|cpu|cuda|cuda:N|mps"),
            help="Where to compute; auto takes a GPU if there is one.",
            show_default="auto",
        ),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="auto: bf16 on GPUs that compute in it, else fp32.", show_default="auto")
    ] = None,
    progress: Annotated[ProgressMode, typer.Option(help="What to show on stderr.")] = ProgressMode.auto,
) -> None:
    """Train a network on your own photographs; damage is made up on the way.

    Beside FILE stand its checkpoint, up to some eight times the size of FILE and needed for --resume alone, a log
    with one JSON object a validation, and a sheet of sample fills: damaged, the pyramid alone, filled, true. Ctrl-C
    finishes the step under way and saves; a kill costs some five minutes. Photographs that are held out are
    what the figures are measured on.
    """
    from dataclasses import replace

    from pconv_cli.cli import ui
    from pconv_cli.errors import OutputError, UsageError
    from pconv_cli.training.loop import RECIPES, beside, going_on, settings_of, train

    if recipe not in (None, *RECIPES):
        raise UsageError(f"--recipe {recipe}: there is no such recipe; choose {' or '.join(RECIPES)}")
    if steps is not None and minutes is not None:
        raise UsageError("--steps and --minutes: give one of them")
    if start_from is not None and network is not None:
        raise UsageError("--from and --network: weights bring their own architecture; give one of them")
    if out.is_dir() or out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: name a file that ends in .safetensors")
    for path in (out, beside(out, ".checkpoint")):  # hours of work, of a training that was killed
        if path.exists() and not (resume or overwrite):
            raise OutputError(f"{path}: exists already; use --resume to go on, or --overwrite to replace it")
    asked = {
        "network": network, "steps": steps, "minutes": minutes, "batch_size": batch_size, "size": size, "rate": rate,
        "second_rate": second_rate, "perceptual": perceptual, "start_from": start_from, "seed": seed, "every": every,
        "held_out": held_out, "adversarial_share": adversarial, "coarse_share": coarse, "compiled": compiled,
        "device": device, "precision": precision and precision.value, "masks": masks and str(masks.absolute()),
    }  # fmt: skip
    base = settings_of(out) if resume else RECIPES[recipe or "default"]
    if steps is not None:
        base = replace(base, minutes=None)
    if resume and recipe is not None and base.loss != RECIPES[recipe].loss:
        raise UsageError(f"--recipe {recipe}: {out} began with another; leave out --recipe, or --resume to begin anew")
    if resume and start_from not in (None, base.start_from):
        began = "with nothing" if base.start_from is None else f"from {base.start_from}"
        raise UsageError(f"--from {start_from}: {out} began {began}; leave out --from, or --resume to begin anew")
    if start_from is not None and not resume:
        base = going_on(base, start_from, coarse or 0.0)
    settings = replace(
        base,
        **{name: value for name, value in asked.items() if value is not None},  # type: ignore[arg-type]
    )
    with ui.view(progress) as show, ui.Stop(show) as stop:
        train(photos, out, settings, stop.listening, resume=resume, stop=stop)
        interrupted = stop()
    raise typer.Exit(ExitCode.INTERRUPTED if interrupted else ExitCode.OK)
