"""Train a network on a folder of photographs: what happens, in order.

Knows: recipes, the phases, the averaged weights that are kept, checkpoints, validation. Does not know: the terminal,
which files are photographs, how damage is drawn.

As in the paper, the first phase trains everything, the second at a lower rate with the encoder's batch norm frozen.
Our own recipe differs in more: the first phase sees four times as many crops of half the side and no features, which
is where learning is cheap; the second sees large crops and adds the perceptual distance. Before both a phase of
its own trains the coarse part, on reduced pictures; then it rests, and makes the guides that the others learn with.
Weights that are trained already go through the second phase alone, with their own batch statistics (`going_on`).

Source: arXiv 1804.07723, sections 3.4 and 4.2 (losses; Adam at 2e-4, then 5e-5 with frozen statistics).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pconv_cli import files
from pconv_cli import weights as store
from pconv_cli.drawings import write_png
from pconv_cli.engine import autocast, choose_device, choose_precision, lack_of_memory, precision_name
from pconv_cli.errors import DeviceError, ItemError, OutputError, UsageError
from pconv_cli.events import Listener, Notice, TrainFinished, TrainStarted, TrainStep, Validated
from pconv_cli.metrics import EXACT, perceptual_distance, psnr, ssim
from pconv_cli.nn.pyramid import pyramid_fill, reduced
from pconv_cli.nn.squeeze import STAGES, SqueezeFeatures
from pconv_cli.nn.unet import COMPACT, DEEP, PAPER, PartialConvUNet, UNetConfig
from pconv_cli.training.adversary import Adversary, fill_loss, judge_loss
from pconv_cli.training.data import CELL, Batch, make_batch, whole_views
from pconv_cli.training.losses import PAPER_LOSS, Features, LossWeights, VggFeatures, inpainting_loss
from pconv_cli.training.photos import SHEET, take_masks, take_photos, told_apart

NETWORKS: dict[str, UNetConfig] = {"deep": DEEP, "compact": COMPACT, "paper": PAPER}
VALIDATION_SEED, CALIBRATION_SEED = 20181215, 20180420
WARM_UP = 200  # steps at the start of a phase in which the rate rises
CALIBRATION = 8  # batches that the averaged weights' batch statistics are taken from
STRIDE = 16  # of the deepest features, pixels
SHOWN = 8  # held-out crops on the sheet
KEPT_FOR = 300.0  # seconds of training that a kill costs, about: so old a checkpoint may be
COARSE, FIRST, SECOND = "coarse", "first", "second"
COARSE_LOSS = LossWeights(valid=0, hole=0, rms=1)


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        network: A name in `NETWORKS`; with `start_from`, that file's own.
        start_from: Weights to start from, as `restore --weights` takes them, or None: from nothing.
        steps: Batches in all phases.
        minutes: Train for so long instead, by the clock; runs are then not repeatable.
        batch_size: Crops in a batch of the second phase; four times as many in the first where that has small crops.
        size: Side of a crop in the second phase, pixels; half of it in the first where that has small crops. The coarse
            part sees pictures of a quarter of it, eight times as many.
        small_first: Whether the first phase has small crops.
        rate: Adam's learning rate at the top of the first phase.
        second_rate: Adam's learning rate at the start of the second phase.
        falling: Whether the rates fall along a cosine, to a twentieth.
        fixed_norms: Whether batch statistics stay as they are: those of weights that were trained with large batches
            are better than what small ones give.
        second_share: Share of the training that the second phase takes, from 0 to 1.
        coarse_share: Share of the training, at its start, that goes to the coarse part of a network that has one.
        average: Decay of the averaged weights that are saved.
        seed: Of the first weights, the crops and the damage.
        every: Steps between validations, each with a checkpoint; others come by the clock, see `KEPT_FOR`.
        held_out: Photographs kept for validation, taken evenly from the folder.
        loss: Weights of the losses.
        features_first: Whether the terms that need features count in the first phase too.
        perceptual: Which feature network: `squeeze`, which ships, a file with SqueezeNet 1.1 or VGG-16, or `none`.
        masks: A folder of masks, white = damaged, that are mixed into the drawn damage, or None.
        device: As in `restore`.
        precision: `auto`, `fp32` or `bf16`.
        compiled: Whether the network is compiled; it takes a minute or two to begin, and pays on GPUs.
        adversarial_share: Share of the training, at its end, in which a judge of patches is trained beside the network
            and counts with the loss weight `adversarial`; 0: none.
        adversarial_rate: Adam's learning rate for the judge.
    """

    network: str = "deep"
    start_from: str | None = None
    steps: int = 20000
    minutes: float | None = None
    batch_size: int = 4
    size: int = 256
    small_first: bool = True
    rate: float = 1e-3
    second_rate: float = 2e-4
    falling: bool = True
    fixed_norms: bool = False
    second_share: float = 0.55
    coarse_share: float = 0.2
    average: float = 0.999
    seed: int = 0
    every: int = 500
    held_out: int = 32
    loss: LossWeights = field(default_factory=LossWeights)
    features_first: bool = False
    perceptual: str = "squeeze"
    masks: str | None = None
    device: str = "auto"
    precision: str = "auto"
    compiled: bool = False
    adversarial_share: float = 0.3
    adversarial_rate: float = 2e-4


