"""XMP is added to, never changed: every byte that was there still is, and readers find both histories."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pconv_cli import __version__, provenance
from pconv_cli.errors import UsageError
from pconv_cli.provenance import NAMESPACE, Entry, Unreadable, digest, merged, now

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
EVENT = "{http://ns.adobe.com/xap/1.0/sType/ResourceEvent#}"
HISTORY = "{http://ns.adobe.com/xap/1.0/mm/}History"
OWN = f"{{{NAMESPACE}}}"
ENTRY = Entry("photo-2", "ab" * 32, "mask.png", "cd" * 32, 25, 0.25, "2026-01-02T03:04:05Z")


def packet(inside: str, about: str = 'rdf:about=""', prefix: str = "rdf") -> bytes:
    """An XMP packet with one description, with a comment, padding, and words beyond ASCII."""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Somebody's 1.0"><!-- kept -->
 <{prefix}:RDF xmlns:{prefix}="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <{prefix}:Description {about} xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/" xmlns:e="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
    xmlns:foreign="http://example.org/&amp;/" foreign:note="Grüße aus 東京">
   {inside}
   <dc:format>image/jpeg</dc:format>
  </{prefix}:Description>
 </{prefix}:RDF>
</x:xmpmeta>
{" " * 200}
<?xpacket end="w"?>""".encode()


OLD = '<rdf:li e:action="created" e:when="2001-01-01T00:00:00Z"/>'
HISTORIES = {
    "none": "",
    "a list": f"<xmpMM:History><rdf:Seq>{OLD}</rdf:Seq></xmpMM:History>",
    "an empty list": "<xmpMM:History><rdf:Seq></rdf:Seq></xmpMM:History>",
    "an empty list without an end tag": '<xmpMM:History><rdf:Seq e:note="/>" /></xmpMM:History>',
    "a bag, and another list with the same name deeper down": f"<xmpMM:History><rdf:Bag>{OLD}</rdf:Bag></xmpMM:History>"
    f'<xmpMM:DerivedFrom rdf:parseType="Resource"><xmpMM:History><rdf:Seq>{OLD}</rdf:Seq></xmpMM:History>'
    "</xmpMM:DerivedFrom>",
}


def histories(xmp: bytes) -> list[ElementTree.Element]:
    """The history of the file itself, as a reader of XMP finds it."""
    graph = ElementTree.fromstring(xmp.decode()).find(f"{RDF}RDF")
    assert graph is not None
    return [found for description in graph.findall(f"{RDF}Description") for found in description.findall(HISTORY)]


def entries(xmp: bytes) -> list[ElementTree.Element]:
    (history,) = histories(xmp)  # the same property twice would be no XMP
    assert len(history) == 1
    return history[0].findall(f"{RDF}li")


def value(item: ElementTree.Element, name: str) -> str | None:
    """A field of an entry, in either of the two ways to write it."""
    found = item.find(name)
    return item.get(name) if found is None else found.text


def is_kept(before: bytes, after: bytes) -> bool:
    """Whether one text is the other with something inserted at one place."""
    same = next((at for at, (one, two) in enumerate(zip(before, after, strict=False)) if one != two), len(before))
    return any(after.endswith(before[at:]) and before[:at] == after[:at] for at in range(same, max(same - 300, -1), -1))


@pytest.mark.parametrize("kind", HISTORIES)
def test_an_entry_is_added_behind_the_others_and_every_byte_stays(kind: str) -> None:
    before = packet(HISTORIES[kind])
    after = merged(before, ENTRY)
    old = before.replace(b'<rdf:Seq e:note="/>" />', b'<rdf:Seq e:note="/>" ></rdf:Seq>')
    assert is_kept(old, after)
    found = entries(after)
    old_entries = ["created"] if kind.startswith("a ") else []
    assert [value(item, f"{EVENT}action") for item in found] == [*old_entries, "restored"]


def test_an_entry_says_what_was_done_in_the_standard_s_words_and_in_our_own() -> None:
    (item,) = entries(merged(b"", ENTRY))
    assert item.get(f"{RDF}parseType") == "Resource"
    assert value(item, f"{EVENT}when") == "2026-01-02T03:04:05Z"
    assert value(item, f"{EVENT}softwareAgent") == f"pconv {__version__}"
    assert value(item, f"{EVENT}changed") == "/content"
    assert "25.00%" in (value(item, f"{EVENT}parameters") or "")
    own = {child.tag.removeprefix(OWN): child.text for child in item if child.tag.startswith(OWN)}
    assert own == {
        "Version": __version__, "Weights": "photo-2", "WeightsSHA256": "ab" * 32, "MaskSource": "file",
        "Mask": "mask.png", "MaskSHA256": "cd" * 32, "RestoredPixels": "25", "RestoredShare": "0.25000000",
    }  # fmt: skip


