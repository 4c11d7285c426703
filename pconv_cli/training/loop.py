"""Train a network on a folder of photographs: what happens, in order.

Knows: the two phases, the averaged weights that are kept, checkpoints, validation. Does not know: the terminal.

As in the paper, the first phase trains everything, the second at a lower rate with the encoder's batch norm frozen.
Ours differ in more: the first sees four times as many crops of half the side and pure L1, which is where learning is
cheap; the second sees large crops and adds the perceptual and style terms.

Source: arXiv 1804.07723, sections 3.4 and 4.2 (losses; Adam at 2e-4, then 5e-5 with frozen statistics).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pconv_cli import weights as store
from pconv_cli.engine import autocast, choose_device, choose_precision, precision_name
from pconv_cli.errors import ItemError, NothingToDo, UsageError
from pconv_cli.events import Listener, Notice, TrainStarted, TrainStep, Validated
from pconv_cli.images import READ_SUFFIXES, read_picture
from pconv_cli.metrics import psnr
from pconv_cli.nn.pyramid import pyramid_fill
from pconv_cli.nn.unet import COMPACT, PAPER, PartialConvUNet, UNetConfig
from pconv_cli.training.data import Photo, batches, make_batch
from pconv_cli.training.losses import LossWeights, SqueezeFeatures, inpainting_loss

NETWORKS: dict[str, UNetConfig] = {"compact": COMPACT, "paper": PAPER}
VALIDATION_SEED = 20181215


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        network: A name in `NETWORKS`.
        steps: Batches in all, both phases.
        batch_size: Crops in a batch of the second phase; four times as many in the first.
        size: Side of a crop in the second phase, pixels; half of it in the first.
        rate: Adam's learning rate at the top of the first phase.
        second_rate: Adam's learning rate at the start of the second phase; both fall along a cosine.
        second_share: Share of the steps that the second phase takes, from 0 to 1.
        average: Decay of the averaged weights that are saved.
        seed: Of the first weights, the crops and the damage.
        every: Steps between checkpoints and validations.
        held_out: Photographs kept for validation, taken evenly from the folder.
        loss: Weights of the losses.
        workers: Processes that make batches, where processes can be forked; 0 makes them in this one.
        device: As in `restore`.
        precision: As in `restore`.
        perceptual: SqueezeNet 1.1 weights as safetensors, or None: no perceptual and no style term.
    """

    network: str = "compact"
    steps: int = 20000
    batch_size: int = 4
    size: int = 256
    rate: float = 1e-3
    second_rate: float = 2e-4
    second_share: float = 0.25
    average: float = 0.999
    seed: int = 0
    every: int = 500
    held_out: int = 32
    loss: LossWeights = field(default_factory=LossWeights)
    workers: int = 1
    device: str = "auto"
    precision: str = "auto"
    perceptual: Path | None = None

    @property
    def first_steps(self) -> int:
        """Steps of the first phase."""
        return self.steps - int(self.steps * self.second_share)

    def phases(self, step: int) -> tuple[_Phase, _Phase]:
        """The two phases, without the steps before `step`."""
        middle = max(step, self.first_steps)
        return (
            _Phase(range(step, self.first_steps), 4 * self.batch_size, self.size // 2),
            _Phase(range(middle, self.steps), self.batch_size, self.size),
        )


@dataclass(frozen=True)
class _Phase:
    steps: range
    batch_size: int
    size: int


@dataclass
class _State:
    """What a checkpoint holds."""

    network: PartialConvUNet
    averaged: dict[str, Tensor]
    optimiser: torch.optim.Adam
    step: int = 0


def train(
    folder: Path, out: Path, settings: TrainSettings, emit: Listener, *, resume: bool, stop: Callable[[], bool]
) -> Path:
    """Train and write weights that `restore --weights` takes.

    A checkpoint stands beside the weights (`OUT.checkpoint`); `resume` goes on from it. When `stop` turns true the
    step under way is finished and everything is saved.

    Returns:
        The weights file.

    Raises:
        NothingToDo: If there is no photograph to train on.
        UsageError: If the settings make no sense, or there is no checkpoint to resume.
        DeviceError: If the device is not there.
        WeightsError: If the checkpoint or the feature network cannot be read.
    """
    if settings.network not in NETWORKS:
        raise UsageError(f"no network is called {settings.network}; there are {', '.join(NETWORKS)}")
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    features = _features(settings.perceptual, device)
    photos, held_out = _photos(folder, settings, emit)
    checkpoint = out.with_name(out.name + ".checkpoint")
    state = _start(settings, device)
    if resume:
        _restore(state, checkpoint)
    if state.step >= settings.steps:
        raise UsageError(f"{checkpoint}: already at step {state.step}; ask for more than that with --steps to go on")
    emit(TrainStarted(len(photos), settings.steps, state.step, str(device), precision_name(precision)))
    for image, known in _batches(photos, settings, state.step):
        emit(_step(state, settings, image.to(device), known.to(device), features, precision))
        last = state.step == settings.steps or stop()
        if last or state.step % settings.every == 0:
            event = _validate(state, settings, held_out, device)
            emit(event)
            _save(state, settings, checkpoint, out, len(photos), event)
        if last:
            break
    return out


def load_photos(folder: Path, smallest: int) -> tuple[list[Photo], list[ItemError]]:
    """Decode every picture of a folder, once.

    Args:
        folder: Searched recursively, in the order of names.
        smallest: Pictures with a shorter side (pixels) are left out.

    Returns:
        The pictures, `(h, w, 3)` RGB, and what could not be used.

    Raises:
        NothingToDo: If no picture can be used.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READ_SUFFIXES)

    def load(path: Path) -> Photo | ItemError:
        try:
            photo = read_picture(path).rgb()
        except ItemError as error:
            return error
        if min(photo.shape[:2]) < smallest:
            return ItemError(path, f"smaller than the {smallest} px crops; choose a smaller --size")
        return photo

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(load, paths))
    photos = [result for result in results if not isinstance(result, ItemError)]
    if not photos:
        raise NothingToDo(f"{folder}: no picture with a short side of {smallest} px or more to train on")
    return photos, [result for result in results if isinstance(result, ItemError)]


def _step(
    state: _State, settings: TrainSettings, image: Tensor, known: Tensor, features: SqueezeFeatures | None,
    precision: torch.dtype,
) -> TrainStep:  # fmt: skip
    rate = _rate(settings, state.step)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    state.network.train()
    second = state.step >= settings.first_steps
    if second:
        state.network.freeze_encoder_norm()
    with autocast(image.device, precision):
        output, _ = state.network(image, known)
        loss, terms = inpainting_loss(
            output, image, known, settings.loss, features if second else None, twice=state.network.config.floor is None
        )
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimiser.step()
    state.step += 1
    # A short memory at first, or the random start would linger in the average.
    decay = min(settings.average, (1 + state.step) / (10 + state.step))
    for key, value in state.network.state_dict().items():
        if value.is_floating_point():
            state.averaged[key].lerp_(value, 1 - decay)
    return TrainStep(state.step, float(loss.detach()), rate, {name: float(term) for name, term in terms.items()})


def _batches(photos: list[Photo], settings: TrainSettings, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    for phase in settings.phases(step):
        yield from batches(photos, settings.seed, phase.steps, phase.batch_size, phase.size, settings.workers)


def _rate(settings: TrainSettings, step: int) -> float:
    """Warm up over 200 steps, then fall along a cosine to a twentieth; once in each phase."""
    first = settings.first_steps
    top, begin, length = (
        (settings.rate, 0, first) if step < first else (settings.second_rate, first, settings.steps - first)
    )
    share = (step - begin) / max(1, length)
    return top * min(1.0, (step + 1) / 200) * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)


def _start(settings: TrainSettings, device: torch.device) -> _State:
    torch.manual_seed(settings.seed)
    network = PartialConvUNet(NETWORKS[settings.network])
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = {k: v.clone() for k, v in network.state_dict().items() if v.is_floating_point()}
    return _State(network, averaged, torch.optim.Adam(network.parameters(), lr=settings.rate))


def _photos(folder: Path, settings: TrainSettings, emit: Listener) -> tuple[list[Photo], list[Photo]]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder of photographs")
    photos, unused = load_photos(folder, settings.size)
    for error in unused[:3]:
        emit(Notice(str(error)))
    if len(unused) > 3:
        emit(Notice(f"{len(unused) - 3} more pictures cannot be used for the like reasons"))
    count = min(settings.held_out, len(photos) // 10)
    held = {round(i * len(photos) / max(1, count)) for i in range(count)}
    return [p for i, p in enumerate(photos) if i not in held], [photos[i] for i in sorted(held)] or photos[:1]


def _features(path: Path | None, device: torch.device) -> SqueezeFeatures | None:
    if path is None:
        return None
    tensors, _ = store.read_tensors(path)
    try:
        return SqueezeFeatures(tensors).to(device)
    except (KeyError, IndexError, RuntimeError) as error:
        raise UsageError(f"{path}: not SqueezeNet 1.1 weights ({error!r})") from error


@torch.no_grad()
def _validate(state: _State, settings: TrainSettings, held_out: list[Photo], device: torch.device) -> Validated:
    network = PartialConvUNet(state.network.config)
    network.load_state_dict(state.averaged, strict=False)
    network = network.eval().to(device).folded()
    ours, floors = [], []
    for i in range(0, max(1, settings.held_out), 8):
        image, known = make_batch(held_out, VALIDATION_SEED, i, 8, settings.size)
        image, known = image.to(device), known.to(device)
        output, _ = network(image, known)
        ours.append(psnr(output.clamp(0, 1), image, 1 - known))
        floors.append(psnr(pyramid_fill(image, known).clamp(0, 1), image, 1 - known))
    return Validated(state.step, float(torch.cat(ours).mean()), float(torch.cat(floors).mean()))


def _save(state: _State, settings: TrainSettings, checkpoint: Path, out: Path, photos: int, event: Validated) -> None:
    tensors = {f"network.{k}": v for k, v in state.network.state_dict().items()}
    tensors |= {f"averaged.{k}": v for k, v in state.averaged.items()}
    for i, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": v for k, v in moments.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    store.write_tensors(checkpoint, contiguous, {"step": str(state.step), "network": settings.network})
    about: dict[str, Any] = {
        "name": out.stem,
        "training": {
            "photographs": photos,
            "step": state.step,
            **json.loads(json.dumps(asdict(settings), default=str)),
        },
        "metrics": {"validation": asdict(event)},
    }
    about["training"].pop("device")
    about["training"]["perceptual"] = settings.perceptual.name if settings.perceptual else None
    store.write(out, state.network, {k: v.detach().cpu() for k, v in state.averaged.items()}, about)


def _restore(state: _State, checkpoint: Path) -> None:
    if not checkpoint.is_file():
        raise UsageError(f"{checkpoint}: no checkpoint to resume from; leave out --resume to start anew")
    tensors, metadata = store.read_tensors(checkpoint)
    network = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    store.load_strictly(state.network, network, checkpoint)
    state.network.load_state_dict(network)
    for key in state.averaged:
        state.averaged[key].copy_(tensors[f"averaged.{key}"])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    document = state.optimiser.state_dict()
    state.optimiser.load_state_dict({**document, "state": moments})
    state.step = int(metadata["step"])
