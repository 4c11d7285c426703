"""What is to be done with one picture of any size: its layers, the windows of each, the memory that takes.

Knows what of a picture is looked at before any of it is filled. Does not know who computes windows, outputs, or the
order of things. Where the damage is: `damage`; where windows are set: `tiles`; how values are seen: `layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli.colours import as_bytes
from pconv_cli.damage import ROWS, Mask, until
from pconv_cli.errors import ItemError
from pconv_cli.layers import Layer, View, dotted, filling_gaps, ranged_by, stretched, viewed
from pconv_cli.marks import unnamed
from pconv_cli.regions import Damage, Window
from pconv_cli.settings import Settings
from pconv_cli.spaces import is_ranged
from pconv_cli.tiff import Source
from pconv_cli.tiles import TilePlan, plan_tiles

PER_CELL = 32  # bytes of a cell of 8 x 8 pixels of the reduced picture that deep holes go by
MOST_CELLS = 1 << 23  # that are reckoned with: those of larger pictures are larger
IN_FLIGHT = 128 << 20  # bytes of windows between reading and laying
PER_PIXEL = 40  # bytes of a window in flight: colours, fill, masks


@dataclass(frozen=True)
class Planned:
    """What would be done.

    Attributes:
        image: The picture.
        mask: Where the damage is written down, in words.
        mask_file: The file, unless the picture itself says it.
        plan: Windows, cuts, healing.
        memory_bytes: The most memory that a run would hold, roughly.
        thumbnail: A small view of the picture, `(h, w, 3)`, if one was asked for.
    """

    image: Path
    mask: str
    mask_file: Path | None
    plan: TilePlan
    memory_bytes: int
    thumbnail: NDArray[np.uint8] | None

    @classmethod
    def of(cls, source: Source, mask: Mask, settings: Settings, thumbnail: int | None) -> Planned:
        """Plan as if all layers were damaged alike: see `tile.plan`."""
        plan = _tiled(mask.damage(), settings, view_of(settings))
        view = None if thumbnail is None else _thumbnail(source, thumbnail, linear=settings.linear)
        return cls(source.path, mask.name, mask.path, plan, memory(plan, settings), view)

    def document(self) -> dict[str, Any]:
        """Give the plan for JSON: windows as [x, y, width, height], cuts as [x0, y0, x1, y1], in pixels."""
        plan = self.plan
        return {
            "image": str(self.image),
            "mask": self.mask,
            "width": plan.width,
            "height": plan.height,
            "size": plan.size,
            "damaged_pixels": plan.damage.area,
            "windows": [listed(window) for window in plan.windows],
            "cuts": plan.cuts.tolist(),
            "crossings": plan.crossings,
            "heal_windows": [listed(window) for heal in plan.heals for window in heal.windows],
            "pixels_to_compute": plan.pixels_to_compute,
            "pixels_of_plain_grid": plan.grid_pixels,
            "memory_bytes": self.memory_bytes,
        }


@dataclass(frozen=True, eq=False)
class Work:
    """What a run fills.

    Attributes:
        layers: What is filled together, and how the network sees it.
        plans: Windows, cuts and healing of each layer: one for all, but where each has holes of its own.
        veiled: Whether some of what is not damaged holds nothing either.
        doubt: What there is to say of a value that seems to stand for nothing, if anything.
    """

    layers: Sequence[Layer]
    plans: Sequence[TilePlan]
    veiled: bool = False
    doubt: str | None = None

    @classmethod
    def of(cls, source: Source, mask: Mask, settings: Settings, view: View, stop: Callable[[], bool]) -> Work:
        """Read the mask, and of the picture what tells how its layers are seen.

        Raises:
            Stopped: Once `stop` turns true.
            ItemError: A file cannot be read, or the network cannot look at such a picture.
        """

        def filled(made: Sequence[Layer]) -> Sequence[Layer]:
            try:
                return viewed(made, view, source.dtype, mask.nodata)
            except ValueError as error:
                raise ItemError(source.path, str(error)) from error

        made: Sequence[Layer] = source.seen_as(linear=settings.linear)
        if view.raw and mask.by_value:  # each layer has holes of its own
            kept = filled(made)
            return cls(kept, [_tiled(mask.damage(stop, of), settings, view) for of in kept])
        plan = _tiled(mask.damage(stop), settings, view)
        # A file that uses alpha for a mask does not say which pixels hold something.
        told = source.validity is not None and not (source.validity == "alpha" and mask.band == source.alpha)
        made, stand_in, complete = _looked_through(source, made, plan, stop, told=told)
        kept = filled([layer for layer in made if mask.band not in layer.channels])
        if mask.by_value and not settings.dilate:
            kept = filling_gaps(kept, source.dtype, mask.nodata, source.nodata)
        doubt = None if stand_in is None or source.nothing is not None else f"{source.path}: {unnamed(*stand_in)}"
        return cls(kept, [plan] * len(kept), told and not mask.covers and not complete, doubt)


def _looked_through(
    source: Source, made: Sequence[Layer], plan: TilePlan, stop: Callable[[], bool], *, told: bool
) -> tuple[Sequence[Layer], tuple[float, float] | None, bool]:
    """Tell layers what black and white are, or whether tones are dots, by what is known; see `layers.stretched`.

    What holds something is known by all the file says, or if it has not `told`, by value. With the layers comes a value
    that seems to stand for nothing, and whether all that is not damaged is known to hold something.
    """
    everywhere, complete = is_ranged(source.dtype) and plan.damage.area > 0, True

    def seen() -> Iterator[NDArray[Any]]:
        some = False
        for part in parts(source.strips(ROWS) if everywhere else plan.windows):
            some = some or len(part) > 0
            yield part
        if plan.windows and not some:  # they lie in holes, and go by a guide
            yield from parts(source.strips(ROWS))

    def parts(windows: Iterable[Window]) -> Iterator[NDArray[Any]]:
        nonlocal complete
        for window in until(stop, windows):
            pixels, known = source.read(window), ~plan.damage.window(window)
            valid = source.valid(window, pixels) if told or source.validity is None else ~source.is_nothing(pixels)
            if valid is not None:
                complete = complete and bool((valid | ~known).all())
                known &= valid
            yield pixels if known.all() else pixels[known]

    made, stand_in = stretched(made, source.dtype, seen())
    if source.palette is not None:
        middle = _middle(source)
        made = dotted(made, source.read(middle)[..., 0], ~plan.damage.window(middle))
    return made, stand_in, everywhere and complete


def memory(planned: TilePlan, settings: Settings) -> int:
    """Estimate the most memory that a run will hold, in bytes."""
    area = planned.height * planned.width
    held = min(IN_FLIGHT, planned.pixels * PER_PIXEL) + 48 * len(planned.damage.rows)
    return settings.memory(area) + held + PER_CELL * min(MOST_CELLS, area // 8**2)


def view_of(settings: Settings) -> View:
    """How the network looks at pictures; of the default weights that is known without opening them.

    Raises:
        WeightsError: If weights are named that are not there.
    """
    if settings.weights is None:
        return View()
    from pconv_cli import weights as store

    return store.view(settings.weights)


def listed(window: Window) -> list[int]:
    """A window for JSON, and for people: [x, y, width, height]."""
    return [window.x, window.y, window.width, window.height]


def _tiled(damage: Damage, settings: Settings, view: View) -> TilePlan:
    return plan_tiles(damage, settings.tile_size, whole=view.whole, overlap=settings.overlap)


def _middle(source: Source, side: int = 1024) -> Window:
    """The middle of a picture, as much as tells what kind it is."""
    width, height = min(side, source.width), min(side, source.height)
    return Window((source.width - width) // 2, (source.height - height) // 2, width, height)


def _thumbnail(source: Source, longest: int, *, linear: bool) -> NDArray[np.uint8]:
    """A small view of the first layer, as people see it, (h, w, 3)."""
    small = source.thumbnail(longest)
    first = ranged_by(source.seen_as(linear=linear)[0], small, source.nothing)
    return as_bytes(first.space.seen(small))
