"""`remote`: files by URL, against a real S3 server; what appears there is whole, and what is done is known to be."""

from __future__ import annotations

import http.server
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import fsspec
import pytest
import warm
from conftest import Workplace, box, pressing_ctrl_c
from moto.server import ThreadedMotoServer

from pconv_cli import bench, engine, events, remote
from pconv_cli import restore as use_case
from pconv_cli.cli.app import main, run
from pconv_cli.errors import ItemError, UsageError
from pconv_cli.pipeline import Again
from pconv_cli.remote import Stage, is_url
from pconv_cli.report import ItemReport

RUN = ("--weights", "none", "--device", "cpu", "--precision", "fp32", "--json")


@dataclass
class Server:
    """A real S3 server, which writes down what it is asked for, and can be told to fail."""

    url: str
    asked: list[str] = field(default_factory=list)
    fault: Callable[[str], str | None] = lambda asked: None

    silence: Callable[[str], bool] = lambda asked: False

    def around(self, app: Any) -> Any:
        def answer(environ: dict[str, Any], start: Any) -> Any:
            query = environ.get("QUERY_STRING", "")
            asked = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}{'?' + query if query else ''}"
            self.asked.append(asked)
            if status := self.fault(asked):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start(status, [("Content-Type", "text/xml"), ("Content-Length", "0")])
                return [b""]
            if self.silence(asked):  # it is done, and the answer gets lost
                list(app(environ, lambda *_: None))
                start("503 Service Unavailable", [("Content-Type", "text/xml"), ("Content-Length", "0")])
                return [b""]
            return app(environ, start)

        return answer


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    logging.getLogger("werkzeug").setLevel("ERROR")
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    assert moto._server is not None
    server = Server(f"http://127.0.0.1:{moto.get_host_and_port()[1]}")
    moto._server.app = server.around(moto._server.app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield server
    moto.stop()


@dataclass
class Bucket:
    """A bucket of its own for each test."""

    url: str
    server: Server
    system: Any

    @property
    def asked(self) -> list[str]:
        return [asked for asked in self.server.asked if f" /{self.url.removeprefix('s3://')}" in asked]

    def put(self, folder: Path, under: str) -> str:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.system.put_file(str(path), f"{self.url}/{under}/{path.relative_to(folder).as_posix()}")
        return f"{self.url}/{under}"

    def files(self, under: str) -> dict[str, bytes]:
        root = f"{self.url}/{under}".removeprefix("s3://")
        self.system.invalidate_cache()
        return {name.removeprefix(f"{root}/"): self.system.cat_file(name) for name in self.system.find(root)}


@pytest.fixture
def bucket(running: Server, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    system = fsspec.filesystem("s3")
    url = f"s3://b{abs(hash(request.node.name)):x}"
    system.mkdir(url)
    running.asked.clear()
    yield Bucket(url, running, system)
    running.fault, running.silence = lambda asked: None, lambda asked: False


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    stage = tmp_path / "tmp"
    stage.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(stage))
    yield
    assert list(stage.iterdir()) == []


@dataclass
class Ran:
    code: int
    items: list[dict[str, Any]]
    err: str

    @property
    def statuses(self) -> dict[str, str]:
        return {item["name"]: item["status"] for item in self.items}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def call(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments)])
        out, err = capsys.readouterr()
        documents = [json.loads(line) for line in out.splitlines()]
        assert "Traceback" not in err and f"{tempfile.tempdir}/pconv-" not in out + err, "people read URLs"
        code = end.value.code
        assert isinstance(code, int)
        return Ran(code, [one for one in documents if one["type"] in ("item", "check")], err)

    return call


@pytest.fixture
def pconv(command: Callable[..., Ran]) -> Callable[..., Ran]:
    return lambda *arguments: command("restore", *arguments, *RUN)


@pytest.fixture
def local(work: Workplace, pconv: Callable[..., Ran]) -> dict[str, bytes]:
    """Four pictures in all formats that matter, and what comes out of them without any URL."""
    work.pair("a.png", seed=1)
    work.pair("sub/b.tif", seed=2)
    work.pair("sub/ä &c.jpg", size=(64, 48), seed=3, quality=90)
    work.picture("d.png", seed=4)
    work.mask("d.png", box(48, 40, 0, 0, 0, 0))
    (work.pictures / "notes.txt").write_text("no picture")
    here = work.root / "here"
    assert pconv(work.pictures, work.masks, here).code == 0
    return {str(p.relative_to(here)): p.read_bytes() for p in here.rglob("*.*") if not p.name.startswith(".")}


# ---------------------------------------------------------------- names


def test_what_is_a_url_and_what_a_file() -> None:
    assert all(map(is_url, ["s3://b/k", "https://h/a.png", "S3://b", "abfs+x://c"]))
    assert not any(map(is_url, ["a.png", "/a//b", "C:\\a.png", "c://a.png", "s3:/b", "-", "x/s3://b"]))


def test_names_of_a_stage_have_their_urls_again_in_all_that_people_read(tmp_path: Path) -> None:
    with Stage() as stage:
        assert stage.name("in/a.png") == "in/a.png" and not stage.used
        assert stage.name("file:///a/b%20c.png") == "/a/b c.png" and not stage.used
        urls = ["s3://b/in/a b.png", "https://h:80/ä.png", "s3://b/what?.png", "https://h/x/a.png?sig=1%2F", "s3://b"]
        paths = [stage.name(url) for url in urls]
        assert len(set(paths)) == len(urls) and [stage.shown(path) for path in paths] == urls
        assert all(stage.holds(Path(path)) for path in paths) and not stage.holds(tmp_path)
        assert Path(paths[3]).name == "a.png", "its suffix says what it is"
        assert stage.name("s3a://b/in") == stage.name("s3://b/in") and stage.name("s3://b/in/").endswith(os.sep)
        report = ItemReport("a", paths[0], None, paths[1], "failed", notices=(f"{paths[0]} and {paths[2]}: bad",))
        shown = stage.shown(report)
        assert (shown.image, shown.mask, shown.output) == (urls[0], None, urls[1])
        assert shown.notices == (f"{urls[0]} and {urls[2]}: bad",)
        assert stage.shown(events.Notice(paths[0])) == events.Notice(urls[0])
        again = pickle.loads(pickle.dumps(stage))
        assert again.shown(str(again.here(Path(paths[3])))) == urls[3]
        assert again.here(Path(paths[0])) != Path(paths[0]) and again.here(tmp_path) == tmp_path


