"""An exported file gives what torch gives, at any size, and says of itself how it is to be used."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import warm
from numpy.typing import NDArray
from reference import one_thread  # noqa: F401 - a fixture

from pconv_cli import __version__, export
from pconv_cli import weights as store
from pconv_cli.errors import ExitCode, OutputError, RunError, UsageError, WeightsError
from pconv_cli.events import Event, Notice
from pconv_cli.export import Composite, export_onnx
from pconv_cli.nn import pyramid
from pconv_cli.nn.pyramid import EXPORTED_LEVELS, pyramid_fill
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig

RAW = UNetConfig(
    encoder=((4, 5), (6, 3)), channels=1, mean=(0.2,), std=(3.0,), values="raw", norm=False, last_kernel=1,
    activation="tanh",
)  # fmt: skip
"""Without a floor, as networks from elsewhere are."""
FLOOR = UNetConfig(
    encoder=((6, 5), (8, 3)), mean=(0.5,) * 3, std=(0.25,) * 3, floor=2, head=4, upsample="bilinear",
)  # fmt: skip
"""On a floor, like the default, whose tracing would take these tests half a minute more. It is compared with torch
whenever it is exported."""
LEVELS = 4
"""Fewer than an exported graph has, since its tracing takes long; enough for the pictures here."""
SIZES = {
    "floor": [(1, 1), (7, 1), (2, 3), (33, 64), (61, 40), (64, 64)],
    "raw": [(1, 1), (1, 7), (7, 1), (2, 3), (7, 7), (16, 16), (17, 31), (64, 33), (1, 300), (100, 129), (255, 200)],
}


class File:
    """An exported file, what wrote it, and the network that it must agree with."""

    def __init__(self, path: Path, weights: str | None) -> None:
        self.path, self.weights = path, weights
        self.composite = Composite(store.load_network(weights).float()).eval()
        self.session = onnxruntime.InferenceSession(path)
        self.channels: int = self.session.get_inputs()[0].shape[1]

    def run(self, image: NDArray[Any], hole: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        filled, left = self.session.run(None, {"image": image, "hole": hole})
        return filled, left


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def raw_weights(folder: Path) -> Path:
    torch.manual_seed(0)
    network = PartialConvUNet(RAW).double()  # as imported ones are
    path = folder / "raw.safetensors"
    store.write(
        path,
        network,
        network.state_dict(),
        {"name": "mine", "licence": "CC-BY-4.0", "summary": "of heights"},
        half=False,
    )
    return path


@pytest.fixture(scope="module")
def floor_weights(folder: Path) -> Path:
    torch.manual_seed(1)
    network = PartialConvUNet(FLOOR)
    torch.nn.init.normal_(network.out.weight, std=0.1)  # it begins at 0, which would leave the floor alone
    path = folder / "floor.safetensors"
    store.write(path, network, network.state_dict(), {})
    return path


EXPORTS = f"""
import sys
from pathlib import Path
from pconv_cli import export
from pconv_cli.nn import pyramid

for weights in map(Path, sys.argv[1:]):
    done = export.export_onnx(str(weights), weights.with_suffix(".onnx"), overwrite=False)
    weights.with_suffix(".txt").write_text(f"{{done.size}} {{done.difference}}")
    pyramid.EXPORTED_LEVELS = export.EXPORTED_LEVELS = {LEVELS}  # of the second
"""


@pytest.fixture(scope="module")
def told(raw_weights: Path, floor_weights: Path) -> Any:
    """Both exports, which load the exporter once, in a process of their own, beside which nothing else speaks."""
    command = [sys.executable, "-c", EXPORTS, str(raw_weights), str(floor_weights)]
    return warm.run(command, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def raw(raw_weights: Path, told: subprocess.CompletedProcess[str]) -> File:
    assert told.returncode == 0, told.stderr
    return File(raw_weights.with_suffix(".onnx"), str(raw_weights))


@pytest.fixture(scope="module", params=["raw", "floor"])
def file(request: pytest.FixtureRequest, raw: File, floor_weights: Path) -> File:
    return raw if request.param == "raw" else File(floor_weights.with_suffix(".onnx"), str(floor_weights))


@pytest.fixture
def graph(raw: File, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracing, which takes long, has been done before."""

    def again(*_: object) -> Any:
        return onnx.load(raw.path)

    monkeypatch.setattr(export, "_graph", again)


