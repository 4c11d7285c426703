"""The report of a run as a page: what was restored is read again, once all of it is written, and shown.

Knows what `restore` and `tile` report and read, and how a page is filled. Does not know: how anything was filled, how a
page looks, the terminal, options.

It comes after the run, so that nothing waits for it, and it only reads: whatever goes wrong here, no result is lost. A
picture that cannot be shown is listed all the same. What a picture takes is bounded, whatever its size: up to `PRINTED`
pixels it is there whole and can be looked at pixel by pixel; of a larger one there is a reduced view, and its worst
places pixel by pixel.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli import __version__, files, tile
from pconv_cli import weights as store
from pconv_cli.bench import Reader, RestoreSettings
from pconv_cli.drawings import reduced
from pconv_cli.errors import ItemError, OutputError
from pconv_cli.events import ItemShown, Listener, ReportStarted, ReportWritten
from pconv_cli.images import read_picture
from pconv_cli.jobs import Job, JobList
from pconv_cli.layers import Layer, View, ranged_by
from pconv_cli.orientations import as_stored, displayed
from pconv_cli.page import (
    PRINTED,
    Entry,
    Failure,
    Folder,
    Page,
    Place,
    Sheet,
    common_folder,
    counted,
    duration,
    share,
)
from pconv_cli.page import View as Shown
from pconv_cli.pipeline import Budget
from pconv_cli.regions import Window
from pconv_cli.remote import Stage
from pconv_cli.report import ItemReport, Report
from pconv_cli.seams import BESIDE, SeamMeter
from pconv_cli.settings import Settings
from pconv_cli.sketch import reduced as reduced_damage
from pconv_cli.tiff import Source
from pconv_cli.tiles import TilePlan

OVERVIEW = 1600
"""Longest side of the reduced view of a large picture, pixels."""
PLACES, PLACE = 6, 640
"""So many of a picture's worst places are shown, and the side of each, pixels."""
LOOKED_AT = 2000  # cuts of a picture that are measured for that; of more, so many from one end to the other
LONG_ENOUGH = 8  # pixels of a cut that say something
IN_FLIGHT = 1 << 30  # bytes of pictures that are read at once

Pixels = NDArray[np.uint8]
PICTURES = ("picture", "pictures")
FOOTNOTES = (
    "Seam: how large the step across a cut between two tiles is, over the steps 6 to 14 pixels beside it. 1 cannot be "
    "told from its surroundings; a dash means that no cut ran through a hole, so there is no seam.",
    "Damaged: the share of the pixels that the mask marks. Filled: the share of those that were filled.",
    "Time: from reading a picture to having written it, while others were under way.",
    "Pictures on this page are JPEGs to look at. The restored files stand where they were written, as they are.",
)
Prints = tuple[tuple[Shown, ...], tuple[Sheet, ...]]
Show = Callable[[], Prints]
DONE = ("restored", "copied", "done_before")
WORDS = {"copied": "no damage, copied", "done_before": "by an earlier run", "not_done": "not done"}


@dataclass(frozen=True, eq=False)
class Sight:
    """One picture to look at.

    Attributes:
        plan: Where it was damaged, and where it was cut.
        orientation: How it lies, see `Picture.orientation`.
        before: The colours of a window, (h, w, 3), as it was.
        after: The same, restored.
        overview: Both, reduced until no side is longer.
    """

    plan: TilePlan
    orientation: int
    before: Callable[[Window], Pixels]
    after: Callable[[Window], Pixels]
    overview: Callable[[int], tuple[Pixels, Pixels]]


def of_pictures(
    report: Report, todo: JobList, settings: RestoreSettings, folder: Folder, emit: Listener, stage: Stage
) -> Path:
    """Make the page of a run of `restore`.

    Args:
        report: What became of it.
        todo: What was to be done.
        settings: How.
        folder: Where the page goes.
        emit: Told of what happens.
        stage: Where files are while they are looked at that are elsewhere: they are fetched again, one by one.

    Returns:
        The page.

    Raises:
        OutputError: It cannot be written.
    """
    reader = Reader(replace(settings, overwrite=True, resume=False), _view(settings))
    budget = Budget(IN_FLIGHT)

    def show(number: int, job: Job) -> Prints:
        try:
            for path in (job.image, job.mask, job.output):
                if path is not None:
                    stage.fetch(path, job.output)
            cost = reader.cost(job)
            budget.acquire(cost)
            try:
                return prints(folder, number, _in_memory(reader, job))
            finally:
                budget.release(cost)
        except ItemError as error:
            raise stage.shown(error) from error
        finally:
            stage.release(job.output)

    shows = [partial(show, number, job) for number, job in enumerate(todo.jobs, 1)]
    with ThreadPoolExecutor() as pool:  # what is elsewhere is asked for
        states = list(pool.map(partial(_state, stage), (job.output for job in todo.jobs), report.items))
    items = _with_earlier(report.items, states, folder) if settings.resume else report.items
    source = stage.shown(common_folder([str(job.image.parent) for job in todo.jobs]))
    title = Path(source).absolute().name if len(todo.jobs) > 1 else todo.jobs[0].name
    where = f"from {source} to {stage.shown(str(todo.home))}"
    return _made(replace(report, items=items), states, shows, folder, stage.telling(emit), title, where)


