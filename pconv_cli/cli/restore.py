"""`pconv restore`: options in, exit code out. Heavy modules are imported when the command runs, not before."""

from __future__ import annotations

from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pconv_cli.cli.options import (
    AsJson,
    BatchSize,
    Detected,
    Devices,
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
    OnCluster,
    Overlap,
    Overwrite,
    Padding,
    Precision,
    PrecisionOption,
    Progress,
    Provenance,
    Quiet,
    ReportTo,
    Resume,
    Sample,
    SaveConfidence,
    SaveFilled,
    SaveMasks,
    Sensitivity,
    Strict,
    TileSize,
    Verbose,
    Weights,
    Workers,
    base,
    cluster_of,
    detection_of,
    parsed,
    rows,
    staged,
)
from pconv_cli.cli.text import ProgressMode, wrong_number
from pconv_cli.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pconv_cli.report import Report


class OnError(str, Enum):
    """Values of `--on-error`."""

    skip = "skip"
    stop = "stop"


def command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IN MASKS OUT",
            help="IN: a folder of pictures (searched recursively), or one. MASKS: a folder of masks (NAME.*, "
            "NAME_mask.* or NAME.EXT.*), or one mask for all; left out with --mask-from and --detect. OUT: a "
            "folder for the results, or a file if IN is one; never IN or MASKS itself. A single picture, or mask, may "
            "be - for standard input, OUT for output. All may be URLs: s3://, gs://, and to read also https://; needs "
            "pip install 'pconv[remote]'.",
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
    on_error: Annotated[OnError, typer.Option(help="Whether a failed picture ends the run.")] = OnError.skip,
    max_failures: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Begin no further picture once N have failed.")
    ] = None,
    failed_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="List the failed pictures here when the run ends, .csv or .jsonl; --manifest takes it back.",
        ),
    ] = None,
    report_to: ReportTo = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Go on with whatever arrives in IN, once it and its mask are still, until Ctrl-C. A restart goes on "
            "where it was (as --resume does); a picture that failed is tried again when it has changed.",
        ),
    ] = False,
    settle: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            show_default="10",
            help="With --watch: how long size and time of a picture and its mask must not have changed.",
        ),
    ] = None,
    max_megapixels: MaxMegapixels = 1000,
    weights: Weights = None,
    device: Devices = "auto",
    precision: PrecisionOption = Precision.auto,
    tile_size: TileSize = 512,
    padding: Padding = None,
    overlap: Overlap = 0,
    batch_size: BatchSize = None,
    jobs: Jobs = None,
    cluster: OnCluster = None,
    workers: Workers = None,
    progress: Progress = ProgressMode.auto,
    quiet: Quiet = False,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Restore damaged pictures; only pixels inside the masks change.

    Of a JPEG only the blocks that they touch: 8 x 8 px, 16 x 16 with subsampled colour.
    Pictures and masks are paired by relative path and name, whatever their formats.
    A picture that fails is one line and exit code 1; the others are restored.
    """
    from pconv_cli import restore as use_case
    from pconv_cli import watching
    from pconv_cli.cli import ui
    from pconv_cli.cli.pipes import Pipes
    from pconv_cli.events import Notice
    from pconv_cli.jobs import JobList
    from pconv_cli.remote import Stage

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
        mask_from=parsed(mask_from),
        linear=linear,
        format=None if format is None else format.lower().lstrip("."),
        overwrite=overwrite,
        strict=strict,
        save_filled=save_filled,
        save_confidence=save_confidence,
        provenance=provenance,
        resume=resume or watch,
        max_failures=1 if on_error is OnError.stop else max_failures,
        failed_list=failed_list,
        listed_by=None if manifest in (None, "-") or sample is not None else Path(str(manifest)),
        max_megapixels=max_megapixels,
        detect=detection_of(detect, sensitivity),
        save_masks=save_masks,
    )
    if as_json and paths and paths[-1] == "-":
        raise UsageError("--json and OUT - both write to standard output: choose one of the two")
    where = cluster_of(cluster, workers, device)
    if where is not None and "-" in (paths or []):
        raise UsageError("--cluster and - do not go together: what is piped is on this machine alone")
    if failed_list is not None and "-" in (paths or []):
        raise UsageError("--failed-list and - do not go together: the list names files, and what is piped is gone")
    if report_to is not None and "-" in (paths or []):
        raise UsageError("--report and - do not go together: a report shows files, and what is piped is gone")
    if not watch and settle is not None:
        raise UsageError(f"--settle {settle:g}: belongs to --watch")
    if watch:
        _refuse_unwatchable(paths or [], manifest, cluster, sample)
        if report_to is not None:
            raise UsageError(
                "--watch and --report do not go together: a page is made when a run has ended; after Ctrl-C, the same "
                "command with --resume and --report instead makes one"
            )
    with ExitStack() as stack:
        pipes, stage = None, stack.enter_context(Stage())
        if manifest is None:
            suffix = None if settings.format is None else f".{settings.format}"
            pictures, mask, out = places(paths or [], mask_from, detect)
            out = stage.target(out)
            pictures, mask = stage.source(pictures), None if mask is None else stage.source(mask)
            pipes = stack.enter_context(Pipes(pictures, mask, out, suffix))
            masks = None if pipes.masks is None else Path(pipes.masks)
            if watch:
                look = watching.watched(Path(pipes.source), masks, pipes.output, settings)
                todo = JobList((), (), {}, Path(pipes.output))
            else:
                away = stage.holds(Path(out))
                todo = use_case.plan(Path(pipes.source), masks, pipes.output, settings, elsewhere=away)
        else:
            to = base(paths or [])
            listed = staged(rows(manifest), stage)
            todo = use_case.plan_listed(listed, None if to is None else stage.target(to), settings)
        stage.clear()
        if sample is not None:
            todo = todo.first(sample)
        page = None
        if report_to is not None:
            from pconv_cli import proofs
            from pconv_cli.page import Folder

            searched = [Path(path) for path in paths[:-1]] if paths and manifest is None else []
            results = {stage.shown(str(job.output)) for job in todo.jobs} if resume else None
            page = Folder(report_to, overwrite=overwrite, again=results, searched=searched)
        show = stack.enter_context(ui.view(progress, quiet=quiet, verbose=verbose))
        stop = stack.enter_context(ui.Stop(show))
        emit = stop.listening if pipes is None else pipes.listening(stop.listening)
        arrivals = None
        if watch:
            seconds = watching.SETTLE if settle is None else settle
            arrivals = watching.Arrivals(look, settings, emit, stop, seconds)
            emit(Notice(f"watching {pictures} for what arrives and is still for {seconds:g} s; Ctrl-C ends that"))
        named = (lambda item: item) if pipes is None else pipes.named
        each = (lambda item: ui.out(named(item).line())) if as_json else (lambda item: None)
        report = use_case.restore(todo, settings, emit, stop, each, where, stage, arrivals)
        if page is not None:
            if as_json:  # the page may take a while, and may fail
                ui.out(report.summary())
            proofs.of_pictures(report, todo, settings, page, stop.listening, stage)
    if as_json and page is None:
        ui.out(report.summary())
    if report.unlisted is not None:
        raise report.unlisted
    raise typer.Exit(exit_code(report))


def _refuse_unwatchable(paths: list[str], manifest: str | None, cluster: str | None, sample: int | None) -> None:
    others = {"--manifest": manifest, "--cluster": cluster, "--sample": sample}
    others |= {path: path for path in paths if path == "-" or "://" in path}
    for name, given in others.items():
        if given is not None:
            raise UsageError(f"--watch and {name} do not go together: it looks into a folder of this machine")


def places(paths: list[str], mask_from: str | None, detect: str | None) -> tuple[str, str | None, str]:
    """IN, MASKS and OUT, of which MASKS is left out where pictures show their damage themselves, or it is detected."""
    option = "--mask-from" if mask_from is not None else "--detect" if detect is not None else ""
    names = "IN OUT" if option else "IN MASKS OUT"
    if len(paths) != len(names.split()):
        with_mark = f" with {option}, which takes the place of MASKS" if option else ""
        raise UsageError(f"{wrong_number(paths, names)}{with_mark}; see pconv restore --help")
    return paths[0], None if option else paths[1], paths[-1]


def exit_code(report: Report) -> ExitCode:
    """Turn a finished run into an exit code: the worst that happened."""
    if report.interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.SOME_FAILED if report.count("failed") else ExitCode.OK
