"""What is kept is found again, byte for byte, or counts as not there; whatever happened to the file in between."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import warm

from pconv_cli import files, keeping
from pconv_cli.keeping import InUse, Kept, Key

OF = {"the picture": "big.tif 1 2", "--dilate": "0"}
ROOM = 1 << 30
RESULTS: dict[Key, bytes] = {(0, 0, 0): b"one" * 9, (0, 0, 7): b"", (0, 1, 0): os.urandom(5000), (1, 0, 0): b"four"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return files.kept(tmp_path / "map.tif")


def opened(path: Path, of: dict[str, str] = OF, *, resume: bool = True, room: int = ROOM) -> Kept:
    return Kept(path, of, resume=resume, room=room)


def fill(path: Path) -> list[int]:
    """Keep the results in a new file; where each of the records ends, the first one's, which holds none, included."""
    with opened(path, resume=False) as kept:
        ends = [kept.size]
        for key, content in RESULTS.items():
            kept.add(key, content)
            ends.append(kept.size)
    return ends


def found(path: Path) -> dict[Key, bytes]:
    with opened(path) as kept:
        return {key: content for key in RESULTS if (content := kept.find(key)) is not None}


def test_what_one_run_has_kept_the_next_finds(path: Path) -> None:
    fill(path)
    with opened(path) as kept:
        assert kept.before == len(kept) == 4 and kept.changed == [] and kept.dropped == 0 and kept.left
        assert {key: kept.find(key) for key in RESULTS} == RESULTS
        assert all(key in kept for key in RESULTS) and (9, 9, 9) not in kept and kept.find((9, 9, 9)) is None
        kept.add((2, 0, 0), b"five")
        assert kept.find((2, 0, 0)) == b"five"
    with opened(path) as kept:
        assert kept.before == 5 and kept.find((2, 0, 0)) == b"five" and kept.find((1, 0, 0)) == b"four"


def test_what_is_added_again_takes_the_place_of_what_was_there(path: Path) -> None:
    fill(path)
    with opened(path) as kept:
        kept.add((0, 0, 0), b"another")
        assert kept.find((0, 0, 0)) == b"another" and len(kept) == 4
    assert found(path)[0, 0, 0] == b"another"


def test_a_record_is_in_the_file_as_soon_as_it_is_added(path: Path) -> None:
    """Or a process that is killed would take it along."""
    with opened(path) as kept:
        kept.add((0, 0, 0), b"result")
        assert path.read_bytes().endswith(b"result") and path.stat().st_size == kept.size


def test_a_file_without_results_does_not_stay_nor_one_that_nobody_wants(path: Path) -> None:
    with opened(path):
        assert path.exists()
    assert not path.exists()
    fill(path)
    with opened(path) as kept:
        kept.done()
        assert not kept.left
    assert not path.exists()


@pytest.mark.parametrize("cut", [1, 5, 40])
@pytest.mark.parametrize("record", range(5))
def test_a_torn_record_ends_the_row_and_the_next_takes_its_place(path: Path, record: int, cut: int) -> None:
    ends = fill(path)
    begins = [0, *ends]
    with path.open("r+b") as file:
        file.truncate(min(begins[record] + cut, begins[record + 1] - 1))
    expected = dict(list(RESULTS.items())[: max(0, record - 1)])
    with opened(path) as kept:
        assert {key: content for key in RESULTS if (content := kept.find(key)) is not None} == expected
        assert kept.before == len(expected) and kept.changed == []
        kept.add((3, 3, 3), b"after")
    with opened(path) as kept:
        assert kept.find((3, 3, 3)) == b"after" and kept.before == len(expected) + 1


@pytest.mark.parametrize("record", [1, 3, 4])
def test_a_content_that_has_rotted_counts_as_not_there_and_no_other_does(path: Path, record: int) -> None:
    ends = fill(path)
    data = bytearray(path.read_bytes())
    data[ends[record] - 1] ^= 1
    path.write_bytes(data)
    rotten = list(RESULTS)[record - 1]
    assert found(path) == {key: content for key, content in RESULTS.items() if key != rotten}


@pytest.mark.parametrize("length", [1, 100, 1 << 16])
def test_zeros_that_a_power_cut_has_left_are_no_records(path: Path, length: int) -> None:
    fill(path)
    with path.open("ab") as file:
        file.write(bytes(length))
    with opened(path) as kept:
        assert kept.before == 4


