"""Reads other programs' checkpoints and makes weights of them; the only door to pickles and to h5py.

Knows: where in such a file the tensors are, and how to read it without running what it asks to be run. Does not know:
which network the tensors belong to and what has to be done to them, see `families`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pconv_cli import families, files, weights
from pconv_cli.errors import WeightsError
from pconv_cli.nn.unet import PartialConvUNet

_HDF5 = b"\x89HDF\r\n\x1a\n"
# Keys under which programs keep a network's tensors beside what else they save.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "generator")
# What parallel training, compiling and the classes of whole systems put before every key.
_PREFIXES = ("module.", "_orig_mod.", "generator.", "model.", "pConvUNet.")


@dataclass(frozen=True)
class Checkpoint:
    """What a foreign file holds.

    Attributes:
        tensors: By name, in the file's order, without the prefixes that wrappers add.
        statistics: Mean and scale of the data it was trained on, one or one for each channel; None: it does not say.
    """

    tensors: dict[str, Tensor]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def import_checkpoint(
    path: Path, out: Path, *, family: str | None = None, levels: int | None = None, tones: families.Tones | None = None
) -> families.Converted:
    """Turn a checkpoint into a weights file, after the network has been rebuilt, filled strictly and run once.

    Args:
        path: A pickle of PyTorch, legacy or zip, or an HDF5 file of Keras.
        out: The weights file to write; replaced if it exists.
        family: One of `families.NAMES`, or None to tell by the keys.
        levels: How many levels the network uses, counted from the picture; None: as trained.
        tones: What numbers the network was trained on; None: what its family uses.

    Returns:
        What was made of it.

    Raises:
        WeightsError: If it cannot be read, asks for anything to be run, fits no family, or does not compute.
        OSError: If the place cannot be written.
    """
    checkpoint = read(path)
    converted = families.convert(
        checkpoint.tensors, path, family=family, levels=levels, tones=tones, statistics=checkpoint.statistics
    )
    network = PartialConvUNet(converted.config).eval()
    weights.load_strictly(network, converted.state, path)
    _run_once(network, path)
    source = {"file": path.name, "sha256": files.sha256(path)}
    about = {"name": out.stem, "imported": {**source, **converted.about}}
    weights.write(out, network, converted.state, about, half=False)
    return converted


def read(path: Path) -> Checkpoint:
    """Read a checkpoint; what it is, its first bytes say, not its name.

    Raises:
        WeightsError: If it cannot be read, or asks for anything to be run.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if start[8:] == b"{":
        raise WeightsError(f"{path}: is a safetensors file, not a checkpoint; pconv reads its own with --weights")
    checkpoint = _read_h5(path) if start.startswith(_HDF5) else _read_pickle(path)
    for key, tensor in checkpoint.tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise WeightsError(f"{path}: {key} is no plain tensor; save a plain state_dict() and import that")
    # One number can be stretched to any shape: a few bytes that would fill the memory when computed with.
    if sum(tensor.nbytes for tensor in checkpoint.tensors.values()) > size:
        raise WeightsError(f"{path}: its tensors claim to be larger than the file; it is damaged, fetch it again")
    return checkpoint


def _run_once(network: PartialConvUNet, path: Path) -> None:
    """Make sure that it computes: a small picture of noise with a hole comes out finite where it was reached."""
    picture = torch.rand(1, network.config.channels, 45, 61) * network.std + network.mean
    known = torch.ones(1, 1, 45, 61)
    known[..., 10:30, 20:40] = 0
    with torch.inference_mode():
        out, reached = network(picture, known)
    if not out[reached.expand_as(out) > 0].isfinite().all():
        raise WeightsError(f"{path}: the network gives numbers that are not finite; was its training in order?")


class _Inert:
    """Stands for an object of another program: it is made and told its state, and does nothing."""

    arguments: tuple[Any, ...] = ()

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        pass


def _number(kind: object, data: object = None) -> float | _Inert:
    """Read a NumPy scalar without NumPy; inert where it is no number."""
    format_ = {"f4": "<f", "f8": "<d", "i4": "<i", "i8": "<q"}.get(
        str(kind.arguments[0]) if isinstance(kind, _Inert) and kind.arguments else ""
    )
    if format_ is None or not isinstance(data, bytes) or len(data) != struct.calcsize(format_):
        return _Inert()
    return float(struct.unpack(format_, data)[0])


