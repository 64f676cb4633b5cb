"""docs/extending.md does what it says: its code runs, is the example package's, and stays short."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOC = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "examples" / "mpkir-squared-relu"
SCRIPTS = Path(sys.executable).parent

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
PART = re.compile(r"<!-- part of (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)

WEIGHT = "tensor<48x32xbf16>"
MLP = f"""\
func.func @step() {{
  %x = mpk_tensor.input "x" : tensor<1x32xbf16>
  %g = mpk_tensor.weight "g" : {WEIGHT}
  %u = mpk_tensor.weight "u" : {WEIGHT}
  %y = squared_relu.gated %x, %g, %u : (tensor<1x32xbf16>, {WEIGHT}, {WEIGHT}) -> tensor<1x48xbf16>
  mpk_tensor.output "y", %y : tensor<1x48xbf16>
  func.return
}}
"""


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(SCRIPTS), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the page has written, beside the example package."""
    folder = tmp_path_factory.mktemp("reader")
    blocks = BLOCK.findall(DOC)
    for suffix, language in (("py", "python"), ("mlir", "mlir")):
        text = next(text for kind, text in blocks if kind == language)
        (folder / f"exact_division.{suffix}").write_text(text)
    shutil.copy(ROOT / "lit_tests" / "lit.cfg", folder)
    shutil.copytree(PACKAGE, folder, dirs_exist_ok=True)
    (folder / "mlp.mlir").write_text(MLP)
    return folder


def test_the_pass_and_its_lit_test_work(folder: Path):
    done = run("lit -v exact_division.mlir", folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", [text for kind, text in BLOCK.findall(DOC) if kind == "sh"])
def test_its_commands_work(folder: Path, command: str):
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    assert "exact-division: 1 outputs" in done.stderr or "SquaredRelu<body_0>" in done.stdout


@pytest.mark.parametrize(("file", "code"), PART.findall(DOC), ids=lambda text: text[:24])
def test_its_code_is_the_packages(file: str, code: str):
    assert code.strip() in (PACKAGE / file).read_text(encoding="utf-8")


def test_mpk_takes_the_plugin_too(folder: Path):
    plugin = "--load-plugin mpkir_squared_relu/plugin.py"
    done = run(f"mpk compile mlp.mlir -o compiled {plugin} --timing", folder)
    assert done.returncode == 0, done.stderr
    assert " %  squared-relu-raise" in done.stderr
    assert "in all, peak memory" in done.stderr
    assert "squared_relu/gated.hpp" in (folder / "compiled" / "kernel.cpp").read_text()
    done = run("mpk compile mlp.mlir -o other --load-plugin nothing.py", folder)
    assert done.returncode == 1
    assert re.fullmatch(r"mpk: error: \S+nothing.py: there is no such plugin\n", done.stderr)


def code_lines(path: Path) -> int:
    """Lines that are neither blank nor comments nor docstrings."""
    text = path.read_text(encoding="utf-8")
    said: set[int] = set()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                if ast.get_docstring(node) is not None:
                    said.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(
        bool(line.strip()) and number not in said and not line.strip().startswith(("#  ", "//"))
        for number, line in enumerate(text.splitlines(), 1)
    )


def test_an_operator_takes_less_than_a_hundred_lines():
    files = [p for p in (PACKAGE / "mpkir_squared_relu").rglob("*.*") if "pyc" not in p.suffix]
    lines = sum(map(code_lines, files))
    assert lines < 100
    assert f": {lines} lines of Python, C++ and CUDA" in DOC


def test_the_package_installs_and_passes_its_own_tests(folder: Path, tmp_path: Path):
    pip = f"{sys.executable} -m pip --disable-pip-version-check --no-input install -q"
    done = run(f"{pip} --no-deps --no-build-isolation --no-index --target {tmp_path} .", folder)
    assert done.returncode == 0, done.stderr
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    done = run(
        f"{sys.executable} -m pytest -q -p no:cacheprovider --import-mode=importlib tests",
        folder,
        PYTHONPATH=paths,
    )
    assert done.returncode == 0, done.stdout
    listed = run("mpk-opt --list-passes", folder, PYTHONPATH=paths)
    assert "squared-relu-raise" in listed.stdout