@pytest.mark.parametrize("data", [b"", b"x", b"not ours" * 99, bytes(4096)])
def test_a_file_that_is_none_of_ours_is_begun_anew(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with opened(path) as kept:
        assert kept.before == 0 and kept.changed == [] and kept.dropped == 0
        kept.add((0, 0, 0), b"result")
    with opened(path) as kept:
        assert kept.before == 1


def test_results_of_something_else_are_dropped_and_it_is_said_of_what(path: Path) -> None:
    size = fill(path)[-1]
    other = {"the picture": "big.tif 1 3", "--dilate": "0", "new": "x"}
    with opened(path, other) as kept:
        assert kept.changed == ["new", "the picture"] and kept.before == 0 and kept.dropped == size
        kept.add((0, 0, 0), b"result")
    with opened(path, other) as kept:
        assert kept.changed == [] and kept.before == 1 and kept.find((1, 0, 0)) is None


def test_unless_results_are_wanted_it_is_begun_anew(path: Path) -> None:
    size = fill(path)[-1]
    with opened(path, resume=False) as kept:
        assert kept.before == 0 and kept.dropped == size and kept.changed == []
        assert kept.find((0, 0, 0)) is None
    assert not path.exists()


def test_beyond_its_room_nothing_is_added_and_that_is_raised_once(path: Path) -> None:
    with opened(path, room=100) as kept:
        kept.add((0, 0, 0), bytes(50))
        with pytest.raises(OSError, match="No space left") as raised:
            kept.add((0, 0, 1), bytes(50))
        assert raised.value.errno == errno.ENOSPC
        kept.add((0, 0, 2), b"")
        assert len(kept) == 1 and kept.size == path.stat().st_size
    with opened(path, room=100) as kept:
        assert kept.before == 1
        kept.add((0, 0, 1), bytes(50))  # the room is that beyond what is there


def test_a_disk_that_is_full_in_the_middle_of_a_record_leaves_none_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(keeping.FileIO):
        def write(self, data: object) -> int:
            if self.tell() > 200:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(memoryview(data)[:64])  # type: ignore[call-overload]

    monkeypatch.setattr(keeping, "FileIO", Full)
    with opened(path) as kept:
        kept.add((0, 0, 0), bytes(30))
        size = kept.size
        with pytest.raises(OSError, match="No space left"):
            kept.add((0, 0, 1), bytes(500))
        assert path.stat().st_size == size == kept.size and kept.find((0, 0, 0)) == bytes(30)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_one_process_at_a_time_has_it_and_its_end_however_it_comes_lets_go_of_it(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pconv_cli.keeping import Kept\n"
        "kept = Kept(Path(sys.argv[1]), {}, resume=True, room=99); kept.add((0, 0, 0), b'x'); print(1, flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with warm.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        before = path.read_bytes()
        with pytest.raises(InUse):
            opened(path)
        assert path.read_bytes() == before
        process.send_signal(signal.SIGKILL)
        process.wait()
    with opened(path, {}) as kept:
        assert kept.before == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no such links there")
def test_a_link_in_its_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    """Everybody can foresee the name, and some folders are everybody's."""
    target = tmp_path / "precious"
    target.write_bytes(b"mine")
    path.symlink_to(target)
    with pytest.raises(OSError):
        opened(path)
    assert target.read_bytes() == b"mine" and stat.S_ISLNK(path.lstat().st_mode)


def test_its_name_is_hidden_and_each_outputs_own(tmp_path: Path) -> None:
    names = [files.kept(tmp_path / f"{'long' * 20}{number}.tif").name for number in range(2)]
    assert names[0] != names[1] and all(name.startswith(".long") and len(name) < 90 for name in names)
    assert files.kept(tmp_path / "a.tif") == files.kept(tmp_path / "a.tif") and files.sweep(tmp_path / "a.tif") == 0


def test_what_is_kept_survives_the_sweeping_up_after_killed_runs(path: Path, tmp_path: Path) -> None:
    from pconv_cli import journal

    fill(path)
    assert files.sweep(tmp_path / "map.tif") == 0 and journal.sweep(tmp_path, ["map.tif"]) == 0
    assert found(path) == RESULTS