RECIPES: dict[str, TrainSettings] = {
    "default": TrainSettings(),
    "paper": TrainSettings(
        network="paper", batch_size=6, size=512, small_first=False, rate=2e-4, second_rate=5e-5, falling=False,
        loss=PAPER_LOSS, features_first=True, second_share=0.25, adversarial_share=0,
    ),
}  # fmt: skip
"""`paper`: arXiv 1804.07723, section 4.2 and equation 7. No two have the same loss, and no option changes it."""


def going_on(recipe: TrainSettings, start_from: str, coarse_share: float = 0.0) -> TrainSettings:
    """Make of a recipe one that goes on from weights: no phase that would shake what they have learned.

    Args:
        recipe: One that begins with nothing.
        start_from: The weights.
        coarse_share: Share of the training that goes to the coarse part.
    """
    rate = recipe.second_rate
    if not recipe.small_first:  # whose phases differ by their rates alone
        return replace(recipe, start_from=start_from, rate=rate)
    return replace(
        recipe, start_from=start_from, rate=rate, second_rate=rate / 2, small_first=False, fixed_norms=True,
        coarse_share=coarse_share, second_share=1 - coarse_share,
    )  # fmt: skip


@dataclass
class _State:
    """What a checkpoint holds."""

    network: PartialConvUNet
    averaged: dict[str, Tensor]
    optimiser: torch.optim.Adam
    step: int = 0
    judge: tuple[Adversary, torch.optim.Adam] | None = None  # with its optimiser
    seconds: float = 0.0
    current: list[Tensor] = field(default_factory=list)  # the network's own, in the order of the averaged
    began: dict[str, int] = field(default_factory=dict)  # the phases so far, each with the step that it began with
    folder: dict[str, Any] | None = None  # what was trained on, see `told_apart`; old checkpoints do not say
    masks: dict[str, Any] | None = None  # likewise
    log: list[dict[str, Any]] = field(default_factory=list)  # the validations so far


@dataclass(frozen=True)
class _Seen:
    """What there is to train on, on the device: see `make_batch`. Views are for a network with a coarse part."""

    photos: list[Tensor]
    views: list[Tensor]
    masks: list[Tensor]


@dataclass(frozen=True)
class _Moment:
    """Where in the training a step lies."""

    phase: str
    share: float  # of its phase that is over, by steps or by the clock
    begun: int  # steps of its phase before it


@dataclass(frozen=True)
class _Forward:
    """The passes of a network, compiled or not."""

    fine: Callable[..., Any]
    coarse: Callable[..., Any] | None

    def __call__(self, batch: Batch, phase: str = SECOND) -> Tensor:
        """Fill a batch, or one of reduced pictures in the coarse part's phase."""
        if self.coarse is None:
            return self.fine(batch.image, batch.known)[0]  # type: ignore[no-any-return]
        if phase == COARSE:
            return self.coarse(batch.image, batch.known)[0]  # type: ignore[no-any-return]
        with torch.no_grad():
            guide = self.coarse(*reduced(batch.image, batch.known))[0].clamp(0, 1)
        return self.fine(batch.image, batch.known, guide)[0]  # type: ignore[no-any-return]


