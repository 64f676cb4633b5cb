"""Plugins in files: what `--load-plugin file.py` does.

A plugin is a Python file that defines UNIVERSE, an `mpkir.universe.MpkirUniverse` with what it has
by name, or registers functions for operators (`mpkir.registry.Registry`), or both.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe
from xdsl.utils.target import Target

from mpkir import registry
from mpkir.errors import MpkirError
from mpkir.registry import Source

_OWN = ("mpkir", "xdsl")
"""Packages whose code is known by other means: `runtime.cache.source_digest`, a version."""
_SUFFIXES = (".py", ".h", ".hpp", ".cuh", ".json", ".lark")
_loaded: dict[Path, ModuleType] = {}


def load_plugins(paths: Iterable[Path]) -> None:
    """Load files once each. Raises MpkirError that names the file and what is wrong in it."""
    for path in paths:
        path = path.resolve()
        if path not in _loaded:
            _loaded[path] = _load(path)


def plugins_digest() -> str | None:
    """Hash of the code of all plugins, of the headers and of the machine models that they bring.

    None where a function was registered by code that lies in no file.
    """
    files: set[Path] = set(_loaded)
    for source in registry.universes():
        if source.path is not None and source.path.name not in _OWN:
            files.update(_code_in(source.path))
        files.update(loader() for loader in getattr(source.universe, "all_machines", {}).values())
    for directory in registry.include_directories():
        files.update(path for path in directory.rglob("*") if path.is_file())
    for function in registry.registered_functions():
        if function.__module__.partition(".")[0] not in _OWN:
            files.add(Path(inspect.getfile(function)))
    digest = hashlib.sha256()
    for path in sorted(files):
        if not path.is_file():
            return None
        digest.update(f"{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _code_in(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (each for each in path.rglob("*") if each.suffix in _SUFFIXES)


def multiverse() -> Universe:
    """Dialects, passes and targets of all universes together. Raises MpkirError."""
    return Universe(
        all_dialects=registry.named("dialects"),
        all_passes=registry.named("passes"),
        all_targets=registry.named("targets"),
    )


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise MpkirError("there is no such plugin", where=str(path))
    registered = len(registry.registered_functions())
    module = _execute(path)
    universe = getattr(module, "UNIVERSE", None)
    if universe is None:
        if len(registry.registered_functions()) == registered:
            raise MpkirError(
                "the plugin adds nothing: it has no UNIVERSE and registers no function",
                where=str(path),
                hint="write UNIVERSE = MpkirUniverse(...), see docs/extending.md",
            )
        return module
    if not isinstance(universe, Universe):
        raise MpkirError(
            f"UNIVERSE is {type(universe).__name__}, not an mpkir.universe.MpkirUniverse",
            where=str(path),
        )
    _check_kind(path, "dialect", universe.all_dialects, lambda it: isinstance(it, Dialect))
    _check_kind(path, "pass", universe.all_passes, _is_a(ModulePass))
    _check_kind(path, "target", universe.all_targets, _is_a(Target))
    registry.add_universe(Source(str(path), universe, path))
    return module


def _execute(path: Path) -> ModuleType:
    name = f"mpkir_plugin_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MpkirError("a plugin is a Python file, *.py", where=str(path))
    module = module_from_spec(spec)
    # Where dataclasses and inspect look for the module of a class.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except MpkirError:
        raise
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise MpkirError(
            f"the plugin cannot be loaded: {registry.describe_error(error)}",
            where=str(path) if line is None else f"{path}:{line}",
        ) from error
    return module


def _is_a(kind: type) -> Callable[[Any], bool]:
    return lambda it: isinstance(it, type) and issubclass(it, kind)


def _check_kind(
    path: Path, kind: str, named: dict[str, Any], is_right: Callable[[Any], bool]
) -> None:
    """MpkirError unless each name gives a thing of that kind and of that name."""
    for name, loader in named.items():
        try:
            found = loader()
        except (ImportError, AttributeError) as error:
            raise MpkirError(
                f"the {kind} '{name}' cannot be loaded: {registry.describe_error(error)}",
                where=str(path),
            ) from error
        if not is_right(found):
            raise MpkirError(f"what UNIVERSE gives for '{name}' is no {kind}", where=str(path))
        if (own := getattr(found, "name", None)) != name:
            raise MpkirError(
                f"the {kind} that UNIVERSE calls '{name}' has the name {own!r}", where=str(path)
            )
