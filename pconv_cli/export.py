"""Writes a network as one ONNX file that other programs run: the only door to onnx and ONNX Runtime.

Knows: the exporter and how it is kept quiet, what inputs and outputs are called and mean, what a file says of itself,
and how it is compared with torch before it gets its name. Does not know: how a network works, or who shows the result.

The graph takes any batch, height and width from 1 up. It has no guide: whoever runs it on a part of a picture fills a
hole from what that part shows. Nothing of the machine that exports is left in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pconv_cli import __version__, files
from pconv_cli import weights as store
from pconv_cli.errors import OutputError, UsageError, WeightsError
from pconv_cli.events import Listener, Notice
from pconv_cli.nn.pyramid import EXPORTED_LEVELS
from pconv_cli.nn.unet import PartialConvUNet

OPSET, IR_VERSION = 18, 8
"""The oldest that the exporter writes without a conversion, and the format that came with it: ONNX Runtime 1.14 on."""
TOLERANCE = 1e-4
"""How far ONNX Runtime may be from torch: of a tone in [0, 1], or of the largest value where they are raw."""
INPUTS = {"image": ("batch", "channels", "height", "width"), "hole": ("batch", 1, "height", "width")}
OUTPUTS = {"filled": INPUTS["image"], "hole_left": INPUTS["hole"]}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        size: Its length, bytes.
        difference: The largest difference between ONNX Runtime and torch in one random case, in the picture's values;
            None where ONNX Runtime is not installed, and nothing was compared.
    """

    path: Path
    size: int
    difference: float | None


