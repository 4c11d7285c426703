"""`pconv weights list|info|verify|import|export`. Heavy modules are imported when a command runs, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pconv_cli.cli.text import ProgressMode
from pconv_cli.errors import ExitCode

app = typer.Typer(help="Look at the networks that can be used, and bring in others.", no_args_is_help=True)

Name = Annotated[str | None, typer.Argument(metavar="[NAME|FILE]", help="Which weights (default: the default ones).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command("list")
def list_weights(as_json: Json = False) -> None:
    """List the weights that came with pconv."""
    import json

    from pconv_cli import weights as store
    from pconv_cli.cli import ui

    entries = store.listed()
    if as_json:
        keys = [{"name": e.name, "file": str(e.path), "sha256": e.sha256, "default": e.default} for e in entries]
        ui.out(json.dumps(keys, indent=2))
        return
    rows = [[e.name + (" (default)" if e.default else ""), _size(e.path), e.summary] for e in entries]
    rows.append([store.NONE, "", "no network: a pyramid of fixed partial convolutions, smooth and fast"])
    ui.table("Weights", ["name", "size", "what it is"], rows)


def _size(path: Path) -> str:
    try:
        return f"{path.stat().st_size / 1e6:.1f} MB"
    except OSError:
        return "missing"


@app.command()
def info(name: Name = None) -> None:
    """Print what a weights file says of itself, as JSON."""
    import json

    from pconv_cli import files
    from pconv_cli import weights as store
    from pconv_cli.cli import ui
    from pconv_cli.errors import UsageError

    path = store.find(name)
    if path is None:
        raise UsageError("none: there is no file behind it, only fixed partial convolutions")
    header = store.read_header(path)
    ui.out(json.dumps({"file": str(path), "sha256": files.sha256(path), **header}, indent=2, ensure_ascii=False))


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FILE]...", help="Weights to read to the last number instead."),
    ] = None,
) -> None:
    """Compare every shipped file with its SHA-256; exit code 4 if one differs.

    Weights that are named are read whole, wherever they come from: their network must be built, and all its numbers be
    finite. What is well is printed with its SHA-256; exit code 4 if one is not.
    """
    from pconv_cli import weights as store
    from pconv_cli.cli import ui

    if names:
        whole = [_is_whole(name) for name in names]
        raise typer.Exit(ExitCode.OK if all(whole) else ExitCode.WEIGHTS)
    faults = 0
    for entry in (*store.listed(), *store.listed_features()):
        fault = store.verify(entry)
        faults += fault is not None
        ui.out(f"{entry.name}: {fault or 'as listed'}")
    raise typer.Exit(ExitCode.WEIGHTS if faults else ExitCode.OK)


def _is_whole(name: str) -> bool:
    """Say in a line whether weights are whole, and tell."""
    from pconv_cli import weights as store
    from pconv_cli.cli import ui
    from pconv_cli.errors import WeightsError

    try:
        ui.out(f"{name}: whole, SHA-256 {store.proved(name)}")
    except WeightsError as error:
        ui.out(str(error))
        return False
    return True


@app.command()
def export(
    onnx: Annotated[
        Path, typer.Option("--onnx", metavar="FILE.onnx", help="File to write, for ONNX Runtime and its like.")
    ],
    name: Name = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write a network as an ONNX file, for any size and batch; it is compared with torch before it gets its name.

    Takes about a minute of one fast processor core, longer where it is slow or busy, and the packages of the extra
    `onnx`. Image and damage go in, the filled image comes out; the file's metadata tell names, ranges and polarity, and
    under what licence the weights are.
    """
    from pconv_cli.cli import ui
    from pconv_cli.export import export_onnx

    with ui.view(ProgressMode.auto) as show:
        done = export_onnx(name, onnx, overwrite=overwrite, emit=show)
    compared = "not compared: onnxruntime is not installed"
    if done.difference is not None:
        compared = f"ONNX Runtime differs from torch by {done.difference:.1g} at most"
    ui.out(f"{done.path}: {done.size / 1e6:.1f} MB; {compared}")


@app.command("import")
def import_weights(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint of PyTorch, or weights of Keras (.h5).")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="Weights to write.")],
    family: Annotated[
        str,
        typer.Option(
            metavar="auto|naoto|bobqywei|crai|tani|nvidia|ryan|xiefan|xyf|jacobaustin|mmagic|keras",
            help="Whose implementation it comes from; auto: its keys tell.",
        ),
    ] = "auto",
    layers: Annotated[
        int | None, typer.Option(min=1, help="Levels that the network uses (default: all that were trained).")
    ] = None,
    tones: Annotated[
        str,
        typer.Option(
            metavar="auto|unit|signed|imagenet|raw",
            help="What numbers it was trained on: tones from 0 or from -1 to 1, by ImageNet's mean and deviation, or "
            "any numbers as measured; auto: what its family uses.",
        ),
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace weights that exist.")] = False,
) -> None:
    """Turn a checkpoint of another program into weights that pconv runs.

    Nothing in the file is executed, and nothing is loaded loosely: every tensor must have its place in a family's
    network, or the file is refused with the first key that has none. What was found stands in the new file's header,
    see `pconv weights info`.
    """
    from typing import cast, get_args

    from pconv_cli import families, files
    from pconv_cli.checkpoints import import_checkpoint
    from pconv_cli.cli import ui
    from pconv_cli.errors import OutputError, UsageError

    if family not in ("auto", *families.NAMES):
        raise UsageError(f"--family {family}: there is no such family; choose auto, {', '.join(families.NAMES)}")
    if tones not in ("auto", *get_args(families.Tones)):
        raise UsageError(f"--tones {tones}: choose auto, {', '.join(get_args(families.Tones))}")
    if out.is_dir() or out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: name a file that ends in .safetensors")
    try:
        files.refuse_same(checkpoint, out)
        files.refuse_taken(out, overwrite=overwrite)
        made = import_checkpoint(
            checkpoint,
            out,
            family=None if family == "auto" else family,
            levels=layers,
            tones=None if tones == "auto" else cast(families.Tones, tones),
        )
    except OSError as error:
        raise OutputError(f"{out}: {files.why_unwritable(error) or error}") from error
    ui.out(f"{out}: {made.summary()}")
