"""The text form: any table comes back bit for bit; errors show line, column and caret."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpkir.errors import MpkirError
from mpkir.runtime.table import ARRAYS, Table, TableNames, TaskField, build_table
from mpkir.runtime.table_text import assemble, disassemble

TEXT = """\
mpkt 1

buffer x
buffer w
buffer scale
buffer y
buffer z

body multiply
body accumulate

event e0 arrivals 2
event done arrivals 1

family first = multiply[2] (x, w, y)
family second = accumulate[1] stream 16 x 2 (y, scale, z)

worker 0
  first[0]  wait done >= 1 lag 1  signal e0 += 1
  second[0]  wait e0 >= 2  signal done += 1

worker 1
  first[1]  wait done >= 1 lag 1  signal e0 += 1
"""


DYNAMIC = """\
mpkt 2

buffer x

body b

event e0 arrivals 2
event end arrivals 3

family first = b[2] (x)
family second = b[3] (x)

worker 0
  first[0]  wait end >= 3 lag 1  signal e0 += 2

worker 1
  first[1]  wait end >= 3 lag 1

dynamic
  second[2]  wait e0 >= 2  signal end += 1
  second[0]  wait e0 >= 2  signal end += 1
  second[1]  wait e0 >= 2  signal end += 1
"""


def test_dynamic_tasks():
    table = assemble(DYNAMIC)
    assert disassemble(table) == DYNAMIC
    assert table.tasks[:, TaskField.RELEASE_ARRIVALS].tolist() == [2, 0, 0, 0, 0]


def test_text(table: Table):
    assert disassemble(table) == TEXT
    assert assemble(TEXT) == table


def test_free_layout(table: Table):
    loose = TEXT.replace("\n\n", "\n// a remark\n\n").replace("  wait", "\twait")
    loose = loose.replace("arrivals 2", "arrivals 2   // both halves").replace("\n", "\r\n")
    assert assemble(loose.rstrip()) == table


def names_of(count: int) -> st.SearchStrategy[tuple[str, ...]]:
    any_name = st.text(min_size=1, max_size=8) | st.sampled_from(["lag", "wait", "x", "l3.up", "é"])
    return st.lists(any_name, min_size=count, max_size=count, unique=True).map(tuple)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Any consistent table: random grids, placement, events, waits and names."""
    grids = draw(st.lists(st.integers(1, 5), max_size=5))
    sites = draw(st.permutations([(f, i) for f, size in enumerate(grids) for i in range(size)]))
    event_count = draw(st.integers(0, min(4, len(sites))))
    # Every event is signalled by at least one task; the rest signal any event or none.
    signals = [*range(event_count)] + [
        draw(st.integers(-1, event_count - 1)) for _ in sites[event_count:]
    ]
    amounts = [draw(st.integers(1, 9)) if event >= 0 else 0 for event in signals]
    arrivals = [0] * event_count
    for event, amount in zip(signals, amounts, strict=True):
        if event >= 0:
            arrivals[event] += amount
    workers: list[list[tuple[int, ...]]] = [[] for _ in range(draw(st.integers(1, 4)))]
    for (family, index), signal, amount in zip(sites, signals, amounts, strict=True):
        wait = draw(st.integers(-1, event_count - 1))
        waits = (wait, arrivals[wait], draw(st.integers(0, 1))) if wait >= 0 else (-1, 0, 0)
        row = (family, index, *waits, signal, amount)
        workers[draw(st.integers(0, len(workers) - 1))].append(row)
    small = st.integers(0, 2**31 - 1)
    operands = st.lists(st.integers(0, 3), max_size=12)
    families = [
        [draw(st.integers(0, 2)), size, draw(small), draw(small), *draw(operands)] for size in grids
    ]
    names = TableNames(*(draw(names_of(n)) for n in (4, 3, len(grids), event_count)))
    return build_table(workers, families, arrivals, names)


