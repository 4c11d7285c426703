"""What the terminal side shares and can have at once: safe lines, ways to show progress.

Does not know who shows what, and imports nothing heavy, so options can be declared with it.
"""

from __future__ import annotations

import re
from enum import Enum

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class ProgressMode(str, Enum):
    """Values of `--progress`."""

    auto = "auto"
    bar = "bar"
    plain = "plain"
    json = "json"
    none = "none"


def one_line(text: str) -> str:
    """Make text safe for one line: control characters, in file names say, are shown and not obeyed."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def wrong_number(paths: list[str], needed: str) -> str:
    """How many paths were given, and which are needed."""
    return f"{len(paths)} path{'' if len(paths) == 1 else 's'} given, needed are {needed}"


def percent(share: float, digits: int = 1) -> str:
    """A share, 0 to 1, in percent; what is there is never 0."""
    shown = f"{share:.{digits}%}"
    return shown if share == 0 or float(shown[:-1]) else f"<{10**-digits:.{digits}f}%"