def test_of_a_mask_that_came_from_the_picture_it_is_said_that_it_did() -> None:
    (item,) = entries(merged(b"", Entry("none", "", "alpha", None, 1, 0.5, now())))
    assert (value(item, f"{OWN}MaskSource"), value(item, f"{OWN}Mask")) == ("picture", "alpha")
    assert value(item, f"{OWN}MaskSHA256") is None and value(item, f"{OWN}WeightsSHA256") is None


def test_a_second_restoration_adds_a_second_entry() -> None:
    once = merged(packet(""), ENTRY)
    twice = merged(once, Entry("none", "", "b.png", "ef" * 32, 1, 0.01, "2027-01-01T00:00:00Z"))
    assert is_kept(once, twice)
    assert [value(item, f"{OWN}Weights") for item in entries(twice)] == ["photo-2", "none"]


def test_all_descriptions_are_about_the_same_and_prefixes_may_be_others() -> None:
    after = merged(packet("", 'r:about="uuid:1&amp;2"', prefix="r"), ENTRY)
    graph = ElementTree.fromstring(after.decode()).find(f"{RDF}RDF")
    assert graph is not None
    assert [one.get(f"{RDF}about") for one in graph] == ["uuid:1&2"] * 2
    assert len(entries(after)) == 1


@pytest.mark.parametrize(
    "graph", ["<rdf:RDF xmlns:rdf='{0}'/>", "<RDF xmlns='{0}'/>", "<rdf:RDF xmlns:rdf='{0}'></rdf:RDF>"]
)
def test_a_packet_without_any_description_gets_one(graph: str) -> None:
    assert len(entries(merged(f"<x>{graph.format(RDF[1:-1])}</x>".encode(), ENTRY))) == 1


@pytest.mark.parametrize("ending", [b"", b"\0", b"\0" * 5])
def test_bytes_of_nothing_behind_a_packet_are_no_hindrance(ending: bytes) -> None:
    assert len(entries(merged(packet("") + ending, ENTRY))) == 1
    assert len(entries(merged(ending, ENTRY))) == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"no XML", b"<a></b>", b"\xff\xfe<\0a\0/\0>\0", b"<a/>", b"<a>\xff</a>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        packet("")[:-250],
        packet("<xmpMM:History>lost</xmpMM:History>"),
        packet("").replace(b"foreign:note=", b"xmpMM:History="),
        packet('<xmpMM:History rdf:resource="elsewhere"/>'),
        packet('<xmpMM:History rdf:parseType="Resource"><e:action>x</e:action></xmpMM:History>'),
    ],
)  # fmt: skip
def test_a_packet_that_nothing_can_be_added_to_is_refused(bad: bytes) -> None:
    with pytest.raises(Unreadable):
        merged(bad, ENTRY)


@settings(deadline=None)
@given(name=st.text(min_size=1).filter(lambda text: text.strip()), about=st.text(st.characters(codec="utf-8")))
def test_no_name_of_a_file_breaks_a_packet(name: str, about: str) -> None:
    after = merged(b"", Entry(name, "", name, "00" * 32, 0, 0.0, now()))
    assert len(entries(after)) == 1
    printable = all(
        letter >= " " and letter not in "\ufffe\uffff\x7f" and not "\ud800" <= letter <= "\udfff" for letter in name
    )
    if printable:
        assert value(entries(after)[0], f"{OWN}Mask") == name
    assert len(entries(merged(after, ENTRY))) == 2


def test_the_date_is_the_clock_s_in_utc_or_the_one_that_reproducible_builds_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert now() == "1970-01-02T00:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH=yesterday"):
        now()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert len(now()) == 20 and now().endswith("Z") and now() >= "2026"


def test_a_file_is_known_by_its_bytes_also_after_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    for content in (b"one", b"another"):
        path.write_bytes(content)
        assert digest(path) == hashlib.sha256(content).hexdigest()
    assert provenance.NAMESPACE.endswith("#")


def test_damage_that_was_grown_is_told_so() -> None:
    grown = merged(b"", replace(ENTRY, dilate=4))
    assert b"<pconv:Dilate>4</pconv:Dilate>" in grown or b'pconv:Dilate="4"' in grown
    assert b", grown by 4 px" in grown and b"Dilate" not in merged(b"", ENTRY)
