"""Checkpoints are read without running anything in them, and what cannot be read is refused in one line, code 4."""

from __future__ import annotations

import argparse
import builtins
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from foreign import FOREIGN, NAOTO, keras_file, make
from reference import one_thread  # noqa: F401 - a fixture
from safetensors.torch import save_file
from torch import Tensor, nn

from pconv_cli.checkpoints import import_checkpoint, read
from pconv_cli.cli.app import main
from pconv_cli.errors import ExitCode, WeightsError

STATE = OrderedDict([("enc_1.weight", torch.arange(12.0).reshape(3, 4)), ("enc_1.bias", torch.ones(3))])
FORMATS = {"legacy": False, "zip": True}
formats = pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)


def saved(path: Path, document: object, zipped: bool = True) -> Path:
    torch.save(document, path, _use_new_zipfile_serialization=zipped)
    return path


def refusal(path: Path) -> str:
    """The one line with which a file is refused; it names the file."""
    with pytest.raises(WeightsError) as caught:
        read(path)
    text = str(caught.value)
    assert caught.value.exit_code == ExitCode.WEIGHTS and text.startswith(f"{path}: ") and "\n" not in text
    return text


# ---------------------------------------------------------------- what wraps the tensors


@formats
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"n_iter": 5, "model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda state: {"epoch": 1, "best": torch.tensor(0.3), "state_dict": state},
        lambda state: {"n_iter": 2, "generator": state},
        lambda state: {"labels": ["1", "2"], "1": {"model": {}}, "2": {"n_iter": 2, "model": state}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.generator.{key}": value for key, value in state.items()}},
        lambda state: {"model": {key: nn.Parameter(value) for key, value in state.items()}},
    ],
)
def test_tensors_are_found_inside_what_is_wrapped_round_them(
    wrap: Callable[[Any], Any], zipped: bool, tmp_path: Path
) -> None:
    found = read(saved(tmp_path / "a.pth", wrap(STATE), zipped)).tensors
    assert list(found) == list(STATE)
    assert all(torch.equal(found[key], STATE[key]) and not found[key].requires_grad for key in STATE)


