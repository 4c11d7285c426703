"""`pconv evaluate`: options in, tables out. Heavy modules are imported when the command runs, not before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pconv_cli.cli.options import (
    AsOneJson,
    Csv,
    Device,
    Methods,
    Networks,
    Precision,
    PrecisionOption,
    Progress,
    TileSize,
)
from pconv_cli.cli.text import ProgressMode, one_line
from pconv_cli.errors import ExitCode

if TYPE_CHECKING:
    from pconv_cli.evaluation import Evaluation, Measure

PARTS = {None: "all holes", True: "at the border", False: "clear of it"}


def command(
    photos: Annotated[
        Path, typer.Argument(metavar="PHOTOS", help="A folder of undamaged pictures (searched recursively), or one.")
    ],
    masks: Annotated[
        Path, typer.Argument(metavar="MASKS", help="A folder of masks (likewise), or one: white = hole, any names.")
    ],
    weights: Networks = None,
    methods: Methods = None,
    per_bucket: Annotated[int, typer.Option(min=1, metavar="N", help="Most pairs in a bucket.")] = 20,
    seed: Annotated[int, typer.Option(metavar="N", help="Another number pairs pictures and masks anew.")] = 0,
    size: TileSize = 512,
    device: Device = "auto",
    precision: PrecisionOption = Precision.auto,
    csv: Csv = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the curves over the buckets.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    progress: Progress = ProgressMode.auto,
    as_json: AsOneJson = False,
) -> None:
    """Damage known pictures, fill them by several methods, and measure how close each comes.

    Pairs fall into buckets by the share of the picture that the mask marks: 1 to 10 %, 10 to 20 %, ... 50 to 60 %.
    Each is also split into holes at the border (a pixel within 50 px of it) and holes clear of it.
    Sizes that differ are cut to the common centre. Every method fills the very same holes.
    """
    from pconv_cli import evaluation as use_case
    from pconv_cli.cli import ui

    settings = use_case.EvaluateSettings(
        weights=(None,) if weights is None else tuple(weights),
        methods=None if methods is None else tuple(name.strip() for name in methods.split(",") if name.strip()),
        per_bucket=per_bucket,
        seed=seed,
        size=size,
        device=device,
        precision=precision.value,
        csv=csv,
        plot=plot,
        overwrite=overwrite,
    )
    with ui.view(progress) as show, ui.Stop(show) as stop:
        evaluation = use_case.evaluate(photos, masks, settings, stop.listening, stop)
    try:
        if as_json:
            ui.out(evaluation.as_json())
        elif evaluation.items:
            for measure in use_case.MEASURES:
                _table(evaluation, measure)
            if len(evaluation.methods) > 1:
                ui.out(_summed_up(evaluation))
    finally:
        use_case.save(evaluation, settings)
    if evaluation.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    raise typer.Exit(ExitCode.SOME_FAILED if evaluation.failures else ExitCode.OK)


def _summed_up(evaluation: Evaluation) -> str:
    """Say in a sentence who is best, by each of the measures that the plot shows."""
    from pconv_cli.evaluation import MEASURES, PLOTTED

    found = []
    for measure in (measure for measure in MEASURES if measure.name in PLOTTED):
        methods, most = evaluation.mostly_best(measure)
        if not methods:
            continue
        alike = len(methods) == len(evaluation.methods) > 1
        title, named = measure.title.partition(",")[0], "all alike" if alike else " and ".join(map(one_line, methods))
        found.append(f"{title}: {named} ({most} of {len(evaluation.buckets)})")
    return f"\nBest in the most buckets. {'; '.join(found)}." if found else ""


def _table(evaluation: Evaluation, measure: Measure) -> None:
    """Show one measure: methods down, buckets across; then the two halves, where there are two."""
    from pconv_cli.cli import ui

    buckets = evaluation.buckets
    halves = [part for part in (True, False) if any(evaluation.count(bucket, part) for bucket in buckets)]
    halves = halves if len(halves) > 1 and measure.name != "seconds" else []
    rows: list[list[str]] = []
    heads: set[int] = set()
    bold: set[tuple[int, int]] = set()
    for part in [None, *halves]:
        heads.add(len(rows))
        rows.append([PARTS[part], *(f"n = {evaluation.count(bucket, part)}" for bucket in buckets)])
        best = [evaluation.best(measure, bucket, part) for bucket in buckets]
        for method in evaluation.methods:
            means = [evaluation.mean(measure.name, method, bucket, part) for bucket in buckets]
            bold |= {(len(rows), column) for column, methods in enumerate(best, 1) if method in methods}
            rows.append([one_line(method), *("-" if mean is None else f"{mean:.{measure.digits}f}" for mean in means)])
    title = f"{measure.title} {'↑' if measure.higher else '↓'}"  # where better lies, as tables in papers say it
    ui.table(title, ["share damaged", *buckets], rows, figures=True, bold=bold, heads=heads)
