"""`pconv restore`: options in, exit code out. Heavy modules are imported when the command runs, not before."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pconv_cli.cli.text import ProgressMode
from pconv_cli.errors import ExitCode

if TYPE_CHECKING:
    from pconv_cli.report import Report


class MaskOn(str, Enum):
    """Values of `--mask-on`."""

    auto = "auto"
    displayed = "displayed"
    stored = "stored"


class Precision(str, Enum):
    """Values of `--precision`."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class PaddingMode(str, Enum):
    """Values of `--padding`."""

    partial = "partial"
    zero = "zero"
    reflect = "reflect"
    replicate = "replicate"


Padding = Annotated[
    PaddingMode | None,
    typer.Option(help="What the network takes to lie beyond a tile, for comparison (default: as it was trained)."),
]


def _batch_size(text: str) -> int | None:
    """Read `auto` or a number."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither auto nor a number from 1")
    return int(text)


BatchSize = Annotated[
    int | None,
    typer.Option(
        parser=_batch_size, metavar="auto|N", show_default=False,
        help="Tiles computed at once: in one go on a GPU, side by side on a CPU (default: auto, what suits it).",
    ),
]  # fmt: skip
PrecisionOption = Annotated[
    Precision, typer.Option(help="auto: half precision where the device computes in it, else fp32.")
]
Jobs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads that read, and as many that write.")]
Weights = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="Network to use, see `pconv weights list`; none = pyramid only."),
]
Dilate = Annotated[int, typer.Option(min=0, metavar="N", help="Grow the damage by N pixels.")]
Overlap = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Share and blend N pixels between tiles of a plain grid, for comparison."),
]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", help="Where to compute; auto takes a GPU if there is one.")
]
Devices = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where to compute; auto takes a GPU if there is one. Several: cuda:0,cuda:1 or cuda:all.",
    ),
]


def command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A folder of pictures (searched recursively), or one.")],
    masks: Annotated[
        Path, typer.Argument(metavar="MASKS", help="A folder of masks (NAME.* or NAME_mask.*), or one mask for all.")
    ],
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="Folder for the results, or a file if IN is one. Never IN itself.")
    ],
    invert_mask: Annotated[
        bool, typer.Option("--invert-mask", help="Masks are black where damaged (default: white = damaged).")
    ] = False,
    dilate: Dilate = 0,
    mask_on: Annotated[
        MaskOn,
        typer.Option(help="For pictures turned by EXIF: masks drawn as displayed or as stored; auto goes by size."),
    ] = MaskOn.auto,
    format: Annotated[
        str | None,
        typer.Option(metavar="png|tiff|webp|jpg|bmp", help="Format of all outputs (default: that of each picture)."),
    ] = None,
    weights: Weights = None,
    device: Devices = "auto",
    precision: PrecisionOption = Precision.auto,
    tile_size: Annotated[int, typer.Option(min=32, metavar="PX", help="Longest side of a tile.")] = 512,
    padding: Padding = None,
    overlap: Overlap = 0,
    batch_size: BatchSize = None,
    jobs: Jobs = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and pair everything, compute and write nothing.")
    ] = False,
    progress: Annotated[
        ProgressMode, typer.Option(help="What to show on stderr; none still tells failures and notes.")
    ] = (ProgressMode.auto),
    as_json: Annotated[bool, typer.Option("--json", help="Print a report as one JSON object on stdout.")] = False,
) -> None:
    """Restore damaged pictures; only pixels inside the masks change (a JPEG is encoded again around them).

    Pictures and masks are paired by relative path and name, whatever their formats.
    A picture that fails is one line and exit code 1; the others are restored.
    """
    from pconv_cli import restore as use_case
    from pconv_cli.cli import ui

    settings = use_case.RestoreSettings(
        weights=weights,
        device=device,
        precision=precision.value,
        tile_size=tile_size,
        padding=None if padding is None else padding.value,
        overlap=overlap,
        batch_size=batch_size,
        jobs=jobs,
        invert_mask=invert_mask,
        dilate=dilate,
        mask_on=mask_on.value,
        format=None if format is None else format.lower().lstrip("."),
        overwrite=overwrite,
    )
    with ui.view(progress) as show, ui.Stop(show) as stop:
        if dry_run:
            report = use_case.dry_run(source, masks, output, settings, stop.listening, stop)
        else:
            report = use_case.restore(source, masks, output, settings, stop.listening, stop)
    if as_json:
        ui.out(report.as_json())
    raise typer.Exit(exit_code(report))


def exit_code(report: Report) -> ExitCode:
    """Turn a finished run into an exit code: the worst that happened."""
    if report.interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.SOME_FAILED if report.count("failed") else ExitCode.OK
