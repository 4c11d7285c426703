"""The feature network: its stages and conventions, and the weights that ship for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reference import one_thread  # noqa: F401 - a fixture
from torch import Tensor

from pconv_cli import weights as store
from pconv_cli.errors import WeightsError
from pconv_cli.metrics import perceptual_distance
from pconv_cli.nn.squeeze import SMALLEST, STAGES, SqueezeFeatures


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return store.feature_state()


def written_out(state: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """SqueezeNet 1.1 layer by layer, as its authors drew it."""

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options))

    def fire(x: Tensor, number: int) -> Tensor:
        name = f"features.{number}"
        x = conv(x, f"{name}.squeeze")
        return torch.cat([conv(x, f"{name}.expand1x1"), conv(x, f"{name}.expand3x3", padding=1)], 1)

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    blue_green_red = torch.stack([image[:, 2] * 255 - 103.939, image[:, 1] * 255 - 116.779, image[:, 0] * 255 - 123.68])
    relu1 = conv(blue_green_red.transpose(0, 1), "features.0", stride=2)
    fire3 = fire(fire(pool(relu1), 3), 4)
    fire5 = fire(fire(pool(fire3), 6), 7)
    fire6 = fire(pool(fire5), 9)
    fire7 = fire(fire6, 10)
    fire8 = fire(fire7, 11)
    return [relu1, fire3, fire5, fire6, fire7, fire8, fire(fire8, 12)]


@pytest.mark.parametrize("stages", range(1, STAGES + 1))
def test_stages_are_the_first_features_of_the_whole_ladder(state: dict[str, Tensor], stages: int) -> None:
    image = torch.rand(2, 3, 41, 34)
    features = SqueezeFeatures(state, stages)(image)
    expected = written_out(state, image)[:stages]
    assert len(features) == stages
    for made, wanted in zip(features, expected, strict=True):
        torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-2)  # values go up to hundreds


def test_three_stages_unless_told_otherwise(state: dict[str, Tensor]) -> None:
    assert [f.shape for f in SqueezeFeatures(state)(torch.rand(1, 3, 64, 48))] == [
        (1, 64, 31, 23), (1, 128, 15, 11), (1, 256, 7, 5)
    ]  # fmt: skip


def test_the_smallest_picture_leaves_one_value_at_the_deepest_stage(state: dict[str, Tensor]) -> None:
    network = SqueezeFeatures(state, STAGES)
    assert network(torch.rand(1, 3, SMALLEST, SMALLEST))[-1].shape == (1, 512, 1, 1)
    with pytest.raises(RuntimeError, match="too small"):
        network(torch.rand(1, 3, SMALLEST - 1, SMALLEST))


def test_it_is_frozen_and_has_no_mode(state: dict[str, Tensor]) -> None:
    network = SqueezeFeatures(state)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    image = torch.rand(1, 3, 20, 20, requires_grad=True)
    assert torch.equal(network.train()(image)[-1], network.eval()(image)[-1])
    network(image)[-1].sum().backward()
    assert image.grad is not None and bool(image.grad.any())


@pytest.mark.parametrize("stages", [0, 8, -1])
def test_stages_that_are_not_there_are_refused(state: dict[str, Tensor], stages: int) -> None:
    with pytest.raises(ValueError, match="1 to 7"):
        SqueezeFeatures(state, stages)


def test_only_what_the_stages_need_has_to_be_there(state: dict[str, Tensor]) -> None:
    some = {key: value.half() for key, value in state.items() if key.split(".")[1] in ("0", "3", "4")}
    SqueezeFeatures(some, 2)
    with pytest.raises(KeyError, match=r"features\.6"):
        SqueezeFeatures(some, 3)


# What ships


def test_the_shipped_state_is_the_ladder_and_nothing_else(state: dict[str, Tensor]) -> None:
    assert {key.split(".")[0] for key in state} == {"features"}
    assert sum(value.numel() for value in state.values()) == 722_496
    assert {value.dtype for value in state.values()} == {torch.float32}
    (entry,) = store.listed_features()
    assert store.verify(entry) is None and entry.path.stat().st_size < 1_500_000
    assert (entry.path.parent / "LICENSE-squeezenet.txt").is_file()


def test_its_header_says_what_it_is() -> None:
    (entry,) = store.listed_features()
    header = store.read_header(entry.path)
    assert header["name"] == entry.name == store.FEATURES and header["licence"] == "BSD-2-Clause"
    assert "forresti/SqueezeNet" in header["source"] and "Iandola" in header["copyright"]


def test_it_tells_photographs_apart_from_their_blurred_selves(state: dict[str, Tensor]) -> None:
    network = SqueezeFeatures(state, STAGES)
    sharp = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), size=(64, 64), mode="bicubic").clamp(0, 1)
    wanted = network(sharp)
    distances = [
        float(perceptual_distance(network(F.avg_pool2d(F.pad(sharp, (k,) * 4, "reflect"), 2 * k + 1, 1)), wanted))
        for k in (0, 1, 2, 4)
    ]
    assert distances[0] == 0 and distances == sorted(distances) and distances[-1] > 0.1


def test_it_is_not_offered_for_restoring() -> None:
    assert store.FEATURES not in [entry.name for entry in store.listed()]
    with pytest.raises(WeightsError, match="neither a weights file nor a name"):
        store.find(store.FEATURES)
    with pytest.raises(WeightsError, match="architecture cannot be rebuilt"):
        store.load_network(str(store.listed_features()[0].path))


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = store.listed_features()
    (tmp_path / "s.safetensors").write_bytes(entry.path.read_bytes()[:-1] + b"?")
    listed = {"name": store.FEATURES, "file": "s.safetensors", "sha256": entry.sha256}
    (tmp_path / "manifest.json").write_text(json.dumps({"weights": [], "features": [listed]}))
    monkeypatch.setattr(store, "shipped_folder", lambda: tmp_path)
    with pytest.raises(WeightsError, match="SHA-256"):
        store.feature_state()
    (tmp_path / "s.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        store.feature_state()


@pytest.mark.parametrize(
    "features", ["", ', "features": []', ', "features": [{"name": "other", "file": "", "sha256": ""}]']
)
def test_a_manifest_without_it_is_refused_only_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: str
) -> None:
    (tmp_path / "manifest.json").write_text(f'{{"weights": []{features}}}')
    monkeypatch.setattr(store, "shipped_folder", lambda: tmp_path)
    assert store.listed() == ()
    with pytest.raises(WeightsError, match=r"manifest\.json: lists no squeezenet-1\.1; reinstall"):
        store.feature_state()


@pytest.mark.parametrize("features", ["3", '[{"name": "x"}]', "[3]"])
def test_a_damaged_list_of_features_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: str) -> None:
    (tmp_path / "manifest.json").write_text(f'{{"weights": [], "features": {features}}}')
    monkeypatch.setattr(store, "shipped_folder", lambda: tmp_path)
    with pytest.raises(WeightsError, match="reinstall"):
        store.listed_features()
