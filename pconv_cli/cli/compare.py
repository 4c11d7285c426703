"""`pconv compare`: options in, a table and a sentence out. Heavy modules are imported when the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pconv_cli.cli.options import (
    AsOneJson,
    Csv,
    Device,
    Dilate,
    InvertMask,
    Linear,
    MaskFrom,
    MaskOn,
    MaskOnOption,
    MaxMegapixels,
    Methods,
    Networks,
    Precision,
    PrecisionOption,
    Progress,
    ReportTo,
    TileSize,
    parsed,
)
from pconv_cli.cli.text import ProgressMode, one_line, wrong_number
from pconv_cli.errors import ExitCode, UsageError

NOWHERE = "pconv-compare-has-no-OUT/"


def command(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="IN MASKS", help="As for `pconv restore`; MASKS is left out with --mask-from."),
    ],
    weights: Networks = None,
    methods: Methods = None,
    places: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many holes are punched, over all pictures.")
    ] = 24,
    side: Annotated[
        int, typer.Option(min=96, metavar="PX", help="Side of the place that is looked at round a hole.")
    ] = 512,
    seed: Annotated[int, typer.Option(metavar="N", help="Another number punches other holes.")] = 0,
    mask_from: MaskFrom = None,
    invert_mask: InvertMask = False,
    dilate: Dilate = 0,
    mask_on: MaskOnOption = MaskOn.auto,
    linear: Linear = False,
    max_megapixels: MaxMegapixels = 1000,
    size: TileSize = 512,
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    csv: Csv = None,
    report_to: ReportTo = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE, and a report, if they exist.")] = False,
    progress: Progress = ProgressMode.auto,
    as_json: AsOneJson = False,
) -> None:
    """Find out what restores your own pictures best: methods are measured where your pictures are undamaged.

    Shapes of your own masks are moved, mirrored and turned, and punched into places that no damage touches; every
    method fills the very same holes, and what it makes is compared with what was there. A sentence says what to use,
    and why; where a classical method does as well, or better, it says so.
    """
    from pconv_cli import comparison as use_case
    from pconv_cli import restore
    from pconv_cli.cli import ui
    from pconv_cli.page import Folder

    settings = use_case.CompareSettings(
        weights=(None,) if weights is None else tuple(weights),
        methods=None if methods is None else tuple(name.strip() for name in methods.split(",") if name.strip()),
        places=places,
        side=side,
        seed=seed,
        size=size,
        device=device,
        precision=precision.value,
        csv=csv,
        overwrite=overwrite,
    )
    reading = restore.RestoreSettings(
        invert_mask=invert_mask,
        dilate=dilate,
        mask_on=mask_on.value,
        mask_from=parsed(mask_from),
        linear=linear,
        max_megapixels=max_megapixels,
    )
    names = ["IN", "MASKS"] if mask_from is None else ["IN"]
    if len(paths) != len(names) or "-" in paths:
        raise UsageError(f"{wrong_number(paths, ' '.join(names))}, files or folders; see pconv compare --help")
    todo = restore.plan(Path(paths[0]), Path(paths[1]) if len(paths) > 1 else None, NOWHERE, reading)
    folder = None if report_to is None else Folder(report_to, overwrite=overwrite, searched=map(Path, paths))
    with ui.view(progress) as show, ui.Stop(show) as stop:
        found = use_case.compare(todo, reading, settings, stop.listening, stop, folder)
    try:
        if as_json:
            ui.out(found.as_json())
        elif found.advice is not None:
            columns, rows, bold = found.table()
            cells = [[one_line(cell) for cell in row] for row in rows]
            ui.table(f"Means over {found.measured} places", columns, cells, figures=True, bold=bold)
            ui.out(f"\n{one_line(found.advice.sentence)}")
    finally:
        use_case.save(found, settings)
    if found.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    raise typer.Exit(ExitCode.SOME_FAILED if found.failures else ExitCode.OK)