def scene(file: File, n: int, height: int, width: int, share: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Waves in the network's range, NaN in the holes, and those: shares of 0 and 1 leave all and nothing known."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[0:height, 0:width]
    phase = rng.uniform(0, 6, (n, file.channels, 1, 1))
    image = 0.5 + 0.4 * np.sin(x / 9 + y / 7 + phase)
    hole = (rng.random((n, 1, height, width)) < share).astype(np.float32)
    return np.where(hole > 0, np.nan, image).astype(np.float32), hole


# The same network


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97, 1.0])
@pytest.mark.parametrize("n", [1, 3])
def test_onnx_runtime_gives_what_torch_gives_at_every_size_and_batch(file: File, n: int, share: float) -> None:
    for height, width in SIZES["raw" if file.channels == 1 else "floor"]:
        image, hole = scene(file, n, height, width, share)
        filled, left = file.run(image, hole)
        with torch.inference_mode():
            expected, expected_left = file.composite(torch.from_numpy(image), torch.from_numpy(hole))
        assert np.array_equal(left, expected_left.numpy()), (height, width)
        reached = np.broadcast_to(left == 0, filled.shape)
        np.testing.assert_allclose(filled[reached], expected.numpy()[reached], rtol=0, atol=1e-4)
        assert filled.shape == image.shape and left.shape == hole.shape
        assert np.array_equal(filled[np.broadcast_to(hole == 0, image.shape)], image[~np.isnan(image)])
        assert np.isfinite(filled).all()


def test_with_nothing_known_nothing_is_said_to_be_filled(file: File) -> None:
    image, hole = scene(file, 2, 9, 16, 1.0)
    hole[0, 0, 4, 4], image[0, :, 4, 4] = 0, 0.5
    _, left = file.run(image, hole)
    assert left[1].min() == 1
    assert left[0, 0, 4, 4] == 0


def test_any_mark_above_0_is_a_hole(raw: File) -> None:
    image, hole = scene(raw, 1, 20, 30, 0.2)
    for mark in (0.01, 0.5, 255.0):
        for a, b in zip(raw.run(image, hole * np.float32(mark)), raw.run(image, hole), strict=True):
            assert np.array_equal(a, b)


