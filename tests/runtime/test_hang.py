"""What is said of launches that the watchdog ended, from the notes that workers leave."""

from __future__ import annotations

import numpy as np
import pytest

from mpkir.runtime.hang import Hang, Missing, Polled, missing_elements
from mpkir.runtime.launch import Control, Stand
from mpkir.runtime.table import Table, TableNames, build_table


@pytest.fixture
def polling() -> Table:
    """Three workers; each makes a part of h, then all read h and signal the end of the step."""
    lists = [[(0, k, 0, 3, 1, -1, 0), (1, k, -1, 0, 0, 0, 1)] for k in range(3)]
    names = TableNames(("x", "h", "y"), ("up", "down"), ("l0.up", "l0.down"), ("end",))
    return build_table(lists, [(0, 3, 8, 1, 0, 1), (1, 3, 8, 1, 1, 2)], [3], names)


def gave_up(step: int, task: int) -> Stand:
    return Stand(polls=~(step << 32 | task) % 2**64)


def report(
    table: Table, stands: list[Stand], late: list[int], rows: dict[int, int] | None = None
) -> list[str]:
    flags = np.zeros(24, np.bool_)
    flags[late] = True

    def missing(buffer: int, step: int) -> Missing:
        assert (buffer, step) == (1, 5)
        return missing_elements(flags)

    control = Control(fault=1, fault_worker=2, fault_task=5, fault_event=-1)
    counters = np.array([3 * 12], np.uint32)
    polled = Polled(missing, {1: (0,)}, reads=(1, 1), rows=rows or {})
    hang = Hang(table, control, stands, counters, epoch=7, polled=polled)
    return str(hang.error(2.0)).splitlines()


def test_a_store_that_was_lost(polling: Table):
    """All tasks that write the buffer are behind their workers' places, and yet it has gaps."""
    stands = [gave_up(5, task) for task in (1, 3, 5)]
    lines = report(polling, stands, [8, 9, 10, 11, 14])
    what = "waited more than 2 s for elements that it polls and nobody writes"
    assert lines[0] == f"task l0.down[2]: worker 2 {what}"
    assert lines[1] == "3 of 3 workers stand:"
    assert lines[2] == (
        "- buffer h lacks 5 of 24 elements in step 5 (8-11, 14); wanted by l0.down[0] on 0, "
        "l0.down[1] on 1, l0.down[2] on 2"
    )
    assert lines[3] == "  all tasks of l0.up, which write it, have run: a store was lost"


def test_a_task_that_did_not_run(polling: Table):
    """Worker 1 waits for the end of the step before, so its part of h is not there."""
    waits = Stand(kind=1, step=5, task=2, event=0, seen=35, wanted=36)
    lines = report(polling, [gave_up(5, 1), waits, gave_up(5, 5)], list(range(8, 16)))
    assert "- event end has 2 of 3 arrivals in step 4; wanted by l0.up[1] on 1" in lines
    assert "  all 3 tasks that signal it have run; signals lost: 1" in lines
    assert "- buffer h lacks 8 of 24 elements in step 5 (8-15); wanted by" in "\n".join(lines)
    assert "  not signalled: l0.up[1] on 1" in lines


def test_what_came_since(polling: Table):
    """A poll that was given up because of another finds its data when the host looks."""
    lines = report(polling, [gave_up(5, 1), Stand(), Stand()], [])
    assert lines[2] == "- what l0.down[0] polls in step 5 has come since; wanted by l0.down[0] on 0"


def test_ranks_that_have_not_sent_their_row(polling: Table):
    """h has a row of 6 for each of 4 ranks."""
    stands = [gave_up(5, task) for task in (1, 3, 5)]
    lines = report(polling, stands, [8, 9, 18, 19, 20], rows={1: 6})
    assert "  what is not there comes from ranks 1, 3" in lines


def test_an_event_of_peers_for_which_arrivals_lack():
    names = TableNames(("x",), ("up",), ("up",), ("met",))
    lists = [[(0, 0, 0, 4, 1, 0, 2)]]
    table = build_table(lists, [(0, 1, 0, 0, 0)], [4], names, ranks=2, peer_events=1)
    control = Control(fault=1, fault_worker=0, fault_task=0, fault_event=0)
    waits = Stand(kind=1, step=1, task=0, event=0, seen=2, wanted=4)
    hang = Hang(table, control, [waits], np.array([2], np.uint32), epoch=0)
    text = str(hang.error(6.0))
    assert "event met has 2 of 4 arrivals in step 0" in text
    assert "all 1 tasks of this rank that signal it have run" in text
    assert "from all 2 ranks together 2 arrivals lack" in text


@pytest.mark.parametrize("h_lacks", [True, False])
def test_what_a_step_may_leave_out(polling: Table, h_lacks: bool):
    """y is of chunks, some of which have nothing to say: it is named only where nothing else is."""
    flags = np.zeros(24, np.bool_)

    def missing(buffer: int, step: int) -> Missing:
        flags[8:16] = buffer == 2 or h_lacks
        return missing_elements(flags)

    control = Control(fault=1, fault_worker=2, fault_task=5, fault_event=-1)
    polled = Polled(missing, {1: (0,), 2: (0,)}, reads=(1, 2), partial=frozenset({2}))
    stands = [gave_up(5, task) for task in (1, 3, 5)]
    hang = Hang(polling, control, stands, np.array([36], np.uint32), epoch=7, polled=polled)
    text = str(hang.error(2.0))
    assert ("buffer h lacks" in text) == h_lacks
    assert ("buffer y lacks" in text) != h_lacks
    assert ("chunks beyond the position may be missing" in text) != h_lacks
