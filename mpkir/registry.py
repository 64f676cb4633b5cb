"""What packages and files outside mpkir add to it.

Everything with a name (dialects, passes, targets, schedulers, machines ..) stands in a *universe*:
an object that a package names by an entry point in the group `xdsl.universe`, or that a file given
by `--load-plugin` calls UNIVERSE. What belongs to one operator (its lowering, tiling rule, kernel,
printed forms) stands in a `Registry`, one table for each; a universe's `all_operators` says which
module fills which table, so that none is imported before somebody looks into its table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from mpkir.errors import MpkirError

GROUP = "xdsl.universe"
KINDS = ("dialects", "passes", "targets", "schedulers", "machines", "backends")
"""What universes have by name."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Source:
    """A universe and where it comes from."""

    name: str
    """What messages call it: an entry point's name and value, or a file."""
    universe: Any
    path: Path | None = None
    """The file, or the package's directory, that all of it lies in."""


_files: list[Source] = []


@cache
def _installed() -> tuple[Source, ...]:
    """The universes of installed packages, by the names of their entry points."""
    found: list[Source] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        name = f"entry point {point.name} = {point.value}"
        try:
            found.append(Source(name, point.load(), _place_of_package(point.module)))
        except Exception as error:
            raise MpkirError(
                f"the plugin cannot be loaded: {describe_error(error)}",
                where=name,
                hint="mend the package or uninstall it",
            ) from error
    return tuple(found)


def _place_of_package(module: str) -> Path | None:
    """Directory of the outermost package, or file of the module, that an entry point is in."""
    found = find_spec(module.partition(".")[0])
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent if found.submodule_search_locations else Path(found.origin)


def universes() -> tuple[Source, ...]:
    """All universes: of installed packages, then of loaded files. Raises MpkirError."""
    return (*_installed(), *_files)


def add_universe(source: Source) -> None:
    """Add the universe of a loaded file. MpkirError if it has a name that another one has."""
    _files.append(source)
    try:
        for kind in KINDS:
            named(kind)
    except MpkirError:
        _files.remove(source)
        raise


def named(kind: str) -> dict[str, Callable[[], Any]]:
    """Loaders of everything of a kind ("dialects", "passes", "schedulers", ..) by name.

    A loader that fails raises MpkirError with the plugin it is of, as does a name that two
    universes give.
    """
    found: dict[str, Callable[[], Any]] = {}
    origin: dict[str, str] = {}
    for source in universes():
        loaders: Mapping[str, Callable[[], Any]] = getattr(source.universe, f"all_{kind}", {})
        for name, loader in loaders.items():
            if name in found:
                raise MpkirError(
                    f"'{name}' stands among the {kind} of {origin[name]}, too",
                    where=source.name,
                    hint="rename one of them",
                )
            found[name], origin[name] = _guarded(loader, name, source), source.name
    return found


def _guarded(loader: Callable[[], Any], name: str, source: Source) -> Callable[[], Any]:
    def load() -> Any:
        try:
            return loader()
        except (ImportError, AttributeError) as error:
            raise MpkirError(
                f"'{name}' cannot be loaded: {describe_error(error)}", where=source.name
            ) from error

    return load


def stages() -> dict[str, list[str]]:
    """Passes that universes put into the default pipeline, by the pass that each follows."""
    found: dict[str, list[str]] = {}
    for source in universes():
        for name, after in getattr(source.universe, "all_stages", {}).items():
            found.setdefault(after, []).append(name)
    return found


def include_directories() -> tuple[Path, ...]:
    """Directories of headers that universes bring. MpkirError for one that is not there."""
    found: list[Path] = []
    for source in universes():
        for path in getattr(source.universe, "include", ()):
            if not path.is_dir():
                raise MpkirError(f"its include directory {path} is missing", where=source.name)
            found.append(path)
    return tuple(found)


class Registry(MutableMapping[K, V], Generic[K, V]):
    """One table of functions by operator, which plugins add to.

    table      its name in a universe's `all_operators`
    home       where it is found in Python, for messages
    arguments  what its functions are called with; empty where they differ

    ```python
    @TILINGS.register(ScaleOp)
    def scale(op: ScaleOp, limits: Limits) -> Tiling: ...
    ```
    """

    def __init__(
        self,
        table: str,
        home: str,
        arguments: Sequence[str] = (),
        entries: Mapping[K, V] | None = None,
    ) -> None:
        self.table, self.home, self.arguments = table, home, tuple(arguments)
        self._entries: dict[K, V] = dict(entries or {})
        self._seen = 0

    def register(self, *keys: K) -> Callable[[V], V]:
        """Declare a function for these operators. Raises MpkirError for one that has one already,
        and for a function that takes other arguments."""

        def declare(function: V) -> V:
            for key in keys:
                self[key] = function
            return function

        return declare

    def missing(self, op: Any) -> str | None:
        """The hint to give for an operator of a plugin that this table lacks; None for mpkir's."""
        kind = type(op)
        if kind.__module__.partition(".")[0] == "mpkir":
            return None
        return (
            f"{_place(kind)} defines it: register a function of ({', '.join(self.arguments)}) "
            f"with @{self.home}.register({kind.__name__})"
        )

    def __setitem__(self, key: K, value: V) -> None:
        if not callable(value):
            raise MpkirError(f"{self.home} holds functions, got {value!r} for {_name(key)}")
        if key in self._entries:
            raise MpkirError(
                f"{_name(key)} has a function in {self.home} already",
                where=_place(value),
                hint=f"the other is at {_place(self._entries[key])}",
            )
        if self.arguments:
            try:
                inspect.signature(value).bind(*self.arguments)
            except ValueError:
                pass  # a builtin, whose signature Python does not know
            except TypeError as error:
                raise MpkirError(
                    f"the function for {_name(key)} cannot be called with "
                    f"({', '.join(self.arguments)}), as {self.home} wants: {error}",
                    where=_place(value),
                ) from error
        self._entries[key] = value
        _functions.append(value)

    def __getitem__(self, key: K) -> V:
        self._fill()
        return self._entries[key]

    def __delitem__(self, key: K) -> None:
        del self._entries[key]

    def __iter__(self) -> Iterator[K]:
        self._fill()
        return iter(self._entries)

    def __len__(self) -> int:
        self._fill()
        return len(self._entries)

    def _fill(self) -> None:
        """Import what the universes known by now name for this table."""
        sources = universes()[self._seen :]
        self._seen += len(sources)
        for source in sources:
            module = getattr(source.universe, "all_operators", {}).get(self.table)
            if module is None:
                continue
            _guarded(lambda module=module: import_module(module), self.table, source)()
            if all(getattr(f, "__module__", None) != module for f in self._entries.values()):
                raise MpkirError(
                    f"all_operators names {module} for '{self.table}', which registers nothing",
                    where=source.name,
                    hint=f"use @{self.home}.register(Op) in it",
                )


_functions: list[Any] = []


def registered_functions() -> tuple[Any, ...]:
    """All functions that have been registered so far, in all tables."""
    return tuple(_functions)


def describe_error(error: BaseException) -> str:
    """Kind and text of an error, in a line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _name(key: Any) -> str:
    return f"'{getattr(key, 'name', None) or getattr(key, '__name__', key)}'"


def _place(thing: Any) -> str:
    """File and line of a function or class."""
    try:
        lines = inspect.getsourcelines(thing)[1]
        return f"{inspect.getsourcefile(thing)}:{lines}"
    except (OSError, TypeError):
        return f"{getattr(thing, '__module__', type(thing).__module__)}"
