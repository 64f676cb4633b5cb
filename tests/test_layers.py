"""Imports run one way: tools -> pipeline -> frontend, passes, backends, runtime -> analysis ->
dialects -> machine. Only frontend and runtime import torch, and runtime knows nothing of IR."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = {
    "builders",
    "checkpoints",
    "collection",
    "compiler",
    "language_model",
    "pipeline",
    "program_cache",
    "plugins",
    "progress",
    "source_keys",
    "tuned",
    "universe",
    "variant",
    "__init__",
}
"""Modules that see everything below tools."""

PLAIN_DATA = {
    "runtime.arrangement",
    "runtime.manifest",
    "runtime.origins",
    "runtime.table",
    "runtime.table_text",
}
"""What the compiler hands to the runtime; these modules import no torch."""

# package or module of mpkir -> what it may import of mpkir (any module under these) besides itself
MAY_IMPORT = {
    "errors": set[str](),
    "version": set[str](),
    "registry": {"errors"},
    "machine": {"errors", "machines", "registry"},
    "machines": set[str](),
    "dialects": {"errors", "machine"},
    "analysis": {"errors", "machine", "dialects"},
    "passes": {"errors", "machine", "registry", "dialects", "analysis"},
    "frontend": {"errors", "machine", "registry", "dialects", "analysis", *PLAIN_DATA},
    "backends": {"errors", "machine", "registry", "dialects", "analysis", *PLAIN_DATA},
    "runtime": {"errors", "version"},
}
COMPILER_ONLY = {"xdsl", "ml_dtypes"}
"""Not to be imported by the runtime, so that an artifact runs where they are not installed."""


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            assert node.module is not None
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_under(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def breaches(path: Path) -> Iterator[str]:
    """Every import of a file that runs against the direction."""
    module = path.relative_to(ROOT / "mpkir").with_suffix("").as_posix().replace("/", ".")
    layer = module.partition(".")[0]
    for line, name in imported_modules(path):
        place = f"{path.relative_to(ROOT)}:{line} imports {name}"
        inner = name.removeprefix("mpkir.")
        if inner != name:
            if layer in MAY_IMPORT and not is_under(inner, MAY_IMPORT[layer] | {layer}):
                yield f"{place}; {layer} may import {sorted(MAY_IMPORT[layer])}"
            if layer in TOP and is_under(inner, {"tools"}):
                yield f"{place}; only tools stand above {layer}"
        if (
            is_under(name, {"torch"})
            and layer in MAY_IMPORT
            and layer not in {"frontend", "runtime"}
        ):
            yield f"{place}; only frontend and runtime import torch"
        if is_under(name, COMPILER_ONLY) and layer == "runtime":
            yield f"{place}; the runtime does without the compiler"


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "mpkir").rglob("*.py")),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_imports_run_one_way(path: Path):
    assert list(breaches(path)) == []


def test_every_package_has_its_place():
    found = {path.stem for path in (ROOT / "mpkir").iterdir() if path.suffix in {"", ".py"}}
    found -= {"__pycache__"}
    assert found <= {*MAY_IMPORT, *TOP, "tools"}, "give a new package its line in MAY_IMPORT"
