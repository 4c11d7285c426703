"""`pconv tile`: options in, exit code out. Heavy modules are imported when the command runs, not before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pconv_cli.cli.options import (
    AsJson,
    BatchSize,
    Devices,
    Dilate,
    Jobs,
    Linear,
    MaskFrom,
    MaskOn,
    MaskOnOption,
    OnCluster,
    Overlap,
    Padding,
    Precision,
    PrecisionOption,
    Progress,
    Provenance,
    Quiet,
    ReportTo,
    SaveConfidence,
    SaveFilled,
    Strict,
    TileSize,
    Verbose,
    Weights,
    Workers,
    cluster_of,
    parsed,
)
from pconv_cli.cli.restore import exit_code
from pconv_cli.cli.text import ProgressMode
from pconv_cli.errors import UsageError

if TYPE_CHECKING:
    from pconv_cli.remote import Stage
    from pconv_cli.report import Report


def command(
    big: Annotated[
        str,
        typer.Argument(
            metavar="BIG",
            help="The picture; a TIFF keeps all that it carries. BIG, mask and output may be URLs, as for "
            "`pconv restore`: whole files pass through TMPDIR.",
        ),
    ],
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="White = damaged. Default: BIG_mask.* or BIG.mask.* beside BIG, else what BIG itself marks "
            "(alpha = 0, mask band, nodata).",
        ),
    ] = None,
    size: TileSize = 512,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", help="The result (default: BIG_restored.tif).")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the plan as one JSON object, compute nothing.")] = False,
    plan_image: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the plan over the picture, compute nothing.")
    ] = None,
    report_to: ReportTo = None,
    invert_mask: Annotated[
        bool, typer.Option("--invert-mask", help="The mask is black where damaged (default: white = damaged).")
    ] = False,
    mask_on: MaskOnOption = MaskOn.auto,
    dilate: Dilate = 0,
    mask_from: MaskFrom = None,
    linear: Linear = False,
    strict: Strict = False,
    save_filled: SaveFilled = None,
    save_confidence: SaveConfidence = None,
    provenance: Provenance = False,
    weights: Weights = None,
    device: Devices = "auto",
    precision: PrecisionOption = Precision.auto,
    padding: Padding = None,
    overlap: Overlap = 0,
    batch_size: BatchSize = None,
    jobs: Jobs = None,
    cluster: OnCluster = None,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where the same command was stopped, or killed, if picture, mask and settings are as they were; "
            "else begin anew.",
        ),
    ] = False,
    progress: Progress = ProgressMode.auto,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Restore one picture of any size, in tiles without overlap; only pixels inside the mask change.

    The output is a copy of BIG in which only the blocks that hold damage are written anew, so it keeps everything.
    Memory does not grow with the picture, and time goes by the damage.
    """
    from pconv_cli import tile as use_case
    from pconv_cli.cli import ui
    from pconv_cli.events import Notice
    from pconv_cli.remote import Stage
    from pconv_cli.settings import Settings

    if "-" in (str(big), str(mask), str(output)):
        raise UsageError("tile reads and writes files; `pconv restore` takes -")
    settings = Settings(
        weights=weights,
        device=device,
        precision=precision.value,
        tile_size=size,
        padding=None if padding is None else padding.value,
        overlap=overlap,
        batch_size=batch_size,
        jobs=jobs,
        invert_mask=invert_mask,
        mask_on=mask_on.value,
        dilate=dilate,
        mask_from=parsed(mask_from),
        linear=linear,
        strict=strict,
        save_filled=save_filled,
        save_confidence=save_confidence,
        provenance=provenance,
        overwrite=overwrite,
    )
    with Stage() as stage:
        picture, damage = Path(stage.name(big)), None if mask is None else Path(stage.name(mask))
        if plan or plan_image is not None:
            thumbnail = None if plan_image is None else 1024
            planned = use_case.plan(picture, damage, settings, thumbnail=thumbnail, stage=stage)
            if plan_image is not None and planned.thumbnail is not None:
                use_case.refuse_loss(plan_image, picture, planned.mask_file)
                from pconv_cli.drawings import write_png
                from pconv_cli.sketch import sketch

                write_png(sketch(planned.thumbnail, planned.plan), plan_image, overwrite=overwrite)
                with ui.view(progress, quiet=quiet or plan, verbose=verbose) as show:
                    show(Notice(f"the plan is drawn in {plan_image}; nothing is restored"))
            if plan:
                ui.out(json.dumps({name: stage.shown(value) for name, value in planned.document().items()}))
            return
        result = _result(stage, picture, output)
        where, page = cluster_of(cluster, workers, device), None
        if report_to is not None:
            from pconv_cli.page import Folder

            page = Folder(report_to, overwrite=overwrite)
        with ui.view(progress, quiet=quiet, verbose=verbose) as show, ui.Stop(show) as stop:
            report = use_case.tile(picture, damage, result, settings, stop.listening, stop, where, stage, resume=resume)
            if page is not None:
                from pconv_cli import proofs

                _tell(report, as_json)  # the page may take a while, and may fail
                made = result or use_case.default_output(picture)
                proofs.of_one(picture, damage, made, report, settings, page, stage.telling(stop.listening))
        if page is None:
            _tell(report, as_json)
    raise typer.Exit(exit_code(report))


def _tell(report: Report, as_json: bool) -> None:
    from pconv_cli.cli import ui

    if as_json:
        for item in report.items:
            ui.out(item.line())
        ui.out(report.summary())


def _result(stage: Stage, picture: Path, output: str | None) -> Path | None:
    """Where the result goes; None: beside the picture, where that can be."""
    from pconv_cli.tile import default_output

    if output is not None:
        return Path(stage.target(output))
    if stage.holds(picture):
        try:
            stage.target(stage.shown(str(default_output(picture))))
        except UsageError as error:
            raise UsageError(f"{picture}: results cannot be written beside it: say where to with -o") from error
    return None
