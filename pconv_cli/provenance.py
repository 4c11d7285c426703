"""What was restored, by what and when, as XMP: an entry of the history, added to the packet that a file has already.

Knows the XML of XMP. Does not know where a file keeps its packet, pictures, masks, or how they were restored.

What is there already stays byte by byte: the entry is inserted into its text, at places that an XML parser has found.
The entry is an `rdf:li` of `xmpMM:History`: action, date, program and parameters in the standard's words (`stEvt:`),
and inside it, in a namespace of this project, what the standard has no words for.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape

from pconv_cli import __version__, files
from pconv_cli.errors import UsageError

NAMESPACE = "urn:uuid:935fdf41-c888-5d42-bc16-286ccdbbf65a#"
"""Of the properties that this project has itself; its usual prefix is `pconv`."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_HISTORY = "http://ns.adobe.com/xap/1.0/mm/"
_EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
_TAG = re.compile(rb"""<(?:[^>"']|"[^"]*"|'[^']*')*>""")  # what stands between quotes may be anything
_EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{_RDF}">
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


class Unreadable(ValueError):
    """A packet that nothing can be added to; the text goes on after "its XMP"."""


@dataclass(frozen=True)
class Entry:
    """What was done to one picture.

    Attributes:
        weights: Name of the network, `none` for the pyramid alone.
        weights_sha256: Of its file, 64 hex digits; empty for the pyramid.
        mask: Name of the mask's file without folders, or how the picture itself showed its damage.
        mask_sha256: Of that file's bytes; None where the mask came from the picture.
        pixels: How many were restored.
        share: Of all pixels, 0 to 1.
        when: UTC, ISO 8601.
        dilate: Pixels by which the damage was grown.
    """

    weights: str
    weights_sha256: str
    mask: str
    mask_sha256: str | None
    pixels: int
    share: float
    when: str
    dilate: int = 0

    def fields(self) -> list[tuple[str, str]]:
        """Qualified names and values, as they stand in the packet."""
        source = "file" if self.mask_sha256 is not None else "picture"
        where = f"mask {self.mask}" if self.mask_sha256 is not None else f"{self.mask} of the picture"
        told = f"{self.share:.2%} of the pixels restored with the weights {self.weights}, damage as told by {where}"
        told += f", grown by {self.dilate} px" if self.dilate else ""
        found = [
            ("stEvt:action", "restored"),
            ("stEvt:when", self.when),
            ("stEvt:softwareAgent", f"pconv {__version__}"),
            ("stEvt:changed", "/content"),
            ("stEvt:parameters", told),
            ("pconv:Version", __version__),
            ("pconv:Weights", self.weights),
            ("pconv:WeightsSHA256", self.weights_sha256),
            ("pconv:MaskSource", source),
            ("pconv:Mask", self.mask),
            ("pconv:MaskSHA256", self.mask_sha256 or ""),
            ("pconv:Dilate", str(self.dilate or "")),
            ("pconv:RestoredPixels", str(self.pixels)),
            ("pconv:RestoredShare", f"{self.share:.8f}"),
        ]
        return [(name, value) for name, value in found if value]


def now() -> str:
    """The date of an entry, UTC: the clock's, or where runs are to be reproducible SOURCE_DATE_EPOCH's.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is no number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.now(timezone.utc) if not epoch else datetime.fromtimestamp(int(epoch), timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"SOURCE_DATE_EPOCH={epoch}: not a number of seconds since 1970: unset it") from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits.

    Raises:
        OSError: It cannot be read.
    """
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(16)  # one mask may serve all pictures
def _digest(path: Path, _size: int, _changed: int) -> str:
    return files.sha256(path)


def merged(packet: bytes, entry: Entry) -> bytes:
    """Add an entry to a packet; all that is there stays as it is.

    Args:
        packet: The XMP of a file, in UTF-8; empty where it has none.
        entry: What to add, after what the history tells already.

    Returns:
        The packet with it, UTF-8.

    Raises:
        Unreadable: It is no XMP, or its history is of a kind that has no place for entries.
    """
    if not packet.strip(b" \t\r\n\0"):
        packet = _EMPTY.encode("utf-8")
    body = packet.rstrip(b"\0")
    places = _Places.of(body)
    if places.entries is not None:
        new = _inserted(body, places.entries, _item(entry), places.empty)
    else:
        if places.graph is None:
            raise Unreadable("has no place for a history")
        new = _inserted(body, places.graph, _description(entry, places.about), places.bare)
    _Places.of(new)  # what is written is read once, for nothing else will look
    return new


def _item(entry: Entry) -> str:
    names = f'xmlns:rdf="{_RDF}" xmlns:stEvt="{_EVENT}" xmlns:pconv="{NAMESPACE}"'
    lines = [f"<{name}>{_text(value)}</{name}>" for name, value in entry.fields()]
    return "\n".join([f'<rdf:li {names} rdf:parseType="Resource">', *(f" {line}" for line in lines), "</rdf:li>\n"])


