"""`pconv check`: options in, exit code out. Heavy modules are imported when the command runs, not before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pconv_cli.cli.options import (
    Detected,
    Dilate,
    Format,
    InvertMask,
    Jobs,
    Linear,
    Manifest,
    MaskFrom,
    MaskOn,
    MaskOnOption,
    MaxMegapixels,
    Overlap,
    Overwrite,
    Padding,
    Precision,
    PrecisionOption,
    Progress,
    Provenance,
    Resume,
    Sample,
    SaveConfidence,
    SaveFilled,
    SaveMasks,
    Sensitivity,
    Strict,
    TileSize,
    Weights,
    base,
    detection_of,
    parsed,
    rows,
    staged,
)
from pconv_cli.cli.text import ProgressMode, one_line, wrong_number
from pconv_cli.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pconv_cli.check import Checked, Finding

FEW = 3
NOWHERE = "pconv-check-has-no-OUT/"


def command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IN MASKS [OUT]",
            help="As for `pconv restore`, but for -. With OUT, what is in the way and whether there is room. "
            "What has a URL is fetched, picture by picture.",
        ),
    ] = None,
    manifest: Manifest = None,
    mask_from: MaskFrom = None,
    detect: Detected = None,
    sensitivity: Sensitivity = None,
    save_masks: SaveMasks = None,
    invert_mask: InvertMask = False,
    dilate: Dilate = 0,
    mask_on: MaskOnOption = MaskOn.auto,
    format: Format = None,
    linear: Linear = False,
    strict: Strict = False,
    save_filled: SaveFilled = None,
    save_confidence: SaveConfidence = None,
    provenance: Provenance = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    sample: Sample = None,
    max_megapixels: MaxMegapixels = 1000,
    weights: Weights = None,
    precision: PrecisionOption = Precision.auto,
    tile_size: TileSize = 512,
    padding: Padding = None,
    overlap: Overlap = 0,
    jobs: Jobs = None,
    progress: Progress = ProgressMode.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object on stdout.")] = False,
) -> None:
    """Look before a run: pairs, sizes, polarity, damaged files, outputs in the way, disk, memory, time.

    Reads every picture and mask to its end, and needs no device, and of weights the header at most. Exit code 0 if a
    run would go through, 2 if anything would fail, or a mask looks like a photograph, which a run only notes.
    """
    from pconv_cli import check as use_case
    from pconv_cli import restore
    from pconv_cli.cli import ui
    from pconv_cli.remote import Stage

    settings = restore.RestoreSettings(
        weights=weights,
        precision=precision.value,
        tile_size=tile_size,
        padding=None if padding is None else padding.value,
        overlap=overlap,
        jobs=jobs,
        invert_mask=invert_mask,
        dilate=dilate,
        mask_on=mask_on.value,
        mask_from=parsed(mask_from),
        linear=linear,
        format=None if format is None else format.lower().lstrip("."),
        overwrite=overwrite,
        resume=resume,
        strict=strict,
        save_filled=save_filled,
        save_confidence=save_confidence,
        provenance=provenance,
        detect=detection_of(detect, sensitivity),
        save_masks=save_masks,
        max_megapixels=max_megapixels,
    )
    given = paths or []
    with ExitStack() as stack:
        stage = stack.enter_context(Stage())
        if manifest is not None:
            to, writes = base(given), True
            todo = restore.plan_listed(
                staged(rows(manifest), stage), None if to is None else stage.target(to), settings
            )
        else:
            with_masks = mask_from is None and detect is None
            names = ["IN", "MASKS", "[OUT]"] if with_masks else ["IN", "[OUT]"]
            if not len(names) - 1 <= len(given) <= len(names):
                way_out = "see pconv check --help"
                if len(given) == 1 and Path(given[0]).is_file():
                    way_out = f"of one large picture, pconv tile {given[0]} --plan tells what would be done"
                raise UsageError(f"{wrong_number(given, ' '.join(names))}; {way_out}")
            writes = len(given) == len(names)
            if resume and not writes:
                raise UsageError("--resume: what is done stands in OUT: give it, too")
            if "-" in given:
                raise UsageError("- is for pconv restore: give files or folders to check")
            out = stage.target(given[-1]) if writes else NOWHERE
            pictures, masks = stage.source(given[0]), Path(stage.source(given[1])) if with_masks else None
            todo = restore.plan(Path(pictures), masks, out, settings, elsewhere=stage.holds(Path(out)), lenient=True)
        stage.clear()
        todo = todo if sample is None else todo.first(sample)
        show = stack.enter_context(ui.view(progress, quiet=True))
        stop = stack.enter_context(ui.Stop(show))
        found = use_case.check(todo, settings, stop.listening, stop, writes=writes, stage=stage)
    if as_json:
        ui.out(json.dumps(found.document(), ensure_ascii=False))
    else:
        _show(found)
    if not found.complete:
        raise typer.Exit(ExitCode.INTERRUPTED)
    raise typer.Exit(ExitCode.OK if found.usable else ExitCode.USAGE)


def _show(found: Checked) -> None:
    from pconv_cli.cli import ui
    from pconv_cli.files import amount

    if found.left_out:
        ui.out(f"{found.left_out}\n")
    if found.findings:
        ui.table("What is wrong", ["", "file", "why, and the way out"], list(_told(found.findings)))
    wrong = sum(one.grave and bool(one.name) for one in found.findings)  # a list may name one picture twice
    free = "" if found.disk_free is None else f" of {amount(found.disk_free)} free"
    memory = "" if found.memory_free is None else f" of {amount(found.memory_free)} free"
    pictures = [str(found.items)]
    pictures += [f"{wrong} would fail"] if wrong else []
    pictures += [f"{found.done_before} done before"] if found.done_before else []
    todo = found.items - wrong - found.done_before
    figures = [
        ["pictures", ", ".join(pictures)],
        ["damaged", f"{found.damaged} of {todo}, {found.hole_share:.1%} of their pixels"],
        ["to compute", f"{found.tiles} {'tile' if found.tiles == 1 else 'tiles'}, {found.pixels / 1e6:.1f} megapixels"],
        ["disk", f"about {amount(found.disk_bytes)}{free}"],
        ["memory", f"about {amount(found.memory_bytes)}{memory}"],
        ["time", f"about {_time(found.seconds)} on this machine's CPU; a GPU takes a fraction of it"],
    ]
    ui.table("A run", ["", "roughly"], figures)


def _told(findings: Sequence[Finding]) -> Iterator[list[str]]:
    """Rows of a table: of many that say the same, but for figures, the first few and how many more there are."""
    alike: dict[tuple[bool, str], list[Finding]] = {}
    for one in findings:
        alike.setdefault((one.grave, re.sub(r"\d+", "0", one.reason)), []).append(one)
    for (grave, _), some in alike.items():
        kind = "fails" if grave else "note"
        shown = some if len(some) == FEW + 1 else some[:FEW]  # a row of one more takes no less room
        yield from ([kind, one_line(one.path or one.name), one_line(one.reason)] for one in shown)
        if more := some[len(shown) :]:
            same = "the same" if len({one.reason for one in some}) == 1 else "the same, but for figures"
            yield [kind, f"... and {len(more)} more", same]


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
