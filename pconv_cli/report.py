"""What a run did, as one document.

Knows: the outcome of each picture and how the run was set. Does not know: how it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pconv_cli import __version__

Status = Literal["restored", "copied", "failed", "not_done", "planned"]


@dataclass(frozen=True)
class ItemReport:
    """One picture: `status`, and for a failed one `reason` with the file at fault in `path`.

    `copied` means that the mask marks nothing; `not_done` that the run was stopped before; `planned` is a dry run.
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
    tiles: int = 0
    by_pyramid: int = 0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """A finished run: the settings that matter, every picture in the order of the input, the time in seconds.

    `notices` concern the run as a whole; what concerns one picture stands with it.
    """

    settings: Mapping[str, Any]
    items: tuple[ItemReport, ...]
    seconds: float
    interrupted: bool = False
    notices: tuple[str, ...] = ()

    def count(self, status: Status) -> int:
        """Pictures with a status."""
        return sum(item.status == status for item in self.items)

    def as_json(self) -> str:
        """One JSON object, indented, UTF-8 as it is."""
        summary = {status: self.count(status) for status in ("restored", "copied", "failed", "not_done", "planned")}
        document = {
            "pconv": __version__,
            "settings": dict(self.settings),
            "summary": {
                **summary,
                "items": len(self.items),
                "tiles": sum(item.tiles for item in self.items),
                "seconds": round(self.seconds, 3),
                "interrupted": self.interrupted,
            },
            "notices": list(self.notices),
            "items": [asdict(item) for item in self.items],
        }
        return json.dumps(document, ensure_ascii=False, indent=2)
