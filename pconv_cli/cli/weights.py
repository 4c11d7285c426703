"""`pconv weights list|info|verify`. Heavy modules are imported when a command runs, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pconv_cli.errors import ExitCode

app = typer.Typer(help="Look at the networks that can be used.", no_args_is_help=True)

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

    from pconv_cli import weights as store
    from pconv_cli.cli import ui
    from pconv_cli.errors import UsageError

    path = store.find(name)
    if path is None:
        raise UsageError("none: there is no file behind it, only fixed partial convolutions")
    header = store.read_header(path)
    ui.out(json.dumps({"file": str(path), "sha256": store.sha256(path), **header}, indent=2, ensure_ascii=False))


@app.command()
def verify() -> None:
    """Compare every shipped file with its SHA-256; exit code 4 if one differs."""
    from pconv_cli import weights as store
    from pconv_cli.cli import ui

    faults = 0
    for entry in (*store.listed(), *store.listed_features()):
        fault = store.verify(entry)
        faults += fault is not None
        ui.out(f"{entry.name}: {fault or 'as listed'}")
    raise typer.Exit(ExitCode.WEIGHTS if faults else ExitCode.OK)
