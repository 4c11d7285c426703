"""`journal`: what is called done is done, whatever was killed when; and nobody else's file is swept away."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pconv_cli import files, journal
from pconv_cli.errors import OutputError
from pconv_cli.journal import NAME, Journal, sweep

locks = pytest.mark.skipif(sys.platform == "win32", reason="no locks there, so nothing is ever swept")


@dataclass(frozen=True)
class Place:
    """A picture, its mask, and a folder for results with a journal."""

    root: Path

    @property
    def image(self) -> Path:
        return self.root / "a.png"

    @property
    def mask(self) -> Path:
        return self.root / "m.png"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def output(self) -> Path:
        return self.out / "a.png"

    @property
    def path(self) -> Path:
        return self.out / NAME

    def open(self, key: str = "key") -> Journal:
        return Journal(self.path, key)

    def make(self, output: Path | None = None, content: bytes = b"restored", mask: bool = True) -> None:
        """Make one result as a run does: part, entry, name."""
        with self.open() as book:
            make(book, self.image, self.mask if mask else None, output or self.output, content)

    def done(self, key: str = "key", output: Path | None = None, mask: bool = True) -> bool:
        with self.open(key) as book:
            return book.done(self.image, self.mask if mask else None, output or self.output)


def make(book: Journal, image: Path, mask: Path | None, output: Path, content: bytes = b"restored") -> None:
    with files.whole(output, overwrite=True) as stream:
        stream.write(content)
        stream.flush()
        book.record(book.contents(image, mask), output, Path(stream.name))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.image.write_bytes(b"picture")
    found.mask.write_bytes(b"mask")
    found.out.mkdir()
    return found


def test_a_journal_whose_folder_was_moved_away_begins_anew_where_results_go(place: Place) -> None:
    with place.open() as book:
        make(book, place.image, place.mask, place.output)
        place.out.rename(place.out.with_name("moved"))
        place.out.mkdir()
        make(book, place.image, place.mask, place.output)
        assert book.done(place.image, place.mask, place.output)
    assert place.done()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk in tests that write hundreds of files."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


# ---------------------------------------------------------------- done


@pytest.mark.parametrize("mask", [True, False])
def test_what_was_made_of_the_same_is_done_in_this_run_and_the_next(place: Place, mask: bool) -> None:
    assert not place.done(mask=mask)
    place.make(mask=mask)
    assert place.done(mask=mask)
    assert not place.done(mask=not mask)


@pytest.mark.parametrize("content", [b"other!!", b"longer or shorter"])  # of the same size, and not
@pytest.mark.parametrize("which", ["image", "mask", "output"])
def test_what_has_another_content_is_not_done(place: Place, which: str, content: bytes) -> None:
    place.make(content=b"made of")
    path: Path = getattr(place, which)
    old = path.read_bytes()
    path.write_bytes(content[: len(old)] if content == b"other!!" else content)
    assert not place.done()
    path.write_bytes(old)
    assert place.done()


@pytest.mark.parametrize("which", ["image", "mask", "output"])
def test_what_is_gone_is_not_done(place: Place, which: str) -> None:
    place.make()
    path: Path = getattr(place, which)
    path.unlink()
    assert not place.done()
    path.mkdir()
    assert not place.done()


def test_only_a_run_that_has_a_name_knows_its_own_results_and_no_other_run_does(place: Place) -> None:
    def own(book: Journal) -> bool:
        return book.made_in_this_run(place.image, place.mask, place.output)

    place.make()
    with Journal(place.path, "key", run="one") as one:
        assert one.made(place.output) and not own(one), "an earlier run made it"
        make(one, place.image, place.mask, place.output)
        assert own(one)
        for path, other in ((place.output, b"changed!"), (place.image, b"changed"), (place.mask, b"new!")):
            was = path.read_bytes()
            path.write_bytes(other)
            assert not own(one), "somebody has changed it since"
            path.write_bytes(was)
            assert own(one)
    with Journal(*one.place) as again:
        assert own(again), "another process of the same run"
    with Journal(place.path, "key", "worker", "one") as worker:
        assert own(worker)
    for key, run in (("key", "two"), ("key", ""), ("other", "one")):
        with Journal(place.path, key, run=run) as other_run:
            assert not own(other_run) and other_run.made(place.output)


def test_another_key_or_output_is_not_done(place: Place) -> None:
    place.make()
    assert not place.done(key="other")
    shutil.copy(place.output, place.out / "b.png")
    assert not place.done(output=place.out / "b.png")


def test_a_picture_that_was_only_touched_or_replaced_by_its_like_is_done(place: Place) -> None:
    place.make()
    for path in (place.image, place.mask, place.output):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, (1, 1))
    assert place.done()


def test_settings_that_come_back_are_still_known_only_with_their_own_result(place: Place) -> None:
    place.make(content=b"first")
    with place.open("other") as book:
        make(book, place.image, place.mask, place.output, b"other")
        assert book.done(place.image, place.mask, place.output)
    assert not place.done()
    place.output.write_bytes(b"first")
    assert place.done() and not place.done("other")


def test_made_says_yes_to_whatever_this_tool_made_and_no_to_the_rest(place: Place) -> None:
    place.make()
    place.image.write_bytes(b"another")
    with place.open("other key") as book:
        assert book.made(place.output)
        assert not book.done(place.image, place.mask, place.output)
        place.output.write_bytes(b"by hand!")
        assert not book.made(place.output)
        place.output.unlink()
        assert not book.made(place.output)
        assert not book.made(place.image)


def test_nothing_is_read_where_sizes_already_tell(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.make()
    place.output.write_bytes(b"cut")

    def never(path: Path) -> None:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(journal, "_content", never)
    with place.open() as book:
        assert not book.done(place.image, place.mask, place.output) and not book.made(place.output)
        assert not book.done(place.image, place.mask, place.out / "new.png")


def test_one_mask_for_all_is_read_once_and_again_when_it_changes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real, read = journal._content, []

    def watched(path: Path) -> journal._Content:
        read.append(path)
        return real(path)

    monkeypatch.setattr(journal, "_content", watched)
    with place.open() as book:
        for number in range(3):
            make(book, place.image, place.mask, place.out / f"{number}.png")
        assert read.count(place.mask) == 1
        place.mask.write_bytes(b"MASK")
        os.utime(place.mask, ns=(1, 1))
        assert not book.done(place.image, place.mask, place.out / "0.png")
        assert read.count(place.mask) == 2


# ---------------------------------------------------------------- names


def test_a_folder_of_results_may_be_moved_and_spelled_in_any_way(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.out / "sub").mkdir()
    place.make(place.out / "sub" / "a.png")
    place.out.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "moved", Path("moved"), Path("link"), Path("link/../moved")):
        with Journal(Path("link") / NAME, "key") as book:
            assert book.done(place.image, place.mask, folder / "sub" / "a.png"), folder


def test_a_result_elsewhere_is_known_by_its_whole_path(place: Place, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    place.make(tmp_path / "elsewhere" / "a.png")
    assert place.done(output=tmp_path / "elsewhere" / "a.png")
    assert not place.done()


names = st.text(st.characters(exclude_characters='/\\:*?"<>|\0', exclude_categories=["Cs"]), min_size=1, max_size=12)
if os.name != "nt":
    names |= st.text(st.sampled_from("\"\n\r\t,\\'{} é\u2028"), min_size=1, max_size=12)
    names |= st.binary(min_size=1, max_size=12).filter(lambda data: not {0, 47} & set(data)).map(os.fsdecode)


@given(names.filter(lambda name: name not in (".", "..", NAME) and len(os.fsencode(name)) < 40))
@settings(max_examples=60)
def test_every_name_of_a_file_is_found_again(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        place.image.write_bytes(b"picture")
        place.mask.write_bytes(b"mask")
        place.out.mkdir()
        try:
            (place.out / name).touch()
        except OSError:  # a name that this system does not allow
            return
        place.make(place.out / name)
        assert place.done(output=place.out / name)
        assert not place.done(output=place.out / f"{name}x")
        assert len(place.path.read_bytes().splitlines()) == 2


# ---------------------------------------------------------------- killed


@pytest.mark.usefixtures("quick")
def test_a_journal_cut_anywhere_keeps_its_whole_entries_and_takes_new_ones(place: Place) -> None:
    outputs = [place.out / "0.png", place.out / "1.png"]
    for output in outputs:
        place.make(output)
    data = place.path.read_bytes()
    ends = [position for position in range(len(data) + 1) if data[:position].endswith(b"}")]
    assert len(ends) == 2 and ends[-1] == len(data)
    for length in range(len(data) + 1):
        place.path.write_bytes(data[:length])
        with place.open() as book:
            found = [book.done(place.image, place.mask, output) for output in outputs]
            assert found == [end <= length for end in ends], length
            book.record(book.contents(place.image, place.mask), outputs[1], outputs[1])
        assert place.done(output=outputs[1]), length


GARBLED = (
    b"\0" * 500, b"\xff\xfe\x80", b"null", b"5", b'"text"', b"[]", b"{}", b"[" * 100_000, b'{"output": 1}',
    b'{"output":"a.png","key":"key","image":5,"mask":null,"made":["x",8]}',
    b'{"output":"a.png","key":"key","image":["x"],"mask":null,"made":["x",8]}',
    b'{"output":"a.png","key":"key","image":[[1],7],"mask":["x",4],"made":[{"a":1},8]}',
    b'{"output":"a.png","key":["key"],"image":["x",7],"mask":["x",4],"made":["x","8"]}',
    b'{"output":["a.png"],"key":"key","image":["x",7],"mask":["x",4],"made":["x",8]}',
    b'{"output":"a.png","key":"key","image":["x",7],"mask":["x",4],"made":["x",' + b"9" * 10_000 + b"]}",
)  # fmt: skip


@pytest.mark.parametrize("garbled", GARBLED, ids=range(len(GARBLED)))
def test_what_is_no_entry_is_passed_over(place: Place, garbled: bytes) -> None:
    place.path.write_bytes(garbled)
    place.output.write_bytes(b"restored")
    with place.open() as book:
        assert not book.done(place.image, place.mask, place.output) and not book.made(place.output)
    place.make()
    assert place.done()


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_any_bytes_can_be_a_journal(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, NAME)
        path.write_bytes(data)
        Journal(path, "key").close()


class Killed(BaseException):
    """Ends a run where it stands."""


MOMENTS = ("part written", "entry half written", "entry written", "named", "never")


@pytest.mark.parametrize("moment", MOMENTS)
def test_whenever_a_run_is_killed_nothing_is_lost_and_nothing_done_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    pictures = [place.root / f"{number}.png" for number in range(4)]
    for picture in pictures:
        picture.write_bytes(picture.name.encode())
    real_write, real_place = os.write, files.place
    made: list[str] = []

    def run(kill_at: str) -> None:
        """Restore what is not done; the third picture is made up to `kill_at`."""

        def write(descriptor: int, data: bytes) -> int:
            if kill_at == "part written":
                raise Killed
            written = real_write(descriptor, data[: len(data) // 2] if kill_at == "entry half written" else data)
            if kill_at in ("entry half written", "entry written"):
                raise Killed
            return written

        def name_it(part: Path, target: Path, *, overwrite: bool) -> None:
            real_place(part, target, overwrite=overwrite)
            if kill_at == "named":
                raise Killed

        with place.open() as book:
            for number, picture in enumerate(pictures):
                output = place.out / picture.name
                if book.done(picture, place.mask, output):
                    continue
                assert not output.exists(), "a result that nobody can vouch for"
                with monkeypatch.context() as patched:
                    if number == 2:
                        patched.setattr(os, "write", write)
                        patched.setattr(files, "place", name_it)
                    make(book, picture, place.mask, output, b"restored " + picture.read_bytes())
                made.append(picture.name)

    with suppress(Killed):
        run(moment)
    named = (place.out / "2.png").exists()
    assert named == (moment in ("named", "never"))
    made.clear()
    run("never")
    assert made == ([] if moment == "never" else ["3.png"] if named else ["2.png", "3.png"])
    run("never")
    assert [(place.out / picture.name).read_bytes() for picture in pictures] == [
        b"restored " + picture.read_bytes() for picture in pictures
    ]


# ---------------------------------------------------------------- shared


def start(program: str, *arguments: Path | str) -> subprocess.Popen[str]:
    head = "import sys, os\nfrom pathlib import Path\nfrom pconv_cli.journal import Journal\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + program, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=60)
    return process.returncode


APPENDING = """
root, mine = Path(sys.argv[1]), sys.argv[2]
os.fsync = lambda _: None
with Journal(root / "out" / sys.argv[3], "key") as book:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(300):
        output = root / "out" / f"{mine}{number}.png"
        output.write_bytes(b"restored")
        book.record(book.contents(root / "a.png", root / "m.png"), output, output)
