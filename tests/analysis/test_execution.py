"""Waits and signals that are left out, against what every task knows when all are executed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mpkir.analysis.execution import Listed, executed_of

COUNTERS = 3
"""Of each stage."""


@st.composite
def lists(draw: st.DrawFn) -> Listed:
    """Tasks in stages: each waits for a counter of an earlier stage, of the step before, or for
    none, and signals one of its own stage or none.
    """
    workers = draw(st.integers(1, 4))
    rows: list[tuple[int, int, int, int]] = []
    signalled: list[int] = []
    for stage in range(draw(st.integers(1, 5))):
        counters = [stage * COUNTERS + i for i in range(COUNTERS)]
        now: list[int] = []
        for _ in range(draw(st.integers(1, 6))):
            worker = draw(st.integers(0, workers - 1))
            if stage and draw(st.integers(0, 4)) == 0:
                worker = -1
            wait = draw(st.sampled_from([-1, *signalled]))
            if worker < 0 and wait < 0:
                worker = 0
            late = draw(st.integers(0, 3)) == 0 and worker >= 0
            signal = draw(st.sampled_from([-1, *counters]))
            rows.append((worker, wait, int(late and wait >= 0), signal))
            now += [signal] if signal >= 0 else []
        signalled += now
    columns = np.array(sorted(rows, key=lambda row: row[0]), np.int64)
    peers = draw(st.frozensets(st.sampled_from(signalled))) if signalled else frozenset()
    return Listed(*columns.T, peers)


Known = list[set[int]]


def known(tasks: Listed, waits: np.ndarray, signals: np.ndarray) -> tuple[Known, list[set[int]]]:
    """For each task the tasks of the step that the executed waits up to it tell it are done, and
    the counters of the step before (-1 - c: of this step, between peers) that it knows to have
    fired.

    A signal tells of its own task, of those before it on its worker, and of all that these know.
    """
    count = len(tasks.worker)
    order = [
        [t for t in range(count) if tasks.worker[t] == w] for w in range(tasks.worker.max() + 1)
    ]
    order += [[t] for t in range(count) if tasks.worker[t] < 0]
    place = {t: (line, i) for line in order for i, t in enumerate(line)}
    found: dict[int, tuple[set[int], set[int]]] = {}

    def visit(task: int) -> tuple[set[int], set[int]]:
        if task in found:
            return found[task]
        line, at = place[task][0], place[task][1]
        done, late = set(), set()
        if at:
            before = visit(line[at - 1])
            done, late = set(before[0]), set(before[1])
        if waits[task] and tasks.lag[task]:
            late.add(int(tasks.wait[task]))
        elif waits[task]:
            for other in np.flatnonzero((tasks.signal == tasks.wait[task]) & signals).tolist():
                theirs = visit(other)
                others = place[other][0][: place[other][1] + 1]
                done |= theirs[0] | set(others)
                late |= theirs[1]
            if int(tasks.wait[task]) in tasks.peers:
                late.add(-1 - int(tasks.wait[task]))
        found[task] = done, late
        return found[task]

    both = [visit(task) for task in range(count)]
    return [done for done, _ in both], [late for _, late in both]


@given(lists())
def test_every_task_knows_the_same(tasks: Listed):
    executed = executed_of(tasks)
    everything = known(tasks, tasks.wait >= 0, tasks.signal >= 0)
    assert known(tasks, executed.waits, executed.amounts > 0) == everything
    assert not (executed.waits & (tasks.wait < 0)).any()


@given(lists())
def test_counters_rise_by_as_much_and_once_from_each_worker(tasks: Listed):
    amounts = executed_of(tasks).amounts
    for counter in np.unique(tasks.signal[tasks.signal >= 0]):
        mine = tasks.signal == counter
        assert amounts[mine].sum() == mine.sum()
        placed = tasks.worker[mine & (amounts > 0) & (tasks.worker >= 0)]
        assert len(set(placed.tolist())) == len(placed)
    assert (amounts[(tasks.worker < 0) & (tasks.signal >= 0)] == 1).all()


@given(lists())
def test_no_wait_that_is_left_could_be_left_out(tasks: Listed):
    executed = executed_of(tasks)
    everything = known(tasks, executed.waits, executed.amounts > 0)
    for task in np.flatnonzero(executed.waits & (tasks.worker >= 0)).tolist():
        waits = executed.waits.copy()
        waits[task] = False
        assert known(tasks, waits, executed.amounts > 0) != everything


def test_tasks_that_wait_for_each_other_keep_their_waits():
    columns = (np.array(column) for column in ([0, 1], [1, 0], [0, 0], [0, 1]))
    tasks = Listed(*columns, frozenset())
    assert executed_of(tasks).waits.tolist() == [True, True]
