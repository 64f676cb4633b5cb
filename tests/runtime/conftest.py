"""A small table that the tests of this folder share and damage."""

from __future__ import annotations

import pytest

from mpkir.runtime.table import Table, TableNames, build_table


@pytest.fixture
def table() -> Table:
    """Two workers, y = double(x) in two tasks, then z = double(y) once both are done."""
    return build_table(
        worker_tasks=[
            [(0, 0, 1, 1, 1, 0, 1, 0), (1, 0, 0, 2, 0, 1, 1, 0)],
            [(0, 1, 1, 1, 1, 0, 1, 0)],
        ],
        families=[(0, 2, 0, 0, 0, 1), (1, 1, 16, 2, 1, 2)],
        events=[2, 1],
        names=TableNames(
            buffers=("x", "y", "z"),
            bodies=("double_half", "double_all"),
            families=("first", "second"),
            events=("e0", "done"),
        ),
    )
