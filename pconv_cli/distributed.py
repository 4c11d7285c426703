"""Shares items among the workers of a Ray cluster: the only door to that library.

Knows Ray: how to join or start it, actors, and what is lost with one that dies. Does not know pictures, networks, what
is done with an item, or how it is shown.

Ray places the workers, starts one again that has died, and brings home what they yield. What is kept here is which
items nobody has finished. They are handed out in portions that shrink towards the end, so that a slow worker holds up
little. The items that a worker had when it died are done again one by one: the one that takes a worker with it once
more is given up, and no other is.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pconv_cli import __version__
from pconv_cli.errors import DeviceError, PconvError, UsageError
from pconv_cli.events import Event, Listener, Notice

LARGEST = 32
"""Items of a portion, at most: enough that a worker reads ahead and fills its batches."""
PATIENCE = 30.0
"""Seconds until a worker must have found a place."""
STARTING = 120.0
"""Seconds for which workers that have found a place may take to start: a busy machine is long at importing."""
MISSED = 30.0
"""Seconds until a worker that is not there has found no place: before that it may just be starting."""

_TICK = 0.5  # seconds after which a stop is noticed, though nothing else happens
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(
    (0, 0, 0, 4, 0, 0, 0, 0, 0)
)  # HTTP/2: who speaks it answers a 4 too
_STORE = 256 << 20  # bytes of the object store of a Ray of our own: what passes through it is small

Item = TypeVar("Item")
Done = TypeVar("Done")
Item_contra = TypeVar("Item_contra", contravariant=True)
Done_co = TypeVar("Done_co", covariant=True)


class Work(Protocol[Item_contra, Done_co]):
    """What a worker does. Made once in each, so what it keeps stays warm."""

    def __call__(
        self, items: Sequence[Item_contra], stop: Callable[[], bool], /
    ) -> Iterator[tuple[int, Done_co] | Event]:
        """Do a portion, in any order; yield the number of each item in it as it is done, with what came of it."""
        ...


@dataclass(frozen=True)
class Cluster:
    """Where to work.

    Attributes:
        address: Of a running Ray; `auto`: the one that this machine belongs to, or else a Ray of our own, on this
            machine alone; `local`: of our own in any case.
        workers: How many, or None: one for each GPU that is free, or on CPUs one for four cores.
        gpu: Whether each worker is to have a GPU; None: if there is any.
    """

    address: str = "auto"
    workers: int | None = None
    gpu: bool | None = None


def told(cluster: Cluster, device: str, precision: str) -> dict[str, str]:
    """Say where and how is computed, for a report, as far as that is known beforehand.

    Raises:
        UsageError: If the device is one that only one machine can choose.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: workers of a cluster are placed by Ray; use auto, cpu or cuda")
    reason = "as each worker's device suits" if precision == "auto" else "as asked for"
    return {
        "device": f"the workers of a cluster ({cluster.address})", "precision": precision, "precision_reason": reason,
        "compiled": "no",
    }  # fmt: skip


class Lost(Exception):
    """An item has taken two workers with it."""


class Crew(Generic[Item, Done]):
    """Workers of a cluster, engaged for as long as this is open."""

    def __init__(self, cluster: Cluster, make: Callable[[], Work[Item, Done]]) -> None:
        """Say where, and what they are to do; nothing happens before it is opened.

        Args:
            cluster: Where.
            make: Makes what a worker does; called in the worker, so it must be importable there.
        """
        self._cluster, self._make = cluster, make
        self._ours = False
        self._workers: list[Any] = []
        self._to_say: list[Event] = []
        self._engaged = 0.0

    def __enter__(self) -> Crew[Item, Done]:
        """Join or start Ray, and engage workers.

        Raises:
            UsageError: If Ray is not installed.
            DeviceError: If there is no such cluster, or nobody there to work within `PATIENCE`, or `STARTING`.
        """
        self._ray = _library()
        try:
            with _own_signals():
                self._ours = _connect(self._ray, self._cluster.address, self._to_say.append)
            self._engaged = time.monotonic()
            self._workers = _engage(self._ray, self._cluster, self._make)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            with suppress(Exception):  # whoever is gone already
                self._ray.kill(worker)
        if self._ours:
            self._ray.shutdown()

    def do(
        self, items: Sequence[Item], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Done | Lost] | Event]:
        """Have items done.

        Args:
            items: What to do. They go to other machines, so they should be small: names, not content.
            stop: Once it turns true, no further item is begun; what is in flight is finished and yielded.

        Yields:
            What the workers yield, items by their number in `items`; each once.

        Raises:
            DeviceError: If all workers are gone, and none came back within `STARTING`.
            PconvError: What a worker raised.
        """
        while self._to_say:
            yield self._to_say.pop(0)
        yield from _Shift(self._ray, items, self._workers, self._engaged, stop).results()


