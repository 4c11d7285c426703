"""What the doctor finds is what was tried; one look that fails stops no other; remarks follow from the findings."""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pconv_cli import doctor, engine, images, writing
from pconv_cli import weights as store
from pconv_cli.cli import app
from pconv_cli.doctor import Codec, Computing, Findings, Gpu, Machine, Network
from pconv_cli.errors import ExitCode

SOUND = Findings(
    pconv="1",
    python="3",
    libraries=(),
    machine=Machine(cores=8, usable=8, memory_free=2**34, temp="/t", temp_free=2**34),
    computing=Computing(device="cpu", threads=8, cpu_bf16=True, build="CPU", rate=2.0),
    networks=(Network("a", True, None),),
    codecs=(Codec("PNG", "restore", True, None),),
)


def said(**changed: Any) -> str:
    machine = {name: value for name, value in changed.items() if hasattr(SOUND.machine, name)}
    rest = {name: value for name, value in changed.items() if name not in machine}
    found = replace(SOUND, machine=replace(SOUND.machine, **machine), computing=replace(SOUND.computing, **rest))
    return "\n".join(doctor.remarks(found))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the tile, which is tried for itself."""
    monkeypatch.setattr(doctor, "_fill_a_tile", lambda weights, device, precision: 4.0)


def test_all_that_a_run_needs_works_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 0 and found["computing"]["fault"] is None and found["computing"]["rate"] > 0
    assert all(one["version"] for one in found["libraries"] if one["name"] not in ("OpenCV", "jpeglib"))
    assert {one["name"] for one in found["codecs"] if one["command"] == "restore"} == {
        kind for _, kind in images.FORMATS.values()
    }
    assert [one["default"] for one in found["networks"]].count(True) == 1


@pytest.mark.usefixtures("quick")
def test_it_shows_every_finding_in_lines_and_leaves_no_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PCONV_ODD", "a\x1b[31m")
    assert app.run(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "GDAL", "--device auto", "JPEG 2000", "(default)", str(tmp_path), "PCONV_ODD is set"):
        assert word in out
    assert "\x1b" not in out
    assert out.splitlines()[-1].startswith("Result: everything")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- one look fails


@pytest.mark.usefixtures("quick")
def test_a_library_that_cannot_be_imported_is_a_finding_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *rest: Any) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        if name == "jpeglib":
            raise ModuleNotFoundError("No module named 'jpeglib'", name="jpeglib")
        return known(name, *rest)

    known = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", refuse)
    found = doctor.examine()
    faults = {one.name: one.fault for one in found.libraries if one.fault}
    assert set(faults) == {"OpenCV", "jpeglib"}
    assert "libGL" in str(faults["OpenCV"]) and "opencv-python-headless" in str(faults["OpenCV"])
    assert found.exit_code == ExitCode.OK


@pytest.mark.usefixtures("quick")
def test_a_format_that_fails_is_exit_code_1_and_the_others_are_still_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(picture: Any, target: Path, **rest: Any) -> Any:
        if target.suffix == ".webp":
            raise OSError("encoder not available")
        return known(picture, target, **rest)

    known = writing.write_picture
    monkeypatch.setattr(writing, "write_picture", refuse)
    assert app.run(["doctor", "--json"]) == ExitCode.SOME_FAILED
    found = json.loads(capsys.readouterr().out)["codecs"]
    assert [(one["name"], one["fault"]) for one in found if one["fault"]] == [("WEBP", "encoder not available")]
    assert app.run(["doctor"]) == ExitCode.SOME_FAILED
    assert "WEBP: encoder not available" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_what_comes_back_changed_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    known = images.read_picture

    def changed(path: Path, **rest: Any) -> Any:
        picture = known(path, **rest)
        if path.suffix == ".bmp":  # lossless: the last bit counts
            return replace(picture, pixels=picture.pixels ^ 1)
        return replace(picture, pixels=picture.pixels // 2) if path.suffix == ".jpg" else picture

    monkeypatch.setattr(images, "read_picture", changed)
    assert {one.name for one in doctor.examine().codecs if one.fault} == {"BMP", "JPEG"}


@pytest.mark.usefixtures("quick")
def test_without_a_temp_folder_everything_else_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    found = doctor.examine()
    assert found.exit_code == ExitCode.SOME_FAILED
    assert found.machine.cores and found.machine.temp_free is None and not found.computing.fault
    assert all("gone" in str(one.fault) for one in found.codecs)


def test_damaged_weights_are_exit_code_4_and_the_tile_is_filled_without_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(store.shipped_folder(), tmp_path / "weights")
    monkeypatch.setattr(store, "shipped_folder", lambda: tmp_path / "weights")
    default = next(entry for entry in store.listed() if entry.default)
    default.path.write_bytes(b"x" + default.path.read_bytes()[1:])
    found = doctor.examine()
    assert found.exit_code == ExitCode.WEIGHTS
    assert [one.name for one in found.networks if one.fault] == [default.name]
    assert found.computing.rate
    (tmp_path / "weights" / "manifest.json").unlink()
    assert [one.fault and "manifest.json" in one.fault for one in doctor._networks()] == [True]


def test_a_device_that_cannot_compute_is_exit_code_6(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(engine.Engine, "fill", broken)
    found = doctor.examine()
    assert found.exit_code == ExitCode.DEVICE
    assert "no kernel image" in str(found.computing.fault) and found.computing.device
    assert not [one for one in found.codecs if one.fault]


@pytest.mark.usefixtures("quick")
def test_a_library_of_the_engine_that_breaks_is_exit_code_6_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: 1 / 0)
    found = doctor.examine()
    assert found.exit_code == ExitCode.DEVICE and "division" in str(found.computing.fault)
    assert found.machine.cores and found.networks and found.codecs


def test_a_gpu_is_listed_with_its_memory_and_one_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(index: int) -> tuple[int, int]:
        if index:
            raise RuntimeError("CUDA error: device busy")
        return 3, 7

    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Fast")
    assert doctor._gpu(0) == Gpu("cuda:0", "Fast", 7, 3)
    assert doctor._gpu(1) == Gpu("cuda:1", fault="CUDA error: device busy")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, ExitCode.OK),
        ({"codecs": (Codec("TIFF LERC", "tile", False, "no"),)}, ExitCode.OK),
        ({"codecs": (Codec("PNG", "tile", True, "no"),)}, ExitCode.SOME_FAILED),
        ({"networks": (Network("a", False, None),)}, ExitCode.WEIGHTS),
        ({"networks": (Network("a", True, "no"),), "computing": Computing(fault="no")}, ExitCode.DEVICE),
    ],
)
def test_the_exit_code_is_what_hinders_most(changed: dict[str, Any], code: ExitCode) -> None:
    assert replace(SOUND, **changed).exit_code == code


# ---------------------------------------------------------------- remarks


def test_a_fast_machine_is_told_nothing() -> None:
    assert said(device="cuda", build="CUDA 12.8", gpus=(Gpu("cuda:0", "Fast", 2**36, 2**36),)) == ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "8 cores of the CPU compute: expect about 2.0 tiles of 512 x 512 px a second"),
        ({"cpu_bf16": False}, "does not compute in bf16"),
        ({"usable": 2}, "of 8 cores this process gets 2"),
        ({"quota": 1.5}, "of 8 cores this process gets 1.5"),
        ({"quota": 1.5}, "OMP_NUM_THREADS=1 will be faster"),
        ({"environment": {"OMP_NUM_THREADS": "2"}}, "OMP_NUM_THREADS=2 leaves cores idle"),
        ({"environment": {"PCONV_DEBUG": "1"}}, "PCONV_DEBUG is set"),
        ({"memory_free": 2**30}, "only 1.0 GiB of memory"),
        ({"memory_limit": 2**30}, "only 1.0 GiB of memory"),
        ({"temp_free": 2**20}, "/t: only 1 MiB are free"),
        ({"gpus_unused": ("Fast with driver 1",)}, "torch is a build for CPUs alone"),
        ({"gpus_unused": ("Fast",), "build": "CUDA 12.8", "why_unused": "driver too old"}, "(driver too old)"),
        (
            {
                "gpus_unused": ("Fast",),
                "build": "CUDA 12.8",
                "why_unused": "No CUDA GPUs are available",
                "environment": {"CUDA_VISIBLE_DEVICES": ""},
            },
            "CUDA_VISIBLE_DEVICES hides it",
        ),
        ({"device": "cuda", "gpus": (Gpu("cuda:0", "Fast", 100, 40),)}, "cuda:0: more than half of its memory"),
        ({"device": "cuda", "gpus": (Gpu("cuda:1", fault="busy"),)}, "cuda:1 cannot be used (busy)"),
    ],
)
def test_what_slows_is_said_in_a_sentence(changed: dict[str, Any], words: str) -> None:
    assert words in said(**changed)


def test_threads_that_fit_what_is_granted_are_not_advised_upon() -> None:
    assert "OMP_NUM_THREADS" not in said(quota=2.0, threads=2, environment={"OMP_NUM_THREADS": "2"})


# ---------------------------------------------------------------- limits of containers


@pytest.mark.parametrize(
    ("own", "files", "cores", "memory"),
    [
        ("0::/\n", {}, None, None),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "1048576\n"}, 1.5, 2**20),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.0, None),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5, None),
        (
            "4:memory:/x\n1:cpu,cpuacct:/x\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                "memory/x/memory.limit_in_bytes": "4096\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            2.0,
            4096,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, None),
        ("", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, None),
        ("", {"memory.max": "nonsense", "cpu.max": "1 0"}, None, None),
    ],
)
def test_limits_of_control_groups_are_read_in_both_versions(
    own: str, files: dict[str, str], cores: float | None, memory: int | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    assert doctor.cpu_quota(tmp_path / "groups", tmp_path / "own") == cores
    assert doctor.memory_limit(tmp_path / "groups", tmp_path / "own") == memory