def of_one(
    big: Path, mask: Path | None, output: Path, report: Report, settings: Settings, folder: Folder, emit: Listener
) -> Path:
    """Make the page of a run of `tile`, see `of_pictures`; files are where they are on this machine."""
    item = report.items[0]

    def show() -> Prints:
        with ExitStack() as stack:
            return prints(folder, 1, _on_disk(big, mask, output, settings, stack))

    states = [_state(Stage(), output, item)]
    return _made(report, states, [show], folder, emit, item.name, f"from {item.image} to {item.output}")


def _view(settings: Settings) -> View:
    return View() if settings.weights is None else store.view(settings.weights)


# ---------------------------------------------------------------- what is seen


def _in_memory(reader: Reader, job: Job) -> Sight:
    """A picture that `restore` has read whole."""
    work, made = reader.read(job), read_picture(job.output)
    picture = work.picture.known_outside(work.hole)  # all of it is looked at, not the surroundings of damage alone
    layer = picture.layers[0]
    before = _bytes(layer, picture.channels)
    alike = (made.mode, made.pixels.dtype, made.channels.shape) == (
        picture.mode, picture.pixels.dtype, picture.channels.shape,
    )  # fmt: skip
    after = _bytes(layer if alike else made.layers[0], made.channels)
    if made.orientation != picture.orientation:  # turned where the format cannot say so
        after = np.ascontiguousarray(as_stored(displayed(after, made.orientation), picture.orientation))
    if after.shape != before.shape:
        raise ItemError(job.output, "was changed since it was restored, so it is not shown")
    return Sight(
        work.fillings[0].plan, picture.orientation,
        lambda window: before[window.slices], lambda window: after[window.slices],
        lambda longest: (reduced(before, longest), reduced(after, longest)),
    )  # fmt: skip


def _on_disk(big: Path, mask: Path | None, output: Path, settings: Settings, stack: ExitStack) -> Sight:
    """A picture of any size, read window by window."""
    planned = tile.plan(big, mask, settings, thumbnail=None).plan
    source, made = stack.enter_context(Source(big)), stack.enter_context(Source(output))
    if (source.width, source.height) != (made.width, made.height):
        raise ItemError(output, "was changed since it was restored, so it is not shown")
    small = source.thumbnail(OVERVIEW)
    layer, layer_made = (file.seen_as(linear=settings.linear)[0] for file in (source, made))
    if source.dtype != np.uint8:
        known = ~reduced_damage(planned.damage, *small.shape[:2])
        layer = ranged_by(layer, small[known], source.nothing)
        layer_made = layer if made.dtype == source.dtype else layer_made

    def before(window: Window) -> Pixels:
        return _bytes(layer, source.read(window))

    def after(window: Window) -> Pixels:
        return _bytes(layer_made, made.read(window))

    def overview(longest: int) -> tuple[Pixels, Pixels]:
        view = _as_bytes(layer.space.seen(small))
        return reduced(view, longest), reduced(_mended(view, planned, after), longest)

    return Sight(planned, source.orientation, before, after, overview)


