"""`distributed`: every item is done once, whoever dies on the way; with a real Ray of several processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import ray
import torch
import warm
from conftest import Workplace, box, texture
from PIL import Image
from test_helpers import children, wait_for_the_end_of
from toys import Diarist, fail_next

from pconv_cli import distributed, sharing
from pconv_cli import weights as store
from pconv_cli.cli import app
from pconv_cli.cli.app import main
from pconv_cli.distributed import Cluster, Crew, Lost
from pconv_cli.errors import DeviceError, ItemError, UsageError, WeightsError
from pconv_cli.events import Event, Notice
from pconv_cli.nn.unet import PartialConvUNet, UNetConfig
from pconv_cli.settings import Settings

ONE, TWO, THREE = (Cluster("local", workers=count) for count in (1, 2, 3))


@pytest.fixture(scope="module")
def somewhere() -> Iterator[None]:
    """One Ray for all tests: the runs find it and leave it."""
    distributed._library()
    with pytest.MonkeyPatch.context() as patch:
        # Workers inherit it; told as a run's own environment, processes that wait for work could not be used.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        ray.init(
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="CRITICAL",
            object_store_memory=128 << 20,
        )
    yield
    ray.shutdown()


def address() -> str:
    return str(ray.get_runtime_context().gcs_address)


@dataclass
class Ran:
    """What came of a run."""

    done: dict[int, Any]
    times: Counter[int]
    lost: list[int]
    events: list[Event]


def run(items: Sequence[Any], make: Any, cluster: Cluster) -> Iterator[Any]:
    with Crew(cluster, make) as crew:
        yield from crew.do(items)


def begun(folder: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in (folder / "begun").read_text().splitlines())


@pytest.fixture(scope="class")
def crew(somewhere: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Crew[str, Any], Path]]:
    folder = tmp_path_factory.mktemp("crew")
    with Crew(THREE, partial(Diarist, folder)) as crew:
        yield crew, folder


@pytest.fixture
def folder(crew: tuple[Crew[str, Any], Path]) -> Path:
    """Where they write down what they begin; it is empty."""
    (crew[1] / "begun").unlink(missing_ok=True)
    return crew[1]


@pytest.fixture
def gather(crew: tuple[Crew[str, Any], Path], folder: Path) -> Callable[..., Ran]:
    def gather(items: Sequence[str], each: Callable[[int], None] = lambda count: None, **options: Any) -> Ran:
        ran = Ran({}, Counter(), [], [])
        for found in crew[0].do(items, **options):
            if not isinstance(found, tuple):
                ran.events.append(found)
                continue
            ran.times[found[0]] += 1
            if isinstance(found[1], Lost):
                ran.lost.append(found[0])
            else:
                ran.done[found[0]] = found[1]
            each(sum(ran.times.values()))
        return ran

    return gather


class TestThreeWorkers:
    """They are started once, which takes long, and do one thing after the other: what not all survive comes last."""

    def test_every_item_is_done_once_and_by_several_workers(self, gather: Callable[..., Ran]) -> None:
        items = [f"item{i}" for i in range(60)]
        items[17] = "told"
        ran = gather(items)
        assert {number: done[0] for number, done in ran.done.items()} == dict(enumerate(items))
        assert set(ran.times.values()) == {1} and not ran.lost
        assert len({pid for _, pid in ran.done.values()}) > 1
        assert ran.events == [Notice("told")]

    def test_what_a_slow_worker_would_have_done_the_others_do(self, gather: Callable[..., Ran]) -> None:
        items = ["snail", *(f"item{i}" for i in range(120))]
        ran = gather(items)
        slow = ran.done[0][1]
        mine = sum(pid == slow for _, pid in ran.done.values())
        assert len(ran.done) == 121 and mine < 121 / 3

    def test_a_worker_that_is_killed_loses_nothing_and_nothing_is_done_twice(
        self, gather: Callable[..., Ran], folder: Path
    ) -> None:
        items = [f"item{i}" for i in range(90)]
        killed: list[int] = []

        def kill(count: int) -> None:
            if count == 20:
                pids = Counter(int(line.split()[1]) for line in (folder / "begun").read_text().splitlines()[-6:])
                killed.append(pids.most_common(1)[0][0])
                os.kill(killed[0], signal.SIGKILL)

        ran = gather(items, kill)
        assert killed and not ran.lost
        assert set(ran.times.values()) == {1} and len(ran.done) == 90
        assert max(begun(folder).values()) <= 2

    def test_what_takes_two_workers_with_it_is_given_up_and_nothing_else_is(
        self, gather: Callable[..., Ran], folder: Path
    ) -> None:
        items = [f"item{i}" for i in range(60)]
        items[25] = "poison"
        ran = gather(items)
        assert ran.lost == [25] and begun(folder)["poison"] == 2
        assert len(ran.done) == 59 and set(ran.times.values()) == {1}
        assert any("a worker of the cluster died" in event.text for event in ran.events if isinstance(event, Notice))

    def test_a_stop_finishes_what_is_in_flight_and_begins_nothing(
        self, gather: Callable[..., Ran], folder: Path
    ) -> None:
        seen: list[int] = []
        ran = gather([f"item{i}" for i in range(2000)], seen.append, stop=lambda: len(seen) >= 10)
        assert 10 <= len(ran.done) < 1000 and set(ran.times.values()) == {1}
        assert sum(begun(folder).values()) == len(ran.done)


@pytest.mark.usefixtures("somewhere")
def test_nobody_is_missed_by_a_run_that_is_over_before_all_have_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "MISSED", float("inf"))  # however slow the machine
    with Crew(TWO, partial(Diarist, tmp_path)) as crew:
        assert list(crew.do([])) == []
        found = [one for _ in range(4) for one in crew.do(["item"])]
    assert [one[0] for one in found if isinstance(one, tuple)] == [0] * 4
    assert not any(isinstance(one, Notice) for one in found)


class Busy:
    """Holds cores."""

    def there(self) -> None:
        pass


@pytest.mark.usefixtures("somewhere")
def test_workers_for_whom_there_is_no_room_are_missed_and_the_others_do_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "MISSED", 0.0)
    busy = ray.remote(num_cpus=2)(Busy).remote()
    ray.get(busy.there.remote())
    with Crew(THREE, partial(Diarist, tmp_path)) as crew:
        found = list(crew.do([f"item{i}" for i in range(20)]))
    ray.kill(busy)
    assert found.pop() == Notice("2 of 3 workers found no place in time: the cluster is busy or smaller")
    assert sorted(one[0] for one in found if isinstance(one, tuple)) == list(range(20))


def our_workers() -> list[int]:
    """Processes of workers below this one: somebody else's Ray may be at work beside."""
    told = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in told.splitlines()]
    below = {os.getpid()}
    while more := {int(pid) for pid, parent, *_ in lines if int(parent) in below} - below:
        below |= more
    return [int(pid) for pid, _, *args in lines if int(pid) in below and args[:1] and args[0].startswith("ray::Worker")]


