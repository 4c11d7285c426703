"""`pconv doctor`: shows what was found out, in plain aligned lines that pipe well. Does not find out anything itself.

Heavy modules are imported when the command runs, not before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pconv_cli.cli.text import one_line
from pconv_cli.errors import ExitCode

if TYPE_CHECKING:
    from pconv_cli.doctor import Computing, Findings, Gpu, Machine

_VERDICTS = {
    ExitCode.OK: "everything that `pconv restore` and `pconv tile` need works",
    ExitCode.SOME_FAILED: "some pictures cannot be read or written, see the codecs",
    ExitCode.WEIGHTS: "the weights are not as they should be: reinstall pconv",
    ExitCode.DEVICE: "nothing can be computed, see the libraries and the device",
}


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as one JSON object on stdout.")] = False,
) -> None:
    """Show what this machine can do: libraries, device, formats, weights, and what will be slow and why.

    Everything is tried and not only asked for: a tile is filled, files are written and read back, sums are computed.
    Exit code 0 if all that a run needs works, 1 if a format is missing, 4 if weights are, 6 if nothing can be computed.
    """
    from pconv_cli import doctor
    from pconv_cli.cli import ui

    found = doctor.examine()
    if as_json:
        ui.out(json.dumps(found.document(), indent=2, ensure_ascii=False))
    else:
        lines = [f"pconv {found.pconv}, Python {found.python}, {found.machine.system}".rstrip(", ")]
        for title, rows in _sections(found):
            lines += ["", title, *_aligned(rows)]
        notes = list(doctor.remarks(found))
        if notes:
            lines += ["", "Worth knowing", *(f"  - {one_line(note)}" for note in notes)]
        ui.out("\n".join([*lines, "", f"Result: {_VERDICTS[found.exit_code]}"]))
    raise typer.Exit(found.exit_code)


Row = tuple[str, str]


def _sections(found: Findings) -> Iterator[tuple[str, list[Row]]]:
    missing = "cannot be used, so {0.without} ({0.fault})"
    yield "Libraries", [(one.name, one.version or missing.format(one)) for one in found.libraries]
    yield "Machine", list(_machine(found.machine))
    yield "Device", list(_device(found.computing))
    yield "Weights", [(f"{n.name} (default)" if n.default else n.name, n.fault or "as listed") for n in found.networks]
    yield "Codecs, each written and read back", list(_codecs(found))


def _machine(machine: Machine) -> Iterator[Row]:
    yield "CPU", machine.cpu or "unknown"
    quota = "" if machine.quota is None else f", a quota of {machine.quota:g}"
    yield "cores", f"{machine.cores}, of which {machine.usable} can be used{quota}"
    limit = "" if machine.memory_limit is None else f", limited to {_size(machine.memory_limit)}"
    yield "memory", f"{_size(machine.memory)}, {_size(machine.memory_free)} free{limit}"
    yield "temp folder", f"{machine.temp or 'unknown'}, {_size(machine.temp_free)} free"
    yield from machine.environment.items()
    if machine.fault:
        yield "not found out", machine.fault


def _device(computing: Computing) -> Iterator[Row]:
    from pconv_cli.doctor import TILE

    if computing.device:
        yield "--device auto", computing.device
        yield "--precision auto", f"{computing.precision}: {computing.precision_reason}"
        yield (
            "torch",
            f"built for {computing.build}, {computing.threads} {'thread' if computing.threads == 1 else 'threads'}",
        )
        yield "CPU in bf16", "yes" if computing.cpu_bf16 else "no"
        yield from ((gpu.device, _gpu(gpu)) for gpu in computing.gpus)
        if not computing.gpus:
            yield "CUDA", "none that torch can use"
        yield "Metal (mps)", "yes" if computing.mps else "none"
    if computing.rate is not None:
        yield "speed", f"{computing.rate:.1f} tiles of {TILE} x {TILE} px a second"
    if computing.fault:
        yield "fault", computing.fault


def _gpu(gpu: Gpu) -> str:
    return gpu.fault or f"{gpu.model}, {_size(gpu.memory)}, {_size(gpu.memory_free)} free"


def _codecs(found: Findings) -> Iterator[Row]:
    for name in ("restore", "tile"):
        sound = [codec.name for codec in found.codecs if codec.command == name and not codec.fault]
        yield name, ", ".join(sound) or "none"
    for codec in found.codecs:
        if codec.fault:
            yield f"{codec.command} not", f"{codec.name}{'' if codec.needed else ' (optional)'}: {codec.fault}"


def _aligned(rows: list[Row]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {one_line(name):<{width}}  {one_line(text)}" for name, text in rows]


def _size(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