class Composite(nn.Module):
    """A network as others use one: `forward(image, hole) -> (filled, hole_left)`.

    Image and result are `(n, c, h, w)`, RGB in [0, 1], or raw values for a network that takes those; what stands in a
    hole does not matter, NaN included. Masks are `(n, 1, h, w)`, float32: above 0 = hole. The result is the image
    itself outside the holes, and within [0, 1] inside them unless values are raw. `hole_left` is 1 where nothing could
    be filled in (there the result means nothing), else 0. What a network adds is not held to what is around, and
    gets no grain.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.unit = not isinstance(network, PartialConvUNet) or network.config.values == "unit"
        if isinstance(network, PartialConvUNet):
            network.bands = None  # to trace it too takes twice as long

    def forward(self, image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        damaged = hole > 0
        output, reached = self.network(image, (~damaged).to(image.dtype))
        output = output.clamp(0, 1) if self.unit else output
        return torch.where(damaged, output, image), (damaged & (reached <= 0)).to(image.dtype)


def export_onnx(name: str | None, target: Path, *, overwrite: bool, emit: Listener = lambda event: None) -> Exported:
    """Write the network that `--weights` names as an ONNX file, whole or not at all. Takes about a minute.

    Args:
        name: As for `weights.load_network`.
        target: The file, in a folder that is there.
        overwrite: Whether a file that is there may be replaced.
        emit: Told when the long work begins.

    Returns:
        What was written, and how far it is from torch.

    Raises:
        UsageError: If a package of the extra is missing, or the name does not end in .onnx.
        WeightsError: If the weights cannot be had, or what came out is no valid graph, or not the same network.
        OutputError: If the place cannot be written, or is taken.
    """
    onnx = _load()
    if target.suffix.lower() != ".onnx":
        raise UsageError(f"--onnx {target}: choose a name that ends in .onnx")
    if not target.parent.is_dir() or target.is_dir():
        raise OutputError(f"{target}: not a file in a folder that is there: make the folder first, or name another")
    try:
        files.refuse_taken(target, overwrite=overwrite)
    except files.Refused as error:
        raise OutputError(f"{target}: {error}") from error
    network = store.load_network(name).float()  # ONNX Runtime has no convolution in fp64
    said = _said(name, network)
    emit(Notice(f"{target} is being made and compared with torch, which takes about a minute"))
    composite = Composite(network).eval().requires_grad_(False)
    channels = network.config.channels if isinstance(network, PartialConvUNet) else 3
    with _hushed(), torch.no_grad():  # each switch of gradients within would be a graph of its own, to trace twice
        model = _bare(_graph(composite, channels), said)
        content = model.SerializeToString()
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise WeightsError(f"{target}: the exporter made no valid graph; {_other_versions()}") from error
        difference = _difference(content, composite, channels)
    try:
        with files.whole(target, overwrite=overwrite) as stream:
            stream.write(content)
    except OSError as error:
        raise OutputError(f"{target}: {files.why_unwritable(error) or error}") from error
    return Exported(target, len(content), difference)


def _load() -> Any:
    """Import what the exporter needs, before any work."""
    try:
        import onnx.checker
        import onnx.shape_inference
        import onnxscript  # noqa: F401 - torch's exporter stands on it
    except ImportError as error:
        raise UsageError(f"--onnx: a package is missing ({error}); pip install 'pconv[onnx]'") from error
    return onnx


def _said(name: str | None, network: nn.Module) -> dict[str, str]:
    """What the file tells of itself."""
    path = store.find(name)
    header = {} if path is None else store.read_header(path)
    unit, mode = True, "RGB"
    if isinstance(network, PartialConvUNet):
        unit = network.config.values == "unit"
        mode = {1: "one channel", 3: "RGB"}.get(network.config.channels, f"{network.config.channels} channels")
    values = "in [0, 1]" if unit else "raw, as measured"
    told = store.told(name)
    return {
        "name": str(header.get("name", told["weights"])),
        "summary": str(header.get("summary", "")),
        "licence": str(header.get("licence", "Apache-2.0" if path is None else "")),
        "weights_sha256": told["weights_sha256"],
        "written_by": f"pconv {__version__}",
        "values": "unit" if unit else "raw",
        "image": f"float32 (batch, channels, height, width), {mode}, values {values}; in a hole they do not matter",
        "hole": "float32 (batch, 1, height, width), above 0 = damaged, to be filled; 0 = known, to be kept",
        "filled": "as image: the same values where hole is 0, filled in where it is above 0",
        "hole_left": "float32 (batch, 1, height, width), 1 = nothing could be filled in here, else 0",
        "sizes": "any batch, height and width from 1 up; holes are filled from what this image shows alone, and those "
        f"{2**EXPORTED_LEVELS} px wide and high or more are not: give large pictures in parts, or to pconv tile",
    }


def _graph(composite: Composite, channels: int) -> Any:
    """Trace it for any size and translate that, as an `onnx.ModelProto`."""
    # Nothing here has these values: the exporter asks for an example, and takes a side of 1 pixel, at whatever depth,
    # for one that is always 1. No memory is behind it.
    side = 2 ** (EXPORTED_LEVELS + 1) + 27
    image, hole = (torch.zeros(1).expand(2, planes, side, side + 8) for planes in (channels, 1))
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(composite, (image, hole), dynamic_shapes={"image": dynamic, "hole": dynamic})
    try:
        exported = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, input_names=list(INPUTS), output_names=list(OUTPUTS),
            verbose=False,
        )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        cause = str(error).strip().partition("\n")[0]
        raise WeightsError(f"the exporter fails ({cause}); {_other_versions()}") from error
    assert exported is not None
    return exported.model_proto


def _bare(model: Any, said: dict[str, str]) -> Any:
    """Take out how the graph came about, paths of this machine included, and put in what it is."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    # The exporter notes sizes as for its example, with which a runtime would reuse memory that does not fit.
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        names = (INPUTS | OUTPUTS)[value.name]
        for dim, symbol in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if not dim.HasField("dim_value"):
                dim.dim_param = symbol
    graph.name = said["name"]
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "pconv", __version__
    for key, text in said.items():
        model.metadata_props.add(key=key, value=text)
    return model


def _difference(content: bytes, composite: Composite, channels: int) -> float | None:
    """Run both on one picture of odd sides with large and small holes; refuse what is not the same network."""
    try:
        import onnxruntime
    except ImportError:
        return None
    random = torch.Generator().manual_seed(0)
    image = torch.rand(2, channels, 75, 110, generator=random)
    if isinstance(composite.network, PartialConvUNet) and not composite.unit:
        image = image * composite.network.std + composite.network.mean
    hole = (torch.rand(2, 1, 75, 110, generator=random) < 0.2).float()
    hole[:, :, 20:60, 30:90] = 1
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    filled, left = (torch.from_numpy(x) for x in session.run(None, {"image": image.numpy(), "hole": hole.numpy()}))
    with torch.inference_mode():
        expected, expected_left = composite(image, hole)
    difference = float(torch.where(expected_left > 0, 0, filled - expected).abs().max())
    scale = 1.0 if composite.unit else max(1.0, float(expected.abs().max()))
    if not (torch.equal(left, expected_left) and difference <= TOLERANCE * scale):
        raise WeightsError(f"the exported graph is off by {difference:.2g} from the network; {_other_versions()}")
    return difference


def _other_versions() -> str:
    return f"update onnxscript, onnx and onnxruntime, or try another torch than {torch.__version__}"


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep the exporter's warnings and log lines to itself: they speak of its own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with files.quietly():
            yield
    finally:
        logging.disable(before)
