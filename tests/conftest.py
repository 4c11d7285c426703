"""What all tests share: fixed seeds, and a workplace that makes small textured pictures and masks in any format."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from pconv_cli import weights as store
from pconv_cli.engine import Engine, Filled
from pconv_cli.nn.unet import PartialConvUNet

DAMAGE = (255, 0, 255)
"""Colour that is painted where a picture is damaged; no texture comes near it."""

HANGS: list[str] = []
"""Threads that a test has given up: Python would wait for them for ever at its end."""

LONGEST = [f"test_{name}" for name in ("distributed", "cli", "export", "remote", "training", "tile", "helpers")]
"""Files that are begun first: where several processes share the tests, what is left at the end is short."""

_STATUS = pytest.StashKey[int]()


def pytest_configure() -> None:
    """Make every machine alike, for started processes too."""
    # Tensors here are tiny: threads that share one would only wait for each other.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    # Texts are compared: typer would colour its help where it meets a CI service, and fold it to the terminal.
    os.environ |= {"_TYPER_FORCE_DISABLE_TERMINAL": "1", "COLUMNS": "100"}
    # Started processes find the modules compiled, as they do on most machines.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Who starts the tests in the background of a script has them ignore Ctrl-C, and pconv keeps to that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("untimed", deadline=None)  # a slow machine is no defect
    settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, in their order; all others stay as they are."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how the run ends, for whoever has to end it by force."""
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """A thread that hangs has failed its test, and everything is reported: it must not keep the run from ending."""
    if HANGS:
        sys.stdout.flush()
        os._exit(config.stash.get(_STATUS, 1))


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random numbers, in whatever order the tests run."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def texture(width: int, height: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Slow waves with a little noise, (height, width, channels), all values in 40..215; alpha is not made here."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / rng.uniform(4, 15) + y / rng.uniform(4, 15) + rng.uniform(0, 6)) for _ in range(channels)]
    noisy = 127.5 + 70 * np.stack(waves, axis=-1) + rng.uniform(-10, 10, (height, width, channels))
    return noisy.clip(40, 215).round().astype(np.uint8)


def box(width: int, height: int, left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    """A hole, (height, width): True in the rectangle from (left, top) up to, without, (right, bottom)."""
    hole = np.zeros((height, width), np.bool_)
    hole[top:bottom, left:right] = True
    return hole


def pixels(path: Path) -> NDArray[np.uint8]:
    """Pixels as an array in the file's own mode, as stored; a palette's indices are looked up."""
    with Image.open(path) as image:
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        return np.asarray(image)


def pressing_ctrl_c(at: int) -> Callable[..., list[Filled]]:
    """What takes the place of `Engine.fill`, and presses Ctrl-C before its `at`th call."""
    fill, calls = Engine.fill, itertools.count(1)

    def press(*arguments: Any) -> list[Filled]:
        if next(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return fill(*arguments)

    return press


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights built like the default's, with few channels: enough where results are compared, whatever they are."""
    default = store.find(None)
    assert default is not None
    config = store.config_from(store.read_header(default), default)
    assert config.coarse is not None
    coarse = replace(config.coarse, encoder=((4, 5), (4, 3), (4, 3), (4, 3)), head=4)
    config = replace(config, encoder=((4, 5), (6, 3), (4, 3), (4, 3)), head=4, coarse=coarse)
    torch.manual_seed(0)
    network = PartialConvUNet(config)
    for part in (network, network.coarse):
        assert isinstance(part, PartialConvUNet)
        torch.nn.init.normal_(part.out.weight, std=0.1)  # it begins at 0, which would leave the floor alone
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    store.write(path, network, network.state_dict(), {"name": "small"})
    return path


@dataclass(frozen=True)
class Workplace:
    """Three folders, `pictures`, `masks` and `out` (not made yet), and what puts files into them."""

    root: Path

    @property
    def pictures(self) -> Path:
        return self.root / "in"

    @property
    def masks(self) -> Path:
        return self.root / "masks"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def picture(
        self, name: str, mode: str = "RGB", size: tuple[int, int] = (48, 40), *,
        hole: NDArray[np.bool_] | None = None, seed: int = 0, **save: Any,
    ) -> Path:  # fmt: skip
        """Write a textured picture of any mode; its hole, if one is given, is painted in the colour of damage."""
        width, height = size
        colours = texture(width, height, 3, seed)
        if hole is not None:
            colours[hole] = DAMAGE
        image = Image.fromarray(colours)
        if mode == "P":
            image = image.quantize(64, dither=Image.Dither.NONE)
        elif mode in ("L", "LA"):
            grey = texture(width, height, 1, seed)[..., 0]
            if hole is not None:
                grey[hole] = 255
            image = Image.fromarray(grey)
        if mode in ("LA", "RGBA"):
            ramp = np.tile(np.linspace(30, 255, width).round().astype(np.uint8), (height, 1))
            image.putalpha(Image.fromarray(ramp))
        assert image.mode == mode
        return self._save(image, self.pictures / name, save)

    def mask(self, name: str, hole: NDArray[np.bool_], **save: Any) -> Path:
        """Write a mask, white where the hole is."""
        return self._save(Image.fromarray(np.where(hole, 255, 0).astype(np.uint8)), self.masks / name, save)

    def pair(
        self, name: str = "a.png", mode: str = "RGB", size: tuple[int, int] = (48, 40), *,
        hole: NDArray[np.bool_] | None = None, seed: int = 0, **save: Any,
    ) -> tuple[Path, NDArray[np.bool_]]:  # fmt: skip
        """Write a damaged picture and its mask, PNG; the damage is a box in the middle unless a hole is given."""
        width, height = size
        if hole is None:
            hole = box(width, height, width // 3, height // 3, 2 * width // 3, 2 * height // 3)
        self.mask(str(Path(name).with_suffix(".png")), hole)
        return self.picture(name, mode, size, hole=hole, seed=seed, **save), hole

    @staticmethod
    def _save(image: Image.Image, path: Path, save: dict[str, Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".webp":
            save = {"lossless": True, "exact": True, **save}
        image.save(path, **save)
        return path


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    """A workplace of its own for each test."""
    place = Workplace(tmp_path)
    place.pictures.mkdir()
    place.masks.mkdir()
    return place