@pytest.mark.usefixtures("somewhere")
def test_an_error_in_a_worker_ends_the_run_as_it_would_here(tmp_path: Path) -> None:
    errors = (WeightsError("none to be found"), ItemError(tmp_path, "none to be found"))
    with Crew(ONE, partial(fail_next, list(errors))) as crew:
        for error in errors:
            with pytest.raises(type(error), match="none to be found"):
                list(crew.do(["a"]))


@pytest.mark.usefixtures("somewhere")
def test_workers_of_another_version_or_without_the_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "__version__", "0.0.0")
    with pytest.raises(UsageError, match=r"has pconv .*, and this is 0\.0\.0"):
        list(run(["a"], partial(Diarist, tmp_path), ONE))
    monkeypatch.undo()
    monkeypatch.setattr(distributed.Path, "cwd", lambda: Path("/no/such/folder"))
    with pytest.raises(UsageError, match="must see the same folders"):
        list(run(["a"], partial(Diarist, tmp_path), ONE))


@pytest.mark.usefixtures("somewhere")
def test_6_and_one_line_where_nobody_finds_a_place_to_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "PATIENCE", 1.0)
    with pytest.raises(DeviceError, match=r"no worker found a place.*wants 1 GPU and 1 CPU, .*0 of 0 GPUs"):
        list(run(["a"], partial(Diarist, tmp_path), Cluster("local", workers=1, gpu=True)))


