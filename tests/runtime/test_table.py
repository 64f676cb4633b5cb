"""Tables: saved and loaded unchanged; every way to be inconsistent is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mpkir.errors import MpkirError
from mpkir.runtime.table import Table, TableNames, TaskField, build_table


def test_save_and_load_keep_every_bit(table: Table, tmp_path: Path):
    table.save(tmp_path)
    loaded = Table.load(tmp_path, table.names)
    assert loaded == table
    assert loaded.tasks.tobytes() == table.tasks.tobytes()


def test_labels_and_operands(table: Table):
    assert table.task_label(1) == "second[0]"
    assert table.operands(1) == (3, 2, 4)
    assert (table.worker_count, table.task_count) == (2, 3)


# array, place, new value, part of the message
DAMAGE = [
    ("workers", 1, 5, "do not start at 0 and rise"),
    ("workers", 2, 4, "the workers run 4 tasks, but the table has 3"),
    ("workers", 2, 2, "no worker has first[1] in its list, and it waits for no event of its own"),
    ("families", (1, 0), 2, "family 1 has body 2, expected in [0, 2)"),
    ("families", (0, 1), 0, "family 0 has grid size 0"),
    ("families", (0, 1), 3, "the table has 3 tasks, but its grids have 4"),
    ("families", (0, 2), -1, "family 0 has stream rows -1"),
    ("families", (0, 3), -1, "family 0 has stream weights -1"),
    ("families", (0, 4), 5, "operand buffer 5, expected in [-1, 5)"),
    ("families", (0, 4), -1, "family 0 has a buffer after its last operand"),
    ("tasks", (0, 0), 7, "task 0 has family 7"),
    ("tasks", (0, 1), 2, "task 0 is first[2], but that grid has 2 tasks"),
    ("tasks", (0, 1), 1, "first[1] is in the table twice"),
    ("tasks", (0, 7), 2, "first[0] has release arrivals 2, expected 0"),
    ("tasks", (1, 2), 2, "task 1 has wait event 2"),
    ("tasks", (1, 2), -1, "waits for no event has a number of arrivals"),
    ("tasks", (1, 3), 1, "second[0] waits for 1 arrivals of event 'e0', which has 2 a step"),
    ("tasks", (1, 4), 2, "task 1 has wait lag 2"),
    ("tasks", (2, 5), -1, "signals no event has an amount"),
    ("tasks", (2, 5), 9, "task 2 has signal event 9"),
    ("tasks", (2, 6), 0, "amount 0, expected at least 1"),
    ("tasks", (2, 6), 2, "event 'e0' has 2 arrivals a step, but its tasks signal 3"),
    ("events", 1, 0, "event 1 has arrivals per step 0"),
]


@pytest.mark.parametrize(("array", "place", "value", "message"), DAMAGE)
def test_inconsistent(table: Table, array: str, place: object, value: int, message: str):
    getattr(table, array)[place] = value
    with pytest.raises(MpkirError) as caught:
        table.validate()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("array", "value", "message"),
    [
        ("tasks", np.zeros((3, 7), np.int32), "shape [3, 7], expected [n, 8]"),
        ("tasks", np.zeros((3, 8), np.int64), "'tasks' is int64"),
        ("workers", np.zeros(1, np.int32), "no worker"),
        ("events", np.zeros(3, np.int32), "3 events, but 2 names"),
    ],
)
def test_wrong_array(table: Table, array: str, value: np.ndarray, message: str):
    with pytest.raises(MpkirError) as caught:
        dataclasses.replace(table, **{array: value}).validate()
    assert message in str(caught.value)


def test_two_of_one_name(table: Table):
    names = TableNames(("x", "x"), *dataclasses.astuple(table.names)[1:])
    with pytest.raises(MpkirError, match="two buffers are named 'x'"):
        dataclasses.replace(table, names=names).validate()


def test_truncated_and_missing_files(table: Table, tmp_path: Path):
    table.save(tmp_path)
    part = tmp_path / "tasks.npy"
    part.write_bytes(part.read_bytes()[:-16])
    with pytest.raises(MpkirError, match=r"tasks\.npy: this part of the table cannot be read"):
        Table.load(tmp_path, table.names)
    part.unlink()
    with pytest.raises(MpkirError, match=r"tasks\.npy: this part of the table is missing"):
        Table.load(tmp_path, table.names)


def test_pickled_objects_are_not_loaded(table: Table, tmp_path: Path):
    table.save(tmp_path)
    np.save(tmp_path / "events.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(MpkirError, match="cannot be read"):
        Table.load(tmp_path, table.names)


@pytest.fixture
def dynamic() -> Table:
    """Two workers; `first` has places, `second` and `third` are given out."""
    return build_table(
        worker_tasks=[[(0, 0, 2, 3, 1, 0, 1)], [(0, 1, 2, 3, 1, 0, 1)]],
        families=[(0, 2, 0, 0, 0), (0, 2, 0, 0, 0), (0, 3, 0, 0, 0)],
        events=[2, 2, 3],
        names=TableNames(("x",), ("body",), ("first", "second", "third"), ("a", "b", "end")),
        dynamic=[
            *((1, i, 0, 2, 0, 1, 1) for i in range(2)),
            *((2, i, 1, 2, 0, 2, 1) for i in range(3)),
        ],
    )


def test_what_events_release(dynamic: Table):
    assert (dynamic.first_dynamic, dynamic.dynamic_count) == (2, 5)
    assert dynamic.released.tolist() == [2, 4, 7, 7]
    assert dynamic.tasks[:, TaskField.RELEASE_ARRIVALS].tolist() == [2, 2, 2, 2, 0, 0, 0]
    assert dynamic.last_event() == 2
    assert (dynamic.waiting_label(3), dynamic.waiting_label(-1)) == (
        "task second[1]",
        "the end of the step",
    )


def test_static_tables_release_nothing(table: Table):
    assert table.dynamic_count == 0
    assert table.released.tolist() == [3, 3, 3]


DYNAMIC_DAMAGE = [
    ((2, TaskField.WAIT_LAG), 1, "it waits for no event of its own step"),
    ((2, slice(2, 4)), (1, 2), "dynamic second[1] does not stand with those of its event"),
    ((0, TaskField.RELEASE_ARRIVALS), 0, "first[0] has release arrivals 0, expected 2"),
    ((6, TaskField.RELEASE_ARRIVALS), 3, "third[2] has release arrivals 3, expected 0"),
]


@pytest.mark.parametrize(("place", "value", "message"), DYNAMIC_DAMAGE)
def test_inconsistent_dynamic(dynamic: Table, place: object, value: object, message: str):
    dynamic.tasks[place] = value
    with pytest.raises(MpkirError) as caught:
        dynamic.validate()
    assert message in str(caught.value)


def test_a_dynamic_task_must_be_heard_of(dynamic: Table):
    dynamic.tasks[6, TaskField.SIGNAL_EVENT] = -1
    dynamic.tasks[6, TaskField.SIGNAL_AMOUNT] = 0
    dynamic.tasks[5, TaskField.SIGNAL_AMOUNT] = 2
    with pytest.raises(MpkirError, match=r"dynamic third\[2\] signals no event"):
        dynamic.validate()


def test_no_event_joins_all(dynamic: Table):
    """`third` is done before an event that nobody waits for in the next step."""
    names = dataclasses.replace(dynamic.names, events=("a", "b", "end", "other"))
    tasks, events = dynamic.tasks.copy(), np.array([2, 2, 2, 1], np.int32)
    tasks[6, TaskField.SIGNAL_EVENT] = 3
    tasks[:2, TaskField.WAIT_ARRIVALS] = 2
    changed = dataclasses.replace(dynamic, tasks=tasks, events=events, names=names)
    with pytest.raises(MpkirError, match="no event that a step begins with has them before it"):
        changed.validate()