def test_the_first_bytes_say_what_a_file_is_not_its_name(tmp_path: Path) -> None:
    keras_file(tmp_path / "a.pth", make(FOREIGN["keras"]))
    assert "p_conv2d_9.img_kernel" in read(tmp_path / "a.pth").tensors
    assert list(read(saved(tmp_path / "b.h5", STATE)).tensors) == list(STATE)


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, torch.tensor])
@pytest.mark.parametrize("key", ["train_stats", "stat_target"])
def test_mean_and_deviation_of_the_training_are_read_in_any_type_of_number(
    kind: Callable[[float], Any], key: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pth", {"model": STATE, key: {"mean": [kind(283.5)], "std": [kind(0.25)]}})
    assert read(path).statistics == ((283.5,), (0.25,))


@pytest.mark.parametrize("found", [None, {"mean": [], "std": []}])
def test_no_mean_is_no_statistics(found: object, tmp_path: Path) -> None:
    assert read(saved(tmp_path / "a.pth", {"model": STATE, "train_stats": found})).statistics is None


@pytest.mark.parametrize("found", [{"mean": [1.0]}, {"mean": ["a"], "std": [1.0]}, {"mean": 1.0, "std": 1.0}])
def test_statistics_that_are_no_numbers_are_refused(found: object, tmp_path: Path) -> None:
    assert "train_stats" in refusal(saved(tmp_path / "a.pth", {"model": STATE, "train_stats": found}))


def test_harmless_company_is_let_in_and_does_nothing(tmp_path: Path) -> None:
    company = {"hparams": argparse.Namespace(rate=0.1), "loss": np.float64(0.5), "seen": np.int64(3)}
    assert list(read(saved(tmp_path / "a.pth", {**company, "state_dict": STATE})).tensors) == list(STATE)


# ---------------------------------------------------------------- nothing runs


class Evil:
    """Asks to be unpickled by a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def evils(target: Path) -> dict[str, object]:
    code = f"open({str(target)!r}, 'w').close()"
    return {
        "os.system": Evil(os.system, f"touch '{target}'"),
        "builtins.eval": Evil(builtins.eval, code),
        "builtins.exec": Evil(builtins.exec, code),
        "open": Evil(open, str(target), "w"),
        "pathlib": Evil(Path.touch, target),
        "getattr": Evil(getattr, target, "touch"),
        "nested": OrderedDict(a=[(1, {"b": Evil(builtins.eval, code)})]),
        "torch.load": Evil(torch.load, str(target)),
        "argument": Evil(torch._utils._rebuild_tensor_v2, Evil(builtins.eval, code), 0, (1,), (1,), False, {}),
        "harmless company": Evil(argparse.Namespace, Evil(builtins.eval, code)),
    }


@formats
@pytest.mark.parametrize("name", list(evils(Path())))
def test_a_pickle_that_asks_for_a_call_is_refused_and_nothing_is_called(
    name: str, zipped: bool, tmp_path: Path
) -> None:
    target = tmp_path / "touched"
    path = saved(tmp_path / "evil.pth", {"model": STATE, "more": evils(target)[name]}, zipped)
    text = refusal(path)
    assert not target.exists()
    assert "refused, since it asks for" in text and "state_dict" in text
    if name in ("os.system", "builtins.eval"):
        assert any(word in text for word in ("posix.system", "nt.system", "eval"))


def test_the_same_pickle_would_have_run_elsewhere(tmp_path: Path) -> None:
    """Or the tests above show nothing."""
    target = tmp_path / "touched"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {}, "more": evils(target)["builtins.eval"]}))
    refusal(path)
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()


def test_a_pickled_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    assert "state_dict() alone" in refusal(saved(tmp_path / "a.pth", nn.Conv2d(3, 3, 1)))


def test_a_harmless_name_is_not_what_it_says(tmp_path: Path) -> None:
    """A scalar's kind and its bytes are looked at, not handed to NumPy."""
    kinds = Evil(np.dtype, "O", False, True)
    scalar = np.float64(1).__reduce__()[0]
    path = saved(tmp_path / "a.pth", {"model": STATE, "more": Evil(scalar, kinds, b"12345678")})
    assert list(read(path).tensors) == list(STATE)


# ---------------------------------------------------------------- what is no checkpoint


def junk(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


def truncated(path: Path) -> None:
    saved(path, STATE)
    path.write_bytes(path.read_bytes()[:-200])


def truncated_legacy(path: Path) -> None:
    saved(path, STATE, zipped=False)
    path.write_bytes(path.read_bytes()[:-20])


def plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


def pickled_number(path: Path) -> None:
    saved(path, 3)


def without_tensors(path: Path) -> None:
    saved(path, {"model": None, "epoch": 3})


def without_anything(path: Path) -> None:
    saved(path, {"model": {}})


def without_plain_tensors(path: Path) -> None:
    saved(path, {"model": {"a": torch.eye(3).to_sparse()}})


def on_no_device(path: Path) -> None:
    saved(path, {"model": {"a": torch.ones(3, device="meta")}})


def with_a_number_among_them(path: Path) -> None:
    saved(path, {"model": {**STATE, "epoch": 3}})


def twice(path: Path) -> None:
    saved(path, {"model": {"a": torch.ones(1), "module.a": torch.ones(1)}})


def script(path: Path) -> None:
    network = torch.jit.trace(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2))  # type: ignore[no-untyped-call]
    torch.jit.save(network, str(path))


def stretched(path: Path) -> None:
    saved(path, {"model": {"a": torch.ones(1).expand(1 << 20, 1 << 20)}})


def huge_storage(path: Path) -> None:
    """A legacy file whose one storage says that it holds 4 TB."""
    tensor = torch.ones(7)
    saved(path, {"model": {"a": tensor}}, zipped=False)
    content = path.read_bytes()
    short, long = struct.pack("<B", 7), struct.pack("<q", 1 << 40)
    # The last 8 + 28 bytes are the storage's size and its content.
    path.write_bytes(content[:-36].replace(b"K" + short, b"\x8a\x06" + long[:6]) + long + content[-28:])


def huge_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        file.create_group("a").attrs["weight_names"] = [b"a/kernel:0"]
        file["a"].create_dataset("a/kernel:0", (1 << 20, 1 << 20), np.float32, chunks=(1, 1))


def empty_h5(path: Path) -> None:
    h5py.File(path, "w").close()


def truncated_h5(path: Path) -> None:
    keras_file(path, make(FOREIGN["keras"]))
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("make_file", "word"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_bytes(b""), "complete"),
        (junk, "complete"),
        (truncated, "complete"),
        (truncated_legacy, "complete"),
        (plain_zip, "complete"),
        (pickled_number, "int"),
        (without_tensors, "model, epoch"),
        (without_anything, "holds no tensor, nor anything else; save a network's state_dict()"),
        (without_plain_tensors, "plain tensor"),
        (on_no_device, "plain tensor"),
        (with_a_number_among_them, "'epoch'"),
        (twice, "twice"),
        (script, "TorchScript"),
        (stretched, "larger than the file"),
        (huge_storage, "complete"),
        (huge_h5, "larger than the file"),
        (empty_h5, "Keras"),
        (truncated_h5, "Keras"),
        (lambda path: save_file(dict(STATE), str(path)), "safetensors"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_is_no_checkpoint_is_refused(make_file: Callable[[Path], object], word: str, tmp_path: Path) -> None:
    make_file(tmp_path / "a.pth")
    assert word in refusal(tmp_path / "a.pth")


def test_without_h5py_the_command_to_get_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras_file(tmp_path / "a.h5", make(FOREIGN["keras"]))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'pconv[keras]'" in refusal(tmp_path / "a.h5")


# ---------------------------------------------------------------- the command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def go(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["weights", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return go


Run = Callable[..., tuple[int, str, str]]


def test_the_command_says_in_one_line_what_it_took_and_info_says_the_rest(run: Run, tmp_path: Path) -> None:
    path, out = saved(tmp_path / "a.pth", NAOTO.wrap(make(NAOTO))), tmp_path / "own.safetensors"
    code, said, error = run("import", path, "--out", out, "--layers", 3)
    assert code == 0 and error == "" and said.count("\n") == 1
    assert said.startswith(f"{out}: naoto, 3 of 4 levels, 3 channels (RGB); normalised by 1 / sum(M); decoder first;")
    code, said, _ = run("info", out)
    assert code == 0 and json.loads(said)["imported"]["family"] == "naoto" and json.loads(said)["name"] == "own"


def test_weights_that_exist_are_kept_unless_told_otherwise(run: Run, tmp_path: Path) -> None:
    path, out = saved(tmp_path / "a.pth", NAOTO.wrap(make(NAOTO))), tmp_path / "own.safetensors"
    out.write_bytes(b"dear")
    code, _, error = run("import", path, "--out", out)
    assert code == ExitCode.OUTPUT and "--overwrite" in error and out.read_bytes() == b"dear"
    assert run("import", path, "--out", out, "--overwrite")[0] == 0
    assert out.read_bytes() != b"dear"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--family", "nobody"], ExitCode.USAGE),
        (["--tones", "loud"], ExitCode.USAGE),
        (["--layers", "0"], ExitCode.USAGE),
        (["--family", "keras"], ExitCode.WEIGHTS),
        (["--layers", "9"], ExitCode.WEIGHTS),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    options: list[str], code: ExitCode, run: Run, tmp_path: Path
) -> None:
    path, out = saved(tmp_path / "a.pth", NAOTO.wrap(make(NAOTO))), tmp_path / "own.safetensors"
    assert run("import", path, "--out", out, *options)[0] == code
    assert not out.exists()


@pytest.mark.parametrize("name", ["own.pth", "folder"])
def test_the_output_has_to_be_a_safetensors_file(name: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert run("import", saved(tmp_path / "a.pth", STATE), "--out", tmp_path / name)[0] == ExitCode.USAGE


def test_a_place_that_cannot_be_written_is_the_outputs_fault(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", NAOTO.wrap(make(NAOTO)))
    code, _, error = run("import", path, "--out", tmp_path / "nowhere" / "own.safetensors")
    assert code == ExitCode.OUTPUT and "nowhere" in error


def test_a_checkpoint_is_not_replaced_by_what_is_made_of_it(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", NAOTO.wrap(make(NAOTO)))
    before = path.read_bytes()
    assert run("import", path, "--out", path, "--overwrite")[0] == ExitCode.OUTPUT
    assert path.read_bytes() == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_whose_numbers_are_not_finite_is_refused(bad: float, tmp_path: Path) -> None:
    state = make(NAOTO)
    state["dec_1.conv.input_conv.bias"][1] = bad
    path = saved(tmp_path / "a.pth", NAOTO.wrap(state))
    with pytest.raises(WeightsError, match="not finite"):
        import_checkpoint(path, tmp_path / "own.safetensors")
    assert not (tmp_path / "own.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_read_as_what_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({key: value.to(dtype) for key, value in STATE.items()}, buffer)
    (tmp_path / "a.pth").write_bytes(buffer.getvalue())
    found: dict[str, Tensor] = read(tmp_path / "a.pth").tensors
    assert all(value.dtype == dtype for value in found.values())
