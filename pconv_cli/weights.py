"""Weights as self-describing safetensors: the only door to that library.

Knows: where the shipped files lie, their manifest of SHA-256 sums, and how a file's header says which network it is.
Does not know: devices, pictures, training. Nothing here reads a pickle.

A file's header holds one JSON document under `pconv`: format version, architecture, recipe, metrics, licence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pconv_cli import files
from pconv_cli.errors import WeightsError
from pconv_cli.layers import View
from pconv_cli.nn.partial_conv import PaddingMode
from pconv_cli.nn.pyramid import PyramidFill
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig

FORMAT = 1
FEATURES = "squeezenet-1.1"
"""The name of the shipped feature network."""
NONE = "none"
"""The name that stands for the pyramid of fixed partial convolutions: no file at all."""


@dataclass(frozen=True)
class Listed:
    """One line of the manifest: a file that ships with the tool."""

    name: str
    path: Path
    sha256: str
    default: bool
    summary: str


def shipped_folder() -> Path:
    """Return the folder of the shipped weights: inside the package, or `weights/` of a source checkout."""
    here = Path(__file__).parent
    packed = here / "_weights"
    return packed if packed.is_dir() else here.parent / "weights"


def listed() -> tuple[Listed, ...]:
    """Read from the manifest which weights there are to restore with.

    Raises:
        WeightsError: If it is missing or unreadable.
    """
    return _manifest("weights")


def listed_features() -> tuple[Listed, ...]:
    """Read from the manifest which networks there are that only look at pictures, for measures and losses.

    Raises:
        WeightsError: If it is missing or unreadable.
    """
    return _manifest("features")


def _manifest(part: str) -> tuple[Listed, ...]:
    path = shipped_folder() / "manifest.json"
    try:
        document = {"features": [], **json.loads(path.read_text("utf-8"))}
        return tuple(
            Listed(e["name"], path.parent / e["file"], e["sha256"], bool(e.get("default")), e.get("summary", ""))
            for e in document[part]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: the list of shipped weights cannot be read ({error}); reinstall pconv") from error


def find(name: str | None) -> Path | None:
    """Resolve `--weights`: None is the default, a listed name or a file is a path, `none` is no file (returns None).

    Raises:
        WeightsError: If there is no such name or file; the message lists the names.
    """
    if name == NONE:
        return None
    entries = listed()
    for entry in entries:
        if entry.name == name or (name is None and entry.default):
            return entry.path
    names = ", ".join([entry.name for entry in entries] + [NONE])
    if name is None:
        raise WeightsError(f"no default weights are installed; choose with --weights ({names}, or a file)")
    path = Path(name)
    if path.is_file():
        return path
    raise WeightsError(f"{name}: neither a weights file nor a name; the names are: {names}")


def view(name: str | None) -> View:
    """Tell from its header how the network that `--weights` names looks at pictures.

    Raises:
        WeightsError: If it cannot be found or read, or takes what no picture has.
    """
    path = find(name)
    if path is None:
        return View(grain=False)
    config = config_from(read_header(path), path)
    if config.values != "raw" and config.channels not in (1, 3):
        raise WeightsError(f"{path}: takes {config.channels} channels of tones, and pictures have 1 or 3")
    return View(config.channels, config.values == "raw", whole=config.floor is None, grain=config.floor is not None)


def colour_view(name: str | None) -> View:
    """The same for what works on photographs alone.

    Raises:
        WeightsError: Also if the network takes anything but colours.
    """
    found = view(name)
    if found.raw or found.channels != 3:
        kind = "raw values" if found.raw else "single channels"
        raise WeightsError(f"{name}: is for {kind}, and this works on photographs in colour; choose other weights")
    return found


def load_network(name: str | None, padding: PaddingMode | None = None) -> nn.Module:
    """Build the network that `--weights` names, for inference: on the CPU, batch norm folded, float32 or as written.

    Args:
        name: A name, a file, `none` for the pyramid (which has no padding to choose), or None for the default.
        padding: What lies beyond the border, see `partial_conv2d`; None: what the network was trained with.

    Raises:
        WeightsError: If it cannot be found, read or rebuilt, or a shipped file is not what the manifest says.
    """
    path = find(name)
    if path is None:
        return PyramidFill()
    for entry in listed():
        if entry.path == path:
            _check(entry)
    header, state = read(path)
    config = config_from(header, path)
    if padding is not None:
        coarse = None if config.coarse is None else replace(config.coarse, padding_mode=padding)
        config = replace(config, padding_mode=padding, coarse=coarse)
    try:
        network = PartialConvUNet.bare(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: its architecture cannot be rebuilt ({error})") from error
    if any(value.dtype == torch.float64 for value in state.values()):
        network.double()
    load_strictly(network, state, path)
    return network.fold()


def feature_state() -> dict[str, Tensor]:
    """Read the shipped feature network: SqueezeNet 1.1 without its classifier, for `nn.squeeze.SqueezeFeatures`.

    Returns:
        Its tensors in float32, under torchvision's key names.

    Raises:
        WeightsError: If it is missing or unreadable, or not what the manifest says.
    """
    for entry in listed_features():
        if entry.name == FEATURES:
            _check(entry)
            return read(entry.path)[1]
    raise WeightsError(f"{shipped_folder() / 'manifest.json'}: lists no {FEATURES}; reinstall pconv")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a weights file: its header document and its tensors, floats as float32, or float64 where they are.

    Raises:
        WeightsError: If it is not a safetensors file with this project's header.
    """
    header = read_header(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: the weights cannot be read ({error}); fetch the file again") from error
    half = (torch.float16, torch.bfloat16)
    # What is not widened would lie in the file still, which somebody may replace or cut off meanwhile.
    return header, {key: value.float() if value.dtype in half else value.clone() for key, value in state.items()}


def read_header(path: Path) -> dict[str, Any]:
    """Read only the header document of a weights file.

    Raises:
        WeightsError: As in `read`.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            document = metadata.get("pconv")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}); `pconv weights import` reads others") from error
    if "training" in metadata:
        raise WeightsError(f"{path}: is the checkpoint of a training, not weights; give the file without .checkpoint")
    if document is None:
        raise WeightsError(f"{path}: no 'pconv' entry in its header, so it does not say which network it is")
    try:
        header: dict[str, Any] = dict(json.loads(document).items())
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: its 'pconv' entry is no JSON object ({error}); fetch the file again") from error
    if header.get("format") != FORMAT:
        raise WeightsError(f"{path}: format {header.get('format')}, this version reads {FORMAT}; update pconv")
    return header


def write(
    path: Path, network: PartialConvUNet, state: Mapping[str, Tensor], about: Mapping[str, Any], *, half: bool = True
) -> None:
    """Write weights with their header, whole or not at all.

    Args:
        path: The file to write; replaced if it exists.
        network: Gives the architecture.
        state: The tensors, keyed as in the network's state dict.
        about: Whatever the header should tell beside it: name, training, metrics, licence.
        half: Whether kernels are written in half precision.

    Raises:
        OSError: If the place cannot be written.
    """
    kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    tensors = {k: (_half(v) if half else v).contiguous() for k, v in kept.items()}
    header = {"format": FORMAT, "architecture": asdict(network.config), **about}
    write_tensors(path, tensors, {"pconv": json.dumps(header)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors to a safetensors file, whole or not at all.

    Raises:
        OSError: If the place cannot be written.
    """
    with files.whole(path, overwrite=True) as file:
        file.write(save(dict(tensors), metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors and the raw metadata of a safetensors file, types as they are.

    Raises:
        WeightsError: If it cannot be read.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read only the raw metadata of a safetensors file.

    Raises:
        WeightsError: As in `read_tensors`.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error


def config_from(header: Mapping[str, Any], path: Path) -> UNetConfig:
    """Rebuild the architecture that a header describes.

    Raises:
        WeightsError: If the description has unknown or impossible entries.
    """
    return _config(header.get("architecture", {}), path)


def _config(entries: Any, path: Path) -> UNetConfig:
    if not isinstance(entries, dict):
        raise WeightsError(f"{path}: its architecture cannot be rebuilt (not a JSON object)")
    entries = dict(entries)
    unknown = sorted(set(entries) - {field.name for field in fields(UNetConfig)})
    if unknown:
        raise WeightsError(f"{path}: this version does not know the architecture entries {', '.join(unknown)}")
    try:
        entries["encoder"] = tuple((int(width), int(kernel)) for width, kernel in entries["encoder"])
        for key in ("mean", "std"):
            entries[key] = tuple(float(value) for value in entries[key])
        entries["blocks"] = tuple(int(count) for count in entries.get("blocks", ()))
        if entries.get("coarse") is not None:
            entries["coarse"] = _config(entries["coarse"], path)
        return UNetConfig(**entries)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its architecture cannot be rebuilt ({error})") from error


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor by name and shape, or refuse and name the keys; a bare network keeps the very tensors.

    Raises:
        WeightsError: If a key is missing, unknown, or of another shape.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    faults = [f"missing {key}" for key in wanted.keys() - given.keys()]
    faults += [f"unknown {key}" for key in given.keys() - wanted.keys()]
    faults += [f"shape of {k}" for k in wanted.keys() & given.keys() if wanted[k].shape != given[k].shape]
    if faults:
        shown = ", ".join(sorted(faults)[:4]) + (" ..." if len(faults) > 4 else "")
        raise WeightsError(f"{path}: the weights do not fit the architecture in its header: {shown}")
    bare = any(value.is_meta for value in wanted.values())
    network.load_state_dict(given, strict=False, assign=bare)


def verify(entry: Listed) -> str | None:
    """Compare a shipped file with the manifest: None when it is as listed, else what is wrong."""
    try:
        found = files.sha256(entry.path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == entry.sha256 else f"SHA-256 is {found}, the manifest says {entry.sha256}"


def proved(name: str) -> str:
    """Read weights to the last number, and give the SHA-256 of their file, 64 hex digits.

    Args:
        name: A listed name or a file.

    Raises:
        WeightsError: As in `load_network`; or there is no file behind the name, or a number in it is not finite.
    """
    path = find(name)
    if path is None:
        raise WeightsError(f"{name}: there is no file behind it, only fixed partial convolutions")
    load_network(name)
    for key, value in read(path)[1].items():
        if not bool(value.isfinite().all()):
            raise WeightsError(f"{path}: {key} holds what is no finite number; fetch the file again")
    return files.sha256(path)


def told(weights: str | None) -> dict[str, str]:
    """Name and SHA-256 of a network, for a report; the latter empty for the pyramid alone.

    Raises:
        WeightsError: As in `find`.
    """
    path = find(weights)
    if path is None:
        return {"weights": NONE, "weights_sha256": ""}
    return {"weights": path.stem, "weights_sha256": files.sha256(path)}


def _check(entry: Listed) -> None:
    fault = verify(entry)
    if fault:
        raise WeightsError(f"{entry.path}: {fault}; reinstall pconv")


def _half(value: Tensor) -> Tensor:
    """Halve the precision of kernels; a batch norm's few numbers stay whole, since small variances underflow."""
    return value.to(torch.float16) if value.is_floating_point() and value.ndim > 1 else value
