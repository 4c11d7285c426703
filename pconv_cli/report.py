"""What a run did: a line of JSON for each picture, and one for the whole.

Knows: the outcome of each picture and how the run was set. Does not know: how it is shown.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pconv_cli import __version__
from pconv_cli.errors import RunError
from pconv_cli.events import Event, Listener, Notice

Status = Literal["restored", "copied", "done_before", "failed", "not_done"]


def peak_memory() -> int | None:
    """Most bytes of memory that this process has held at once, or None where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):  # Linux: unlike `resource`, not inherited from a parent
        status = Path("/proc/self/status").read_text("ascii", "replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    with suppress(ImportError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return None


def collecting(emit: Listener) -> tuple[list[str], Listener]:
    """Keep the notices of a run for its report; the listener hears of all events by one thread at a time."""
    notices: list[str] = []
    one_at_a_time = threading.RLock()

    def listener(event: Event) -> None:
        with one_at_a_time:
            if isinstance(event, Notice):
                notices.append(event.text)
            emit(event)

    return notices, listener


def rounded(figure: float | None) -> float | None:
    """A figure as reports show it, to four digits."""
    return None if figure is None else float(f"{figure:.4g}")


@dataclass(frozen=True)
class ItemReport:
    """One picture: `status`, and for a failed one `reason` with the file at fault in `path`.

    `copied` means that the mask marks nothing; `done_before` that an earlier run has done it, from the same content and
    in the same way; `not_done` that the run was stopped before.

    Attributes:
        windows: Windows of the plan.
        tiles: Tiles that the network computed: windows, those of a guide, and those that heal.
        pixels_computed: Pixels in them.
        crossings: Cuts that run through a hole.
        seam_ratio: Mean step across those cuts over the mean step 6 to 14 px beside them; None without such cuts.
        by_pyramid: Pixels that the network could not reach and the pyramid filled.
        unfilled: Damaged pixels that nothing was written to: 0, but where a network of raw values does not reach.
        outside_mask_changed: Pixels that the mask does not mark and that are not bit-identical, counted after reading
            back what was written; only a JPEG can have any, in blocks that the mask touches or beside them, and a
            JPEG-compressed TIFF, in tiles or strips that it touches. None where nothing was written.
        space: How the network was shown the picture's colours.
        seconds: From reading to written.
        megapixels_per_second: Size of the picture over that time.
        peak_memory_bytes: Most memory that the process which read and wrote it has held so far; None where the system
            does not tell.
    """

    name: str
    image: str
    mask: str | None
    output: str
    status: Status
    path: str | None = None
    reason: str | None = None
    width: int = 0
    height: int = 0
    hole_share: float | None = None
    windows: int = 0
    tiles: int = 0
    pixels_computed: int = 0
    crossings: int = 0
    seam_ratio: float | None = None
    by_pyramid: int = 0
    unfilled: int = 0
    outside_mask_changed: int | None = None
    space: str | None = None
    seconds: float = 0.0
    megapixels_per_second: float | None = None
    peak_memory_bytes: int | None = None
    notices: tuple[str, ...] = ()

    def line(self) -> str:
        """One JSON object on a line."""
        return json_line({"type": "item", **asdict(self)})


@dataclass(frozen=True)
class Report:
    """A finished run: the settings that matter, every picture in the order of the input, the time in seconds.

    `interrupted` is one that was stopped with something left to do. `notices` concern the run as a whole; what concerns
    one picture stands with it. `unlisted` is why what failed is not listed, though that was asked for. Of a run that
    has no end of its own only pictures that failed or were left are among the items; what it has done it only counts:
    `past`, by status, and the tiles.
    """

    settings: Mapping[str, Any]
    items: tuple[ItemReport, ...]
    seconds: float
    interrupted: bool = False
    notices: tuple[str, ...] = ()
    unlisted: RunError | None = None
    past: Mapping[str, int] = field(default_factory=dict)

    def count(self, status: Status) -> int:
        """Pictures with a status."""
        return self.past.get(status, 0) + sum(item.status == status for item in self.items)

    @property
    def tiles(self) -> int:
        """Tiles that the network computed."""
        return self.past.get("tiles", 0) + sum(item.tiles for item in self.items)

    def summary(self) -> str:
        """One JSON object on a line: all but the items."""
        statuses: tuple[Status, ...] = ("restored", "copied", "done_before", "failed", "not_done")
        return json_line(
            {
                "type": "summary",
                "pconv": __version__,
                **{status: self.count(status) for status in statuses},
                "items": sum(map(self.count, statuses)),
                "tiles": self.tiles,
                "seconds": round(self.seconds, 3),
                "interrupted": self.interrupted,
                "notices": list(self.notices),
                "settings": dict(self.settings),
            }
        )


def json_line(document: Mapping[str, Any]) -> str:
    """JSON on one line; names that are no Unicode become escapes, for a stream of UTF-8 cannot hold them."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