def _description(entry: Entry, about: str) -> str:
    opening = f'<rdf:Description xmlns:rdf="{_RDF}" xmlns:xmpMM="{_HISTORY}" rdf:about="{_text(about)}">'
    return f"{opening}\n<xmpMM:History>\n<rdf:Seq>\n{_item(entry)}</rdf:Seq>\n</xmpMM:History>\n</rdf:Description>\n"


def _text(value: str) -> str:
    """A value as XML has it; what XML cannot hold, as in some names of files, becomes an escape."""
    shown = value.encode("utf-8", "backslashreplace").decode("utf-8")
    shown = "".join(letter if letter >= " " else f"\\x{ord(letter):02x}" for letter in shown)
    return escape(shown.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff"), {'"': "&quot;"})


def _inserted(packet: bytes, at: int, text: str, empty: str) -> bytes:
    """The packet with a text before position `at`; in an element without an end tag, `empty`, it is the content."""
    if not empty:
        return packet[:at] + text.encode("utf-8") + packet[at:]
    end = _end_of_tag(packet, at)
    return packet[: end - 2] + f">{text}</{empty}>".encode() + packet[end:]


def _end_of_tag(packet: bytes, at: int) -> int:
    """Where the tag ends that begins at a position of a packet that is well-formed."""
    found = _TAG.match(packet, at)
    return at if found is None else found.end()


@dataclass
class _Places:
    """Where in a packet something can be inserted, as positions of bytes.

    Attributes:
        graph: The end tag of `rdf:RDF`.
        bare: Its name where it has no end tag: `graph` is where it begins then.
        entries: The end tag of the list in `xmpMM:History`, if there is one.
        empty: As `bare`, for that list.
        about: What all of it is about: every description has to say the same.
    """

    graph: int | None = None
    bare: str = ""
    entries: int | None = None
    empty: str = ""
    about: str = ""
    _packet: bytes = field(default=b"", repr=False)
    _open: list[tuple[str, int]] = field(default_factory=list)
    _described: bool = False

    @classmethod
    def of(cls, packet: bytes) -> _Places:
        """Find them.

        Raises:
            Unreadable: It is no XMP, or not in UTF-8.
        """
        found = cls(_packet=packet)
        parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        parser.namespace_prefixes = True
        parser.StartElementHandler = lambda name, values: found._start(parser, name, values)
        parser.EndElementHandler = lambda name: found._end(parser, name)
        parser.StartDoctypeDeclHandler = _no_entities
        try:
            parser.Parse(packet, True)
        except expat.ExpatError as error:
            raise Unreadable(f"cannot be read ({error})") from error
        return found

    def _start(self, parser: expat.XMLParserType, name: str, values: dict[str, str]) -> None:
        plain = _plain(name)
        above = [_plain(one) for one, _ in self._open]
        if plain == f"{_RDF} Description" and above[-1:] == [f"{_RDF} RDF"]:
            named = {_plain(key): value for key, value in values.items()}
            if f"{_HISTORY} History" in named:
                raise Unreadable("has a history that is no list")
            if not self._described:
                self.about, self._described = named.get(f"{_RDF} about", named.get("about", "")), True
        self._open.append((name, parser.CurrentByteIndex))

    def _end(self, parser: expat.XMLParserType, name: str) -> None:
        _, start = self._open.pop()
        above = [_plain(one) for one, _ in self._open]
        at, empty = parser.CurrentByteIndex, ""
        if self._packet[: _end_of_tag(self._packet, start)].endswith(b"/>"):
            at, empty = start, _tag(name)
        if _plain(name) == f"{_RDF} RDF" and self.graph is None:
            self.graph, self.bare = at, empty
        elif above[-1:] == [f"{_HISTORY} History"] and self._is_top(above[:-1]):
            if _plain(name) not in (f"{_RDF} Seq", f"{_RDF} Bag", f"{_RDF} Alt") or self.entries is not None:
                raise Unreadable("has a history that is no list")
            self.entries, self.empty = at, empty
        elif _plain(name) == f"{_HISTORY} History" and self._is_top(above) and self.entries is None:
            raise Unreadable("has a history that is no list")

    @staticmethod
    def _is_top(above: list[str]) -> bool:
        """Whether elements are those around the properties of the file itself."""
        return above[-2:] == [f"{_RDF} RDF", f"{_RDF} Description"]


def _plain(name: str) -> str:
    """Namespace and local name, the prefix left out."""
    return " ".join(name.split(" ")[:2])


def _tag(name: str) -> str:
    """A name as it is written: prefix and local name."""
    parts = name.split(" ")
    return f"{parts[2]}:{parts[1]}" if len(parts) == 3 else parts[-1]


def _no_entities(*_: object) -> None:
    raise Unreadable("declares a document type, which XMP must not")