@pytest.mark.usefixtures("somewhere")
def test_workers_that_have_found_a_place_may_be_long_in_coming_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "PATIENCE", 0.0)
    with Crew(ONE, partial(Diarist, tmp_path)):
        pass
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 3:  # that worker is on its way out
        assert time.monotonic() < until
        time.sleep(0.1)
    monkeypatch.setattr(distributed, "STARTING", 0.0)
    with pytest.raises(DeviceError, match=r"no worker has started within 0 s, though there is room"):
        Crew(ONE, partial(Diarist, tmp_path)).__enter__()


def test_without_ray_the_way_out_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'pconv\[ray\]'"):
        list(run(["a"], list, THREE))  # type: ignore[arg-type]


# ---------------------------------------------------------------- the command


def restore(work: Workplace, *options: str | Path) -> list[str]:
    places = [str(work.pictures), str(work.masks), str(work.out)]
    return ["restore", *places, "--weights", "none", "--json", *map(str, options)]


def finished(work: Workplace) -> list[Path]:
    return [path for path in work.out.rglob("*.png") if not path.name.startswith(".")]


def summary(text: str) -> dict[str, Any]:
    return dict(json.loads(text.splitlines()[-1]))


@pytest.mark.usefixtures("somewhere")
def test_a_cluster_writes_the_same_files_and_reports_in_the_same_way(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(12):
        work.pair(f"{'abc'[i % 3]}/{i}.png", seed=i)
    (work.pictures / "a" / "broken.png").write_bytes(b"none")
    work.mask("a/broken.png", box(4, 4, 0, 0, 2, 2))
    told: list[tuple[Any, ...]] = []
    for options in ((), ("--cluster", "auto", "--workers", "2")):
        failed, maps = work.root / f"failed{len(options)}.csv", work.root / f"maps{len(options)}"
        with pytest.raises(SystemExit) as end:
            main(restore(work, *options, "--failed-list", failed, "--save-confidence", maps))
        assert end.value.code == 1
        captured = capsys.readouterr()
        items = [json.loads(line) for line in captured.out.splitlines()[:-1]]
        counts = {key: summary(captured.out)[key] for key in ("restored", "failed", "items", "tiles")}
        facts = ("name", "output", "status", "reason", "tiles", "hole_share")
        files = {path.relative_to(work.out): path.read_bytes() for path in finished(work)}
        files |= {Path("maps") / path.relative_to(maps): path.read_bytes() for path in maps.rglob("*.png")}
        told.append((sorted([item[k] for k in facts] for item in items), counts, failed.read_text(), files))
        for path in finished(work):
            path.unlink()
        for path in work.out.glob(".pconv-journal*"):
            path.unlink()
    assert told[0] == told[1] and len(told[0][3]) == 24


MANY = 80
"""Pictures of a run that is stopped before it ends."""


@pytest.fixture
def running(work: Workplace) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a run of many pictures; gives it when some are done."""
    for i in range(MANY):
        work.pair(f"{i}.png", size=(160, 120), seed=i)
    started: list[subprocess.Popen[str]] = []

    def start(address: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pconv_cli", *restore(work, "--cluster", address, "--workers", "2", *options)]
        one = warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(one)
        while one.poll() is None and not len(finished(work)) >= 5:
            time.sleep(0.02)
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


def below(pid: int) -> list[int]:
    """A process' children, and theirs."""
    return [one for child in children(pid) for one in (child, *below(child))]


@pytest.mark.usefixtures("somewhere")
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for children")
def test_a_run_whose_own_process_is_killed_goes_on_where_it_stopped(
    work: Workplace, running: Callable[..., subprocess.Popen[str]]
) -> None:
    one = running("local")
    family = [pid for pid in below(one.pid) if b"Agent" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
    one.kill()
    one.communicate()
    wait_for_the_end_of(family)  # its workers end by themselves; agents of Ray take their time, and touch nothing
    before = {path: path.stat().st_mtime_ns for path in finished(work)}
    assert 5 <= len(before) < MANY, "killed too late"
    another = running(address(), "--resume", "--workers", "1")
    out, err = another.communicate(timeout=120)
    counts = summary(out)
    assert another.returncode == 0, err
    assert counts["failed"] == 0 and counts["done_before"] >= len(before)
    assert counts["restored"] + counts["done_before"] == MANY == len(finished(work))
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert not list(work.out.rglob("*.part"))


@pytest.mark.usefixtures("somewhere")
def test_ctrl_c_once_finishes_what_is_in_flight(work: Workplace, running: Callable[..., subprocess.Popen[str]]) -> None:
    one = running(address())
    one.send_signal(signal.SIGINT)
    out, err = one.communicate(timeout=60)
    counts = summary(out)
    assert one.returncode == 130 and "Traceback" not in err
    assert counts["interrupted"] and counts["restored"] == len(finished(work)) and counts["not_done"] > 0
    assert not list(work.out.rglob("*.part"))


def test_ctrl_c_twice_stops_at_once_and_what_has_a_name_is_whole(
    work: Workplace, running: Callable[..., subprocess.Popen[str]]
) -> None:
    one = running("local")
    one.send_signal(signal.SIGINT)
    time.sleep(0.3)  # two key presses; one that comes twice is sooner
    one.send_signal(signal.SIGINT)
    _, err = one.communicate(timeout=60)
    assert one.returncode == 130 and "Traceback" not in err
    for path in finished(work):
        with Image.open(path) as image:
            image.load()


def test_2_where_options_of_a_cluster_make_no_sense(work: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    work.pair()
    for options, told in (
        (["--workers", "2"], "belongs to --cluster"),
        (["--cluster", "auto", "--device", "cuda:1"], "use auto, cpu or cuda"),
        (["--cluster", "--overwrite"], "--cluster --overwrite: say which: auto, local or HOST:PORT"),
    ):
        with pytest.raises(SystemExit) as end:
            main(restore(work, *options))
        assert end.value.code == 2 and told in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["restore", str(work.pictures / "a.png"), str(work.masks / "a.png"), "-", "--cluster", "auto"])
    assert end.value.code == 2 and "this machine alone" in capsys.readouterr().err


@pytest.fixture
def somebody() -> Iterator[int]:
    """A port where a program listens that is no Ray, and asks for what it does not get."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as one:
                one.recv(100)
                one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_6_where_no_ray_answers(work: Workplace, capsys: pytest.CaptureFixture[str], somebody: int) -> None:
    work.pair()
    told = {
        "127.0.0.1:1": "no Ray answers there ([Errno 111] Connection refused); check the address",
        f"127.0.0.1:{somebody}": f"no Ray answers there (whoever listens on port {somebody} is another program)",
        "127.0.0.1": "no Ray answers there (Invalid address format: 127.0.0.1)",
    }
    for address, why in told.items():
        with pytest.raises(SystemExit) as end:
            main(restore(work, "--cluster", address))
        assert end.value.code == 6 and f"--cluster {address}: {why}" in capsys.readouterr().err


def test_a_ray_that_was_killed_is_not_waited_for(
    work: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves behind says where it was; Ray would try to reach it for ever."""
    work.pair()
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(ray._private.services, "get_ray_address_from_environment", lambda *_: "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(distributed, "_engage", lambda *_: [])
    with Crew(Cluster("auto"), list) as crew:  # type: ignore[arg-type]
        (told,) = crew.do([])
        assert list(crew.do([])) == [], "once"
    assert [options["address"] for options in started] == ["local"]
    assert told == Notice("no Ray is running on this machine: one is started here, for this run alone")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(SystemExit) as end:
        main(restore(work, "--cluster", "auto"))
    assert end.value.code == 6 and "--cluster 127.0.0.1:1: no Ray answers there" in capsys.readouterr().err


def test_1_where_workers_do_not_see_the_picture(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match=r"gone.tif: not to be found on .*: all machines of a cluster must see it"):
        sharing.Worker(Settings(), tmp_path / "gone.tif", None)  # type: ignore[arg-type]


def big(work: Workplace, kind: str) -> list[str]:
    """A picture whose holes must be cut, guided and healed; with alpha that hides a part, or of raw values with NaN."""
    height, width = 150, 210
    hole = box(width, height, 20, 30, 190, 110) | box(width, height, 5, 5, 15, 15)
    pixels = texture(width, height, 4, seed=3)
    Image.fromarray(hole.astype(np.uint8) * 255).save(work.root / "m.png")
    options = ["--mask", str(work.root / "m.png"), "--weights", "none"]
    bands = pixels[..., :3]
    if kind == "veiled":
        pixels[..., 3] = np.where(box(width, height, 100, 0, 210, 60), 0, 255)
        bands = pixels
    elif kind == "raw":
        torch.manual_seed(0)
        config = UNetConfig(((4, 3), (4, 3)), channels=1, mean=(0.0,), std=(1.0,), values="raw", norm=False)
        network = PartialConvUNet(config)
        store.write(work.root / "raw.safetensors", network, network.state_dict(), {}, half=False)
        bands = np.where(hole, np.nan, pixels[..., 0] * 10.0).astype(np.float32)[..., None]
        options = ["--weights", str(work.root / "raw.safetensors")]
    photometric = "minisblack" if kind == "raw" else "rgb"
    alpha = {"alpha": "unassociated"} if kind == "veiled" else {}
    with rasterio.open(
        work.root / "big.tif", "w", driver="GTiff", width=width, height=height, count=bands.shape[2],
        dtype=bands.dtype.name, photometric=photometric, tiled=True, blockxsize=32, blockysize=32, **alpha,
    ) as file:  # fmt: skip
        file.write(bands.transpose(2, 0, 1))
    return ["tile", str(work.root / "big.tif"), "--size", "64", "--json", "--precision", "fp32", *options]


def tiled(command: list[str], workers: int, work: Workplace, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    """What is told and written of a picture, first here and then by a cluster."""
    made: list[Any] = []
    for name, options in (("one.tif", []), ("two.tif", ["--cluster", "auto", "--workers", str(workers)])):
        with pytest.raises(SystemExit) as end:
            main([*command, "-o", str(work.root / name), *options])
        captured = capsys.readouterr()
        assert end.value.code == 0, captured.err
        # Ray, which this module loads before pconv can silence it, tells of workers that die.
        item = next(json.loads(line) for line in captured.out.splitlines() if line.startswith("{"))
        facts = ("status", "tiles", "windows", "crossings", "by_pyramid", "unfilled", "outside_mask_changed")
        made.append(([item[fact] for fact in facts], (work.root / name).read_bytes()))
    assert made[0][0][1] > made[0][0][2] > 4, "there is something to heal"
    return made


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize(("kind", "workers"), [("veiled", 2), ("raw", 1)])
def test_the_windows_of_one_picture_are_shared_and_the_file_is_the_same(
    kind: str, workers: int, work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, shared = tiled(big(work, kind), workers, work, capsys)
    assert alone == shared


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.usefixtures("somewhere")
def test_a_picture_survives_the_death_of_a_worker(
    work: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    land = sharing.Computed.land

    def landing(self: sharing.Computed, piece: Any) -> None:
        land(self, piece)
        if not killed:
            killed.append(our_workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(sharing.Computed, "land", landing)
    alone, shared = tiled(big(work, "usual"), 2, work, capsys)
    assert killed and alone == shared


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.usefixtures("somewhere")
def test_a_picture_that_was_stopped_is_gone_on_with_and_workers_compute_the_rest(
    work: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = big(work, "usual")
    with pytest.raises(SystemExit):
        main([*command, "-o", str(work.root / "one.tif")])
    landed = 0
    land = sharing.Computed.land

    def landing(self: sharing.Computed, piece: Any) -> None:
        nonlocal landed
        land(self, piece)
        landed += 1
        if landed == 6:
            signal.raise_signal(signal.SIGINT)

    command += ["-o", str(work.root / "two.tif"), "--cluster", "auto", "--workers", "2"]
    with monkeypatch.context() as patched:
        patched.setattr(sharing.Computed, "land", landing)
        assert app.run(command) == 130
    told = capsys.readouterr().err
    assert "--resume goes on" in told, told
    with pytest.raises(SystemExit) as end:
        main([*command, "--resume"])
    told = capsys.readouterr().err
    assert end.value.code == 0 and "goes on from" in told, told
    assert (work.root / "one.tif").read_bytes() == (work.root / "two.tif").read_bytes()