def _library() -> Any:
    # Read when Ray is imported. What it prints by itself goes to standard output, and that belongs to results.
    os.environ |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    if not os.environ.get("PCONV_DEBUG"):
        os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = ".*"
    try:
        import ray
    except ImportError as error:
        raise UsageError("--cluster needs Ray: pip install 'pconv[ray]'") from error
    return ray


def _connect(ray: Any, address: str, emit: Listener) -> bool:
    """Join a Ray, or start one; whether it is ours to end."""
    if ray.is_initialized() and address in ("auto", "local"):
        return False
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    quiet: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False}
    if address != "local":
        way_out = "check the address; on a machine of the cluster use auto"
        try:
            _knock(_found(ray) if address == "auto" else address)
            way_out = "use auto on a machine of the cluster, or where it wants a token set RAY_AUTH_MODE=token"
            ray.init(address=address, **quiet)
            return True  # the connection is
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            if address != "auto":
                raise DeviceError(f"--cluster {address}: no Ray answers there ({_line(error)}); {way_out}") from error
            emit(Notice("no Ray is running on this machine: one is started here, for this run alone"))
    ray.init(address="local", include_dashboard=False, object_store_memory=_STORE, **quiet)
    return True


def _found(ray: Any) -> str:
    """The address of the Ray that this machine belongs to, or belonged to: one that was killed leaves it behind.

    Raises:
        ConnectionError: There is none.
    """
    found: str = ray._private.services.get_ray_address_from_environment("auto", None)
    return found


