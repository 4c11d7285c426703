"""`pconv mask`: options in, exit code out. Heavy modules are imported when the command runs, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pconv_cli.cli.options import (
    AsJson,
    Detected,
    Dilate,
    Linear,
    MaxMegapixels,
    Overwrite,
    Progress,
    Quiet,
    Sensitivity,
    Verbose,
)
from pconv_cli.cli.text import ProgressMode
from pconv_cli.errors import ExitCode, UsageError


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A folder of pictures (searched recursively), or one picture.")
    ],
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="A folder for the masks, which are called as the pictures are and end in .png, or a .png or .tif "
            "file if IN is one picture.",
        ),
    ],
    origin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="alpha|nodata[=V]|color=#RRGGBB[~T]|band=N|infrared[=N]",
            help="Read the damage off: transparency, a value, a colour (T: how far off), a band, or the infrared "
            "channel of a film scan (default: the last one).",
        ),
    ] = None,
    detect: Detected = None,
    sensitivity: Sensitivity = None,
    dilate: Dilate = 0,
    min_area: Annotated[
        int, typer.Option(min=0, metavar="N", help="Leave out places of fewer than N pixels, before they grow.")
    ] = 0,
    max_area: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Leave out places of more than N pixels.")
    ] = None,
    protect: Annotated[
        Path | None,
        typer.Option(
            metavar="MASK",
            help="What is never damage: a folder of masks, white = protected, paired as for `pconv restore`, or one "
            "for all.",
        ),
    ] = None,
    overlay: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Draw the damage over the pictures as PNG into this folder, each in a colour that it has not.",
        ),
    ] = None,
    warn_above: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="SHARE", help="Warn of masks that mark a larger share of their picture."),
    ] = 0.1,
    linear: Linear = False,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out pictures whose mask is there already, corrected by hand or not.")
    ] = False,
    max_megapixels: MaxMegapixels = 1000,
    jobs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Pictures looked at side by side.")] = None,
    progress: Progress = ProgressMode.auto,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Make masks of what is damaged, white = damaged: read it off the pictures, or find it by what it looks like.

    Without --from, damage is detected. Look at the result before you restore: --overlay shows it.
    A TIFF of any size is worked on in strips. Detection needs no network and no GPU.
    """
    from pconv_cli import masking as use_case
    from pconv_cli.cli import ui
    from pconv_cli.detection import SENSITIVITY, parse

    if origin is not None and detect is not None:
        raise UsageError(f"--from {origin} and --detect {detect}: choose one of the two, and join masks afterwards")
    settings = use_case.MaskSettings(
        origin=None if origin is None else use_case.parse_origin(origin),
        detect=parse(detect or "auto", SENSITIVITY if sensitivity is None and origin is not None else sensitivity),
        dilate=dilate,
        min_area=min_area,
        max_area=max_area,
        overlay=overlay,
        warn_above=warn_above,
        linear=linear,
        overwrite=overwrite,
        resume=resume,
        jobs=jobs,
        max_megapixels=max_megapixels,
    )
    if "-" in (str(source), output):
        raise UsageError("- is for pconv restore, which takes --detect as well: give files or folders")
    todo = use_case.plan(source, protect, output, settings)
    each = (lambda report: ui.out(report.line())) if as_json else (lambda report: None)
    with ui.view(progress, quiet=quiet, verbose=verbose) as show, ui.Stop(show) as stop:
        report = use_case.make(todo, settings, stop.listening, stop, each)
    if as_json:
        ui.out(report.summary())
    if report.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    raise typer.Exit(ExitCode.SOME_FAILED if report.count("failed") else ExitCode.OK)