def _mended(view: Pixels, plan: TilePlan, after: Callable[[Window], Pixels]) -> Pixels:
    """A reduced view of what is restored: only where there was damage, the result itself need be read for it."""
    height, width = view.shape[:2]
    mended, damaged = view.copy(), reduced_damage(plan.damage, height, width)
    rows = ((np.arange(height) + 0.5) * plan.height / height).astype(np.int64)  # of which pixel each is a view
    columns = ((np.arange(width) + 0.5) * plan.width / width).astype(np.int64)
    down, across = -(-plan.height // height), -(-plan.width // width)
    for window in plan.windows:
        left, top = max(0, window.x - across), max(0, window.y - down)
        right, bottom = min(plan.width, window.right + across), min(plan.height, window.bottom + down)
        i, j = (slice(*np.searchsorted(at, ends)) for at, ends in ((rows, (top, bottom)), (columns, (left, right))))
        where = damaged[i, j]
        if where.any():
            pixels = after(Window(left, top, right - left, bottom - top))
            mended[i, j][where] = pixels[rows[i] - top][:, columns[j] - left][where]
    return np.asarray(mended)


def _bytes(layer: Layer, channels: NDArray[Any]) -> Pixels:
    return _as_bytes(layer.seen(channels))


def _as_bytes(seen: NDArray[Any]) -> Pixels:
    """Colours to look at, (h, w, 3): what is nothing is black."""
    if seen.dtype != np.uint8:
        seen = (np.nan_to_num(seen).clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(
        np.broadcast_to(seen[..., :3] if seen.shape[2] >= 3 else seen[..., :1], (*seen.shape[:2], 3))
    )


def prints(folder: Folder, number: int, sight: Sight) -> Prints:
    """Write the images of one picture.

    Args:
        folder: Where to.
        number: Of the picture.
        sight: What there is to see.

    Returns:
        Small views, and sheets.

    Raises:
        ItemError: A file cannot be read, or an image not be written.
    """
    plan, whole = sight.plan, Window(0, 0, sight.plan.width, sight.plan.height)
    entire = whole.area <= PRINTED
    if entire:
        before, after, hole = sight.before(whole), sight.after(whole), plan.damage.window(whole)
    else:
        before, after = sight.overview(OVERVIEW)
        hole = reduced_damage(plan.damage, *before.shape[:2])
    before, after, hole = (displayed(array, sight.orientation) for array in (before, after, hole))
    scale = before.shape[1] / displayed(np.empty((plan.height, plan.width), np.bool_), sight.orientation).shape[1]
    found = worst_places(plan, sight.after) if plan.damage.area and (not entire or whole.area > PLACE**2) else []
    upright = sight.orientation == 1
    places = [Place(title, (at.x, at.y, at.width, at.height)) for title, at in found] if entire and upright else []
    sheets = [
        Sheet(
            "whole picture" if entire else f"overview, {100 * scale:.1f} %", before.shape[1], before.shape[0], scale,
            (folder.view(number, "before", "before", before), folder.view(number, "after", "after", after)),
            folder.layer(number, "mask", hole), tuple(places),
        )
    ]  # fmt: skip
    for count, (title, at) in enumerate(found if not entire else [], 1):
        pair = [displayed(view(at), sight.orientation) for view in (sight.before, sight.after)]
        views = tuple(
            folder.view(number, f"place-{count}-{name}", name, pixels)
            for name, pixels in zip(("before", "after"), pair, strict=True)
        )
        layer = folder.layer(number, f"place-{count}-mask", displayed(plan.damage.window(at), sight.orientation))
        sheets.append(Sheet(title, pair[0].shape[1], pair[0].shape[0], 1.0, views, layer))
    small = tuple(
        folder.thumbnail(number, f"small-{name}", name, pixels)
        for name, pixels in (("before", before), ("after", after))
    )
    return small, tuple(sheets)


def worst_places(plan: TilePlan, after: Callable[[Window], Pixels]) -> list[tuple[str, Window]]:
    """Where to look first: at the cuts that show most, then where most is damaged.

    Args:
        plan: Where the picture was damaged and cut.
        after: The colours of a window of the result, (h, w, 3).

    Returns:
        Titles and windows, at most `PLACES`, none of whose middles lies in another.
    """
    found: list[tuple[str, Window]] = []

    def add(title: str, x: float, y: float) -> None:
        inside = any(at.x <= x < at.right and at.y <= y < at.bottom for _, at in found)
        if len(found) < PLACES and not inside:
            found.append((title, _round(plan, x, y)))

    for ratio, x, y in sorted(_steps(plan, after), reverse=True):
        add(f"seam {ratio:.3g} at {x}, {y}", x, y)
    lengths = (plan.runs.stops - plan.runs.starts).astype(np.float64)
    owned = np.bincount(plan.owners, weights=lengths, minlength=len(plan.windows))
    for i in np.argsort(-owned, kind="stable")[: 4 * PLACES].tolist():
        window = plan.windows[i]
        x, y = window.x + window.width // 2, window.y + window.height // 2
        add(f"damage at {x}, {y}", x, y)
    return found


def _steps(plan: TilePlan, after: Callable[[Window], Pixels]) -> list[tuple[float, int, int]]:
    """The seam ratio of each cut, in parts no longer than a place, and where its middle is."""
    reach = BESIDE[-1] + 2
    parts = []
    for x0, y0, x1, y1 in plan.cuts.tolist():
        upright = x0 == x1
        first, last = (y0, y1) if upright else (x0, x1)
        parts += [
            (upright, x0 if upright else y0, at, min(at + PLACE, last))
            for at in range(first, last, PLACE)
            if min(at + PLACE, last) - at >= LONG_ENOUGH
        ]
    steps = []
    for upright, at, first, last in parts[:: max(1, -(-len(parts) // LOOKED_AT))]:
        limit = plan.width if upright else plan.height
        low, high = max(0, at - reach), min(limit, at + reach)
        strip = (
            Window(low, first, high - low, last - first) if upright else Window(first, low, last - first, high - low)
        )
        pixels, hole = after(strip), plan.damage.window(strip)
        meter = SeamMeter()
        meter.add(pixels if upright else pixels.swapaxes(0, 1), hole if upright else hole.T, at - low)
        ratio = meter.ratio()
        if ratio is not None:
            middle = (first + last) // 2
            steps.append((ratio, *((at, middle) if upright else (middle, at))))
    return steps


def _round(plan: TilePlan, x: float, y: float) -> Window:
    width, height = min(PLACE, plan.width), min(PLACE, plan.height)
    left, top = (
        int(min(max(at - side / 2, 0), limit - side))
        for at, side, limit in ((x, width, plan.width), (y, height, plan.height))
    )
    return Window(left, top, width, height)


# ---------------------------------------------------------------- what is said


def _made(
    report: Report, states: Sequence[str | None], shows: Sequence[Show], folder: Folder, emit: Listener, title: str,
    where: str,
) -> Path:  # fmt: skip
    started = time.monotonic()
    emit(ReportStarted(len(report.items)))

    def entry(item: ItemReport, show: Show) -> Entry:
        listed = _entry(item)
        if item.status in DONE:
            try:
                thumbnails, sheets = show()
                listed = replace(listed, thumbnails=thumbnails, sheets=sheets)
            except ItemError as error:
                listed = replace(listed, notices=(*listed.notices, f"cannot be shown: {error}"))
        emit(ItemShown(item.name))
        return listed

    with ThreadPoolExecutor(max(1, os.cpu_count() or 1), "show") as pool:
        try:
            entries = tuple(pool.map(entry, report.items, shows))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    page = _page(report, entries, title, where)
    try:
        path = folder.write(page, _document(report, states, entries), _table(report.items))
    except OutputError as error:
        raise OutputError(f"{error}; what was restored is there all the same") from error
    emit(ReportWritten(str(path), round(time.monotonic() - started, 3)))
    return path


def _entry(item: ItemReport) -> Entry:
    order = {"seconds": item.seconds}
    facts = []
    if item.width:
        facts.append(("seam", "–" if item.seam_ratio is None else f"{item.seam_ratio:.3g}"))
        facts.append(("damaged", share(item.hole_share or 0)))
        facts.append(("size", f"{item.width} × {item.height}"))
        facts.append(("time", duration(item.seconds)))
        order["damage"] = item.hole_share or 0
        # What was never cut has no seam; among those the most damaged ones come first.
        order["seam"] = item.seam_ratio if item.seam_ratio is not None else (item.hole_share or 0) - 1
    if item.outside_mask_changed:
        facts.append(("changed outside the mask", counted(item.outside_mask_changed, ("pixel", "pixels"))))
    if item.unfilled:
        facts.append(("left unfilled", counted(item.unfilled, ("pixel", "pixels"))))
    return Entry(item.name, WORDS.get(item.status, ""), tuple(facts), order, item.notices)


def _page(report: Report, entries: Sequence[Entry], title: str, where: str) -> Page:
    items, now = report.items, datetime.now().astimezone()
    failed = [item for item in items if item.status == "failed"]
    seams = [item.seam_ratio for item in items if item.seam_ratio is not None]
    damaged, filled = _damage(items)
    figures = [
        ("pictures", f"{len(items):,}"),
        ("restored", share(_done(items) / max(1, len(items)))),
        ("damaged", "–" if damaged is None else share(damaged)),
        ("filled", "–" if filled is None else share(filled)),
        ("worst seam", "–" if not seams else f"{max(seams):.3g}"),
        ("time", duration(report.seconds)),
        ("network", str(report.settings.get("weights", "–"))),
    ]
    shown = [entry for entry, item in zip(entries, items, strict=True) if item.status != "failed"]
    return Page(
        "Report of a restoration", title,
        f"{now.day} {now:%B %Y, %H:%M %Z} · pconv {__version__} · {where}", _lead(report), tuple(figures),
        failures=tuple(Failure(item.name, item.path or item.image, item.reason or "") for item in failed),
        warnings=report.notices, heading="Pictures",
        orders=(("seam", "worst seams first"), ("damage", "most damaged first"), ("seconds", "slowest first")),
        entries=tuple(shown), settings=_told(report), footnotes=FOOTNOTES,
    )  # fmt: skip


def _lead(report: Report) -> str:
    """What a run came to, in sentences."""
    items, failed = report.items, report.count("failed")
    done, left = _done(items), report.count("not_done")
    says = f"{done:,} of {counted(len(items), PICTURES)} {'is' if done == 1 else 'are'} restored"
    if done == len(items):
        says = "The picture is restored" if done == 1 else f"All {done:,} pictures are restored"
    says += f", {failed:,} failed" if failed else ""
    says += f", {left:,} {'was' if left == 1 else 'were'} not begun, for the run was stopped" if left else ""
    damaged, filled = _damage(items)
    unknown = sum(item.hole_share is None and item.status in DONE for item in items)
    if unknown:
        says += f". Figures of {counted(unknown, PICTURES)} by an earlier run are not known"
        says += ", and what follows is of the others" if unknown < done else ""
    if damaged:
        rest = "all of that is filled" if filled == 1 else f"{share(filled or 0)} of that is filled"
        says += f". {share(damaged)} of the pixels were damaged; {rest}"
        if detected := report.settings.get("detect"):
            says += f". Damage was detected ({detected}): what was not seen is there as before"
    known = [item.outside_mask_changed for item in items if item.outside_mask_changed is not None]
    changed = sum(known)
    if known and changed:
        moved = counted(changed, ("pixel has", "pixels have"))
        says += f". Outside the masks {moved} changed, in blocks of JPEGs that damage touches"
    elif known:
        says += ". Outside the masks no pixel has changed"
    return says + "."


def _done(items: Sequence[ItemReport]) -> int:
    return sum(item.status in DONE for item in items)


def _damage(items: Sequence[ItemReport]) -> tuple[float | None, float | None]:
    """The share of all pixels that was damaged, and the share of that which is filled; None where it is not known."""
    known = [item for item in items if item.hole_share is not None and item.status in DONE]
    pixels = sum(item.width * item.height for item in known)
    damaged = sum((item.hole_share or 0) * item.width * item.height for item in known)
    if not pixels:
        return None, None
    unfilled = sum(item.unfilled for item in known)
    return damaged / pixels, 1 - min(unfilled / damaged, 1.0) if damaged else None


def _told(report: Report) -> Mapping[str, Any]:
    return {**report.settings, "pictures": len(report.items), "seconds": round(report.seconds, 3)}


def _document(report: Report, states: Sequence[str | None], entries: Sequence[Entry]) -> dict[str, Any]:
    """The same for machines: the summary that `--json` prints, and every item, with the images that show it.

    `output_state` tells the file that figures are of from a later one in its place.
    """
    return {
        **json.loads(report.summary()),
        "type": "report",
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "pictures": [
            {
                **asdict(item),
                "output_state": state,
                "thumbnails": _files(entry.thumbnails),
                "sheets": [asdict(sheet) for sheet in entry.sheets],
            }
            for item, state, entry in zip(report.items, states, entries, strict=True)
        ],
    }


def _files(views: Sequence[Shown]) -> dict[str, str]:
    return {view.name: view.file for view in views}


def _table(items: Sequence[ItemReport]) -> str:
    """One row a picture under a row of names."""
    text = io.StringIO()
    names = [field.name for field in fields(ItemReport)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for item in items:
        row = asdict(item) | {"notices": "; ".join(item.notices)}
        writer.writerow("" if row[name] is None else row[name] for name in names)
    return text.getvalue()


def _state(stage: Stage, output: Path, item: ItemReport) -> str | None:
    """What tells a finished result from whatever comes in its place; None where there is none, or nobody can tell."""
    if item.status in DONE:
        with suppress(ItemError, OSError):
            if stage.holds(output):
                return stage.state(output, output)
            return " ".join(map(str, files.state(output)))
    return None


def _with_earlier(items: Sequence[ItemReport], states: Sequence[str | None], folder: Folder) -> tuple[ItemReport, ...]:
    """Give results of earlier runs the figures that the report in this place holds of those very files."""
    told = folder.earlier().get("pictures", [])
    known = {(one.get("output"), one.get("output_state")): one for one in told if isinstance(one, dict)}
    names = {field.name for field in fields(ItemReport)} - {"status", "notices", "path", "reason"}
    return tuple(
        replace(item, **{name: value for name, value in known[item.output, state].items() if name in names})
        if item.status == "done_before" and state is not None and (item.output, state) in known
        else item
        for item, state in zip(items, states, strict=True)
    )