@st.composite
def dynamic_tables(draw: st.DrawFn) -> Table:
    """A chain of families, each behind all of the one before; the first has places."""
    grids = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    count = len(grids)
    workers: list[list[tuple[int, ...]]] = [[] for _ in range(draw(st.integers(1, 3)))]
    dynamic: list[tuple[int, ...]] = []
    for family, size in enumerate(grids):
        given_out = family > 0 and draw(st.booleans())
        for index in draw(st.permutations(range(size))):
            home = dynamic if given_out else draw(st.sampled_from(workers))
            wait = ((family - 1) % count, grids[family - 1], int(family == 0))
            home.append((family, index, *wait, family, 1))
    names = TableNames(("x",), ("b",), draw(names_of(count)), draw(names_of(count)))
    return build_table(workers, [(0, size, 0, 0, 0) for size in grids], grids, names, dynamic)


@given(tables() | dynamic_tables())
def test_round_trip(table: Table):
    again = assemble(disassemble(table))
    assert again.names == table.names
    for name in ARRAYS:
        assert getattr(again, name).tobytes() == getattr(table, name).tobytes()


# text to replace, its replacement, what the message says
BAD = [
    (
        ">= 2",
        "=> 2",
        "a.mpkt:20:22: expected '>=' here\n  second[0]  wait e0 => 2  signal done += 1\n"
        + " " * 21
        + "^\nthe grammar is mpkir/runtime/table.lark",
    ),
    ("mpkt 1", "mpkt 4", "a.mpkt:1:6: version 4 of the text form, expected 1 to 3"),
    ("mpkt 1\n", "hello\n", "a.mpkt:1:1: expected 'mpkt'"),
    ("buffer w", "buffer x", "a.mpkt:4:8: a second buffer with this name"),
    ("buffer w", 'buffer "\\q"', "a.mpkt:4:8: this is no JSON string"),
    ("buffer w", "buffer", "a.mpkt:4:7: expected a name or a name in quotes here"),
    ("multiply[2]", "triple[2]", "a.mpkt:15:16: no body of this name above"),
    ("(x, w, y)", "(x, w, v)", "a.mpkt:15:35: no buffer of this name above"),
    ("(x, w, y)", "(" + ", ".join("x" * 13) + ")", "a family has at most 12 buffers"),
    ("worker 1", "worker 2", "a.mpkt:22:8: expected worker 1 here"),
    ("first[1]", "third[1]", "a.mpkt:23:3: no family of this name above"),
    ("first[1]", "first[99999999999]", "a.mpkt:23:3: 99999999999 does not fit in 32 bits"),
    ("first[1]", "first[2]", "a.mpkt: task 2 is first[2], but that grid has 2 tasks"),
    ("first[1]", "first[x]", "a.mpkt:23:3: expected"),
    ("wait e0", "wait e9", "a.mpkt:20:19: no event of this name above"),
    ("signal done += 1", "signal done += 3", "event 'done' has 1 arrivals a step"),
    ("arrivals 2", "arrivals ;", "a.mpkt:12:19: expected a number here"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_bad_text(old: str, new: str, message: str):
    assert old in TEXT
    with pytest.raises(MpkirError) as caught:
        assemble(TEXT.replace(old, new, 1), "a.mpkt")
    assert message in str(caught.value)


def test_fifty_thousand_tasks_take_seconds():
    workers, grid, chain = 132, 500, 100
    rows: list[list[tuple[int, ...]]] = [[] for _ in range(workers)]
    for family in range(chain):
        for index in range(grid):
            first = family == 0
            row = (family, index, (family - 1) % chain, grid, int(first), family, 1, 0)
            rows[(family * grid + index) % workers].append(row)
    names = TableNames(
        ("x",), ("body",), *(tuple(f"{c}{i}" for i in range(chain)) for c in ("l", "e"))
    )
    big = build_table(rows, [(0, grid, 16, 2, 0)] * chain, [grid] * chain, names)
    start = time.perf_counter()
    assert assemble(disassemble(big)) == big
    assert time.perf_counter() - start < 30  # 2 s on an idle core
