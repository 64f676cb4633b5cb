"""Tables: saved and loaded unchanged; every way to be inconsistent is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mpkir.errors import MpkirError
from mpkir.runtime.table import Table, TableNames


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
    ("workers", 2, 2, "the workers run 2 tasks, but the table has 3"),
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
    ("tasks", (0, 7), 1, "last column"),
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