def test_tones_stay_in_their_range_and_raw_values_have_none() -> None:
    class Far(torch.nn.Module):
        def forward(self, image: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return image + 7, torch.ones_like(known)

    image, hole = torch.full((1, 3, 1, 2), 2.0), torch.tensor([[[[0.0, 1.0]]]])
    composite = Composite(Far())
    assert composite(image, hole)[0][0, 0, 0].tolist() == [2, 1]
    composite.unit = Composite(PartialConvUNet(RAW)).unit
    assert composite(image, hole)[0][0, 0, 0].tolist() == [2, 9]


def test_the_pyramid_of_a_graph_fills_as_the_loop_does(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = []
    for height, width in [(1, 1), (7, 1), (2, 3), (33, 64), (255, 100), (2, 9000), (20000, 1)]:
        image = torch.rand(2, 3, height, width)
        known = (torch.rand(2, 1, height, width) < 0.4).float()
        known[0, ..., height // 3 : height // 3 + 6000, width // 3 : width // 3 + 6000] = 0
        known[1] = 0
        cases.append((image, known, pyramid_fill(image, known, 2)))
    monkeypatch.setattr(pyramid, "_exporting", lambda: True)
    for image, known, expected in cases:
        torch.testing.assert_close(pyramid_fill(image, known, 2), expected, rtol=0, atol=1e-5)


def test_a_hole_beyond_the_reach_of_a_graph_is_what_its_header_says(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 2**EXPORTED_LEVELS
    known = torch.zeros(1, 1, 1, 6 * side)
    known[..., :9] = 1
    image = torch.ones(1, 1, 1, 6 * side)
    assert float(pyramid_fill(image, known, 0).min()) > 0.99
    monkeypatch.setattr(pyramid, "_exporting", lambda: True)
    filled = pyramid_fill(image, known, 0)
    assert float(filled[..., : side // 2].min()) > 0.9
    assert float(filled[..., -side:].max()) == 0


# The file


def test_a_file_says_what_it_is_and_how_it_is_used(raw: File) -> None:
    said = raw.session.get_modelmeta().custom_metadata_map
    assert said["name"] == "mine" and said["licence"] == "CC-BY-4.0" and said["summary"] == "of heights"
    assert raw.weights is not None
    assert said["weights_sha256"] == hashlib.sha256(Path(raw.weights).read_bytes()).hexdigest()
    assert said["written_by"] == f"pconv {__version__}"
    assert said["values"] == "raw" and "raw" in said["image"] and "one channel" in said["image"]
    assert "above 0 = damaged" in said["hole"] and "0 = known" in said["hole"]
    assert "1 = nothing could be filled in here" in said["hole_left"]
    assert str(2**EXPORTED_LEVELS) in said["sizes"]


def test_inputs_and_outputs_have_the_names_and_free_sizes_of_the_header(file: File) -> None:
    image, hole = ["batch", file.channels, "height", "width"], ["batch", 1, "height", "width"]
    assert [(i.name, i.shape) for i in file.session.get_inputs()] == [("image", image), ("hole", hole)]
    assert [(o.name, o.shape) for o in file.session.get_outputs()] == [("filled", image), ("hole_left", hole)]
    if file.channels == 3:
        said = file.session.get_modelmeta().custom_metadata_map
        assert "RGB, values in [0, 1]" in said["image"] and said["values"] == "unit"


def test_one_file_holds_everything_and_nothing_of_the_machine_that_wrote_it(file: File) -> None:
    model = onnx.load(file.path, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)] and model.ir_version == 8
    content = file.path.read_bytes()
    for trace in (str(Path(export.__file__).parents[1]), sys.prefix, "site-packages", ".py"):
        assert trace.encode() not in content


def test_an_export_says_nothing_by_itself_and_tells_what_it_has_measured(
    told: subprocess.CompletedProcess[str], raw: File
) -> None:
    assert told.stdout == "" and told.stderr == ""
    size, difference = raw.path.with_suffix(".txt").read_text().split()
    assert int(size) == raw.path.stat().st_size
    assert 0 <= float(difference) <= 1e-4 * 4


def test_a_few_lines_of_python_use_it(raw: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.path.parent)
    picture, damage = np.random.rand(40, 50, raw.channels), np.random.rand(40, 50) < 0.2
    session = onnxruntime.InferenceSession("raw.onnx")
    image = np.float32(picture).transpose(2, 0, 1)[None]  # (1, channels, height, width)
    hole = np.float32(damage)[None, None]  # 1 = damaged
    filled, hole_left = session.run(None, {"image": image, "hole": hole})
    restored = filled[0].transpose(1, 2, 0)
    assert restored.shape == picture.shape and hole_left.shape == (1, 1, 40, 50)
    assert np.array_equal(restored[~damage], np.float32(picture)[~damage])


# Whole or not at all


def refusal(kind: type[RunError], target: Path, weights: str | None = store.NONE, *, overwrite: bool = False) -> str:
    before = set(target.parent.iterdir()) if target.parent.is_dir() else set()
    with pytest.raises(kind) as caught:
        export_onnx(weights, target, overwrite=overwrite)
    assert "\n" not in str(caught.value)
    assert (set(target.parent.iterdir()) if target.parent.is_dir() else set()) == before
    return str(caught.value)


def test_what_is_there_is_replaced_on_request_only(raw: File, graph: None, tmp_path: Path) -> None:
    target = tmp_path / "a.onnx"
    target.write_bytes(b"mine")
    text = refusal(OutputError, target, raw.weights)
    assert str(target) in text and "--overwrite" in text and target.read_bytes() == b"mine"
    done = export_onnx(raw.weights, target, overwrite=True)
    assert done.path == target and done.size == target.stat().st_size
    assert target.read_bytes() == raw.path.read_bytes()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_the_extra_before_any_work(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    text = refusal(UsageError, tmp_path / "a.onnx")
    assert package in text and "pip install 'pconv[onnx]'" in text


def test_without_onnx_runtime_nothing_is_compared(
    raw: File, graph: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said: list[Event] = []
    assert export_onnx(raw.weights, tmp_path / "a.onnx", overwrite=False, emit=said.append).difference is None
    assert said == [Notice(f"{tmp_path / 'a.onnx'} is being made and compared with torch, which takes about a minute")]


def test_a_graph_that_is_another_network_never_gets_its_name(
    raw: File, graph: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(_: str | None) -> PartialConvUNet:
        torch.manual_seed(1)
        return PartialConvUNet(RAW).eval().folded()

    monkeypatch.setattr(store, "load_network", loaded)
    assert "off by" in refusal(WeightsError, tmp_path / "a.onnx", raw.weights)


def test_an_invalid_graph_never_gets_its_name(raw: File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        model = onnx.load(raw.path)
        model.graph.node[0].op_type = "Unheard"
        return model

    monkeypatch.setattr(export, "_graph", broken)
    text = refusal(WeightsError, tmp_path / "a.onnx", raw.weights)
    assert "no valid graph" in text and torch.__version__ in text


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_write_leaves_what_was_there(
    raw: File, graph: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "a.onnx"
    if overwrite:
        target.write_bytes(b"mine")
    monkeypatch.setattr("os.fsync", full)
    assert "No space left" in refusal(OutputError, target, raw.weights, overwrite=overwrite)
    assert not overwrite or target.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [(UsageError, "a.pt", ".onnx"), (OutputError, "gone/a.onnx", "make the folder first")],
)
def test_a_place_that_makes_no_sense_is_refused_before_any_work(
    kind: type[RunError], name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("worked before it looked")

    monkeypatch.setattr(store, "load_network", never)
    assert words in refusal(kind, tmp_path / name)


def test_weights_that_are_not_there_are_refused_as_everywhere(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        export_onnx("nobody", tmp_path / "a.onnx", overwrite=False)
    assert caught.value.exit_code == ExitCode.WEIGHTS
