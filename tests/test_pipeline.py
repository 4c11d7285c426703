"""`pipeline`: each item comes out once, nothing hangs, nothing leaks, and company changes no result.

The stages here are fakes that keep a record. Whatever could hang runs under a watchdog: it fails instead.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import HANGS
from hypothesis import given, settings
from hypothesis import strategies as st

from pconv_cli.errors import ItemError
from pconv_cli.pipeline import Again, Budget, Limits, Outcome, Stopped, Turn, run

PATIENCE = 20.0
"""Seconds after which a test says that something hangs; nothing here takes one."""

STAGES = ("cost", "read", "pieces", "compute", "write")


@dataclass(frozen=True)
class Task:
    """An item: what its pieces look like, what it holds, where it goes wrong, and where it is lost the first time."""

    name: int
    shapes: tuple[str, ...] = ("a",)
    cost: int = 1
    fails_in: str = ""
    lost_in: str = ""


class Broken(Exception):
    """An error that no stage should raise."""


@dataclass(eq=False)
class Loaded:
    task: Task
    results: dict[int, str] = field(default_factory=dict)
    cut: bool = False


@dataclass(frozen=True)
class Piece:
    task: Task
    index: int


class Record:
    """Stages that do nothing and write down everything."""

    def __init__(self, error: type[Exception] = ItemError, batch_size: int = 4) -> None:
        self._error = error
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._held = 0
        self.most_held = 0
        self.begun: list[int] = []
        self.written: list[int] = []
        self.batches: list[tuple[str, list[Piece]]] = []
        self.turns: list[Turn] = []
        self._lanes: set[int] = set()
        self._open: dict[int, Loaded] = {}
        self._lost: set[int] = set()
        self.threads: dict[str, set[threading.Thread]] = {stage: set() for stage in STAGES}

    def cost(self, item: Task) -> int:
        self.begun.append(item.name)
        self._enter("cost", item)
        return item.cost

    def read(self, item: Task) -> Loaded:
        with self._lock:
            self._held += item.cost
            self.most_held = max(self.most_held, self._held)
        self._enter("read", item)
        self._open[item.name] = Loaded(item)
        return self._open[item.name]

    def pieces(self, loaded: Loaded) -> Sequence[tuple[str, Piece]]:
        self._enter("pieces", loaded.task)
        if loaded.cut:
            return []
        loaded.cut = True
        return [(shape, Piece(loaded.task, index)) for index, shape in enumerate(loaded.task.shapes)]

    def batch_size(self, shape: str) -> int:
        return self._batch_size

    def compute(self, shape: str, pieces: Sequence[Piece], turn: Turn) -> None:
        with self._lock:
            assert turn.lane not in self._lanes, "a lane computes one batch at a time"
            self._lanes.add(turn.lane)
            self.batches.append((shape, list(pieces)))
            self.turns.append(turn)
        try:
            for piece in pieces:
                self._enter("compute", piece.task)
                loaded = self._open[piece.task.name]
                assert piece.index not in loaded.results
                loaded.results[piece.index] = f"{piece.task.name}.{piece.index}:{shape}"
        finally:
            with self._lock:
                self._lanes.discard(turn.lane)

    def write(self, loaded: Loaded) -> tuple[str, ...]:
        self.written.append(loaded.task.name)
        self._enter("write", loaded.task)
        with self._lock:
            self._held -= loaded.task.cost
        return tuple(loaded.results[index] for index in sorted(loaded.results))

    def _enter(self, stage: str, task: Task) -> None:
        self.threads[stage].add(threading.current_thread())
        lost = task.lost_in == stage and task.name not in self._lost
        if lost or task.fails_in == stage:
            if stage != "cost":
                with self._lock:
                    self._held -= task.cost
            if lost:
                self._lost.add(task.name)
                raise Again
            if self._error is ItemError:
                raise ItemError(f"{task.name}", f"fails in {stage}")
            raise self._error(stage)


def expected(task: Task) -> tuple[str, ...]:
    return tuple(f"{task.name}.{index}:{shape}" for index, shape in enumerate(task.shapes))


def guarded(action: Callable[[], Any]) -> Any:
    """Do something that may hang, and fail where it does; whatever it raises is raised here."""
    result: list[Any] = []
    error: list[BaseException] = []

    def work() -> None:
        try:
            result.append(action())
        except BaseException as caught:
            error.append(caught)

    thread = threading.Thread(target=work, name="watched", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        HANGS.extend(other.name for other in threading.enumerate())
        pytest.fail(f"hangs: {sorted(HANGS)}")
    if error:
        raise error[0]
    return result[0]


def finish(
    tasks: Iterable[Task],
    stages: Record,
    limits: Limits,
    stop: Callable[[], bool] = lambda: False,
) -> list[Outcome[Task, tuple[str, ...]]]:
    return guarded(lambda: list(run(tasks, stages, limits, stop)))


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read_", "compute_", "finish_"))]


def limits(readers: int = 2, lanes: int = 2, bytes: int = 1 << 20, units: int = 1) -> Limits:
    return Limits(readers=readers, lanes=lanes, units=units, ahead=8, bytes=bytes)


# ---------------------------------------------------------------- what comes out


def test_every_item_comes_out_once_with_all_of_its_pieces_in_their_places() -> None:
    tasks = [Task(n, ("a", "b", "a")[: n % 4]) for n in range(30)]
    outcomes = finish(tasks, Record(), limits())
    assert {outcome.item: outcome.done for outcome in outcomes} == {task: expected(task) for task in tasks}
    assert len(outcomes) == len(tasks) and not any(outcome.error for outcome in outcomes)


def test_no_items_are_no_work_and_no_outcome() -> None:
    assert finish([], Record(), limits()) == []


def test_an_item_without_pieces_is_written_all_the_same() -> None:
    stages = Record()
    (outcome,) = finish([Task(0, ())], stages, limits())
    assert outcome.done == () and stages.written == [0] and not stages.batches


def test_items_are_taken_one_by_one_as_there_is_room_and_not_all_at_once() -> None:
    taken = 0

    def endless() -> Iterable[Task]:
        nonlocal taken
        while True:
            taken += 1
            yield Task(taken)

    stream = run(endless(), Record(), limits())
    guarded(lambda: [next(stream) for _ in range(5)])
    guarded(stream.close)
    assert taken < 1000


def test_no_more_items_are_begun_and_not_done_with_than_is_said() -> None:
    class Counting(Record):
        most, under_way = 0, 0

        def cost(self, item: Task) -> int:
            with self._lock:
                self.under_way += 1
                self.most = max(self.most, self.under_way)
            return super().cost(item)

    stages = Counting()
    done = []
    for outcome in run([Task(n, ("a", "b")) for n in range(40)], stages, limits(readers=4)):
        with stages._lock:
            stages.under_way -= 1
        done.append(outcome)
    assert len(done) == 40 and 1 < stages.most <= limits().ahead


def test_all_work_is_done_by_threads_named_after_it() -> None:
    stages = Record()
    finish([Task(n) for n in range(9)], stages, limits())
    for stage, threads in stages.threads.items():
        names = {thread.name.partition("_")[0] for thread in threads}
        assert names == {{"cost": "read", "read": "read", "compute": "compute"}.get(stage, "finish")}


@pytest.mark.parametrize("readers", [1, 8])
@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("lanes", [1, 5])
def test_serial_equals_parallel(readers: int, batch_size: int, lanes: int) -> None:
    tasks = [Task(n, ("a", "b", "c", "b")[: n % 5]) for n in range(25)]
    outcomes = finish(tasks, Record(batch_size=batch_size), limits(readers, lanes))
    assert {o.item.name: o.done for o in outcomes} == {task.name: expected(task) for task in tasks}


# ---------------------------------------------------------------- batches


def test_pieces_of_different_items_share_a_batch() -> None:
    stages = Record(batch_size=4)
    finish([Task(n) for n in range(40)], stages, limits())
    assert max(len({piece.task.name for piece in batch}) for _, batch in stages.batches) > 1


def test_a_batch_holds_one_shape_and_no_more_pieces_than_its_size() -> None:
    stages = Record(batch_size=3)
    finish([Task(n, ("a", "b", "a", "c", "a")) for n in range(12)], stages, limits())
    assert all({piece.task.shapes[piece.index] for piece in batch} == {shape} for shape, batch in stages.batches)
    assert max(len(batch) for _, batch in stages.batches) == 3


def test_a_single_item_with_more_pieces_than_a_batch_fills_whole_batches() -> None:
    stages = Record(batch_size=4)
    finish([Task(0, ("a",) * 10)], stages, limits(lanes=1))
    assert [len(batch) for _, batch in stages.batches] == [4, 4, 2]


def test_lanes_compute_at_the_same_time_and_each_knows_how_many_do() -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    class Meeting(Record):
        def compute(self, shape: str, pieces: Sequence[Piece], turn: Turn) -> None:
            both.wait()
            super().compute(shape, pieces, turn)

    stages = Meeting(batch_size=1)
    finish([Task(0, ("a",) * 6)], stages, limits(lanes=2))
    assert sorted(turn.lane for turn in stages.turns) == [0, 0, 0, 1, 1, 1]
    assert {turn.beside for turn in stages.turns} == {2}


def test_what_is_there_is_shared_by_all_units_that_have_nothing_to_do() -> None:
    stages = Record(batch_size=100)
    finish([Task(0, ("a",) * 10)], stages, limits(lanes=3, units=3))
    assert sorted(len(batch) for _, batch in stages.batches) == [3, 3, 4]


def test_what_is_left_alone_knows_that_it_is() -> None:
    stages = Record(batch_size=1)
    finish([Task(0, ("a",))], stages, limits(lanes=4))
    assert stages.turns == [Turn(stages.turns[0].lane, 1)]


def test_a_batch_that_is_not_full_waits_for_company_while_all_units_compute() -> None:
    first_computes, others_compute = threading.Event(), threading.Event()

    class Gated(Record):
        def read(self, item: Task) -> Loaded:
            assert item.name == 0 or first_computes.wait(PATIENCE)
            return super().read(item)

        def compute(self, shape: str, pieces: Sequence[Piece], turn: Turn) -> None:
            if pieces[0].task.name == 0:
                first_computes.set()
                assert others_compute.wait(PATIENCE)
            else:
                others_compute.set()
            super().compute(shape, pieces, turn)

    stages = Gated(batch_size=2)
    finish([Task(0), Task(1), Task(2)], stages, limits(lanes=2))
    assert sorted(len(batch) for _, batch in stages.batches) == [1, 2]


@pytest.mark.parametrize(("shapes", "beside"), [(("b", "c", "d"), 1), (("b", "c", "d", "e"), 2)])
def test_a_lane_beside_its_unit_takes_what_is_not_full_where_a_batch_waits_in_several_shapes(
    shapes: tuple[str, ...], beside: int
) -> None:
    first_computes, all_wait, lock = threading.Event(), threading.Event(), threading.Lock()
    computing, most = 0, 0

    class Gated(Record):
        def read(self, item: Task) -> Loaded:
            assert item.name == 0 or first_computes.wait(PATIENCE)
            return super().read(item)

        def compute(self, shape: str, pieces: Sequence[Piece], turn: Turn) -> None:
            nonlocal computing, most
            with lock:
                computing += 1
                most = max(most, computing)
                if computing == 2:
                    all_wait.set()
            if shape == "a":
                first_computes.set()
                all_wait.wait(PATIENCE if beside == 2 else 0.2)
            super().compute(shape, pieces, turn)
            with lock:
                computing -= 1

    stages = Gated(batch_size=4)
    finish([Task(0), Task(1, shapes)], stages, limits(lanes=2))
    assert most == beside
    assert sorted(shape for shape, _ in stages.batches) == ["a", *shapes]


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("stage", ["cost", "read", "pieces", "write"])
def test_an_item_error_fails_its_item_alone(stage: str) -> None:
    tasks = [Task(n, fails_in=stage if n in (2, 5) else "") for n in range(8)]
    outcomes = finish(tasks, Record(), limits())
    failed = {outcome.item.name: outcome.error for outcome in outcomes if outcome.error}
    assert {name: str(error) for name, error in failed.items()} == {n: f"{n}: fails in {stage}" for n in (2, 5)}
    assert all(outcome.done is None for outcome in outcomes if outcome.error)
    assert {o.item.name: o.done for o in outcomes if not o.error} == {
        task.name: expected(task) for task in tasks if not task.fails_in
    }


@pytest.mark.parametrize("stage", ["cost", "read", "pieces", "write"])
def test_an_item_that_fails_gives_its_bytes_back(stage: str) -> None:
    tasks = [Task(n, cost=10, fails_in=stage) for n in range(20)] + [Task(20, cost=10)]
    outcomes = finish(tasks, Record(), limits(bytes=10))
    assert len(outcomes) == 21 and sum(outcome.error is None for outcome in outcomes) == 1


@pytest.mark.parametrize("stage", ["cost", "read", "pieces", "write"])
def test_an_item_that_is_lost_on_the_way_is_begun_again_and_gives_its_bytes_back(stage: str) -> None:
    tasks = [Task(n, cost=10, lost_in=stage if n % 3 == 0 else "") for n in range(12)]
    stages = Record()
    outcomes = finish(tasks, stages, limits(bytes=10))
    assert {outcome.item: outcome.done for outcome in outcomes} == {task: expected(task) for task in tasks}
    assert len(outcomes) == 12 and Counter(stages.begun) == {n: 1 + (n % 3 == 0) for n in range(12)}


def test_an_item_that_is_lost_after_a_stop_is_not_begun_again() -> None:
    stages = Record()
    outcomes = finish([Task(n, lost_in="write") for n in range(4)], stages, limits(), stop=lambda: bool(stages.written))
    assert len(outcomes) < 4 and not any(outcome.error for outcome in outcomes)


def test_failures_of_one_reader_come_in_the_order_of_the_items() -> None:
    tasks = [Task(n, fails_in="read") for n in range(12)]
    outcomes = finish(tasks, Record(), limits(readers=1))
    assert [outcome.item.name for outcome in outcomes] == list(range(12))


@pytest.mark.parametrize("stage", STAGES)
def test_any_other_error_ends_the_run_with_that_error_and_leaves_no_thread(stage: str) -> None:
    tasks = [Task(n, cost=3, fails_in=stage if n == 3 else "") for n in range(50)]
    stages = Record(Broken)
    with pytest.raises(Broken, match=f"^{stage}$"):
        finish(tasks, stages, limits(bytes=6))
    assert not stage_threads()
    assert len(stages.written) < 50


def test_an_item_error_out_of_a_batch_ends_the_run_for_a_batch_belongs_to_many() -> None:
    with pytest.raises(ItemError, match="fails in compute"):
        finish([Task(0, fails_in="compute"), Task(1)], Record(), limits())
    assert not stage_threads()


def blamed(task: Task, error: Exception) -> ItemError:
    return ItemError(str(task.name), f"bug: {error}")


@pytest.mark.parametrize("stage", ["cost", "read", "pieces", "write"])
def test_any_other_error_fails_its_item_alone_where_that_is_asked_for(stage: str) -> None:
    tasks = [Task(n, cost=3, fails_in=stage if n % 7 == 3 else "") for n in range(30)]
    outcomes = guarded(lambda: list(run(tasks, Record(Broken), limits(bytes=6), failure=blamed)))
    assert len(outcomes) == 30
    for outcome in outcomes:
        told = (
            (None, f"{outcome.item.name}: bug: {stage}") if outcome.item.fails_in else (expected(outcome.item), "None")
        )
        assert (outcome.done, str(outcome.error)) == told


def test_what_shares_a_batch_that_cannot_be_computed_fails_with_it_and_the_rest_goes_on() -> None:
    # All pieces of each batch are of one item, or of two: 3 fails in its first, and what is left of it is let go.
    tasks = [Task(n, ("a",) * 4, cost=3, fails_in="compute" if n == 3 else "") for n in range(12)]
    stages = Record(Broken, batch_size=2)
    outcomes = guarded(lambda: list(run(tasks, stages, limits(lanes=1, bytes=6), failure=blamed)))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(outcomes) == 12 and {outcome.item.name for outcome in failed} >= {3} and len(failed) <= 2
    assert all("bug: compute" in str(outcome.error) for outcome in failed)
    assert all(outcome.done == expected(outcome.item) for outcome in outcomes if outcome.error is None)
    assert len(stages.written) == 12 - len(failed) and not stage_threads()


def test_a_second_batch_in_a_row_that_cannot_be_computed_ends_the_run() -> None:
    tasks = [Task(n, fails_in="compute") for n in range(50)]
    with pytest.raises(Broken, match="compute"):
        guarded(lambda: list(run(tasks, Record(Broken, batch_size=2), limits(lanes=1), failure=blamed)))
    assert not stage_threads()


def test_an_error_that_is_about_the_run_ends_it_whatever_becomes_of_others() -> None:
    def unforgiving(_: Task, error: Exception) -> ItemError:
        raise error

    with pytest.raises(Broken, match="read"):
        guarded(lambda: list(run([Task(0), Task(1, fails_in="read")], Record(Broken), limits(), failure=unforgiving)))
    assert not stage_threads()


def test_an_error_sets_free_the_readers_that_wait_for_bytes() -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    class Waiting(Record):
        def cost(self, item: Task) -> int:
            if item.name in (0, 1):
                both.wait()  # 1 is about to ask for bytes when 0 is read
            return super().cost(item)

    tasks = [Task(0, cost=9, fails_in="write"), Task(1, cost=9), *(Task(n, cost=9) for n in range(2, 9))]
    with pytest.raises(Broken, match="write"):
        finish(tasks, Waiting(Broken), limits(readers=4, bytes=9))
    assert not stage_threads()


def test_a_caller_that_loses_interest_leaves_no_thread() -> None:
    stream = run([Task(n, cost=5) for n in range(50)], Record(), limits(bytes=10))
    guarded(lambda: next(stream))
    assert stage_threads()
    guarded(stream.close)
    assert not stage_threads()


def test_an_interrupt_waits_for_what_is_written_and_not_for_what_is_read_or_computed() -> None:
    computing, writing, ended = threading.Event(), threading.Event(), threading.Event()

    class Endless(Record):
        def read(self, item: Task) -> Loaded:
            assert item.name < 5 or ended.wait(PATIENCE)
            return super().read(item)

        def compute(self, shape: str, pieces: Sequence[Piece], turn: Turn) -> None:
            computing.set()
            assert ended.wait(PATIENCE)

        def write(self, loaded: Loaded) -> tuple[str, ...]:
            assert computing.wait(PATIENCE)
            writing.set()
            time.sleep(0.05)
            return super().write(loaded)

    def stop() -> bool:
        if writing.is_set():
            raise KeyboardInterrupt
        return False

    stages = Endless(batch_size=1)
    tasks = [Task(0), *(Task(n, ()) for n in range(1, 6))]
    with pytest.raises(KeyboardInterrupt):
        finish(tasks, stages, limits(), stop)
    assert not ended.is_set() and stages.written and not [name for name in stage_threads() if "finish" in name]
    ended.set()


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("bytes", [1, 5, 7, 30])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_what_is_held_never_exceeds_the_limit_unless_one_item_alone_does(bytes: int, batch_size: int) -> None:
    class Slow(Record):
        def write(self, loaded: Loaded) -> tuple[str, ...]:
            time.sleep(0.001)  # so that readers get ahead of writers
            return super().write(loaded)

    stages = Slow(batch_size=batch_size)
    tasks = [Task(n, ("a", "b")[: n % 3], cost=1 + n % 5) for n in range(40)]
    outcomes = finish(tasks, stages, limits(4, 2, bytes))
    assert len(outcomes) == 40
    assert stages.most_held <= max(bytes, 5)


def test_batches_run_before_they_are_full_when_their_items_hold_the_bytes_that_readers_wait_for() -> None:
    stages = Record(batch_size=1000)
    outcomes = finish([Task(n, cost=4) for n in range(20)], stages, limits(bytes=8))
    assert len(outcomes) == 20 and max(len(batch) for _, batch in stages.batches) <= 2


def test_a_single_item_above_the_limit_runs_alone() -> None:
    stages = Record()
    finish([Task(n, cost=100 if n == 4 else 1) for n in range(10)], stages, limits(bytes=10))
    assert stages.most_held == 100 and sorted(stages.written) == list(range(10))


def test_a_budget_lets_a_thread_wait_until_the_bytes_fit() -> None:
    budget = Budget(10)
    budget.acquire(6)
    entered = threading.Event()

    def second() -> None:
        budget.acquire(5)
        entered.set()

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert not entered.wait(0.05)
    budget.release(1)
    assert entered.wait(PATIENCE)
    thread.join(PATIENCE)


def test_a_large_item_is_not_overtaken_for_ever_by_small_ones() -> None:
    budget = Budget(10)
    budget.acquire(6)
    order: list[str] = []

    def take(name: str, amount: int) -> None:
        budget.acquire(amount)
        order.append(name)
        budget.release(amount)

    threads = []
    for name, amount in (("large", 9), ("small", 1), ("small", 2)):
        threads.append(threading.Thread(target=take, args=(name, amount), daemon=True))
        threads[-1].start()
        time.sleep(0.05)  # so that they stand in line in this order
    assert not order, "the small ones would fit"
    budget.release(6)
    for thread in threads:
        thread.join(PATIENCE)
    assert order[0] == "large" and len(order) == 3


def test_pieces_that_have_waited_longest_are_computed_first() -> None:
    shapes = ("a", "b", "c")
    stages = Record(batch_size=1)
    finish([Task(n, shapes * 4) for n in range(1)], stages, limits(readers=1, lanes=1))
    assert [shape for shape, _ in stages.batches] == ["a"] * 4 + ["b"] * 4 + ["c"] * 4


def test_a_closed_budget_lets_nobody_wait_and_nobody_in() -> None:
    budget = Budget(1)
    budget.acquire(1)
    raised: list[bool] = []

    def second() -> None:
        with pytest.raises(Stopped):
            budget.acquire(1)
        raised.append(True)

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert thread.is_alive() and not raised
    budget.close()
    thread.join(PATIENCE)
    assert raised
    with pytest.raises(Stopped):
        budget.acquire(0)


# ---------------------------------------------------------------- stopping


def test_after_a_stop_no_item_is_begun_what_was_only_read_is_dropped_and_what_is_computed_is_finished() -> None:
    second_is_read = threading.Event()
    go_on = threading.Event()
    stopping: list[bool] = []

    class Gated(Record):
        def read(self, item: Task) -> Loaded:
            if item.name == 1:
                second_is_read.set()
                assert go_on.wait(PATIENCE)
            return super().read(item)

        def compute(self, shape: str, pieces: Sequence[Piece], turn: Turn) -> None:
            if not stopping:
                assert second_is_read.wait(PATIENCE)
                stopping.append(True)
            super().compute(shape, pieces, turn)

    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += bool(stopping)
        if asked > 1:  # by now everything that was not begun has been dropped
            go_on.set()
        return bool(stopping)

    stages = Gated(batch_size=1)
    outcomes = finish([Task(n) for n in range(20)], stages, limits(readers=1, lanes=1), stop)
    assert sorted(stages.begun) == [0, 1]
    assert {o.item.name: o.done for o in outcomes} == {0: expected(Task(0))} and stages.written == [0]
    assert not stage_threads()


def test_a_stop_drops_what_waits_to_be_computed() -> None:
    stages = Record(batch_size=100)
    outcomes = finish([Task(0), Task(1)], stages, limits(), lambda: bool(stages.begun))
    assert outcomes == [] and stages.begun and not stages.written and not stages.batches


def test_a_stop_finishes_an_item_of_which_a_part_is_computed() -> None:
    task = Task(0, tuple("abcdef"))  # more batches than lanes are given at once
    stages = Record(batch_size=1)
    outcomes = finish([task], stages, limits(lanes=1), lambda: bool(stages.batches))
    assert [outcome.done for outcome in outcomes] == [expected(task)]


def test_a_stop_from_the_start_begins_nothing() -> None:
    stages = Record()
    assert finish([Task(n) for n in range(5)], stages, limits(), lambda: True) == []
    assert not stages.begun


# ---------------------------------------------------------------- anything


@st.composite
def workloads(draw: st.DrawFn) -> tuple[list[Task], Limits, int]:
    count = draw(st.integers(0, 14))
    tasks = [
        Task(
            name,
            tuple(draw(st.lists(st.sampled_from("abc"), max_size=5))),
            draw(st.integers(0, 12)),
            draw(st.sampled_from(["", "", "", "cost", "read", "pieces", "write"])),
            draw(st.sampled_from(["", "", "", "cost", "read", "pieces", "write"])),
        )
        for name in range(count)
    ]
    lanes = draw(st.integers(1, 4))
    bounds = limits(draw(st.integers(1, 5)), lanes, draw(st.integers(0, 20)), draw(st.integers(1, lanes)))
    return tasks, bounds, draw(st.integers(1, 6))


@given(workloads())
@settings(max_examples=150, deadline=None)
def test_any_workload_ends_with_each_item_done_right_or_failed_by_its_own_error(
    workload: tuple[list[Task], Limits, int],
) -> None:
    tasks, bounds, batch_size = workload
    stages = Record(batch_size=batch_size)
    outcomes = finish(tasks, stages, bounds)
    assert Counter(outcome.item.name for outcome in outcomes) == Counter(range(len(tasks)))
    for outcome in outcomes:
        if outcome.item.fails_in:
            assert outcome.done is None and f"fails in {outcome.item.fails_in}" in str(outcome.error)
        else:
            assert outcome.error is None and outcome.done == expected(outcome.item)
    computed = Counter(piece for _, batch in stages.batches for piece in batch)
    wanted = [t for t in tasks if t.fails_in in ("", "write")]
    times = {task: 1 + (task.lost_in == "write") for task in wanted}
    assert computed == Counter({Piece(t, index): times[t] for t in wanted for index in range(len(t.shapes))})
    assert all(len(batch) <= batch_size for _, batch in stages.batches)
    assert all(piece.task.shapes[piece.index] == shape for shape, batch in stages.batches for piece in batch)
    assert stages.most_held <= max([bounds.bytes, *(task.cost for task in tasks)])
    assert not stage_threads()