# What checkpoints hold beside tensors and is harmless: none of it is what its name says, none of it runs.
_HARMLESS = [
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (_Inert, "numpy.dtype"),
    (_Inert, "argparse.Namespace"),
]


def _read_pickle(path: Path) -> Checkpoint:
    """Read with PyTorch's restricted unpickler, which knows tensors and plain containers and calls nothing else."""
    try:
        with files.quietly(), torch.serialization.safe_globals(_HARMLESS):  # type: ignore[arg-type]
            document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no pickle, or a broken one, fails in every way there is
        text = str(error)
        asked = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"function <?([\w. ]+)", text)
        if asked:
            raise WeightsError(
                f"{path}: refused, since it asks for {asked[1]} to be run or built; save its state_dict() alone and "
                "import that"
            ) from error
        if "TorchScript" in text:
            raise WeightsError(f"{path}: is a TorchScript program; save its state_dict() and import that") from error
        raise WeightsError(f"{path}: is no checkpoint that can be read; is it complete? fetch it again") from error
    if not isinstance(document, Mapping):
        raise WeightsError(f"{path}: holds no state_dict but {type(document).__name__}; save one and import that")
    tensors: dict[str, Tensor] = {}
    for key, value in _state(document, path).items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: {key!r} is no tensor; save a plain state_dict() and import that")
        name = key
        while name.startswith(_PREFIXES):
            name = name.partition(".")[2]
        if name in tensors:
            raise WeightsError(f"{path}: holds {name} twice, once as {key}; save one network's state_dict() alone")
        tensors[name] = value.detach()
    return Checkpoint(tensors, _statistics(document, path))


def _state(document: Mapping[Any, Any], path: Path) -> Mapping[Any, Any]:
    """Find the tensors inside what programs wrap round them."""
    labels = document.get("labels")
    if isinstance(labels, list) and labels and isinstance(document.get(labels[-1]), Mapping):
        return _state(document[labels[-1]], path)  # the newest of several; its own program takes that one too
    for key in _WRAPPERS:
        if isinstance(document.get(key), Mapping):
            return _state(document[key], path)
    if any(isinstance(value, Tensor) for value in document.values()):
        return document
    if not document:
        raise WeightsError(f"{path}: holds no tensor, nor anything else; save a network's state_dict() and import that")
    shown = ", ".join(str(key) for key in list(document)[:4])
    raise WeightsError(f"{path}: holds no tensors under {' or '.join(_WRAPPERS)}, only: {shown}")


def _statistics(document: Mapping[Any, Any], path: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    for name in ("train_stats", "stat_target"):
        found = document.get(name)
        if not isinstance(found, Mapping):
            continue
        try:
            mean, std = (tuple(float(value) for value in found[key]) for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path}: the mean and std in its {name} cannot be read; save them as numbers"
            ) from error
        if mean:  # empty lists say that nothing was normalised
            return mean, std
    return None


def _read_h5(path: Path) -> Checkpoint:
    """Read what Keras saves: weights alone, or those within a whole model. Names become `layer.weight`."""
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(f"{path}: is a file of Keras; to read it: pip install 'pconv[keras]'") from error
    tensors: dict[str, Tensor] = {}
    size = path.stat().st_size
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            for layer in map(_text, group.attrs["layer_names"]):
                for name in map(_text, group[layer].attrs["weight_names"]):
                    data = group[layer][name]
                    if data.nbytes > size:
                        raise ValueError(f"{name} claims to be larger than the file")
                    key = ".".join(name.removesuffix(":0").split("/")[-2:])
                    if key in tensors:
                        raise ValueError(f"{key} stands in it twice")
                    tensors[key] = torch.from_numpy(data[()])
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        why = " ".join(str(error).split())
        raise WeightsError(f"{path}: is no weights file of Keras that can be read ({why}); fetch it again") from error
    return Checkpoint(tensors)


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
