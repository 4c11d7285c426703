"""Weights files: they say which network they are, and whatever is wrong with one is said by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import one_thread  # noqa: F401 - a fixture
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pconv_cli import files
from pconv_cli import weights as store
from pconv_cli.errors import ExitCode, WeightsError
from pconv_cli.nn.pyramid import PyramidFill
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig

TINY = UNetConfig(
    encoder=((4, 5), (5, 3)), mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3), slope=0.1, floor=3, head=2,
    padding_mode="replicate",
)  # fmt: skip
PLAIN = UNetConfig(encoder=((4, 3), (5, 3)))
PAIR = replace(TINY, coarse=replace(TINY, head=0, encoder=((3, 3), (4, 3), (5, 3))))


def network_of(config: UNetConfig) -> PartialConvUNet:
    torch.manual_seed(0)
    network = PartialConvUNet(config)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.2, 2) if key.endswith("var") else value.normal_(0, 0.3)
    return network.eval()


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of shipped weights."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"weights": []}')
    monkeypatch.setattr(store, "shipped_folder", lambda: folder)
    return folder


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    network = network_of(TINY)
    store.write(path, network, network.state_dict(), {"name": "tiny", "licence": "Apache-2.0"})
    return path


def rewritten(
    path: Path,
    header: Callable[[dict[str, Any]], object] = lambda _: None,
    tensors: Callable[[dict[str, Tensor]], object] = lambda _: None,
) -> Path:
    """The same file with its header or its tensors changed."""
    with safe_open(str(path), framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        document = json.loads(file.metadata()["pconv"])
    header(document)
    tensors(state)
    other = path.with_name("changed.safetensors")
    save_file(state, str(other), {"pconv": json.dumps(document)})
    return other


def refusal(path: Path | str | None) -> str:
    """The one line with which a file is refused; it names the file."""
    with pytest.raises(WeightsError) as caught:
        store.load_network(None if path is None else str(path))
    assert caught.value.exit_code == ExitCode.WEIGHTS
    text = str(caught.value)
    assert "\n" not in text and (path is None or str(path) in text)
    return text


# There and back


@pytest.mark.parametrize("config", [TINY, PLAIN, PAIR])
def test_a_network_comes_back_as_it_was_written(tmp_path: Path, config: UNetConfig) -> None:
    network = network_of(config)
    path = tmp_path / "w.safetensors"
    store.write(path, network, network.state_dict(), {})
    back = store.load_network(str(path))
    assert isinstance(back, PartialConvUNet) and back.config == config
    assert not back.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in back.modules())
    assert {p.dtype for p in back.parameters()} == {torch.float32}
    halved = PartialConvUNet(config).eval()
    halved.load_state_dict({k: v.half().float() if v.ndim > 1 else v for k, v in network.state_dict().items()})
    image, known = torch.rand(2, 3, 13, 18), (torch.rand(2, 1, 13, 18) < 0.5).float()
    with torch.inference_mode():
        for ours, theirs in ((back, halved), (back.coarse, halved.coarse)):
            if ours is None or theirs is None:
                assert ours is theirs
                continue
            (output, mask), (expected, expected_mask) = ours(image, known), theirs(image, known)
            assert torch.equal(mask, expected_mask)
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_loading_draws_no_number_and_what_is_loaded_does_not_lie_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    network = network_of(PAIR)
    store.write(path, network, network.state_dict(), {}, half=False)
    before = torch.get_rng_state()
    back = store.load_network(str(path))
    assert torch.equal(torch.get_rng_state(), before)
    held = {key: value.clone() for key, value in back.state_dict().items()}
    path.write_bytes(bytes(path.stat().st_size))  # in place: a file that is mapped would show it
    assert all(torch.equal(value, held[key]) for key, value in back.state_dict().items())
    assert isinstance(back, PartialConvUNet) and not any(x.is_meta for x in (*back.parameters(), *back.buffers()))
    assert torch.equal(back.mean, network.mean) and torch.equal(back.std, network.std)


def test_another_padding_is_taken_by_the_coarse_part_too(tmp_path: Path) -> None:
    network = network_of(PAIR)
    store.write(tmp_path / "w", network, network.state_dict(), {})
    other = store.load_network(str(tmp_path / "w"), "zero")
    assert isinstance(other, PartialConvUNet) and other.coarse is not None
    assert other.config.padding_mode == other.coarse.config.padding_mode == "zero"
    assert other.coarse.config == replace(PAIR.coarse, padding_mode="zero")  # type: ignore[type-var]


def test_kernels_are_halved_statistics_stay_whole(written: Path) -> None:
    network = network_of(TINY)
    with safe_open(str(written), framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert state.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(state[key], value.half() if value.ndim == 4 else value), key
    header, tensors = store.read(written)
    assert header["name"] == "tiny" and {t.dtype for t in tensors.values()} == {torch.float32}


def test_small_variances_survive(tmp_path: Path) -> None:
    network = network_of(PLAIN)
    key = next(k for k in network.state_dict() if k.endswith("running_var"))
    network.state_dict()[key].fill_(1e-9)
    store.write(tmp_path / "w", network, network.state_dict(), {})
    assert store.read(tmp_path / "w")[1][key].tolist() == pytest.approx([1e-9] * 5)


def test_the_header_says_what_a_file_is(written: Path) -> None:
    header = store.read_header(written)
    assert header == {
        "format": 1,
        "architecture": json.loads(json.dumps(asdict(TINY))),
        "name": "tiny",
        "licence": "Apache-2.0",
    }
    assert store.config_from(header, written) == TINY


def test_architecture_entries_left_out_have_their_defaults(written: Path) -> None:
    document = {"architecture": {"encoder": [[4, 3]], "mean": [0, 0, 0], "std": [1, 1, 1]}}
    assert store.config_from(document, written) == UNetConfig(((4, 3),), mean=(0, 0, 0), std=(1, 1, 1))


def test_writing_replaces_a_file_whole_and_leaves_nothing_beside_it(written: Path) -> None:
    network = network_of(PLAIN)
    store.write(written, network, network.state_dict(), {})
    assert store.config_from(store.read_header(written), written) == PLAIN
    assert [p.name for p in written.parent.iterdir() if p.is_file()] == [written.name]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    network = network_of(PLAIN)
    with pytest.raises(OSError, match="No space"):
        store.write(written, network, network.state_dict(), {})
    assert written.read_bytes() == before
    assert [p.name for p in written.parent.iterdir() if p.is_file()] == [written.name]


def test_tensors_keep_their_types_in_a_plain_file(tmp_path: Path) -> None:
    tensors = {"a": torch.tensor([1, 2]), "b": torch.rand(2, 2), "c": torch.rand(3).half()}
    store.write_tensors(tmp_path / "t", tensors, {"step": "3"})
    back, metadata = store.read_tensors(tmp_path / "t")
    assert metadata == {"step": "3"} and back.keys() == tensors.keys()
    assert all(back[k].dtype == v.dtype and torch.equal(back[k], v) for k, v in tensors.items())


# Names


def test_none_is_the_pyramid_alone() -> None:
    assert store.find("none") is None
    assert isinstance(store.load_network("none"), PyramidFill)


def ship(folder: Path, written: Path, **changes: object) -> dict[str, object]:
    """Put a file among the shipped ones."""
    (folder / "photo.safetensors").write_bytes(written.read_bytes())
    entry = {"name": "photo", "file": "photo.safetensors", "sha256": files.sha256(written), "default": True} | changes
    (folder / "manifest.json").write_text(json.dumps({"weights": [entry]}))
    return entry


def test_a_shipped_name_and_the_default_lead_to_the_shipped_file(shipped: Path, written: Path) -> None:
    ship(shipped, written, summary="For photographs")
    path = shipped / "photo.safetensors"
    assert store.find("photo") == store.find(None) == path
    assert store.find(str(written)) == written
    (entry,) = store.listed()
    assert (entry.name, entry.path, entry.default, entry.summary) == ("photo", path, True, "For photographs")
    assert store.verify(entry) is None
    assert isinstance(store.load_network(None), PartialConvUNet)


def test_without_a_default_the_message_lists_the_names(shipped: Path, written: Path) -> None:
    assert "none, or a file" in refusal(None)
    ship(shipped, written, default=False)
    assert "photo, none, or a file" in refusal(None)


@pytest.mark.parametrize("wrong", ["0" * 64, "x"])
def test_a_shipped_file_that_is_not_as_listed_is_refused(shipped: Path, written: Path, wrong: str) -> None:
    ship(shipped, written, sha256=wrong)
    for name in ("photo", None, str(shipped / "photo.safetensors")):
        with pytest.raises(WeightsError, match="SHA-256") as caught:
            store.load_network(name)
        text = str(caught.value)
        assert files.sha256(written) in text and wrong in text and "reinstall" in text


def test_a_shipped_file_that_is_gone_is_refused(shipped: Path, written: Path) -> None:
    ship(shipped, written)
    (shipped / "photo.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"photo\.safetensors: cannot be read"):
        store.load_network("photo")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weights": [{"name": "x"}]}', '{"weights": 3}', "\xff"])
def test_a_damaged_manifest_is_refused(shipped: Path, text: str) -> None:
    (shipped / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(WeightsError, match=r"manifest\.json: .*reinstall"):
        store.listed()


def test_a_missing_manifest_is_refused(shipped: Path) -> None:
    (shipped / "manifest.json").unlink()
    with pytest.raises(WeightsError, match=r"manifest\.json"):
        store.load_network("photo")
    assert store.find("none") is None


# What is refused


def test_a_missing_file_is_refused_with_the_names(tmp_path: Path) -> None:
    assert "the names are: none" in refusal(tmp_path / "nowhere.safetensors")
    assert "neither a weights file nor a name" in refusal(tmp_path)
    with pytest.raises(WeightsError):
        store.read_header(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("content", [b"", b"\0", b"GIF89a" * 50, b"\xff" * 4000])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    assert "not a safetensors file" in refusal(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        store.read_tensors(path)


def test_a_pickled_checkpoint_is_refused_unread(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    path = tmp_path / "old.pth"
    torch.save({"weights": network_of(PLAIN).state_dict(), "trap": Trap()}, path)
    assert "`pconv weights import` reads others" in refusal(path)
    torch.save({"trap": Trap()}, path, _use_new_zipfile_serialization=False)
    assert "`pconv weights import` reads others" in refusal(path)
    assert not (tmp_path / "sprung").exists()


def test_a_file_cut_short_is_refused(written: Path) -> None:
    cut = written.with_name("cut.safetensors")
    cut.write_bytes(written.read_bytes()[:-7])
    refusal(cut)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_without_a_header_of_ours_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, str(path), metadata)
    assert "no 'pconv' entry" in refusal(path)


@pytest.mark.parametrize("format_", [2, None, "1"])
def test_another_format_is_refused(written: Path, format_: object) -> None:
    text = refusal(rewritten(written, lambda header: header.update(format=format_)))
    assert f"format {format_}" in text and "update pconv" in text


@pytest.mark.parametrize("document", ["", "{", "[1]", "3", "null"])
def test_a_header_that_is_no_document_is_refused(tmp_path: Path, document: str) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({"weight": torch.ones(2)}, str(path), {"pconv": document})
    refusal(path)


def test_an_unknown_architecture_entry_is_refused_by_name(written: Path) -> None:
    text = refusal(rewritten(written, lambda header: header["architecture"].update(attention=True, gates=2)))
    assert "attention, gates" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": []},
        {"encoder": None},
        {"encoder": [[4]]},
        {"encoder": [["four", 3], [5, 3]]},
        {"mean": [0.5]},
        {"std": "x"},
        {"channels": 4},
        {"coarse": 3},
        {"coarse": {"encoder": []}},
        {"coarse": {"encoder": [[4, 3]], "mean": [0.5], "std": [0.5], "channels": 1, "gates": 2}},
        {"floor": None, "coarse": asdict(TINY)},
        {"coarse": asdict(PAIR)},
    ],
)
def test_an_impossible_architecture_is_refused(written: Path, changes: dict[str, object]) -> None:
    text = refusal(rewritten(written, lambda header: header["architecture"].update(changes)))
    assert "architecture cannot be rebuilt" in text or "architecture entries gates" in text


@pytest.mark.parametrize(
    "changes",
    [{"padding_mode": "mirror"}, {"encoder": [[-4, 5], [5, 3]]}, {"encoder": [[4, 0], [5, 3]]}, {"head": "two"}],
)
def test_an_architecture_that_no_network_can_be_built_from_is_refused(
    written: Path, changes: dict[str, object]
) -> None:
    refusal(rewritten(written, lambda header: header["architecture"].update(changes)))


@pytest.mark.parametrize("architecture", [None, [1, 2], "unet", 3])
def test_an_architecture_that_is_no_list_of_entries_is_refused(written: Path, architecture: object) -> None:
    refusal(rewritten(written, lambda header: header.update(architecture=architecture)))


def test_no_architecture_at_all_is_refused(written: Path) -> None:
    assert "architecture cannot be rebuilt" in refusal(rewritten(written, lambda header: header.pop("architecture")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("decoder.0.norm.running_mean"), "missing decoder.0.norm.running_mean"),
        (lambda state: state.update({"lstm.weight": torch.ones(1)}), "unknown lstm.weight"),
        (lambda state: state.update({"out.bias": torch.ones(4)}), "shape of out.bias"),
        (lambda state: state.update({"out.weight": state["out.weight"].flatten()}), "shape of out.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    written: Path, change: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    assert words in refusal(rewritten(written, tensors=change))


def test_a_file_that_does_not_fit_at_all_names_a_few(written: Path) -> None:
    def other(state: dict[str, Tensor]) -> None:
        state.clear()
        state.update(network_of(replace(PLAIN, encoder=((3, 3), (3, 3), (3, 3)))).state_dict())

    text = refusal(rewritten(written, tensors=other))
    assert text.endswith("...") and len(text) < 500


def test_a_refused_state_leaves_the_network_as_it_was() -> None:
    network = network_of(PLAIN)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value + 1 for key, value in before.items() if key != "out.bias"}
    with pytest.raises(WeightsError, match=r"missing out\.bias"):
        store.load_strictly(network, state, Path("w"))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
