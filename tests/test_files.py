"""`files`: a file gets its name when it is whole, nobody else's is lost, and nothing is left of one that failed."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from pconv_cli import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(target: Path, data: bytes = b"whole", overwrite: bool = False) -> None:
    with files.whole(target, overwrite=overwrite) as stream:
        stream.write(data)


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=["links", "no links", "no os.link"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """File systems and platforms with and without hard links."""
    if request.param == "no links":
        monkeypatch.setattr(os, "link", no_links)
    elif request.param == "no os.link":
        monkeypatch.delattr(os, "link")
    return str(request.param)


# ---------------------------------------------------------------- held

KILLED = """
import os, signal, sys
from pathlib import Path
from pconv_cli import files
held = files.Held(Path(sys.argv[1]))
held.stream.write(b"scratch")
held.second.write_bytes(b"copy")
print("ready", flush=True)
os.kill(os.getpid(), int(sys.argv[2]))
"""


def test_held_files_are_two_and_gone_when_closed(tmp_path: Path) -> None:
    held = files.Held(tmp_path / "a.with.tif")
    held.stream.write(b"x")
    held.second.write_bytes(b"y")
    assert len(names(tmp_path)) == 2 and all(name.startswith(".a.with.tif.") for name in names(tmp_path))
    assert files.sweep(tmp_path / "a.with.tif") == 0 and len(names(tmp_path)) == 2
    held.close()
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        files.Held(tmp_path / "gone" / "a")


def test_what_a_killed_process_has_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.tif"
    subprocess.run([sys.executable, "-c", KILLED, target, str(int(signal.SIGKILL))], check=False)
    left = names(tmp_path)
    assert len(left) == 2
    others = [".a.tif.0123abcd.part", ".a.tif.held.0123abcd", ".b.tif.held.0123abcd.part", "a.tif.held.0123abcd.part"]
    for name in others:
        (tmp_path / name).touch()
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, target, str(int(signal.SIGSTOP))], stdout=subprocess.PIPE
    ) as living:
        try:
            assert living.stdout is not None and living.stdout.readline() == b"ready\n"
            held = files.Held(target)
            assert files.sweep(target) == 2
            held.close()
            mine = set(names(tmp_path)) - set(others)
            assert len(mine) == 2 and not mine & set(left)
        finally:
            living.kill()
    assert files.sweep(target) == 2 and names(tmp_path) == sorted(others)
    assert files.sweep(tmp_path / "gone" / "a.tif") == 0


def test_a_copy_whose_holder_is_gone_is_swept_too(tmp_path: Path) -> None:
    (tmp_path / ".a.tif.with.0123abcd.part").touch()
    assert files.sweep(tmp_path / "a.tif") == 1 and names(tmp_path) == []


def test_without_locks_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    held = files.Held(tmp_path / "a.tif")
    assert files.sweep(tmp_path / "a.tif") == 0
    assert len(names(tmp_path)) == 1
    held.close()


# ---------------------------------------------------------------- whole


@pytest.mark.usefixtures("system")
def test_only_the_whole_file_is_left_and_while_it_is_written_none_of_that_name(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    with files.whole(target, overwrite=False) as stream:
        stream.write(b"first ")
        (beside,) = names(tmp_path)
        assert beside.startswith(".a.png.") and beside.endswith(".part")
        stream.seek(0)
        assert stream.read() == b"first "
        stream.write(b"second")
    assert names(tmp_path) == ["a.png"] and target.read_bytes() == b"first second"


def test_a_file_that_is_there_is_kept_unless_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"precious")
    with pytest.raises(files.Refused, match="is there already: pass --overwrite"):
        write(target)
    assert target.read_bytes() == b"precious"
    write(target, overwrite=True)
    assert target.read_bytes() == b"whole" and names(tmp_path) == ["a"]


def test_a_link_to_nowhere_is_there_too(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(files.Refused):
        files.refuse_taken(tmp_path / "a", overwrite=False)
    files.refuse_taken(tmp_path / "a", overwrite=True)
    files.refuse_taken(tmp_path / "b", overwrite=False)


@pytest.mark.usefixtures("system")
def test_a_file_that_appears_meanwhile_is_not_clobbered(tmp_path: Path) -> None:
    with (
        pytest.raises(files.Refused, match="is there already"),
        files.whole(tmp_path / "a", overwrite=False) as stream,
    ):
        stream.write(b"ours")
        (tmp_path / "a").write_bytes(b"theirs")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"theirs"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
@pytest.mark.parametrize("place", ["block", "fsync", "replace"])
def test_what_fails_midway_leaves_nothing_and_the_old_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, place: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    if place != "block":
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[place], fail)
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        with pytest.raises(type(error)), files.whole(tmp_path / name, overwrite=True) as stream:
            stream.write(b"half a file")
            if place == "block":
                fail()
    assert names(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"old"


def test_a_last_step_that_fails_leaves_no_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    if system == "links":
        monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a")
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there_is_an_os_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "a")
    assert names(tmp_path) == []


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = os.fsync, []

    def watched(number: int) -> None:
        seen.append((names(tmp_path)[0].startswith("."), os.fstat(number).st_size))
        real(number)

    monkeypatch.setattr(os, "fsync", watched)
    write(tmp_path / "a")
    assert seen == [(True, len(b"whole"))]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


# ---------------------------------------------------------------- its parts


def test_very_long_names_leave_room_for_the_hidden_one(tmp_path: Path) -> None:
    name = "ü" * 120 + ".png"
    write(tmp_path / name)
    assert names(tmp_path) == [name]


def test_hidden_names_are_beside_the_target_and_never_the_same_twice(tmp_path: Path) -> None:
    found = {files.hidden(tmp_path / "a.tif") for _ in range(100)}
    assert len(found) == 100 and {path.parent for path in found} == {tmp_path}


@pytest.mark.usefixtures("system")
def test_a_part_of_any_making_is_placed(tmp_path: Path) -> None:
    part, target = tmp_path / "part", tmp_path / "a"
    part.write_bytes(b"1")
    files.place(part, target, overwrite=False)
    assert target.read_bytes() == b"1"
    part.write_bytes(b"2")
    with pytest.raises(files.Refused):
        files.place(part, target, overwrite=False)
    part.unlink()
    part.write_bytes(b"3")
    files.place(part, target, overwrite=True)
    assert target.read_bytes() == b"3" and names(tmp_path) == ["a"]


def test_a_file_is_never_put_over_its_own_source(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"x")
    (tmp_path / "soft").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    for target in (source, tmp_path / "soft", tmp_path / "hard", tmp_path / "." / "a"):
        with pytest.raises(files.Refused, match="its own source"):
            files.refuse_same(source, target)
    (tmp_path / "other").write_bytes(b"x")
    for target in (tmp_path / "other", tmp_path / "none", source / "below a file"):
        files.refuse_same(source, target)
    files.refuse_same(tmp_path / "none", tmp_path / "none")


def test_reasons_name_the_cause_and_the_way_out() -> None:
    full = files.why_unwritable(OSError(errno.ENOSPC, "No space left on device"))
    assert full == "cannot be written (No space left on device): free some room there, or choose another output folder"
    denied = files.why_unwritable(PermissionError(errno.EACCES, "Permission denied"))
    assert denied == "cannot be written (Permission denied): choose another output folder"
    assert files.why_unwritable(MemoryError()).startswith("too big for the memory of this machine")
    assert files.why_unwritable(files.Refused("is there already")) == "is there already"
    for other in (OSError("encoder error -2"), ValueError("x")):
        assert files.why_unwritable(other) == ""


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (1500 * 2**30, "1,500.0 GiB")],
)
def test_bytes_are_told_in_a_unit_of_which_there_is_one(count: int, told: str) -> None:
    assert files.amount(count) == told


# ---------------------------------------------------------------- warnings


def test_no_warning_comes_out_and_the_filters_are_as_before() -> None:
    before = list(warnings.filters)
    with files.quietly():
        warnings.warn("hushed", stacklevel=1)
    assert warnings.filters == before
    with pytest.raises(UserWarning, match="heard"):  # pytest's own setting in this project
        warnings.warn("heard", stacklevel=1)


def test_threads_hush_one_after_the_other() -> None:
    before, inside = list(warnings.filters), threading.Event()

    def other() -> None:
        with files.quietly():
            inside.set()

    thread = threading.Thread(target=other)
    with files.quietly():
        thread.start()
        assert not inside.wait(0.2)
    thread.join(10)
    assert inside.is_set() and warnings.filters == before


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