@contextmanager
def _within_memory() -> Iterator[None]:
    """Say in one line when the device's memory runs out."""
    try:
        yield
    except RuntimeError as error:
        complaint = lack_of_memory(error)
        if complaint is None:
            raise
        raise DeviceError(
            "the device has too little free memory for this training; give a smaller --batch-size or --size, or fewer "
            f"photographs (torch: {complaint})"
        ) from error


@_within_memory()
def train(
    folder: Path, out: Path, settings: TrainSettings, emit: Listener, *, resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Path:  # fmt: skip
    """Train and write weights that `restore --weights` takes.

    Beside the weights stand a checkpoint (`OUT.checkpoint`), from which `resume` goes on, a log with one JSON object a
    validation (`OUT.log.jsonl`), and a sheet of held-out crops: damaged, the pyramid alone, filled, true
    (`OUT.sheet.png`). When `stop` turns true the step under way is finished and everything is saved. A checkpoint is
    written every few minutes as well.

    Args:
        folder: Photographs, searched recursively; what is hidden, a folder of masks among them and sheets of ours are
            none.
        out: The weights file to write.
        settings: How.
        emit: Takes the events.
        resume: Go on from the checkpoint.
        stop: Asked after each step.

    Returns:
        The weights file.

    Raises:
        NothingToDo: If there is no photograph to train on.
        UsageError: If the settings make no sense, there is no checkpoint to resume, or the loss is no number any more.
        DeviceError: If the device is not there, or its memory runs out.
        WeightsError: If weights, the checkpoint or the feature network cannot be read.
        OutputError: If the disk says no, at the beginning where it can be known then; the checkpoint before is still
            there.
    """
    _check(settings)
    device = choose_device(settings.device)
    torch.backends.cudnn.benchmark = device.type == "cuda"  # all batches of a phase are of one shape
    precision, _ = choose_precision(settings.precision, device, training=True)
    features = _features(settings.perceptual, device, precision)
    checkpoint = beside(out, ".checkpoint")
    state = _resumed(out, settings, device) if resume else _start(settings, device)
    measured = bool(state.log) and state.log[-1]["step"] == state.step
    if _progress(state, settings) >= 1 and measured:
        raise UsageError(
            f"{checkpoint}: has trained for {state.step} steps and {state.seconds / 60:.1f} minutes already; --steps "
            "and --minutes count all runs: give more"
        )
    _refuse_single_values(state.network.config, settings)
    masks = None if settings.masks is None else Path(settings.masks)
    photos, held_out = take_photos(folder, settings.size, masks, settings.held_out, emit, device)
    kept_back = 0 if held_out[0] is photos[0] else len(held_out)
    files.prepare(out.parent, "--out", "folder")
    views = [] if state.network.coarse is None else whole_views(photos, settings.size // 4 * CELL)
    seen = _Seen(photos, views, [] if masks is None else take_masks(masks, folder, emit, device))
    judge = SqueezeFeatures(store.feature_state(), STAGES).to(device)
    emit(
        TrainStarted(
            len(photos), None if settings.minutes else settings.steps, state.step, str(device),
            precision_name(precision), kept_back,
        )
    )  # fmt: skip
    if not kept_back:
        why = "--held-out 0" if settings.held_out == 0 else "fewer than 10 photographs"
        emit(Notice(f"{why}: none is held out, so the figures are of one that is trained on"))
    state.folder = told_apart(folder, masks, "photographs", state.folder, emit)
    if masks is not None:
        state.masks = told_apart(masks, folder, "masks", state.masks, emit)
    forward = _passes(state.network, settings.compiled)
    if state.step == 0 and settings.start_from is not None:
        emit(_validate(state.averaged, state, settings, held_out, judge)[0])  # what there is to be better than

    def measure(phase: str) -> None:
        averaged = _calibrated(state, settings, seen, phase, device)
        event, sheet = _validate(averaged, state, settings, held_out, judge)
        _refuse_nothing(out, state.step, (value for value in asdict(event).values() if value is not None))
        emit(event)
        _save(state, settings, averaged, out, len(photos), kept_back, event, sheet)

    started = time.monotonic() - state.seconds
    kept, last = state.seconds, _progress(state, settings) >= 1
    if last:  # it was stopped at its end, and killed while it was measured
        measure(_moment(state, settings).phase)
    while not last:
        moment = _moment(state, settings)
        if moment.begun == 0 and list(state.began)[-2:-1] == [COARSE]:
            _settle(state, settings, seen, device)
        if state.judge is None and _progress(state, settings) >= 1 - settings.adversarial_share:
            state.judge = _appointed(settings, device)
        batch = _batch(seen, settings, moment.phase, settings.seed, state.step)
        loss, terms, rate = _step(state, settings, moment, batch, forward, features, precision)
        state.seconds = time.monotonic() - started
        last, due = _progress(state, settings) >= 1, state.step % settings.every == 0
        read = last or due or device.type == "cpu" or state.step % 25 == 0  # to read a number is to wait for the device
        if read:
            named = {name: float(term) for name, term in terms.items()}
            _refuse_nothing(out, state.step, (float(loss), *named.values()))
            emit(TrainStep(state.step, float(loss), rate, named, min(1.0, _progress(state, settings))))
        stopped = stop()
        last = last or stopped
        if stopped:  # to measure takes long on a CPU, and a second Ctrl-C must lose nothing
            _keep(state, settings, out)
            emit(Notice(f"{beside(out, '.checkpoint')}: step {state.step} is kept; it is measured now"))
        elif read and not due and not last and state.seconds - kept >= KEPT_FOR:
            _keep(state, settings, out)
            kept = state.seconds
        if last or due:
            measure(moment.phase)
            kept = state.seconds
    emit(TrainFinished(str(out), str(beside(out, SHEET)), state.step, _progress(state, settings) >= 1))
    return out


def beside(out: Path, ending: str) -> Path:
    """Give the name of a file that training writes beside its weights."""
    return out.with_name(out.name + ending)


def settings_of(out: Path) -> TrainSettings:
    """Give the settings of the training whose checkpoint stands beside some weights.

    Raises:
        UsageError: If there is none, or not of this version.
        WeightsError: If it cannot be read.
    """
    return _noted(beside(out, ".checkpoint"))[1]


def _refuse_nothing(out: Path, step: int, figures: Iterable[float]) -> None:
    if not all(map(math.isfinite, figures)):
        kept = "the last checkpoint is kept" if beside(out, ".checkpoint").exists() else "nothing was written"
        raise UsageError(
            f"{out}: training has come to nothing by step {step} (the loss is no number); "
            f"start again with a lower --rate; {kept}"
        )


def _check(settings: TrainSettings) -> None:
    if settings.network not in NETWORKS:
        raise UsageError(f"no network is called {settings.network}; there are {', '.join(NETWORKS)}")
    if settings.minutes is not None and settings.minutes <= 0:
        raise UsageError(f"--minutes {settings.minutes:g}: must be more than 0")
    for option, rate in (("--rate", settings.rate), ("--second-rate", settings.second_rate)):
        if not math.isfinite(rate):
            raise UsageError(f"{option} {rate:g}: must be a finite number")
    if settings.coarse_share < 0 or settings.coarse_share + settings.second_share > 1:  # 1 - 0.9 is less than 0.1
        raise UsageError(
            f"--coarse {settings.coarse_share:g}: from 0 to {1 - settings.second_share:g}, what the second phase leaves"
        )


def _refuse_single_values(config: UNetConfig, settings: TrainSettings) -> None:
    deepest = -(-settings.size // 2 ** len(config.encoder))
    if config.norm and not settings.fixed_norms and settings.batch_size * deepest**2 == 1:
        raise UsageError(
            f"--batch-size 1: at --size {settings.size} the deepest level sees one value, which batch norm can make "
            "nothing of; give a batch of 2, or larger crops"
        )


# ---------------------------------------------------------------- one step


def _progress(state: _State, settings: TrainSettings) -> float:
    """Share of the training that is over."""
    if settings.minutes is not None:
        return state.seconds / (60 * settings.minutes)
    return state.step / settings.steps


def _moment(state: _State, settings: TrainSettings) -> _Moment:
    coarse = 0.0 if state.network.coarse is None else settings.coarse_share
    second = 1 - settings.second_share
    if settings.minutes is None:  # in whole steps: a share of them need not be one
        coarse = int(settings.steps * coarse) / settings.steps
        second = (settings.steps - int(settings.steps * settings.second_share)) / settings.steps
    progress = _progress(state, settings)
    phase, start, end = FIRST, coarse, second
    if progress < coarse:
        phase, start, end = COARSE, 0.0, coarse
    elif progress >= second:
        phase, start, end = SECOND, second, 1.0
    begun = state.step - state.began.setdefault(phase, state.step)
    return _Moment(phase, (progress - start) / max(end - start, 1e-9), begun)


def _rate(settings: TrainSettings, moment: _Moment) -> float:
    """Warm up, then fall along a cosine to a twentieth, or stay; once in each phase."""
    top = settings.second_rate if moment.phase == SECOND else settings.rate
    share = min(max(moment.share, 0.0), 1.0)
    level = 0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2 if settings.falling else 1.0
    return top * min(1.0, (moment.begun + 1) / WARM_UP) * level


def _batch(seen: _Seen, settings: TrainSettings, phase: str, seed: int, step: int) -> Batch:
    """Make what a phase sees."""
    count, size = settings.batch_size, settings.size
    if phase == COARSE:
        return make_batch(seen.views, seen.masks, seed, step, 8 * count, size // 4 * CELL, whole=True).reduced()
    if phase == FIRST and settings.small_first:
        return make_batch(seen.photos, seen.masks, seed, step, 4 * count, size // 2)
    return make_batch(seen.photos, seen.masks, seed, step, count, size)


def _set_modes(network: PartialConvUNet, settings: TrainSettings, phase: str) -> None:
    """Train what the phase trains; the other part only answers."""
    network.train(phase != COARSE and not settings.fixed_norms)
    if network.coarse is not None:
        network.coarse.train(phase == COARSE and not settings.fixed_norms)
    if phase == SECOND and network.config.floor is None:  # on a floor there are no holes that would distort them
        network.freeze_encoder_norm()


def _passes(network: PartialConvUNet, compiled: bool = False) -> _Forward:
    """Give the passes; what is compiled is where the time goes. Each further graph would take most of a minute."""
    if compiled:
        network.body = torch.compile(network.body, dynamic=False)  # type: ignore[method-assign]
    return _Forward(network, network.coarse)


def _step(
    state: _State, settings: TrainSettings, moment: _Moment, batch: Batch, forward: _Forward,
    features: Features | None, precision: torch.dtype,
) -> tuple[Tensor, dict[str, Tensor], float]:  # fmt: skip
    rate = _rate(settings, moment)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    _set_modes(state.network, settings, moment.phase)
    if features is not None and settings.loss.distance:
        features = _shifted(features, settings.seed, state.step)
    with autocast(batch.image.device, precision):
        output = forward(batch, moment.phase)
        output = torch.where(batch.beyond > 0, batch.image, output)
        loss, terms = inpainting_loss(
            output, batch.image, 1 - batch.hole, COARSE_LOSS if moment.phase == COARSE else settings.loss,
            features if moment.phase == SECOND or settings.features_first else None,
            twice=state.network.config.floor is None,
        )  # fmt: skip
        filled = torch.where(batch.hole > 0, output, batch.image)
        if state.judge is not None:
            adversarial = fill_loss(state.judge[0], filled, batch.hole)
            loss = loss + settings.loss.adversarial * adversarial
            terms["adversarial"] = adversarial.detach()
    _descend(state.optimiser, loss)
    if state.judge is not None:
        judge, optimiser = state.judge
        with autocast(batch.image.device, precision):
            terms["judge"] = judge_loss(judge, batch.image, filled, batch.hole)
        _descend(optimiser, terms["judge"])
        terms["judge"] = terms["judge"].detach()
    state.step += 1
    # A short memory at first, or the random start would linger in the average.
    decay = min(settings.average, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(list(state.averaged.values()), state.current, 1 - decay)
    return loss.detach(), terms, rate


def _shifted(features: Features, seed: int, step: int) -> Features:
    """Look at pictures from another corner at each step: what strides on a grid is blind to patterns of that grid."""
    down, across = np.random.default_rng((seed, step, STRIDE)).integers(STRIDE, size=2).tolist()
    return lambda image: features(image.roll((down, across), (2, 3)))


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()


def _settle(state: _State, settings: TrainSettings, seen: _Seen, device: torch.device) -> None:
    """Let the coarse part go on as what is kept of it: its averaged weights."""
    kept = _calibrated(state, settings, seen, COARSE, device)
    kept = {key: value for key, value in kept.items() if key.startswith("coarse.")}
    state.network.load_state_dict(kept, strict=False)
    for key, value in kept.items():
        state.averaged[key].copy_(value)


def _appointed(settings: TrainSettings, device: torch.device) -> tuple[Adversary, torch.optim.Adam]:
    """Take a judge that knows nothing yet."""
    torch.manual_seed(settings.seed)
    judge: Adversary = Adversary().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    fused = device.type == "cuda"
    return judge, torch.optim.Adam(judge.parameters(), settings.adversarial_rate, betas=(0.5, 0.99), fused=fused)


# ---------------------------------------------------------------- beginnings


def _start(settings: TrainSettings, device: torch.device) -> _State:
    torch.manual_seed(settings.seed)
    if settings.start_from is None:
        return _fresh(PartialConvUNet(NETWORKS[settings.network]), settings, device)
    path = store.find(settings.start_from)
    if path is None:
        raise UsageError(f"--from {settings.start_from}: has no weights to start from; name a file, or leave it out")
    store.colour_view(settings.start_from)
    header, tensors = store.read(path)
    network = PartialConvUNet(store.config_from(header, path))
    store.load_strictly(network, tensors, path)
    return _fresh(network, settings, device)


def _fresh(network: PartialConvUNet, settings: TrainSettings, device: torch.device) -> _State:
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    current = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    averaged = {k: v.clone() for k, v in current.items()}
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.rate, fused=device.type == "cuda")
    return _State(network, averaged, optimiser, current=list(current.values()))


def _resumed(out: Path, settings: TrainSettings, device: torch.device) -> _State:
    checkpoint = beside(out, ".checkpoint")
    config, _, counters = _noted(checkpoint)
    tensors, _ = store.read_tensors(checkpoint)
    if settings.start_from is None and config != NETWORKS[settings.network]:
        names = [name for name, known in NETWORKS.items() if known == config]
        raise UsageError(
            f"{checkpoint}: is of {f'the network {names[0]}' if names else 'a network of its own'}, not of "
            f"{settings.network}; give the same options as before to --resume"
        )
    state = _fresh(PartialConvUNet(config), settings, device)
    network = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    store.load_strictly(state.network, network, checkpoint)
    state.network.load_state_dict(network)
    for key in state.averaged:
        state.averaged[key].copy_(tensors[f"averaged.{key}"])
    _remember(state.optimiser, tensors, "adam.")
    judge = {k.removeprefix("judge."): v for k, v in tensors.items() if k.startswith("judge.")}
    if judge:
        state.judge = _appointed(settings, device)
        state.judge[0].load_state_dict(judge)
        _remember(state.judge[1], tensors, "judge_adam.")
    state = replace(state, **counters)
    if not state.log:
        state.log = _logged(beside(out, ".log.jsonl"), state.step)
    return state


def _logged(log: Path, step: int) -> list[dict[str, Any]]:
    """Read the validations up to a step from a log: checkpoints of earlier versions do not hold them."""
    found = []
    with suppress(OSError):
        for line in log.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line cut short by a kill
                validated = json.loads(line)
                if validated["step"] <= step:
                    found.append(validated)
    return found


def _noted(checkpoint: Path) -> tuple[UNetConfig, TrainSettings, dict[str, Any]]:
    """Read what a checkpoint says beside its tensors: the architecture, the settings, and where in the run it is."""
    if not checkpoint.is_file():
        raise UsageError(f"{checkpoint}: no checkpoint to resume from; leave out --resume to start anew")
    metadata = store.read_metadata(checkpoint)
    try:
        training = json.loads(metadata["training"])
        config, found = store.config_from(training, checkpoint), training["settings"]
        settings = TrainSettings(**{**found, "loss": LossWeights(**found["loss"])})
        counters = {key: json.loads(metadata[key]) for key in ("step", "seconds", "began")}
        newer = {"folder": "null", "masks": "null", "log": "[]"}  # what checkpoints of earlier versions do not hold
        return config, settings, counters | {key: json.loads(metadata.get(key, none)) for key, none in newer.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{checkpoint}: not a checkpoint that this version wrote; start anew without it") from error


def _remember(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], start: str) -> None:
    """Give an optimiser its moments back."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(start):
            index, name = key.removeprefix(start).split(".")
            moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})


def _moments(optimiser: torch.optim.Optimizer, start: str) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{start}{i}.{name}": value for i, moments in state.items() for name, value in moments.items()}


def _features(which: str, device: torch.device, precision: torch.dtype) -> Features | None:
    if which == "none":
        return None
    if which == "squeeze":
        network: nn.Module = SqueezeFeatures(store.feature_state(), STAGES)
    else:
        tensors, _ = store.read_tensors(Path(which))
        try:
            squeeze = "features.3.squeeze.weight" in tensors
            network = SqueezeFeatures(tensors, STAGES) if squeeze else VggFeatures(tensors)
        except (KeyError, IndexError, RuntimeError) as error:
            raise UsageError(f"{which}: neither SqueezeNet 1.1 nor VGG-16 weights ({error!r})") from error
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(precision)  # once, or autocast does it at every step
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


# ---------------------------------------------------------------- what is kept


@torch.no_grad()
def _calibrated(
    state: _State, settings: TrainSettings, seen: _Seen, phase: str, device: torch.device
) -> dict[str, Tensor]:
    """Take the batch statistics of the averaged weights anew: averaged ones belong to no weights there ever were."""
    twin = PartialConvUNet(state.network.config).to(device)
    twin.load_state_dict(state.averaged, strict=False)
    _set_modes(twin, settings, phase)
    norms = [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over what follows
    if norms:
        for i in range(CALIBRATION):
            _passes(twin)(_batch(seen, settings, phase, CALIBRATION_SEED, i), phase)
    return {k: v for k, v in twin.state_dict().items() if v.is_floating_point()}


@torch.no_grad()
def _validate(
    averaged: dict[str, Tensor], state: _State, settings: TrainSettings, held_out: list[Tensor],
    judge: SqueezeFeatures,
) -> tuple[Validated, NDArray[np.uint8]]:  # fmt: skip
    """Measure the averaged weights on held-out crops, and show some."""
    network = PartialConvUNet(state.network.config)
    network.load_state_dict(averaged, strict=False)
    forward = _passes(network.eval().to(held_out[0].device).folded())
    found: dict[str, list[Tensor]] = {}
    sheet: NDArray[np.uint8] | None = None
    for thin, batch in _held_out(held_out, settings):
        filled = _composite(forward(batch), batch)
        floor = _composite(pyramid_fill(batch.image, batch.known), batch)
        wanted = judge(batch.image)
        for name, made in (("", filled), ("floor_", floor)):
            measured = {"scratch" if thin else "psnr": _psnr(made, batch)}
            if not thin:
                measured |= {
                    "ssim": ssim(made, batch.image, batch.hole),
                    "perceptual": perceptual_distance(judge(made), wanted),
                }
            for key, values in measured.items():
                found.setdefault(name + key, []).append(values)
        if sheet is None:
            sheet = _sheet(batch, floor, filled)
    if forward.coarse is not None:
        size = settings.size // 4 * CELL
        views = whole_views(held_out, size)
        batch = make_batch(views, (), VALIDATION_SEED, 2_000_000, 4 * SHOWN, size, whole=True).reduced()
        for name, made in (("", forward(batch, COARSE)), ("floor_", pyramid_fill(batch.image, batch.known))):
            lost = batch.hole.flatten(1).amax(1) > 0  # not every damage loses a cell
            if bool(lost.any()):
                found[name + "coarse"] = [_psnr(_composite(made, batch), batch)[lost]]
    means = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    assert sheet is not None
    return Validated(state.step, round(state.seconds, 1), **means), sheet


def _psnr(made: Tensor, batch: Batch) -> Tensor:
    """PSNR in the holes, dB, that means can be taken of: `EXACT` at most."""
    return psnr(made, batch.image, batch.hole).clamp(max=EXACT)


def _held_out(photos: list[Tensor], settings: TrainSettings) -> Iterator[tuple[bool, Batch]]:
    """The same crops and damage every time, and whether it is thin scratches only: those come last."""
    for i in range(0, max(1, settings.held_out), SHOWN):
        yield False, make_batch(photos, (), VALIDATION_SEED, i, SHOWN, settings.size)
    yield True, make_batch(photos, (), VALIDATION_SEED, 1_000_000, SHOWN, settings.size, thin=True)


def _composite(output: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch.hole > 0, output.float().clamp(0, 1), batch.image)


def _sheet(batch: Batch, floor: Tensor, filled: Tensor) -> NDArray[np.uint8]:
    """Crops below each other: damaged, the floor, filled, true."""
    damaged = torch.where(batch.known > 0, batch.image, batch.image.new_tensor(1.0))
    rows = torch.cat([damaged, floor, filled, batch.image], dim=3).permute(0, 2, 3, 1)
    return np.asarray((rows.flatten(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def _save(
    state: _State, settings: TrainSettings, averaged: dict[str, Tensor], out: Path, photos: int, held_out: int,
    event: Validated, sheet: NDArray[np.uint8],
) -> None:  # fmt: skip
    state.log.append(asdict(event))
    _keep(state, settings, out)
    described = {"photographs": photos, "step": state.step, **json.loads(json.dumps(asdict(settings), default=str))}
    described["held_out"] = held_out
    described.pop("device")
    for name in ("perceptual", "start_from", "masks"):  # a name, or a file whose folder is nobody's business
        described[name] = described[name] and Path(described[name]).name
    about = {"name": out.stem, "training": described, "metrics": {"validation": asdict(event)}}
    with _writing(out):
        store.write(out, state.network, {k: v.detach().cpu() for k, v in averaged.items()}, about)
    with _writing(beside(out, SHEET)):
        write_png(sheet, beside(out, SHEET), overwrite=True)
    with _writing(beside(out, ".log.jsonl")), files.whole(beside(out, ".log.jsonl"), overwrite=True) as log:
        log.writelines(json.dumps(validated).encode() + b"\n" for validated in state.log)


def _keep(state: _State, settings: TrainSettings, out: Path) -> None:
    """Write what a training is gone on from."""
    tensors = {f"network.{k}": v for k, v in state.network.state_dict().items()}
    tensors |= {f"averaged.{k}": v for k, v in state.averaged.items()}
    tensors |= _moments(state.optimiser, "adam.")
    if state.judge is not None:
        tensors |= {f"judge.{k}": v for k, v in state.judge[0].state_dict().items()}
        tensors |= _moments(state.judge[1], "judge_adam.")
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {
        "training": json.dumps({"architecture": asdict(state.network.config), "settings": asdict(settings)}),
        "step": str(state.step),
        "seconds": repr(state.seconds),
        "began": json.dumps(state.began),
        "folder": json.dumps(state.folder),
        "masks": json.dumps(state.masks),
        "log": json.dumps(state.log),
    }
    with _writing(beside(out, ".checkpoint")):
        store.write_tensors(beside(out, ".checkpoint"), contiguous, metadata)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except ItemError as error:
        raise OutputError(f"{error}; --resume goes on from the last checkpoint") from error
    except OSError as error:
        raise OutputError(
            f"{path}: {files.why_unwritable(error)}; --resume goes on from the last checkpoint"
        ) from error