def _knock(address: str) -> None:
    """Make sure that somebody is there who speaks as Ray does: Ray itself would wait for ever.

    Raises:
        OSError: Nobody is.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as there:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        there.sendall(_HELLO)
        answer = there.recv(4)
    if answer[3:] != _HELLO[-6:-5]:
        raise ConnectionError(f"whoever listens on port {port} is another program")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what we do about signals: Ray would have its own way of ending."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _engage(ray: Any, cluster: Cluster, make: Callable[[], Any]) -> list[Any]:
    """Engage workers, and wait until one is there."""
    whole = ray.cluster_resources()
    free = ray.available_resources()
    gpus = int(free.get("GPU", 0))
    with_gpu = bool(whole.get("GPU", 0)) if cluster.gpu is None else cluster.gpu
    cores = max(int(whole.get("CPU", 1)), 1)
    count = cluster.workers or (max(gpus, 1) if with_gpu else max(cores // 4, 1))
    share = {"num_gpus": 1, "num_cpus": 1} if with_gpu else {"num_cpus": cores // count or cores / count}
    aside = ray.method(concurrency_group="aside", max_task_retries=-1)  # beside a portion that is being done
    kind = type("Worker", (_Worker,), {"ready": aside(_Worker.ready), "stop": aside(_Worker.stop)})
    engage = ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"aside": 2}, **share)(kind)
    crew = [engage.remote(make, str(Path.cwd()), __version__) for _ in range(count)]
    coming = [one.ready.remote() for one in crew]
    there, _ = ray.wait(coming, timeout=PATIENCE)
    amounts = {what[4:].upper()[:-1]: amount for what, amount in share.items()}

    def fits(place: dict[str, float]) -> bool:
        return all(place.get(kind, 0) >= amount for kind, amount in amounts.items())

    starting = fits(free) and any(fits(node["Resources"]) for node in ray.nodes() if node["Alive"])
    if not there and starting:
        there, _ = ray.wait(coming, timeout=STARTING - PATIENCE)
    if not there:
        for one in crew:
            ray.kill(one)
        if starting:
            raise DeviceError(
                f"--cluster: no worker has started within {STARTING:.0f} s, though there is room: "
                "are the machines busy, and does `pconv` start on them?"
            )
        wanted = " and ".join(f"{amount} {kind}" for kind, amount in amounts.items())
        has = ", ".join(f"{free.get(kind, 0):g} of {whole.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        raise DeviceError(
            f"--cluster: no worker found a place within {PATIENCE:.0f} s: each wants {wanted}, and free are {has}; "
            "wait, or ask for fewer with --workers, or use --device cpu"
        )
    ray.get(there)
    return crew


class _Worker:
    """Lives in a process of its own, on whatever machine Ray has placed it."""

    def __init__(self, make: Callable[[], Any], folder: str, version: str) -> None:
        self._make, self._folder, self._version = make, folder, version
        self._work: Any = None
        self._stopped = False

    def do(self, items: Sequence[Any]) -> Iterator[list[Any]]:
        """Do a portion: a generator, of what has come up since the last time."""
        if self._work is None:
            self._work = self._ready_to_work()
        waiting: list[Any] = []
        for found in self._work(items, lambda: self._stopped):
            waiting.append(found)
            if isinstance(found, tuple):
                yield waiting
                waiting = []
        yield waiting

    def ready(self) -> bool:
        """Answer."""
        return True

    def stop(self) -> None:
        """Begin nothing any more."""
        self._stopped = True

    def _ready_to_work(self) -> Any:
        if self._version != __version__:
            raise UsageError(
                f"{socket.gethostname()} has pconv {__version__}, and this is {self._version}: install one"
            )
        try:  # the same names mean the same files there
            os.chdir(self._folder)
        except OSError as error:
            where = f"{self._folder}: not to be found on {socket.gethostname()}"
            raise UsageError(f"{where}; all machines of a cluster must see the same folders") from error
        return self._make()


class _Portion(NamedTuple):
    """What a worker was given, and what of it is still to come."""

    worker: Any
    numbers: list[int]
    alone: bool
    left: set[int]


@dataclass(eq=False)
class _Shift(Generic[Item, Done]):
    """One run: who has which items, and which nobody has."""

    ray: Any
    items: Sequence[Item]
    crew: Sequence[Any]
    engaged: float
    stop: Callable[[], bool]
    fresh: deque[int] = field(init=False)
    suspects: deque[int] = field(default_factory=deque, init=False)
    idle: deque[Any] = field(init=False)
    coming: dict[Any, Any] = field(default_factory=dict, init=False)
    hands: dict[Any, _Portion] = field(default_factory=dict, init=False)
    waiting_since: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.fresh = deque(range(len(self.items)))
        self.idle = deque()
        self.coming = {one.ready.remote(): one for one in self.crew}

    def results(self) -> Iterator[tuple[int, Done | Lost] | Event]:
        """Hand out portions until nothing is left, and yield what comes back."""
        told = False
        while True:
            if self.stop():
                if not told:
                    told = True
                    for one in self.crew:
                        one.stop.remote()
            else:
                self._hand_out()
            if not self.hands and (told or not (self.fresh or self.suspects)):
                yield from self._missed()
                return
            self._be_patient()
            ready, _ = self.ray.wait([*self.hands, *self.coming], timeout=_TICK, fetch_local=False)
            for reference in ready:
                if reference in self.coming:
                    yield from self._arrived(reference)
                else:
                    yield from self._come_back(reference)

    def _missed(self) -> Iterator[Event]:
        """Say who never came, though there was work."""
        if self.items and self.coming and time.monotonic() - self.engaged >= MISSED:
            _, late = self.ray.wait([*self.coming], num_returns=len(self.coming), timeout=_TICK)
            if late:
                count = len(self.crew)
                yield Notice(f"{len(late)} of {count} workers found no place in time: the cluster is busy or smaller")

    def _be_patient(self) -> None:
        """Wait for workers that are to come again, but not for ever."""
        if self.hands or self.idle:
            self.waiting_since = None
        elif self.waiting_since is None:
            self.waiting_since = time.monotonic()
        elif time.monotonic() - self.waiting_since > STARTING:
            raise DeviceError(f"--cluster: all workers are gone, and none came back within {STARTING:.0f} s")

    def _hand_out(self) -> None:
        while self.idle and (self.fresh or self.suspects):
            worker = self.idle.popleft()
            alone = bool(self.suspects)
            if alone:
                portion = [self.suspects.popleft()]
            else:
                size = min(LARGEST, max(1, len(self.fresh) // (3 * len(self.crew))))
                portion = [self.fresh.popleft() for _ in range(size)]
            stream = worker.do.options(num_returns="streaming").remote([self.items[i] for i in portion])
            self.hands[stream] = _Portion(worker, portion, alone, set(portion))

    def _arrived(self, reference: Any) -> Iterator[Event]:
        """A worker is there, or there again."""
        worker = self.coming.pop(reference)
        try:
            self.ray.get(reference)
            self.idle.append(worker)
        except self.ray.exceptions.RayError as error:
            yield Notice(f"a worker of the cluster does not come back ({_line(error)}): going on without it")

    def _come_back(self, stream: Any) -> Iterator[tuple[int, Done | Lost] | Event]:
        portion = self.hands[stream]
        try:
            found = self.ray.get(next(stream))
        except StopIteration:
            del self.hands[stream]
            self.idle.append(portion.worker)  # one that was told to stop may have left some
            return
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, PconvError) else error from None
        except self.ray.exceptions.RayError:
            del self.hands[stream]
            self.coming[portion.worker.ready.remote()] = portion.worker
            left = sorted(portion.left)
            if portion.alone:
                yield from ((number, Lost()) for number in left)
            elif left:
                self.suspects.extend(left)
                yield Notice(f"a worker of the cluster died: what it had in hand, {len(left)}, is done again")
            return
        for one in found:
            if isinstance(one, tuple):
                number = portion.numbers[one[0]]
                portion.left.discard(number)
                yield number, one[1]
            else:
                yield one


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
