"""The text form of a table (`.mpkt`): one line for each task, and back to the identical table.

The grammar is table.lark beside this file; docs/table.md explains how to read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any, NoReturn

import lark
from lark import Token

from mpkir.errors import MpkirError
from mpkir.runtime.table import MAX_OPERANDS, FamilyField, Table, TableNames, TaskField, build_table

VERSION = 1
DYNAMIC_VERSION = 2
"""Of a table with dynamic tasks, which readers of the first version would refuse."""
RANKS_VERSION = 3
"""Of a table for several ranks."""

_BARE_NAME = re.compile(r"[A-Za-z_][\w.$-]*", re.ASCII)
_INT32_MAX = 2**31 - 1
_SPOKEN = {
    "_NL": "the end of the line",
    "$END": "the end of the text",
    "SITE": "a grid or task like name[3]",
    "NAME": "a name",
    "QUOTED": "a name in quotes",
    "INT": "a number",
}


def disassemble(table: Table) -> str:
    """Write `table` as text. Raises MpkirError if the table is inconsistent."""
    table.validate()
    return "\n".join(_lines(table)) + "\n"


def assemble(text: str, source: str = "table") -> Table:
    """Read the text form. Raises MpkirError with line, column and caret.

    source: what to call the text in messages, usually its file name
    """
    reader = _Reader(text, source)
    grammar = files("mpkir.runtime").joinpath("table.lark").read_text(encoding="utf-8")
    parser = lark.Lark(grammar, parser="lalr", transformer=reader)
    try:
        parser.parse(text if text.endswith("\n") else text + "\n")
    except lark.UnexpectedCharacters as error:
        reader.refuse(error.line, error.column, _expected(parser, error.allowed))
    except lark.UnexpectedToken as error:
        reader.refuse(error.line, error.column, _expected(parser, error.accepts))
    return reader.table()


def _lines(table: Table) -> Iterator[str]:
    names = table.names
    yield f"mpkt {_version_of(table)}"
    yield ""
    if table.ranks > 1:
        yield f"ranks {table.ranks}"
        yield ""
    yield from (f"buffer {_spell(name)}" for name in names.buffers)
    yield ""
    yield from (f"body {_spell(name)}" for name in names.bodies)
    yield ""
    events = [_spell(name) for name in names.events]
    yield from (
        f"event {event} arrivals {arrivals}{' peer' if number >= table.first_peer_event else ''}"
        for number, (event, arrivals) in enumerate(zip(events, table.events.tolist(), strict=True))
    )
    yield ""
    families = [_spell(name) for name in names.families]
    for number, (family, row) in enumerate(zip(families, table.families.tolist(), strict=True)):
        body = _spell(names.bodies[row[FamilyField.BODY]])
        rows, weights = row[FamilyField.STREAM_ROWS], row[FamilyField.STREAM_WEIGHTS]
        stream = f" stream {rows} x {weights}" if rows or weights else ""
        operands = ", ".join(_spell(names.buffers[b]) for b in table.operands(number))
        yield f"family {family} = {body}[{row[FamilyField.GRID_SIZE]}]{stream} ({operands})"
    offsets = table.workers.tolist()
    for worker in range(table.worker_count):
        yield ""
        yield f"worker {worker}"
        for row in table.tasks[offsets[worker] : offsets[worker + 1]].tolist():
            yield _task_line(row, families, events)
    if table.dynamic_count:
        yield ""
        yield "dynamic"
        for row in table.tasks[table.first_dynamic :].tolist():
            yield _task_line(row, families, events)


def _version_of(table: Table) -> int:
    if table.ranks > 1:
        return RANKS_VERSION
    return DYNAMIC_VERSION if table.dynamic_count else VERSION


def _task_line(row: Sequence[int], families: Sequence[str], events: Sequence[str]) -> str:
    line = f"  {families[row[TaskField.FAMILY]]}[{row[TaskField.INDEX]}]"
    if row[TaskField.WAIT_EVENT] >= 0:
        line += f"  wait {events[row[TaskField.WAIT_EVENT]]} >= {row[TaskField.WAIT_ARRIVALS]}"
    if row[TaskField.WAIT_LAG]:
        line += f" lag {row[TaskField.WAIT_LAG]}"
    if row[TaskField.SIGNAL_EVENT] >= 0:
        line += f"  signal {events[row[TaskField.SIGNAL_EVENT]]} += {row[TaskField.SIGNAL_AMOUNT]}"
    return line


def _expected(parser: lark.Lark, terminals: Iterable[str] | None) -> str:
    """What may stand in this place; keywords and signs are named as they are written."""
    spoken = {
        _SPOKEN.get(terminal) or f"'{parser.get_terminal(terminal).pattern.value}'"
        for terminal in terminals or ()
    }
    return f"expected {' or '.join(sorted(spoken))} here"


def _spell(name: str) -> str:
    return name if _BARE_NAME.fullmatch(name) else json.dumps(name)


class _Reader(lark.Transformer[Token, None]):
    """Collects the lines of one text; the methods that lark calls are named like grammar rules."""

    def __init__(self, text: str, source: str) -> None:
        super().__init__()
        self._source_lines = text.split("\n")
        self._source = source
        self._ids: dict[str, dict[str, int]] = {
            kind: {} for kind in ("buffer", "body", "event", "family")
        }
        self._families: list[list[int]] = []
        self._arrivals: list[int] = []
        self._workers: list[list[tuple[int, ...]]] = []
        self._dynamic: list[tuple[int, ...]] = []
        self._ranks = 1
        self._peer_events = 0

    def table(self) -> Table:
        """The table of all lines read. Raises MpkirError if they contradict each other."""
        names = TableNames(
            buffers=tuple(self._ids["buffer"]),
            bodies=tuple(self._ids["body"]),
            families=tuple(self._ids["family"]),
            events=tuple(self._ids["event"]),
        )
        try:
            return build_table(
                self._workers,
                self._families,
                self._arrivals,
                names,
                self._dynamic,
                self._ranks,
                self._peer_events,
            )
        except MpkirError as error:
            raise MpkirError(error.what, where=self._source, hint="mend the text") from error

    def refuse(self, line: int, column: int, what: str) -> NoReturn:
        """Raise MpkirError that shows the place with a caret."""
        shown = self._source_lines[line - 1].replace("\t", " ").rstrip("\r")
        raise MpkirError(
            f"{what}\n{shown}\n{' ' * (column - 1)}^",
            where=f"{self._source}:{line}:{column}",
            hint="the grammar is mpkir/runtime/table.lark",
        )

    def start(self, children: list[Any]) -> None:
        version = children[0]
        if version not in (str(VERSION), str(DYNAMIC_VERSION), str(RANKS_VERSION)):
            self._refuse_at(
                version,
                f"version {version} of the text form, expected {VERSION} to {RANKS_VERSION}",
            )

    def ranks(self, children: list[Token]) -> None:
        self._ranks = self._int(children[0])

    def buffer(self, children: list[Token]) -> None:
        self._declare("buffer", children[0])

    def body(self, children: list[Token]) -> None:
        self._declare("body", children[0])

    def event(self, children: list[Token]) -> None:
        name, arrivals, *peer = children
        self._declare("event", name)
        self._arrivals.append(self._int(arrivals))
        if peer:
            self._peer_events += 1
        elif self._peer_events:
            self._refuse_at(name, "an event of this rank alone behind those of its peers")

    def family(self, children: list[Any]) -> None:
        name, grid, stream, operands = children
        body, size = self._split("body", grid)
        self._declare("family", name)
        self._families.append([body, size, *stream, *operands])

    def stream(self, children: list[Token]) -> tuple[int, int]:
        return (self._int(children[0]), self._int(children[1])) if children else (0, 0)

    def operands(self, children: list[Token]) -> list[int]:
        if len(children) > MAX_OPERANDS:
            self._refuse_at(children[MAX_OPERANDS], f"a family has at most {MAX_OPERANDS} buffers")
        return [self._id("buffer", child) for child in children]

    def worker(self, children: list[Any]) -> None:
        number, *tasks = children
        if self._int(number) != len(self._workers):
            self._refuse_at(number, f"expected worker {len(self._workers)} here")
        self._workers.append(tasks)

    def dynamic(self, children: list[tuple[int, ...]]) -> None:
        self._dynamic += children

    def task(self, children: list[Any]) -> tuple[int, ...]:
        site, (event, arrivals, lag), (signal, amount) = children
        return (*self._split("family", site), event, arrivals, lag, signal, amount)

    def wait(self, children: list[Any]) -> tuple[int, int, int]:
        if not children:
            return (-1, 0, 0)
        event, arrivals, lag = children
        return (self._id("event", event), self._int(arrivals), lag)

    def lag(self, children: list[Token]) -> int:
        return self._int(children[0]) if children else 0

    def signal(self, children: list[Token]) -> tuple[int, int]:
        return (self._id("event", children[0]), self._int(children[1])) if children else (-1, 0)

    def _declare(self, kind: str, token: Token) -> None:
        ids, name = self._ids[kind], self._unquote(token, token)
        if name in ids:
            self._refuse_at(token, f"a second {kind} with this name")
        ids[name] = len(ids)

    def _split(self, kind: str, site: Token) -> tuple[int, int]:
        """Take name[number] apart: the id of the name, and the number."""
        name, _, number = site[:-1].rpartition("[")
        return self._id(kind, site, name), self._int(site, number)

    def _id(self, kind: str, token: Token, spelling: str | None = None) -> int:
        name = self._unquote(token, token if spelling is None else spelling)
        found = self._ids[kind].get(name)
        if found is None:
            self._refuse_at(token, f"no {kind} of this name above")
        return found

    def _unquote(self, token: Token, spelling: str) -> str:
        if not spelling.startswith('"'):
            return str(spelling)
        try:
            return json.loads(spelling)
        except ValueError:
            self._refuse_at(token, "this is no JSON string")

    def _int(self, token: Token, digits: str | None = None) -> int:
        value = int(token if digits is None else digits)
        if value > _INT32_MAX:
            self._refuse_at(token, f"{value} does not fit in 32 bits")
        return value

    def _refuse_at(self, token: Token, what: str) -> NoReturn:
        self.refuse(token.line or 1, token.column or 1, what)