@pytest.mark.parametrize("url", ["s3://b//a.png", "s3://b/../a.png", "s3:///a.png", "s3://"])
def test_urls_that_cannot_be_names_are_refused(url: str) -> None:
    with Stage() as stage, pytest.raises(UsageError, match="empty parts"):
        stage.name(url)


@pytest.mark.parametrize("part", ["D:", "D:k.png", "..\\..\\evil.png", "\\evil.png"])
def test_where_names_have_drives_no_part_of_a_url_is_one(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Stage() as stage:
        assert Path(stage.name(f"s3://b/{part}")).name == part
        monkeypatch.setattr(remote, "Path", PureWindowsPath)
        with pytest.raises(UsageError, match="cannot be worked with"):
            stage.name(f"s3://b/{part}")


# ---------------------------------------------------------------- the same as with folders


def test_folders_on_storage_give_the_same_bytes_as_folders_here(
    work: Workplace, bucket: Bucket, local: dict[str, bytes], pconv: Callable[..., Ran]
) -> None:
    source, masks = bucket.put(work.pictures, "in"), bucket.put(work.masks, "masks")
    staged: set[str] = set()

    def look(asked: str) -> None:
        if asked.startswith("PUT"):
            staged.update(path.name for path in Path(str(tempfile.tempdir)).rglob("*.*"))

    bucket.server.fault = look
    ran = pconv(source, masks, f"{bucket.url}/out")
    assert ran.code == 0, ran.err
    assert bucket.files("out") == local and len(local) == 4
    assert "a.png" in staged and "notes.txt" not in staged, "while it works, only what it needs is there"
    first = ran.items[[item["name"] for item in ran.items].index("a.png")]
    assert (first["image"], first["mask"]) == (f"{source}/a.png", f"{masks}/a.png")
    assert first["output"] == f"{bucket.url}/out/a.png"
    assert sorted(ran.statuses.values()) == ["copied", "restored", "restored", "restored"]


@pytest.mark.parametrize("where", ["in", "masks", "out", "in masks", "in in", "all in one"])
def test_folders_here_and_there_mix(
    where: str, work: Workplace, bucket: Bucket, local: dict[str, bytes], pconv: Callable[..., Ran]
) -> None:
    source, masks, out = str(work.pictures), str(work.masks), str(work.out)
    if where == "in in":  # masks and results below the pictures: neither is taken for one
        source, masks, out = bucket.put(work.pictures, "in"), bucket.put(work.masks, "in/masks"), f"{bucket.url}/in/out"
        bucket.put(work.pictures, "in/out/old")
    elif where == "all in one":
        for mask in list(work.masks.rglob("*.png")):
            mask.rename(mask.with_name(f"{mask.stem}_mask.png"))
        source, masks, out = bucket.put(work.pictures, "in"), bucket.put(work.masks, "in"), f"{bucket.url}/out/"
    else:
        source = bucket.put(work.pictures, "in") if "in" in where else source
        masks = bucket.put(work.masks, "masks") if "masks" in where else masks
        out = f"{bucket.url}/out" if where == "out" else out
    ran = pconv(source, masks, out)
    assert ran.code == 0, ran.err
    if is_url(out):
        made = bucket.files(out.removeprefix(f"{bucket.url}/").rstrip("/"))
        made = {name: content for name, content in made.items() if not name.startswith("old/")}
    else:
        made = {str(p.relative_to(work.out)): p.read_bytes() for p in work.out.rglob("*.*") if p.name[0] != "."}
    assert made == local


def test_one_mask_for_all_is_fetched_once(work: Workplace, bucket: Bucket, pconv: Callable[..., Ran]) -> None:
    for i in range(6):
        work.picture(f"{i}.png", seed=i)
    mask = work.mask("m.png", box(48, 40, 8, 8, 20, 20))
    source = bucket.put(work.pictures, "in")
    bucket.put(work.masks, "masks")
    bucket.server.asked.clear()
    ran = pconv(source, f"{bucket.url}/masks/m.png", f"{bucket.url}/out")
    assert ran.code == 0 and len(bucket.files("out")) == 6, ran.err
    assert sum(asked.startswith("GET") and "/masks/m.png" in asked for asked in bucket.asked) == 1
    assert pconv(source, mask, work.out).code == 0
    assert bucket.files("out") == {p.name: p.read_bytes() for p in work.out.glob("*.png")}


def test_the_stage_holds_only_what_is_in_flight(work: Workplace, bucket: Bucket) -> None:
    for i in range(5):
        work.pair(f"{i}.png", seed=i)
    source, masks = bucket.put(work.pictures, "in"), bucket.put(work.masks, "masks")

    def there(root: Path) -> list[str]:
        return sorted(path.name for path in root.rglob("*.png"))

    with Stage() as stage:
        folder = Path(stage.source(source))
        assert len(there(folder)) == 5
        stage.clear()
        assert there(folder.parent) == []
        owners = [Path(stage.target(f"{bucket.url}/out/{i}")) for i in range(5)]
        for i, owner in enumerate(owners):
            for place in (source, masks):
                stage.fetch(Path(stage.name(f"{place}/{i}.png")), owner)
        assert len(there(folder.parent)) == 10
        for owner in owners:
            stage.release(owner)
        assert there(folder.parent) == ["4.png"], "the last mask"
        bucket.server.asked.clear()
        for owner in owners:
            stage.fetch(Path(stage.name(f"{masks}/0.png")), owner)
            stage.release(owner)
        assert sum(asked.startswith("GET") for asked in bucket.asked) == 1 and there(folder.parent) == ["0.png"]


def test_what_changes_after_it_was_looked_at_does_not_pass_for_what_was_fetched(bucket: Bucket) -> None:
    url, result = f"{bucket.url}/in/a.png", f"{bucket.url}/out/a.png"
    bucket.system.pipe_file(url, b"old")
    with Stage() as stage, Stage() as later:
        path, owner = Path(stage.name(url)), Path(stage.target(result))
        stage.fetch(path, owner)
        bucket.system.pipe_file(url, b"new")
        assert path.read_bytes() == b"old"
        assert stage.state(path, owner) != later.state(Path(later.name(url)), Path(later.target(result)))


@pytest.mark.parametrize("key", ["in//a.png", "in/../a.png", "in/a.png/b.png", f"in/{'n' * 300}.png"])
def test_2_where_a_key_cannot_be_the_name_of_a_file(
    key: str, work: Workplace, bucket: Bucket, pconv: Callable[..., Ran]
) -> None:
    work.pair("a.png")
    source = bucket.put(work.pictures, "in")
    bucket.system.pipe_file(f"{bucket.url}/{key}", b"odd")
    bucket.system.touch(f"{source}/folder/")
    ran = pconv(source, work.masks, work.out)
    assert ran.code == 2 and f"{bucket.url}/{key}: " in ran.err and ran.err.count("\n") == 1, ran.err


def test_a_list_holds_urls_in_any_column_and_the_failed_list_goes_back_in(
    work: Workplace, bucket: Bucket, local: dict[str, bytes], pconv: Callable[..., Ran]
) -> None:
    source, masks = bucket.put(work.pictures, "in"), bucket.put(work.masks, "masks")
    rows = [
        (f"{source}/a.png", str(work.masks / "a.png"), f"{bucket.url}/out/a.png"),
        (str(work.pictures / "sub/b.tif"), f"{masks}/sub/b.png", str(work.out / "b.tif")),
        (f"{source}/d.png", f"{masks}/d.png", ""),
        (f"{source}/gone.png", f"{masks}/d.png", ""),
    ]
    listed, failed = work.root / "list.csv", work.root / "failed.csv"
    work.out.mkdir()
    listed.write_text("image,mask,out\n" + "".join(",".join(row) + "\n" for row in rows))
    ran = pconv("--manifest", listed, f"{bucket.url}/more", "--failed-list", failed)
    assert ran.code == 1, ran.err
    assert f"{source}/gone.png: not found" in ran.err
    made = {**bucket.files("out"), "sub/b.tif": (work.out / "b.tif").read_bytes(), **bucket.files("more")}
    assert made == {name: local[name] for name in ("a.png", "sub/b.tif", "d.png")}
    assert f'{source}/gone.png,{masks}/d.png,{bucket.url}/more/gone.png,"not found' in failed.read_text()
    bucket.system.pipe_file(f"{source}/gone.png", (work.pictures / "d.png").read_bytes())
    assert pconv("--manifest", failed).code == 0
    assert bucket.files("more")["gone.png"] == local["d.png"]


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_picture_from_the_web(
    work: Workplace, bucket: Bucket, local: dict[str, bytes], pconv: Callable[..., Ran], web: str
) -> None:
    url = f"{web}/in/sub/{quote('ä &c.jpg')}"
    out = f"{bucket.url}/c.jpg"
    ran = pconv(f"{url}?token=1", f"{web}/masks/sub/{quote('ä &c.png')}", out)
    assert ran.code == 0, ran.err
    assert bucket.system.cat_file(out) == local["sub/ä &c.jpg"]
    assert ran.items[0]["image"] == f"{url}?token=1"
    bucket.server.asked.clear()
    ran = pconv(f"{url}?token=1", f"{web}/masks/sub/{quote('ä &c.png')}", out, "--resume")
    assert list(ran.statuses.values()) == ["done_before"], "known by its content, for such a server tells no tag"
    (work.pictures / "sub/ä &c.jpg").write_bytes((work.pictures / "a.png").read_bytes())
    assert pconv(f"{url}?token=1", f"{web}/masks/sub/{quote('ä &c.png')}", out, "--resume").code == 1
    assert pconv(f"{web}/in/none.png", work.masks / "d.png", work.out).code == 2


def test_damage_that_pictures_show_themselves(work: Workplace, bucket: Bucket, pconv: Callable[..., Ran]) -> None:
    work.pair("a.png")
    source = bucket.put(work.pictures, "in")
    options = ("--mask-from", "color=#FF00FF")
    assert pconv(work.pictures, work.out, *options).code == 0
    assert pconv(source, f"{bucket.url}/out", *options).code == 0
    assert bucket.files("out") == {"a.png": (work.out / "a.png").read_bytes()}


def test_standard_output_and_storage(
    work: Workplace, bucket: Bucket, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    picture, _ = work.pair("a.png")
    mask, out = str(work.masks / "a.png"), work.root / "a.png"
    url = f"{bucket.put(work.pictures, 'in')}/a.png"
    for source, target in ((str(picture), str(out)), (url, "-")):
        with pytest.raises(SystemExit) as end:
            main(["restore", source, mask, target, *RUN[:-1], "--quiet"])
        assert end.value.code == 0
    assert capfdbinary.readouterr().out == out.read_bytes()


# ---------------------------------------------------------------- whole or not at all


def test_what_is_there_is_not_replaced_unless_that_is_asked_for(
    work: Workplace, bucket: Bucket, local: dict[str, bytes], pconv: Callable[..., Ran]
) -> None:
    work.masks.joinpath("d.png").unlink()
    bucket.system.pipe_file(f"{bucket.url}/out/a.png", b"theirs")
    bucket.server.asked.clear()
    ran = pconv(work.pictures, work.masks, f"{bucket.url}/out")
    assert ran.code == 1 and f"a.png ({bucket.url}/out/a.png): the output exists already" in ran.err
    assert not any("PUT" in asked and "/out/a.png" in asked for asked in bucket.asked)
    assert bucket.files("out")["a.png"] == b"theirs" and bucket.files("out")["sub/b.tif"] == local["sub/b.tif"]
    ran = pconv(work.pictures, work.masks, f"{bucket.url}/out", "--resume")
    assert ran.code == 1 and bucket.files("out")["a.png"] == b"theirs", "nobody has noted what that was made of"
    assert pconv(work.pictures, work.masks, f"{bucket.url}/out", "--overwrite").code == 1  # d has no mask
    assert bucket.files("out")["a.png"] == local["a.png"]


def test_what_has_appeared_meanwhile_is_not_replaced(
    work: Workplace, bucket: Bucket, pconv: Callable[..., Ran], tmp_path: Path
) -> None:
    work.pair("a.png")

    def meanwhile(asked: str) -> None:
        if asked.startswith("PUT") and "/out/a.png" in asked and not theirs:
            theirs.append(b"theirs")
            bucket.system.__class__(skip_instance_cache=True).pipe_file(f"{bucket.url}/out/a.png", b"theirs")

    theirs: list[bytes] = []
    bucket.server.fault = meanwhile
    ran = pconv(work.pictures, work.masks, f"{bucket.url}/out")
    assert theirs and ran.code == 1 and "exists already" in ran.err
    assert bucket.files("out") == {"a.png": b"theirs"}


def test_a_put_that_fails_leaves_nothing_and_fails_that_picture_alone(
    work: Workplace, bucket: Bucket, local: dict[str, bytes], pconv: Callable[..., Ran]
) -> None:
    refused = "403 Forbidden"
    bucket.server.fault = lambda asked: refused if asked.startswith("PUT") and "/out/a.png" in asked else None
    ran = pconv(work.pictures, work.masks, f"{bucket.url}/out")
    assert ran.code == 1 and ran.statuses["a.png"] == "failed"
    assert f"a.png ({bucket.url}/out/a.png): not written: access is denied" in ran.err
    assert bucket.files("out") == {name: content for name, content in local.items() if name != "a.png"}


def test_a_put_whose_answer_got_lost_is_not_taken_for_somebody_elses(
    work: Workplace, bucket: Bucket, pconv: Callable[..., Ran]
) -> None:
    work.pair("a.png")
    puts: list[str] = []

    def silent(asked: str) -> bool:
        if asked.startswith("PUT") and "/out/" in asked:
            puts.append(asked)
        return len(puts) == 1 and asked in puts

    bucket.server.silence = silent
    ran = pconv(work.pictures, work.masks, f"{bucket.url}/out")
    assert ran.code == 0 and ran.statuses == {"a.png": "restored"}, ran.err
    assert len(puts) > 1, "it was tried again"


def test_an_upload_in_parts_that_fails_midway_leaves_nothing(bucket: Bucket, tmp_path: Path) -> None:
    with Stage() as stage:
        result = Path(stage.target(f"{bucket.url}/out/big.tif"))
        result.parent.mkdir(parents=True)
        with result.open("wb") as stream:
            stream.truncate(101 << 20)
        bucket.server.fault = lambda asked: "403 Forbidden" if "partNumber=2" in asked else None
        with pytest.raises(ItemError, match="not written: access is denied"):
            stage.deliver(result, "note", overwrite=False)
        assert any("partNumber=1" in asked for asked in bucket.asked), "it had begun"
        assert bucket.files("out") == {} and stage.note(result) is None
        assert bucket.system.list_multipart_uploads(bucket.url.removeprefix("s3://")) == []


# ---------------------------------------------------------------- going on


def test_resume_leaves_out_what_was_made_of_the_same_and_fetches_nothing_for_it(
    work: Workplace, bucket: Bucket, local: dict[str, bytes], pconv: Callable[..., Ran]
) -> None:
    source, masks, out = bucket.put(work.pictures, "in"), bucket.put(work.masks, "masks"), f"{bucket.url}/out"
    assert pconv(source, masks, out).code == 0
    bucket.server.asked.clear()
    ran = pconv(source, masks, out, "--resume")
    assert ran.code == 0 and set(ran.statuses.values()) == {"done_before"} and len(ran.statuses) == 4
    assert not any(asked.startswith("PUT") for asked in bucket.asked)
    assert not any(asked.startswith("GET") and ".png" in asked for asked in bucket.asked)

    ran = pconv(source, masks, out)
    assert ran.code == 1 and "is there from an earlier run; --resume leaves out" in ran.err
    ran = pconv(source, masks, out, "--resume", "--dilate", "3")
    assert ran.code == 1 and "made from other content or with other settings" in ran.err

    work.pair("a.png", seed=77)
    bucket.put(work.pictures, "in")
    bucket.system.pipe_file(f"{out}/d.png", b"somebody else's")
    bucket.system.rm_file(f"{out}/sub/b.tif")
    ran = pconv(source, masks, out, "--resume", "--overwrite")
    assert ran.code == 0
    assert sorted(ran.statuses.values()) == ["copied", "done_before", "restored", "restored"]
    assert bucket.files("out")["d.png"] == local["d.png"] and bucket.files("out")["a.png"] != local["a.png"]


@pytest.mark.parametrize("which", ["picture", "mask"])
def test_a_note_tells_of_what_was_read_and_of_nothing_that_has_come_since(
    which: str, work: Workplace, bucket: Bucket, pconv: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = work.pair("a.png")
    real = bench.write_picture

    def late(*arguments: Any, **options: Any) -> Any:
        written = real(*arguments, **options)
        if which == "picture":
            work.picture("a.png", seed=9)
        else:
            work.mask("a.png", box(48, 40, 30, 5, 40, 12))
        return written

    with monkeypatch.context() as patch:
        patch.setattr(bench, "write_picture", late)
        assert pconv(image, work.masks, f"{bucket.url}/out/").code == 0
    ran = pconv(image, work.masks, f"{bucket.url}/out/", "--resume")
    assert ran.code == 1 and "made from other content" in ran.err


def test_resume_from_storage_into_a_folder(
    work: Workplace, bucket: Bucket, local: dict[str, bytes], pconv: Callable[..., Ran]
) -> None:
    source = bucket.put(work.pictures, "in")
    assert pconv(source, work.masks, work.out).code == 0
    ran = pconv(source, work.masks, work.out, "--resume")
    assert ran.code == 0 and set(ran.statuses.values()) == {"done_before"}
    ran = pconv(work.pictures, work.masks, work.out, "--resume")
    assert set(ran.statuses.values()) == {"done_before"}, "the same content, wherever from"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_leaves_whole_results_and_goes_on(
    end: signal.Signals, work: Workplace, bucket: Bucket, pconv: Callable[..., Ran], tmp_path: Path
) -> None:
    for i in range(24):
        work.pair(f"{i}.png", seed=i)
    assert pconv(work.pictures, work.masks, work.out).code == 0
    whole = {p.name: p.read_bytes() for p in work.out.glob("*.png")}
    source, masks, out = bucket.put(work.pictures, "in"), bucket.put(work.masks, "masks"), f"{bucket.url}/out"
    delivered = threading.Event()

    def slow(asked: str) -> None:
        if asked.startswith("PUT") and "/out/" in asked:
            time.sleep(0.05)
            if sum("PUT" in one and "/out/" in one for one in bucket.asked) > 4:
                delivered.set()

    bucket.server.fault = slow
    stage = tmp_path / "killed"
    stage.mkdir()
    command = [sys.executable, "-m", "pconv_cli", "restore", source, masks, out, *RUN, "--jobs", "1"]
    one = warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(stage)})
    assert delivered.wait(60)
    one.send_signal(end)
    _, err = one.communicate(timeout=60)
    assert one.returncode == (130 if end is signal.SIGINT else -signal.SIGKILL), err
    assert (list(stage.iterdir()) == []) is (end is signal.SIGINT)
    there = bucket.files("out")
    assert 0 < len(there) < 24 and all(there[name] == whole[name] for name in there), "none half-written"
    ran = pconv(source, masks, out, "--resume")
    assert ran.code == 0, ran.err
    assert list(ran.statuses.values()).count("done_before") >= len(there)
    assert bucket.files("out") == whole


def test_what_a_worker_delivered_and_did_not_live_to_tell_of_is_made_once_more(
    work: Workplace, bucket: Bucket, pconv: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.bmp", "b.png"):  # provenance has a file of its own beside the first
        work.pair(name)
    write, written = bench.StagedBench.write, list[str]()

    def lost(self: bench.StagedBench, item: bench.Work) -> ItemReport:
        report = write(self, item)
        written.append(item.job.name)
        if written.count(item.job.name) == 1:
            raise Again
        return report

    monkeypatch.setattr(bench.StagedBench, "write", lost)
    monkeypatch.setattr(use_case, "WORTH_HELPERS", 1)  # a run of several processes has a name
    out = f"{bucket.url}/out"
    ran = pconv(work.pictures, work.masks, out, "--provenance")
    assert ran.code == 0 and set(ran.statuses.values()) == {"restored"}, ran.err
    assert sorted(written) == ["a.bmp", "a.bmp", "b.png", "b.png"]
    assert sorted(bucket.files("out")) == ["a.bmp", "a.bmp.xmp", "b.png"]
    ran = pconv(work.pictures, work.masks, out, "--provenance", "--resume")
    assert ran.code == 0 and set(ran.statuses.values()) == {"done_before"}
    monkeypatch.undo()
    ran = pconv(work.pictures, work.masks, out, "--provenance")
    assert ran.code == 1 and set(ran.statuses.values()) == {"failed"}, "another run has no right to them"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_workers_of_a_cluster_fetch_and_deliver_by_themselves(
    work: Workplace, bucket: Bucket, local: dict[str, bytes], pconv: Callable[..., Ran], tmp_path: Path
) -> None:
    source, masks, out = bucket.put(work.pictures, "in"), bucket.put(work.masks, "masks"), f"{bucket.url}/out"
    bucket.system.rm_file(f"{masks}/d.png")
    ran = pconv(source, masks, out, "--cluster", "local", "--workers", "2")
    assert ran.code == 1 and ran.statuses["d.png"] == "failed", ran.err
    assert bucket.files("out") == {name: content for name, content in local.items() if name != "d.png"}
    assert {item["output"] for item in ran.items} == {f"{out}/{name}" for name in local}
    assert list((tmp_path / "tmp").iterdir()) == []


def test_provenance_is_delivered_and_maps_are_saved_here(
    work: Workplace, bucket: Bucket, pconv: Callable[..., Ran], tmp_path: Path
) -> None:
    for name in ("a.bmp", "deep/b.png"):
        work.pair(name)
    source, masks, out = bucket.put(work.pictures, "in"), bucket.put(work.masks, "masks"), f"{bucket.url}/out"
    options = ("--provenance", "--save-filled", tmp_path / "filled")
    ran = pconv(source, masks, out, *options)
    assert ran.code == 0, ran.err
    made = bucket.files("out")
    assert sorted(made) == ["a.bmp", "a.bmp.xmp", "deep/b.png"]
    assert all(b"MaskSHA256" in made[name] for name in ("a.bmp.xmp", "deep/b.png"))
    maps = tmp_path / "filled"
    assert {path.relative_to(maps).as_posix() for path in maps.rglob("*.png")} == {"a.png", "deep/b.png"}
    assert set(pconv(source, masks, out, *options, "--resume").statuses.values()) == {"done_before"}


# ---------------------------------------------------------------- a look before a run


def test_a_check_of_storage_finds_what_a_check_of_folders_finds_and_leaves_nothing(
    work: Workplace, bucket: Bucket, command: Callable[..., Ran]
) -> None:
    for i in range(3):
        work.pair(f"{i}.png", seed=i)
    (work.pictures / "2.png").write_bytes((work.pictures / "0.png").read_bytes()[:900])
    work.picture("alone.png")
    work.mask("unused.png", box(48, 40, 0, 0, 2, 2))
    work.out.mkdir()
    (work.out / "1.png").write_bytes(b"theirs")
    source, masks, out = bucket.put(work.pictures, "in"), bucket.put(work.masks, "masks"), bucket.put(work.out, "out")
    here = command("check", work.pictures, work.masks, work.out, "--json")
    bucket.server.asked.clear()
    there = command("check", source, masks, out, "--json")
    assert here.code == there.code == 2

    def found(ran: Ran, *places: str | Path) -> list[tuple[str, str, bool]]:
        texts = [(one["path"], one["reason"], one["grave"]) for one in ran.items[0]["findings"]]
        for place, name in zip(places, ("IN", "MASKS", "OUT"), strict=True):
            texts = [(path.replace(str(place), name), reason, grave) for path, reason, grave in texts]
        return texts

    assert found(there, source, masks, out) == found(here, work.pictures, work.masks, work.out)
    assert len(found(there, source, masks, out)) == 4
    figures = ("items", "damaged", "tiles", "pixels", "hole_share", "disk_bytes")
    assert [there.items[0][name] for name in figures] == [here.items[0][name] for name in figures]
    assert here.items[0]["disk_free"] and there.items[0]["disk_free"] is None
    assert not any(asked.startswith("PUT") for asked in bucket.asked) and list(bucket.files("out")) == ["1.png"]
    assert command("check", source, masks, "--json").code == 2, "without OUT"
    for name in ("2.png", "alone.png"):
        bucket.system.rm_file(f"{source}/{name}")
    ran = command("check", source, masks, out, "--json")
    assert ran.code == 2 and "exists already" in json.dumps(ran.items)
    assert command("check", source, masks, out, "--json", "--resume").code == 2, "nobody has noted it as done"
    assert command("check", source, masks, out, "--json", "--overwrite").code == 0
    assert (
        command("restore", source, masks, out, "--weights", "none", "--device", "cpu", "--json", "--overwrite").code
        == 0
    )
    ran = command("check", source, masks, out, "--json", "--resume", "--weights", "none")
    assert ran.code == 0 and ran.items[0]["done_before"] == ran.items[0]["items"] == 2


def test_a_check_of_a_list_says_what_is_not_there(work: Workplace, bucket: Bucket, command: Callable[..., Ran]) -> None:
    work.pair("a.png")
    source = bucket.put(work.pictures, "in")
    listed = work.root / "list.csv"
    mask = work.masks / "a.png"
    listed.write_text(f"image,mask,out\n{source}/a.png,{mask},\n{source}/gone.png,{mask},\n")
    ran = command("check", "--manifest", listed, "s3://no-such-bucket/out", "--json")
    reasons = {one["path"]: one["reason"] for one in ran.items[0]["findings"]}
    assert ran.code == 2 and "not found" in reasons[f"{source}/gone.png"], reasons
    assert "s3://no-such-bucket: there is no such bucket" in reasons[""]
    listed.write_text(f"image,mask,out\ns3://no-such-bucket/a.png,{mask},\n")
    ran = command("check", "--manifest", listed, work.out, "--json")
    assert ran.code == 2 and ran.items == [] and "there is no such bucket" in ran.err


# ---------------------------------------------------------------- one big picture


@pytest.fixture
def big(work: Workplace, command: Callable[..., Ran]) -> bytes:
    """A picture with a mask beside it, in `in`, and what `pconv tile` makes of it without any URL."""
    hole = box(220, 150, 60, 40, 160, 120)
    work.picture("map.tif", size=(220, 150), hole=hole, compression="tiff_deflate")
    work.mask("map_mask.png", hole)
    (work.masks / "map_mask.png").rename(work.pictures / "map_mask.png")
    assert command("tile", work.pictures / "map.tif", *TILE).code == 0
    made = work.pictures / "map_restored.tif"
    content = made.read_bytes()
    made.unlink()
    return content


TILE = ("--size", "64", *RUN)


def test_what_is_beside_a_big_picture_elsewhere_is_told_and_carried_as_it_is_here(
    work: Workplace, bucket: Bucket, big: bytes, command: Callable[..., Ran]
) -> None:
    (work.pictures / "map.tfw").write_text("2\n0\n0\n-2\n100\n200\n")
    (work.pictures / "map.tif.aux.xml").write_text("damaged")
    source = bucket.put(work.pictures, "in")
    told = [command("tile", f"{place}/map.tif", *TILE).items[0]["notices"] for place in (work.pictures, source)]
    assert told[0] == told[1] and "map.tif.aux.xml" in told[0][0] and "map.tfw" not in told[0][0]
    world = (work.pictures / "map_restored.tfw").read_bytes()
    assert world == bucket.system.cat_file(f"{source}/map_restored.tfw") == (work.pictures / "map.tfw").read_bytes()


def test_a_stopped_picture_from_elsewhere_is_gone_on_with_here_and_not_there(
    work: Workplace, bucket: Bucket, big: bytes, command: Callable[..., Ran], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is fetched once more, and is the same by content."""
    source, here, there = bucket.put(work.pictures, "in"), work.root / "map.tif", f"{bucket.url}/out/map.tif"
    for out, kept in ((here, True), (there, False)):
        with monkeypatch.context() as patched:
            patched.setattr(engine.Engine, "fill", pressing_ctrl_c(3))
            assert run(["tile", f"{source}/map.tif", "-o", str(out), "--jobs", "1", *TILE]) == 130
            assert ("--resume goes on" in capsys.readouterr().err) == kept
    ran = command("tile", f"{source}/map.tif", "-o", there, "--resume", *TILE)
    assert (
        ran.code == 2 and f"--resume: what is computed is kept beside the output, and {there} is elsewhere" in ran.err
    )
    ran = command("tile", f"{source}/map.tif", "-o", here, "--resume", *TILE)
    assert ran.code == 0 and "goes on from" in ran.err and here.read_bytes() == big


@pytest.mark.parametrize("where", ["all", "picture", "mask", "result", "cluster"])
def test_a_big_picture_elsewhere_gives_the_same_file(
    where: str, work: Workplace, bucket: Bucket, big: bytes, command: Callable[..., Ran]
) -> None:
    source = bucket.put(work.pictures, "in")
    bucket.system.pipe_file(f"{source}/map_mask.txt", b"no picture")
    here, there = work.pictures, f"{bucket.url}/out/new/map.tif"
    given: dict[str, list[object]] = {
        "all": [f"{source}/map.tif"],
        "picture": [f"{source}/map.tif", "-o", work.root / "map.tif"],
        "mask": [here / "map.tif", "--mask", f"{source}/map_mask.png", "-o", there],
        "result": [here / "map.tif", "-o", there],
        "cluster": [f"{source}/map.tif", "-o", there, "--cluster", "local", "--workers", "1"],
    }
    ran = command("tile", *given[where], *TILE)
    assert ran.code == 0, ran.err
    out = {"all": f"{source}/map_restored.tif", "picture": str(work.root / "map.tif")}.get(where, there)
    assert ran.items[0]["output"] == out and ran.items[0]["outside_mask_changed"] == 0
    assert (bucket.system.cat_file(out) if is_url(out) else Path(out).read_bytes()) == big
    assert f"whole files pass through this machine, 0.1 MiB in {tempfile.tempdir}" in ran.err
    beside = f"{source}/map_mask.png" if where in ("all", "picture", "mask", "cluster") else str(here / "map_mask.png")
    assert ran.items[0]["mask"] == beside


def test_the_plan_of_a_picture_elsewhere(
    work: Workplace, bucket: Bucket, big: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    source = bucket.put(work.pictures, "in")
    plans = []
    for folder in (source, str(work.pictures)):
        with pytest.raises(SystemExit) as end:
            main(["tile", f"{folder}/map.tif", "--size", "64", "--plan"])
        assert not end.value.code
        plans.append(json.loads(capsys.readouterr().out))
        assert (plans[-1].pop("image"), plans[-1].pop("mask")) == (f"{folder}/map.tif", f"{folder}/map_mask.png")
    assert plans[0] == plans[1]


def test_a_page_shows_a_big_picture_that_is_elsewhere(
    work: Workplace, bucket: Bucket, big: bytes, command: Callable[..., Ran]
) -> None:
    """While it is still on this machine; of provenance and of maps no less."""
    source, out, page = bucket.put(work.pictures, "in"), f"{bucket.url}/out/map.tif", work.root / "page"
    maps = work.root / "filled"
    ran = command(
        "tile", f"{source}/map.tif", "-o", out, *TILE, "--report", page, "--provenance", "--save-filled", maps
    )
    assert ran.code == 0, ran.err
    (shown,) = json.loads((page / "report.json").read_text("utf-8"))["pictures"]
    assert shown["output"] == out and len(shown["thumbnails"]) >= 2 and shown["sheets"]
    assert len(list((page / "images").iterdir())) >= 3 and (maps / "map.tif").is_file()
    assert source in (page / "index.html").read_text("utf-8")
    assert b"MaskSHA256" in bucket.system.cat_file(out)


def test_a_big_picture_from_the_web(
    work: Workplace, bucket: Bucket, big: bytes, command: Callable[..., Ran], web: str
) -> None:
    url, out = f"{web}/in/map.tif?token=1", work.root / "map.tif"
    ran = command("tile", url, "--mask", f"{web}/in/map_mask.png", "-o", out, *TILE)
    assert ran.code == 0 and out.read_bytes() == big, ran.err
    for arguments, told in (
        ([url], f"{url}: results cannot be written beside it: say where to with -o"),
        ([url, "-o", f"{web}/out.tif"], f"{web}/out.tif: results cannot be written there"),
        ([url, "-o", work.root / "new.tif"], f"{url}: no mask; give one with --mask"),
    ):
        ran = command("tile", *arguments, *TILE)
        assert ran.code == 2 and told in ran.err, ran.err
    ran = command("tile", f"{web}/in/gone.tif", "-o", work.root / "new.tif", *TILE)
    assert ran.code == 1 and f"({web}/in/gone.tif)" not in ran.err and "gone.tif: not found" in ran.err, ran.err


def test_a_big_result_replaces_nothing_and_is_kept_where_it_cannot_be_put(
    work: Workplace, bucket: Bucket, big: bytes, command: Callable[..., Ran]
) -> None:
    url, out = f"{bucket.put(work.pictures, 'in')}/map.tif", f"{bucket.url}/out/map.tif"
    bucket.system.pipe_file(out, b"theirs")
    bucket.server.asked.clear()
    ran = command("tile", url, "-o", out, *TILE)
    assert ran.code == 1 and f"({out}): the output exists already" in ran.err
    assert not any(asked.startswith("GET") and "/in/map.tif" in asked for asked in bucket.asked), "before it is fetched"
    ran = command("tile", url, "-o", url, "--overwrite", *TILE)
    assert ran.code == 2 and f"{url}: would replace a file that it is made from" in ran.err
    assert command("tile", url, "-o", out, "--overwrite", *TILE).code == 0
    assert bucket.files("out") == {"map.tif": big}

    bucket.server.fault = lambda asked: "403 Forbidden" if asked.startswith("PUT") and "/other/" in asked else None
    ran = command("tile", url, "-o", f"{bucket.url}/other/map.tif", *TILE)
    assert ran.code == 1 and ran.items[0]["status"] == "failed" and bucket.files("other") == {}
    assert "not written: access is denied" in ran.err
    (kept,) = Path(str(tempfile.tempdir)).iterdir()
    assert f"; the result is kept in {kept}" in ran.err and kept.read_bytes() == big
    kept.unlink()


def test_1_and_one_line_where_a_big_picture_has_no_room_here(
    work: Workplace, bucket: Bucket, big: bytes, command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bucket.put(work.pictures, "in")
    sizes = [(work.pictures / name).stat().st_size for name in ("map.tif", "map.tif", "map_mask.png")]
    for free, code in ((sum(sizes) - 1, 1), (sum(sizes), None), (2**30, 0)):  # picture, mask and result
        monkeypatch.setattr(remote.shutil, "disk_usage", lambda place, free=free: SimpleNamespace(free=free))
        bucket.server.asked.clear()
        ran = command("tile", f"{source}/map.tif", *TILE)
        if code is None:  # enough to fetch all that, but not for what is decoded beside it
            assert ran.code == 1 and "on this machine until it is done" in ran.err and "set TMPDIR" in ran.err
            continue
        assert ran.code == code, ran.err
        if code:
            assert f"no room for it on this machine: 0.1 MiB are needed in {tempfile.tempdir}" in ran.err
            assert "set TMPDIR" in ran.err and not any(one.startswith("GET") and ".tif" in one for one in bucket.asked)


def test_ctrl_c_while_a_big_picture_is_fetched_fetches_no_more(
    work: Workplace, bucket: Bucket, big: bytes, tmp_path: Path
) -> None:
    source = bucket.put(work.pictures, "in")
    bucket.system.pipe_file(f"{source}/map.tif", bytes(8 << 20))
    stage = tmp_path / "stopped"
    stage.mkdir()
    asked_for = threading.Event()
    sent = threading.Event()

    def wait(asked: str) -> None:
        if asked.startswith("GET") and asked.endswith("/in/map.tif"):
            asked_for.set()
            sent.wait(60)

    bucket.server.fault = wait
    line = [sys.executable, "-m", "pconv_cli", "tile", f"{source}/map.tif", *TILE]
    one = warm.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(stage)}
    )
    assert asked_for.wait(60)
    one.send_signal(signal.SIGINT)
    time.sleep(0.5)  # it waits for the first byte
    sent.set()
    out, err = one.communicate(timeout=60)
    assert one.returncode == 130 and json.loads(out.splitlines()[0])["status"] == "not_done", err
    assert sorted(bucket.files("in")) == ["map.tif", "map_mask.png"] and list(stage.iterdir()) == []


# ---------------------------------------------------------------- what cannot work is one line, at once


def test_2_or_5_where_there_is_no_such_bucket(work: Workplace, bucket: Bucket, pconv: Callable[..., Ran]) -> None:
    work.pair("a.png")
    ran = pconv(work.pictures, work.masks, "s3://no-such-bucket/out")
    assert ran.code == 5 and "s3://no-such-bucket: there is no such bucket" in ran.err
    ran = pconv("s3://no-such-bucket/in", work.masks, work.out)
    assert ran.code == 2 and "s3://no-such-bucket/in: not found" in ran.err
    listed = work.root / "list.jsonl"
    row = {"image": "s3://no-such-bucket/a.png", "mask": str(work.masks / "a.png")}
    listed.write_text(json.dumps(row))
    ran = pconv("--manifest", listed, work.out)
    assert ran.code == 2 and "there is no such bucket" in ran.err
    bucket.system.touch(f"{bucket.url}/in/notes.txt")
    assert pconv(f"{bucket.url}/in", work.masks, work.out).code == 3
    ran = pconv(work.pictures, work.masks, f"{bucket.url}/out", "--format", "nope")
    assert ran.code == 2


def test_5_without_credentials(
    work: Workplace, bucket: Bucket, pconv: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair("a.png")
    bucket.put(work.pictures, "in")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    ran = pconv(work.pictures, work.masks, f"{bucket.url}/out")
    assert ran.code == 5 and f"{bucket.url}/out: no credentials" in ran.err and "AWS_ACCESS_KEY_ID" in ran.err
    assert ran.err.count("\n") == 1 and ran.items == []
    ran = pconv(f"{bucket.url}/in", work.masks, work.out)
    assert ran.code == 2 and "no credentials" in ran.err
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_2_where_two_masks_fit_and_where_results_would_fall_on_pictures(
    work: Workplace, bucket: Bucket, pconv: Callable[..., Ran]
) -> None:
    work.pair("a.png")
    source = bucket.put(work.pictures, "in")
    ran = pconv(source, work.masks, source, "--overwrite")
    assert ran.code == 2 and f"{source}: is IN itself: what is written there would be pictures" in ran.err
    work.mask("a.bmp", box(48, 40, 0, 0, 4, 4))
    masks = bucket.put(work.masks, "masks")
    ran = pconv(source, masks, work.out)
    assert ran.code == 2 and f"two masks fit, {masks}/a.bmp and {masks}/a.png" in ran.err


def test_2_where_results_cannot_be_written_or_a_url_is_of_no_known_kind(
    work: Workplace, pconv: Callable[..., Ran]
) -> None:
    work.pair("a.png")
    for out, told in (
        ("https://127.0.0.1/out", "results cannot be written there: give a place on s3:// or gs://"),
        ("nope://b/out", "no such kind of URL"),
        ("s3://", "empty parts"),
    ):
        ran = pconv(work.pictures, work.masks, out)
        assert ran.code == 2 and f"{out}: " in ran.err and told in ran.err, ran.err


class HttpError(Exception):
    """As gcsfs has one, which is not installed here."""

    code = 401


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError("b/in"), "not found: check the URL"),
        (HttpError("Anonymous caller does not have access, 401"), "access is denied (Anonymous caller does not"),
        (OSError("Forbidden: b/in\nsomebody does not have access"), "access is denied (Forbidden: b/in somebody"),
        (OSError(28, "No space left on device"), "no room for it on this machine"),
        (RuntimeError("Unable to locate credentials"), "no credentials"),
        (RuntimeError(), "cannot be reached (RuntimeError): check the connection"),
    ],
)
def test_the_way_out_of_what_storage_says(error: Exception, told: str) -> None:
    assert remote._why(error).startswith(told)


@pytest.mark.parametrize(
    ("url", "missing", "told"),
    [
        ("s3://b/in", "s3fs", "needs fsspec and s3fs: pip install 'pconv[remote]'"),
        ("s3://b/in", "fsspec", "needs fsspec and s3fs: pip install 'pconv[remote]'"),
        ("gs://b/in", "gcsfs", "needs fsspec and gcsfs: pip install 'pconv[remote]' gcsfs"),
    ],
)
def test_2_without_the_package(
    url: str, missing: str, told: str, work: Workplace, pconv: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    work.pair("a.png")
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition(":")[0], raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    ran = pconv(url, work.masks, work.out)
    assert ran.code == 2 and f"{url}: {told}" in ran.err and ran.err.count("\n") == 1


def test_a_report_shows_pictures_that_are_elsewhere(
    work: Workplace, bucket: Bucket, pconv: Callable[..., Ran], local: dict[str, bytes]
) -> None:
    pictures, masks = bucket.put(work.pictures, "in"), bucket.put(work.masks, "masks")
    assert pconv(pictures, masks, f"{bucket.url}/out", "--report", work.root / "report").code == 0
    html = (work.root / "report/index.html").read_text("utf-8")
    assert str(tempfile.tempdir) not in html and f"from {pictures} to {bucket.url}/out" in html
    document = json.loads((work.root / "report/report.json").read_text("utf-8"))
    assert len(document["pictures"]) == len(local)
    for one in document["pictures"]:
        assert one["image"].startswith(f"{bucket.url}/in/")
        (sheet,) = one["sheets"]
        assert all((work.root / "report" / view["file"]).exists() for view in sheet["views"])
