"""Restore one picture of any size: what happens, in order.

The mask is read in strips, the plan is made, windows are read, filled and laid back, and the output is put together
from the input and the fills. Knows every step and none of their workings. Does not know: the terminal, options, exit
codes.

torch is imported when a run needs it, and while the mask is read: a plan needs none, and it takes a second.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli import __version__, beside, companions, files, halo, provenance
from pconv_cli.canvas import Canvas
from pconv_cli.damage import ROWS, Mask, mask_beside
from pconv_cli.errors import TAKEN, ItemError, Loss, UsageError, refuse_losses
from pconv_cli.events import ItemDone, ItemFailed, ItemStarted, Listener, Notice, RunFinished, RunStarted
from pconv_cli.images import metadata, refuse_animated
from pconv_cli.keeping import InUse, Kept
from pconv_cli.layers import Layer, View
from pconv_cli.planning import Planned, Work, view_of
from pconv_cli.regions import Window
from pconv_cli.remote import Stage, Stopped
from pconv_cli.report import ItemReport, Report, Status, collecting, peak_memory, rounded
from pconv_cli.settings import Settings
from pconv_cli.strips import write_map
from pconv_cli.surface import LayerSurface
from pconv_cli.tiff import Source
from pconv_cli.tiles import TilePlan
from pconv_cli.writing import copy_file

if TYPE_CHECKING:
    from pconv_cli.distributed import Cluster
    from pconv_cli.engine import Engine
    from pconv_cli.filling import Filling
    from pconv_cli.sharing import Keeping

SHOWN = (".msk", ".ovr")  # what else GDAL looks for beside a picture


def plan(
    big: Path, mask: Path | None, settings: Settings, *, thumbnail: int | None = None, stage: Stage | None = None
) -> Planned:
    """Plan and compute nothing. Needs no device, and of weights that are not the default only the header.

    Args:
        big: The picture.
        mask: Its mask, or None for the one that is found, see `tile`.
        settings: How.
        thumbnail: Longest side of a small view, pixels, or None: of the picture only the head is read.
        stage: Where files are while they are worked on that are elsewhere; None: none are.

    Raises:
        UsageError: If there is no mask, or a setting makes no sense.
        WeightsError: If weights are named that are not there.
        ItemError: If a file cannot be read.
    """
    settings.check("--size")
    mask = _fetched(stage or Stage(), big, mask, None, settings)
    refuse_animated(big)
    with Source(big) as source:
        return Planned.of(source, Mask.choose(source, mask, settings), settings, thumbnail)


def default_output(big: Path) -> Path:
    """Where the result goes when nobody says: `BIG_restored.tif` beside the picture."""
    return big.parent / f"{big.stem}_restored.tif"


def refuse_loss(target: Path, *inputs: Path | None) -> None:
    """Make sure that no input would be written over, `overwrite` or not.

    Raises:
        UsageError: The target is one of the inputs.
    """
    for path in inputs:
        with suppress(OSError):  # what is not there, or cannot be looked at, is not the same
            if path is not None and path.samefile(target):
                raise UsageError(f"{target}: would replace {path}, which it is made from; choose another name")


def tile(
    big: Path,
    mask: Path | None,
    output: Path | None,
    settings: Settings,
    emit: Listener,
    stop: Callable[[], bool] = lambda: False,
    cluster: Cluster | None = None,
    stage: Stage | None = None,
    *,
    resume: bool = False,
) -> Report:
    """Restore one picture, window by window; memory does not grow with its size.

    The mask is `mask` or what `settings.mask_from` says, else `BIG_mask.*` or `BIG.mask.*` beside the picture, else its
    alpha channel (0 = damaged), else its mask band or nodata value (in floats NaN and infinity always are one). When
    `stop` turns true, what is in flight is finished and nothing is written. With a `cluster`, its workers compute the
    windows; what they make is laid and written here. Files on a `stage` are fetched whole before, and a result there is
    delivered whole; where that fails, it is kept on this machine.

    What is computed is kept in a file beside the output until that is there: with `resume`, what a stopped run has left
    of the same picture, mask and settings is not computed again. Nothing is kept of an output on a stage.

    Raises:
        UsageError: If there is no mask, or a setting makes no sense.
        RunError: As in `restore.restore`.
    """
    started = time.monotonic()
    settings.check("--size")
    beside.check(settings)
    stage = stage or Stage()
    notices, emit = collecting(emit)
    emit = stage.telling(emit)
    big, output = Path(big), Path(output or default_output(big))
    _check_name(output)
    if resume and stage.holds(output):
        way_out = "choose an output on this machine with -o, or leave out --resume"
        raise UsageError(f"--resume: what is computed is kept beside the output, and {output} is elsewhere; {way_out}")
    described: dict[str, Any] = {}
    doubts: Sequence[str] = ()
    done_before = 0
    try:
        mask = _fetched(stage, big, mask, output, settings, emit, stop)
        refuse_animated(big)
        with Source(big) as source:
            chosen = Mask.choose(source, mask, settings)
            refuse_loss(output, chosen.path)
            maps = [folder / output.name for folder in beside.folders(settings)]
            for path in maps:
                refuse_loss(path, chosen.path, big)
                if os.path.realpath(path) == os.path.realpath(output):
                    raise UsageError(f"{path}: would be both the result and a map of it; choose another folder")
            beside.prepare(settings)
            _refuse_taken(output, maps, source, overwrite=settings.overwrite)  # before torch and the weights are loaded
            job = _Big(source, chosen, output, settings, emit, stop, cluster, stage, resume=resume)
            doubts = job.doubts
            item = job.restore(described)
            done_before = job.done_before
        if item.status != "not_done":
            _deliver(stage, output, settings)
    except Stopped:
        item = ItemReport(big.name, str(big), None, str(output), "not_done")
    except ItemError as error:
        name = str(error.path)
        item = ItemReport(big.name, str(big), None, str(output), "failed", path=name, reason=error.reason)
    item = stage.shown(item)
    told = stage.shown(replace(item, notices=(*item.notices, *doubts)))
    report = Report(described, (told,), time.monotonic() - started, item.status == "not_done", tuple(notices))
    if item.status == "failed":
        emit(ItemFailed(item.name, item.image, item.path or item.image, item.reason or ""))
    elif item.status != "not_done":
        share = item.hole_share or 0.0
        emit(ItemDone(item.name, item.output, item.status, share, item.tiles, item.notices, item.seconds))
    emit(
        RunFinished(
            report.count("restored"), report.count("copied"), report.count("failed"), report.count("not_done"),
            0, item.tiles - done_before, report.seconds, str(output),
        )
    )  # fmt: skip
    return report


def _fetched(
    stage: Stage, big: Path, mask: Path | None, output: Path | None, settings: Settings,
    emit: Listener = lambda event: None, stop: Callable[[], bool] = lambda: False,
) -> Path | None:  # fmt: skip
    """Bring what is elsewhere to this machine, if all of it and the result can be there; the mask that was found.

    With the picture comes what is beside it, so that what cannot be kept is told as it is of a picture here.
    """
    if mask is None and settings.mask_from is None and stage.holds(big):
        mask = mask_beside(big, stage)
    inputs = [path for path in (big, mask) if path is not None]
    if output is not None and output in inputs and stage.holds(output):
        raise UsageError(f"{output}: would replace a file that it is made from; choose another name")
    stage.refuse_unreachable(inputs, [] if output is None else [output])
    if stage.holds(big):
        beside_it = [big.with_name(f"{big.name}{suffix}") for suffix in SHOWN]
        inputs += stage.there([*beside_it, *companions.names(big)])
    made = [] if output is None or not stage.holds(output) else [output]
    if made and not settings.overwrite and stage.note(made[0]) is not None:
        raise ItemError(made[0], TAKEN)
    needed = stage.make_room(*(path for path in inputs if stage.holds(path)), *(big for _ in made))
    if needed is not None:
        emit(Notice(f"{big}: whole files pass through this machine, {needed}"))
    for path in inputs:
        stage.fetch(path, path, stop)
    return mask


def _deliver(stage: Stage, output: Path, settings: Settings) -> None:
    """Put a result, and what is beside it, where they belong, if that is elsewhere."""
    if not stage.holds(output):
        return
    try:
        for path in (output, beside.sidecar(output), *companions.names(output)):
            if path.is_file():  # nothing will ask what it was made of
                stage.deliver(path, secrets.token_hex(16), overwrite=settings.overwrite)
    except ItemError as error:
        raise ItemError(error.path, f"{error.reason}; the result is kept in {stage.keep(output)}") from error


class _Big:
    """One run of `tile`."""

    def __init__(
        self, source: Source, mask: Mask, output: Path, settings: Settings, emit: Listener,
        stop: Callable[[], bool], cluster: Cluster | None, stage: Stage, *, resume: bool,
    ) -> None:  # fmt: skip
        self._source, self._mask, self._output, self._cluster = source, mask, output, cluster
        self._stage, self._staged, self._resume = stage, stage.holds(output), resume
        self._settings, self._emit, self._stop = settings, emit, stop
        self._started = time.monotonic()
        self._space: str | None = None
        self._fillings: Sequence[Filling] = ()
        self._planned: Sequence[TilePlan] = ()
        self._sidecar = b""
        self.doubts: list[str] = []  # what was said of the mask
        self._keeping: Keeping | None = None  # nothing is kept

    @property
    def done_before(self) -> int:
        """Tiles that an earlier run has computed."""
        return 0 if self._keeping is None else self._keeping.laid

    @cached_property
    def _view(self) -> View:
        return view_of(self._settings)

    def restore(self, described: dict[str, Any]) -> ItemReport:
        settings, source = self._settings, self._source
        if settings.strict:  # what is lost in any case, before anything is computed
            refuse_losses(source.path, source.notices)
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(1, "plan"))
            given_up = threading.Event()
            stack.callback(given_up.set)  # else an error here would wait for the rest of the mask
            planning = pool.submit(self._plan, lambda: given_up.is_set() or self._stop())
            engine = self._engine(described)
            files.prepare(self._output.parent)
            keys = ("weights", "device", "precision", "precision_reason")
            self._emit(RunStarted(1, *(str(described[key]) for key in keys)))
            swept = files.sweep(self._output)
            if swept:
                files_left = "an unfinished file" if swept == 1 else f"{swept} unfinished files"
                self._emit(Notice(f"{self._output}: removed {files_left} of killed runs"))
            canvas = stack.enter_context(
                Canvas(
                    source, self._output, overwrite=settings.overwrite, mark_valid=self._mask.reveals,
                    as_laid=self._view.raw,
                )
            )  # fmt: skip
            try:
                work = planning.result()
            except Stopped:
                return self._finished(self._item("not_done"), ())
            self._planned = planned = work.plans
            if all(plan.damage.area == source.width * source.height for plan in planned):
                raise self._mask.all_damaged()
            if settings.strict and any(plan.damage.area for plan in planned):
                refuse_losses(source.path, source.lost_by_fills)
            spare = self._refuse_full(canvas.room(window for plan in planned for window in plan.windows))
            stack.enter_context(self._kept(described, spare))
            if not any(plan.damage.area for plan in planned):
                self._tell_doubts(self._mask.none_damaged())
                if source.in_place:
                    stack.close()
                    beside_it = copy_file(source.path, self._output, overwrite=settings.overwrite, ready=self._ready)
                    lost = [notice for notice in source.notices if isinstance(notice, Loss)]  # the file itself is whole
                    return self._finished(self._reported("copied", planned), (*lost, *beside_it))
                return self._finished(self._reported("copied", planned), canvas.commit(ready=self._ready), canvas)
            from pconv_cli.filling import Filling

            self._tell_doubts(self._mask.doubt, work.doubt, *self._mask.suspicions(planned[0].damage))
            self._tell_doubts(self._hugging(work))
            self._space = "; ".join(dict.fromkeys(layer.space.name for layer in work.layers))
            surfaces = [
                LayerSurface(canvas, source, layer, veiled=work.veiled, reveals=self._mask.reveals)
                for layer in work.layers
            ]
            fillings = [
                Filling.of(surface, plan, self._view, settings.overlap, layer)
                for surface, plan, layer in zip(surfaces, planned, work.layers, strict=True)
            ]
            self._emit(ItemStarted(source.path.name, sum(filling.planned for filling in fillings)))
            for number, (filling, layer) in enumerate(zip(fillings, work.layers, strict=True)):
                self._fill(filling, layer, engine, number)
                if self._stop():
                    return self._finished(self._reported("not_done", planned, fillings), ())
            for surface, plan in zip(surfaces, planned, strict=True):
                surface.settle(plan)
            report = self._reported("restored", planned, fillings)
            left = [filling.notice for filling in fillings if filling.notice]
            self._fillings = fillings
            xmp, told = self._provenance(described) if settings.provenance else (None, ())
            notices = canvas.commit(ready=self._ready, xmp=xmp)
            if self._keeping is not None:
                self._keeping.kept.done()
            return self._finished(report, (*notices, *left, *told), canvas)

    def _hugging(self, work: Work) -> str | None:
        """What there is to say of pixels beside the damage that have its colour."""
        source, layer, plan = self._source, work.layers[0], work.plans[0]
        windows = halo.sampled(() if self._view.raw else plan.windows)
        if halo.hugs((layer.seen(source.read(window)), plan.damage.window(window)) for window in windows):
            return f"{self._mask.name}: {self._settings.hugging()}"
        return None

    def _refuse_full(self, needed: int) -> int:
        """Make sure of the room before anything is computed: a disk is found to be full when all of that is done.

        Returns:
            Bytes that are free beyond that.
        """
        folder = self._output.absolute().parent
        free = shutil.disk_usage(folder).free
        if needed > free:
            where, other = f"in {folder}", "choose another output folder"
            if self._staged:
                where, other = "on this machine", "set TMPDIR to another folder"
            amounts = f"needs some {files.amount(needed)} {where} until it is done, {files.amount(free)} are free"
            raise ItemError(self._output, f"{amounts}: free some room there, or {other}")
        return free - needed

    @contextmanager
    def _kept(self, described: dict[str, Any], room: int) -> Iterator[None]:
        """Keep what is computed until the output is there, and say what there is to go on from."""
        if self._staged:  # it would not outlive the run
            yield
            return
        output = self._output
        try:
            kept = Kept(files.kept(output), self._decisive(described), resume=self._resume, room=room)
            files.keep_rights(kept.path, self._source.path, output)
        except InUse as error:
            reason = "another run is at work on it: wait for that to end, or choose another output"
            raise ItemError(output, reason) from error
        except OSError as error:
            self._tell_unkept(error)
            yield
            return
        from pconv_cli.sharing import Keeping

        self._tell_kept(kept)
        self._keeping = Keeping(kept, self._settings, self._emit, self._stop, self._tell_unkept)
        try:
            with kept:
                yield
        finally:
            if kept.left:
                left = f"{_tiles(len(kept))} are kept beside it ({files.amount(kept.size)} in {kept.path.name})"
                self._emit(Notice(f"{output}: {left}: the same command with --resume goes on from there"))

    def _tell_kept(self, kept: Kept) -> None:
        found = None
        if kept.before:
            found = f"goes on from {_tiles(kept.before)} of a stopped run"
        elif kept.changed:
            found = f"begins anew, since this is not as it was in the stopped run: {', '.join(kept.changed)}"
        elif self._resume:
            found = "no stopped run has left anything to go on from: begins anew"
        elif kept.dropped:
            found = f"begins anew: {files.amount(kept.dropped)} of a stopped run are gone, which --resume goes on from"
        if found is not None:
            self._emit(Notice(f"{self._output}: {found}"))

    def _tell_unkept(self, error: OSError) -> None:
        why = error.strerror or str(error)
        self._emit(Notice(f"{self._output}: what is computed from here on is not kept for --resume ({why})"))

    def _decisive(self, described: dict[str, Any]) -> dict[str, str]:
        """What decides the results of the network, by names for people."""

        def state(path: Path, found: tuple[int, int] | None) -> str:
            # What was fetched has a time of its own each time.
            return files.sha256(path) if self._stage.holds(path) else f"{os.path.realpath(path)} {found}"

        source, mask, settings = self._source, self._mask, self._settings
        names = ("tile_size", "padding", "overlap", "invert_mask", "mask_on", "dilate", "mask_from", "linear")
        options = {"--size" if n == "tile_size" else f"--{n.replace('_', '-')}": getattr(settings, n) for n in names}
        decisive = options | {
            "the picture": state(source.path, source.state),
            "the mask": mask.how if mask.path is None else state(mask.path, mask.state),
            "the weights": described["weights_sha256"],
            "the device": described["device"],
            "the precision": described["precision"],
            "the version of pconv": __version__,
        }
        return {name: str(value) for name, value in decisive.items()}

    def _ready(self, part: Path, notices: Sequence[str]) -> None:
        settings, source, output = self._settings, self._source, self._output
        if settings.strict:
            refuse_losses(source.path, notices)
        planes = (
            (settings.save_filled, self._restored),
            (settings.save_confidence, partial(beside.confidence, self._fillings, size=self._size)),
        )
        for folder, plane in planes:
            if folder is not None:
                strips = beside.in_strips(plane, self._damaged, self._size, ROWS)
                write_map(strips, folder / output.name, source, rows=ROWS, overwrite=settings.overwrite)
        if self._sidecar:
            beside.write_sidecar(self._sidecar, output, overwrite=settings.overwrite)

    @property
    def _size(self) -> tuple[int, int]:
        return self._source.height, self._source.width

    def _restored(self, window: Window) -> NDArray[np.uint8]:
        return beside.white(beside.restored(self._fillings, window))

    def _damaged(self, window: Window) -> bool:
        boxes = np.array([[window.x, window.y, window.right, window.bottom]], np.int32)
        return any(plan.damage.held_by(*boxes[:, [1, 3, 0, 2]].T).any() for plan in self._planned)

    def _provenance(self, described: dict[str, Any]) -> tuple[bytes | None, Sequence[str]]:
        """The XMP of the output, or None where a sidecar has to do; and what there is to say of it."""
        source, mask = self._source, self._mask
        strips = beside.in_strips(self._restored, self._damaged, self._size, ROWS)
        count = sum(int(np.count_nonzero(strip)) for strip in strips)
        weights = described["weights"], described["weights_sha256"]
        entry = beside.entry(weights, mask.path, mask.how, count, self._size, self._settings.dilate)
        mask.refuse_changed()
        try:
            return provenance.merged(source.xmp or metadata(source.path)[0].xmp, entry), ()
        except ValueError as error:
            self._sidecar = provenance.merged(b"", entry)
            name = beside.sidecar(self._output).name
            return None, (f"its XMP {error}: it stays as it is, and the provenance is in {name}",)

    def _plan(self, stop: Callable[[], bool]) -> Work:
        return Work.of(self._source, self._mask, self._settings, self._view, stop)

    def _engine(self, settled: dict[str, Any]) -> Engine | None:
        """Load the network onto the device, unless others do, and describe the run."""
        from pconv_cli import weights as store
        from pconv_cli.engine import Engine, choose_devices, choose_precision, described

        settings = self._settings
        if self._cluster is not None:
            from pconv_cli import distributed

            settled |= store.told(settings.weights) | settings.told()
            settled |= distributed.told(self._cluster, settings.device, settings.precision)
            return None
        devices = choose_devices(settings.device)
        network = store.load_network(settings.weights, settings.padding)
        precision, reason = choose_precision(settings.precision, devices, exact=self._view.raw)
        settled |= store.told(settings.weights) | settings.told() | described(devices, precision, reason)
        return Engine(network, devices, precision, self._emit, settings.batch_size)

    def _fill(self, filling: Filling, layer: Layer, engine: Engine | None, number: int) -> None:
        """Go through all rounds of a layer, the `number`th."""
        from pconv_cli import sharing
        from pconv_cli.filling import Unfillable

        told = self._emit, self._stop
        keep = None if self._keeping is None else self._keeping.keep
        computing: AbstractContextManager[sharing.Compute]
        if engine is not None:
            computing = nullcontext(sharing.here(engine, self._settings, *told, keep))
        else:
            assert self._cluster is not None
            computing = sharing.elsewhere(self._cluster, self._settings, self._source.path, layer, *told, keep)
        with computing as compute:
            if self._keeping is not None:
                compute = self._keeping.over(compute, number)
            try:
                for pieces in filling.rounds():
                    compute(pieces)
                    if self._stop():
                        return
            except Unfillable as error:
                raise self._mask.all_damaged() from error

    def _item(self, status: Status, **found: Any) -> ItemReport:
        source = self._source
        return ItemReport(
            source.path.name, str(source.path), self._mask.name, str(self._output), status,
            width=source.width, height=source.height, **found,
        )  # fmt: skip

    def _reported(self, status: Status, planned: Sequence[TilePlan], fillings: Sequence[Filling] = ()) -> ItemReport:
        ratio = fillings[0].seams().ratio() if status == "restored" else None
        plans = list({id(plan): plan for plan in planned}.values())
        damaged = sum(plan.damage.area for plan in plans) / len(plans)
        return self._item(
            status,
            hole_share=round(damaged / (self._source.width * self._source.height), 6),
            windows=sum(len(plan.windows) for plan in plans),
            tiles=sum(f.windows for f in fillings), pixels_computed=sum(f.pixels for f in fillings),
            crossings=sum(plan.crossings for plan in plans), seam_ratio=rounded(ratio),
            by_pyramid=sum(f.by_pyramid for f in fillings),
            unfilled=sum(f.unfilled for f in fillings),
        )  # fmt: skip

    def _finished(self, report: ItemReport, notices: tuple[str, ...], canvas: Canvas | None = None) -> ItemReport:
        """Complete a report once the output is there."""
        seconds, megapixels = time.monotonic() - self._started, report.width * report.height / 1e6
        copied = 0 if report.status == "copied" else None
        return replace(
            report, seconds=round(seconds, 3), megapixels_per_second=rounded(megapixels / seconds),
            peak_memory_bytes=peak_memory(), notices=notices, space=self._space,
            outside_mask_changed=canvas.outside_changed if canvas is not None else copied,
        )  # fmt: skip

    def _tell_doubts(self, *texts: str | None) -> None:
        for text in filter(None, texts):
            self.doubts.append(text)
            self._emit(Notice(text))  # before hours of work


def _tiles(count: int) -> str:
    return "1 tile" if count == 1 else f"{count:,} tiles"


def _check_name(output: Path) -> None:
    if output.is_dir():
        raise UsageError(f"-o {output}: is a folder; name the file to write in it")
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"-o {output}: big pictures are written as TIFF; choose a name that ends in .tif")


def _refuse_taken(output: Path, maps: Sequence[Path], source: Source, *, overwrite: bool) -> None:
    path = output
    try:
        for path in (output, *maps):
            files.refuse_same(source.path, path)
            files.refuse_taken(path, overwrite=overwrite)
        path = output
        source.companions.refuse_taken(output, overwrite=overwrite)
    except files.Refused as error:
        raise ItemError(path, str(error)) from error