"""


def test_two_processes_append_at_once_and_every_entry_is_whole(place: Place) -> None:
    both = [start(APPENDING, place.root, mine, NAME) for mine in "ab"]
    for process in both:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [ended(process) for process in both] == [0, 0]
    first, *lines = place.path.read_bytes().split(b"\n")
    assert first == b"" and len(lines) == 600
    assert {json.loads(line)["output"] for line in lines} == {f"{mine}{n}.png" for mine in "ab" for n in range(300)}
    with place.open() as book:
        assert all(book.done(place.image, place.mask, place.out / f"{mine}299.png") for mine in "ab")


@pytest.mark.usefixtures("quick")
def test_threads_share_a_journal(place: Place) -> None:
    with place.open() as book:

        def work(mine: int) -> None:
            for number in range(20):
                # Few names for many entries: two threads add to one output's entries at the same time.
                make(book, place.image, place.mask, place.out / f"{mine}.png", b"%d" % number)
                book.record(book.contents(place.image, None), place.out / "shared.png", place.out / f"{mine}.png")

        threads = [threading.Thread(target=work, args=(mine,)) for mine in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(book.done(place.image, place.mask, place.out / f"{mine}.png") for mine in range(4))
        for number in range(20):
            (place.out / "shared.png").write_bytes(b"%d" % number)
            assert book.done(place.image, None, place.out / "shared.png")


def test_what_is_already_known_is_not_written_again(place: Place) -> None:
    place.make()
    size = place.path.stat().st_size
    place.make()
    assert place.path.stat().st_size == size and place.done()


# ---------------------------------------------------------------- alone, and what may be swept


@locks
@pytest.mark.parametrize("ending", ["end", "kill"])
def test_who_shares_a_journal_with_a_living_process_is_not_alone(place: Place, ending: str) -> None:
    waiting = 'book = Journal(Path(sys.argv[1]), "other"); print("ready", flush=True); sys.stdin.readline()'
    with place.open() as book:
        with book.alone() as sure:
            assert sure
        process = start(waiting, place.path)
        assert process.stdout and process.stdout.readline() == "ready\n"
        with book.alone() as sure:
            assert not sure
        if ending == "kill":
            process.send_signal(signal.SIGKILL)
        ended(process)
        with book.alone() as sure:
            assert sure


@locks
def test_while_one_is_alone_nobody_begins_and_afterwards_both_count(place: Place) -> None:
    with place.open() as first:
        begun = threading.Event()
        second: list[Journal] = []

        def begin() -> None:
            second.append(place.open())  # another opening counts as another process, within one too
            begun.set()

        thread = threading.Thread(target=begin)
        with first.alone() as sure:
            assert sure
            thread.start()
            assert not begun.wait(0.2)
        thread.join(10)
        assert begun.is_set()
        with second[0].alone() as sure:
            assert not sure
        with first.alone() as sure:  # the one that asked in vain still counts
            assert not sure
        second[0].close()
        with first.alone() as sure:
            assert sure


def test_without_locks_nobody_is_sure_to_be_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows: importing it fails
    place.make()
    with place.open() as book, book.alone() as sure:
        assert not sure
    assert place.done()


def test_leftovers_of_these_names_are_swept_and_nothing_else(tmp_path: Path) -> None:
    long = "ü" * 60 + ".png"
    ours = [files.hidden(tmp_path / name) for name in ("a.png", "a.png", "b\n.png", long)]
    ours += [tmp_path / f".a.png.{kind}.0123abcd.part" for kind in ("held", "with")]
    others = [
        files.hidden(tmp_path / "c.png"),
        files.hidden(tmp_path / ".a.png.0123abcd.part"),
        *(tmp_path / n for n in ("a.png", ".a.png", ".a.png.part", "a.png.0123abcd.part", ".a.png.0123abcd.part.x")),
        *(tmp_path / n for n in (".a.png.0123ABCD.part", ".a.png.123abcd.part", ".a.png.00123abcd.part", NAME)),
        *(tmp_path / n for n in (".pconv-0123456789.part", ".aXpng.0123abcd.part", "..a.png.0123abcd.part")),
    ]
    for path in (*ours, *others):
        path.touch()
    (tmp_path / ".a.png.00000000.part").mkdir()
    (tmp_path / ".a.png.00000001.part").symlink_to(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".a.png.0123abcd.part").touch()
    before = set(tmp_path.rglob("*"))
    assert sweep(tmp_path, ["a.png", "b\n.png", long]) == 6
    assert before - set(tmp_path.rglob("*")) == set(ours)
    assert sweep(tmp_path, ["a.png", "b\n.png", long]) == 0


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path: Path) -> None:
    assert sweep(tmp_path / "none", ["a.png"]) == 0


# ---------------------------------------------------------------- places that say no


def test_a_journal_that_cannot_be_opened_is_one_line_about_the_output_place(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / NAME, tmp_path):
        with pytest.raises(OutputError, match=r"cannot be written \(.+\): choose another output folder") as caught:
            Journal(path, "key")
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def full(_: int, __: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("write", [full, lambda descriptor, data, real=os.write: real(descriptor, data[:9])])
def test_a_full_disk_is_told_and_the_next_entry_is_whole_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, write: Callable[[int, bytes], int]
) -> None:
    with place.open() as book:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", write)
            with pytest.raises(OSError, match="No space left on device"):
                make(book, place.image, place.mask, place.output)
        assert not place.output.exists()
        place.output.write_bytes(b"restored")
        assert not book.done(place.image, place.mask, place.output)
        make(book, place.image, place.mask, place.output)
        assert book.done(place.image, place.mask, place.output)
    assert place.done()


def test_an_entry_is_on_the_disk_before_it_counts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = os.fsync, []

    def watched(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        real(descriptor)

    with place.open() as book:
        place.output.write_bytes(b"restored")
        monkeypatch.setattr(os, "fsync", watched)
        book.record(book.contents(place.image, place.mask), place.output, place.output)
    assert sizes == [place.path.stat().st_size]


@pytest.fixture
def closed(place: Place) -> Iterator[Journal]:
    place.make()
    book = place.open()
    book.close()
    book.close()
    yield book


def test_a_closed_journal_answers_but_writes_nowhere(place: Place, closed: Journal) -> None:
    before = place.path.read_bytes()
    with (place.root / "unlucky").open("wb"):  # may have got the number of the closed file
        assert closed.done(place.image, place.mask, place.output)
        with pytest.raises(OSError):
            closed.record(closed.contents(place.image, None), place.output, place.output)
    assert (place.root / "unlucky").read_bytes() == b"" and place.path.read_bytes() == before


def test_the_sum_is_that_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_CHUNK", 2)
    (tmp_path / "a").write_bytes(b"abc")
    assert journal._content(tmp_path / "a").sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_another_process_has_made_since_is_known(place: Place) -> None:
    with place.open() as mine, place.open() as others:
        make(others, place.image, place.mask, place.output)
        assert mine.done(place.image, place.mask, place.output) and mine.made(place.output)


def test_what_another_process_has_made_anew_since_is_known(place: Place) -> None:
    place.make(content=b"first try")
    with place.open() as mine, place.open("other") as others:
        make(others, place.image, place.mask, place.output, b"other try")  # as long as the first
        assert mine.made(place.output) and not mine.done(place.image, place.mask, place.output)
        place.image.write_bytes(b"another picture")
        with place.open() as same:
            make(same, place.image, place.mask, place.output, b"third try")
        assert mine.done(place.image, place.mask, place.output) and mine.made(place.output)


def test_a_line_that_another_process_is_writing_is_read_once_it_is_whole(place: Place) -> None:
    place.make()
    data = place.path.read_bytes()
    place.path.write_bytes(data[:-9])
    with place.open() as mine:
        assert not mine.done(place.image, place.mask, place.output)
        with place.path.open("ab") as stream:
            stream.write(data[-9:])
        assert mine.done(place.image, place.mask, place.output)


def test_what_runs_of_folders_inside_and_above_have_noted_is_known(place: Place) -> None:
    inside = place.out / "box" / "sub"
    inside.mkdir(parents=True)
    for folder, name in ((inside, "a.png"), (inside.parent, "sub/b.png"), (inside.parent, "c.png")):
        with Journal(folder / NAME, "key", "worker" if name == "c.png" else "") as book:
            make(book, place.image, place.mask, folder / name)
    with place.open() as whole:
        for name in ("box/sub/a.png", "box/sub/b.png", "box/c.png"):
            assert whole.done(place.image, place.mask, place.out / name), name
            assert whole.made(place.out / name)
        make(whole, place.image, place.mask, place.out / "d.png")
        make(whole, place.image, place.mask, inside / "e.png")
    before = {path: path.read_bytes() for path in place.out.rglob(f"{Path(NAME).stem}*")}
    (place.root / NAME).mkdir()  # no journal, and no harm
    with Journal(inside / NAME, "key") as book:
        for output in (place.out / "d.png", inside / "e.png", inside / "b.png"):
            assert book.done(place.image, place.mask, output) and book.made(output)
    assert {path: path.read_bytes() for path in place.out.rglob(f"{Path(NAME).stem}*")} == before


def test_a_journal_further_up_that_cannot_be_read_says_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = place.out / "box"
    inside.mkdir()
    (place.root / NAME).write_bytes(b"")
    read = Path.open

    def refused(path: Path, *how: Any, **more: Any) -> Any:
        if path == place.root / NAME:
            raise PermissionError(errno.EACCES, "no", str(path))
        return read(path, *how, **more)

    monkeypatch.setattr(Path, "open", refused)
    with Journal(place.path, "key") as whole, Journal(inside / NAME, "key") as book:
        make(whole, place.image, place.mask, inside / "a.png")
        assert book.done(place.image, place.mask, inside / "a.png")


def test_a_journal_that_is_only_read_knows_the_same_and_makes_nothing(place: Place) -> None:
    with Journal(place.path, "key", writes=False) as book:
        assert not book.done(place.image, place.mask, place.output) and not place.path.exists()
        place.make()
        assert book.done(place.image, place.mask, place.output) and book.made(place.output)
        with pytest.raises(OSError):
            book.record(book.contents(place.image, None), place.output, place.output)
        with place.open() as other, other.alone() as alone:
            assert alone or sys.platform == "win32"
    with Journal(place.out / "not" / "there" / NAME, "key", writes=False) as book:
        assert book.done(place.image, place.mask, place.output) and not (place.out / "not").exists()


def test_a_folder_that_has_not_changed_is_not_listed_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.make()
    with place.open() as book:
        monkeypatch.setattr(Path, "glob", None)
        assert not book.done(place.mask, place.mask, place.output)


def test_workers_on_several_machines_append_to_files_of_their_own_and_know_of_each_others(place: Place) -> None:
    with Journal(place.path, "key", "one") as one, Journal(place.path, "key", "two") as two:
        part = place.out / "part"
        part.write_bytes(b"restored")
        one.record(one.contents(place.image, place.mask), place.output, part)
        part.replace(place.output)
        assert two.done(place.image, place.mask, place.output)
    assert place.path.read_bytes() == b"", "the shared file is for locks alone then"
    assert {path.name for path in place.out.glob(".pconv-journal*")} == {
        NAME, ".pconv-journal.one.jsonl", ".pconv-journal.two.jsonl",
    }  # fmt: skip
    with place.open() as later:
        assert later.done(place.image, place.mask, place.output) and later.made(place.output)
        later.gather()
    assert [path.name for path in place.out.glob(".pconv-journal*")] == [NAME]
    with place.open() as last:
        assert last.done(place.image, place.mask, place.output)


def test_nobody_is_alone_while_a_worker_has_the_journal(place: Place) -> None:
    with Journal(place.path, "key", "worker"):
        # another process: who asks from the same one counts as itself on some systems
        code = f"from pathlib import Path; from pconv_cli.journal import Journal; j = Journal(Path({str(place.path)!r}), 'key')\nwith j.alone() as sure: print(sure)"  # noqa: E501
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "False"
