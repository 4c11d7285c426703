"""Options that several commands share, and how their texts are read.

Does not know what the commands do. Imports nothing heavy: `pconv --help` must answer at once.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pconv_cli.cli.text import ProgressMode
from pconv_cli.errors import UsageError

if TYPE_CHECKING:
    from pconv_cli.detection import Detect
    from pconv_cli.distributed import Cluster
    from pconv_cli.manifest import Row
    from pconv_cli.marks import Mark
    from pconv_cli.remote import Stage


def one_of(values: str) -> dict[str, Any]:
    """Arguments of an option that takes a word or something else: the help shows both, and shells complete words."""
    words = [word for word in values.split("|") if word.isalnum() and word.islower()]
    return {"metavar": values, "autocompletion": lambda incomplete: [w for w in words if w.startswith(incomplete)]}


class MaskOn(str, Enum):
    """Values of `--mask-on`."""

    auto = "auto"
    displayed = "displayed"
    stored = "stored"


class Precision(str, Enum):
    """Values of `--precision`."""

    auto = "auto"
    fp64 = "fp64"
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
        parser=_batch_size, **one_of("auto|N"), show_default=False,
        help="Tiles computed at once: in one go on a GPU, side by side on a CPU (default: auto, what suits it).",
    ),
]  # fmt: skip
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="auto: half precision where the device computes in it, else fp32; fp64 for raw values."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Threads that read, and as many that write; a `restore` of hundreds of pictures: processes for both.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="Network to use, see `pconv weights list`; none = pyramid only."),
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Network behind `pconv`, see `pconv weights list`; give it again for more (default: the default one).",
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        metavar="pconv,telea,ns,biharmonic,fillnodata",
        help="What is compared (default: all of these that are installed).",
    ),
]
Csv = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a row for each fill.")]
Dilate = Annotated[int, typer.Option(min=0, metavar="N", help="Grow the damage by N pixels.")]
Overlap = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Share and blend N pixels between tiles of a plain grid, for comparison."),
]
Device = Annotated[
    str, typer.Option(**one_of("auto|cpu|cuda|cuda:N|mps"), help="Where to compute; auto takes a GPU if there is one.")
]
Devices = Annotated[
    str,
    typer.Option(
        **one_of("auto|cpu|cuda|cuda:N|mps"),
        help="Where to compute; auto takes a GPU if there is one. Several: cuda:0,cuda:1 or cuda:all.",
    ),
]


Linear = Annotated[
    bool, typer.Option("--linear", help="Values are linear in light where no profile says what they are.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse whatever would lose something: metadata, or pixels of a JPEG.")
]
MaskFrom = Annotated[
    str | None,
    typer.Option(
        metavar="alpha|nodata[=V]|color=#RRGGBB[~T]|band=N",
        help="Take the damage from the picture itself: transparency, a value, a colour (T: how far off), a band.",
    ),
]
Detected = Annotated[
    str | None,
    typer.Option(
        "--detect",
        **one_of("auto|dust|scratches|tears"),
        help="Find the damage: dust and hairs, scratches along the picture, tears, or several with commas; auto: all "
        "of them, where they are clearest.",
    ),
]
Sensitivity = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="X",
        show_default="0.5, for auto 0.3",
        help="How readily something is taken for damage: 0 hardly, 1 at once.",
    ),
]
Progress = Annotated[ProgressMode, typer.Option(help="What to show on stderr; none still tells failures and notes.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but failures.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say every picture, and how it went.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print a JSON object a picture on stdout as it is finished, a summary last.")
]
AsOneJson = Annotated[bool, typer.Option("--json", help="Print everything as one JSON object on stdout.")]


Manifest = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-",
        help="Instead of IN and MASKS: a list, CSV with the columns image, mask, out, or JSON Lines with such "
        "keys. OUT is then a folder for rows without out.",
    ),
]
InvertMask = Annotated[
    bool, typer.Option("--invert-mask", help="Masks are black where damaged (default: white = damaged).")
]
MaskOnOption = Annotated[
    MaskOn,
    typer.Option(help="For pictures turned by EXIF: masks drawn as displayed or as stored; auto goes by size."),
]
Format = Annotated[
    str | None,
    typer.Option(**one_of("png|tiff|webp|jpg|bmp"), help="Format of all outputs (default: that of each picture)."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
SaveMasks = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep what --detect found as masks in this folder, as PNG.")
]
Sample = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N pictures, as a try-out.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Leave out what an earlier run did with the same contents, settings, weights and version of pconv.",
    ),
]
MaxMegapixels = Annotated[float, typer.Option(min=0, metavar="N", help="Refuse larger pictures and masks; 0: none.")]
OnCluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        **one_of("auto|local|ADDRESS"),
        help="Share the work among the workers of a Ray cluster: the one this machine belongs to, or one that is "
        "started here for the time being (local: always); needs the extra ray.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="How many workers of the cluster (default: one a GPU, or for four cores)."),
]


def _folder(text: str) -> Path:
    """Read the name of a folder on this machine."""
    if "://" in text:
        raise typer.BadParameter(f"{text} is a URL: give a folder of this machine")
    return Path(text)


SaveFilled = Annotated[
    Path | None,
    typer.Option(
        parser=_folder, metavar="DIR",
        help="Save what was restored as a mask: white = restored, everything that was filled in and nothing else. PNG "
        "under the name of the result, lying as that does; of `pconv tile` a grey deflate TIFF.",
    ),
]  # fmt: skip
SaveConfidence = Annotated[
    Path | None,
    typer.Option(
        parser=_folder, metavar="DIR",
        help="Save how far each restored pixel is from the nearest known one, in steps of a 3 x 3 partial convolution "
        "(pixels, the larger of across and down): 1 = beside it, 255 = 255 or more, 0 = not restored. Files as for "
        "--save-filled, 8-bit grey.",
    ),
]  # fmt: skip
Provenance = Annotated[
    bool,
    typer.Option(
        "--provenance",
        help="Add to each restored file's XMP what was done: program, weights and mask by SHA-256, share restored, "
        "date (UTC, or SOURCE_DATE_EPOCH). Where a file has no room for it: into NAME.EXT.xmp beside it.",
    ),
]
TileSize = Annotated[int, typer.Option(min=32, metavar="PX", help="Longest side of a tile.")]


ReportTo = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="DIR",
        help="Make a page there to look through, print and sign: before and after, masks, worst seams first, failures, "
        "settings; with the same as JSON and CSV. It opens from disk and fetches nothing.",
    ),
]


def cluster_of(address: str | None, workers: int | None, device: str) -> Cluster | None:
    """Read `--cluster` and what belongs to it."""
    if address is None:
        if workers is not None:
            raise UsageError(f"--workers {workers}: belongs to --cluster; without one, --jobs sets threads")
        return None
    if address.startswith("-"):
        raise UsageError(f"--cluster {address}: say which: auto, local or HOST:PORT")
    from pconv_cli.distributed import Cluster

    return Cluster(address, workers, {"cpu": False, "cuda": True}.get(device))


def parsed(mask_from: str | None) -> Mark | None:
    """Read `--mask-from`."""
    from pconv_cli.marks import parse

    return None if mask_from is None else parse(mask_from)


def detection_of(detect: str | None, sensitivity: float | None) -> Detect | None:
    """Read `--detect` and `--sensitivity`."""
    from pconv_cli.detection import parse

    if detect is not None:
        return parse(detect, sensitivity)
    if sensitivity is not None:
        raise UsageError(f"--sensitivity {sensitivity:g}: belongs to --detect; masks say by themselves what is damaged")
    return None


def base(paths: list[str]) -> str | None:
    """OUT, the one path that may stand beside a manifest."""
    if len(paths) > 1:
        raise UsageError(
            f"{len(paths)} paths beside --manifest: only OUT may stand there, a folder for rows without out"
        )
    return paths[0] if paths else None


def rows(manifest: str) -> list[Row]:
    """Read the list."""
    from pconv_cli.manifest import read

    return read(None, sys.stdin) if manifest == "-" else read(Path(manifest))


def staged(rows: list[Row], stage: Stage) -> list[Row]:
    """The list, with names on the stage for what is elsewhere."""
    return [
        replace(
            row, image=stage.name(row.image), mask=None if row.mask is None else stage.name(row.mask),
            out=None if row.out is None else stage.target(row.out),
        )
        for row in rows
    ]  # fmt: skip
