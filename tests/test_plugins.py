"""What a file given by --load-plugin can add, and what it is told when it is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from xdsl.parser import Parser

from mpkir import registry
from mpkir.backends.body import Body
from mpkir.builders import CpuBuilder
from mpkir.compiler import compile_module
from mpkir.errors import MpkirError
from mpkir.machine import Machine, machine_named
from mpkir.pipeline import context
from mpkir.plugins import load_plugins
from mpkir.registry import Registry, Source
from mpkir.runtime.artifact import Artifact
from mpkir.universe import MpkirUniverse

HEAD = "from mpkir.universe import MpkirUniverse\n"
PASS = """
from xdsl.passes import ModulePass
class MyPass(ModulePass):
    name = "mine"
    def apply(self, ctx, op):
        pass
"""
WRONG = {
    "x = (": ":1: the plugin cannot be loaded: SyntaxError",
    "\nimport nonsense": ":2: the plugin cannot be loaded: ModuleNotFoundError: No module named",
    "x = 1": ": the plugin adds nothing: it has no UNIVERSE and registers no function; write",
    "UNIVERSE = {}": ": UNIVERSE is dict, not an mpkir.universe.MpkirUniverse",
    HEAD + "UNIVERSE = MpkirUniverse(all_passes={'mine': lambda: int})": (
        ": what UNIVERSE gives for 'mine' is no pass"
    ),
    HEAD + "UNIVERSE = MpkirUniverse(all_dialects={'mine': 'nowhere:Mine'})": (
        ": the dialect 'mine' cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"
    ),
    HEAD + PASS + "UNIVERSE = MpkirUniverse(all_passes={'yours': lambda: MyPass})": (
        ": the pass that UNIVERSE calls 'yours' has the name 'mine'"
    ),
    HEAD
    + PASS
    + "MyPass.name = 'cse'\nUNIVERSE = MpkirUniverse(all_passes={'cse': lambda: MyPass})": (
        ": 'cse' stands among the passes of entry point xdsl"
    ),
    "from mpkir.passes.tiling.rules import RULES\nclass Op: name = 'my.op'\n"
    "@RULES.register(Op)\ndef rule(op): pass": (
        ":3: the function for 'my.op' cannot be called with (op, limits), as "
        "mpkir.passes.tiling.rules.RULES wants: too many positional arguments"
    ),
    "from mpkir.dialects.tensor import LinearOp\nfrom mpkir.passes.tiling.rules import RULES\n"
    "@RULES.register(LinearOp)\ndef rule(op, limits): pass": (
        "'mpk_tensor.linear' has a function in mpkir.passes.tiling.rules.RULES already"
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_plugin_is_told_where_and_why(tmp_path: Path, text: str):
    file = tmp_path / "plugin.py"
    file.write_text(text)
    with pytest.raises(MpkirError) as caught:
        load_plugins([file])
    assert WRONG[text] in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_plugin_that_is_not_there(tmp_path: Path):
    with pytest.raises(MpkirError, match="there is no such plugin"):
        load_plugins([tmp_path / "plugin.py"])


def test_an_operator_without_a_function_is_told_where_to_register_one():
    table: Registry[type, object] = Registry("tilings", "mpkir.x.TABLE", ("op", "limits"))

    class Mine:
        pass

    hint = table.missing(Mine())
    assert hint is not None
    assert "test_plugins.py" in hint
    assert "register a function of (op, limits) with @mpkir.x.TABLE.register(Mine)" in hint


def test_modules_of_a_universe_fill_a_table_when_it_is_looked_into(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "filling_module.py").write_text(
        "import test_table\n@test_table.TABLE.register('key')\ndef function(op): pass\n"
    )
    (tmp_path / "empty_module.py").write_text("")
    table: Registry[str, object] = Registry("mine", "test_table.TABLE", ("op",))
    home = ModuleType("test_table")
    monkeypatch.setattr(home, "TABLE", table, raising=False)
    monkeypatch.setitem(sys.modules, "test_table", home)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_files", [])

    def add(module: str) -> None:
        universe = MpkirUniverse(all_operators={"mine": module})
        registry.add_universe(Source(f"universe of {module}", universe))

    add("filling_module")
    assert "filling_module" not in sys.modules
    assert "key" in table
    add("empty_module")
    with pytest.raises(MpkirError, match="empty_module for 'mine', which registers nothing"):
        table.get("other")
    add("missing_module")
    with pytest.raises(MpkirError, match="'mine' cannot be loaded: ModuleNotFoundError"):
        table.get("other")


def mpk_opt(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mpkir.tools.mpk_opt", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


EVERYTHING = (
    HEAD
    + PASS
    + """
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
import numpy as np
from xdsl.utils.target import Target
from mpkir.passes.scheduling.policy import Placement, Policy

class LastWorker(Policy):
    def schedule(self, problem):
        last = problem.workers - 1
        return [Placement(np.full(f.size, last), np.zeros(f.size, np.int64))
                for f in problem.graph.families]

@dataclass(frozen=True)
class CountTarget(Target):
    name = "count"
    def emit(self, ctx, module, output):
        output.write(f"{sum(1 for _ in module.walk())} operations\\n")

UNIVERSE = MpkirUniverse(
    all_passes={"mine": lambda: MyPass},
    all_targets={"count": lambda: CountTarget},
    all_schedulers={"last-worker": lambda: LastWorker},
    all_machines={"tiny": Path(__file__).parent / "tiny.json"},
    all_stages={"mine": "mpk-fuse-operators"},
)
"""
)

STEP = """\
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x32xf32>
  %w = mpk_tensor.weight "w" : tensor<64x32xf32>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x32xf32>, [tensor<64x32xf32>] to tensor<1x64xf32>
  mpk_tensor.output "y", %y : tensor<1x64xf32>
  func.return
}
"""


def test_policies_machines_targets_and_stages_load_from_a_file(tmp_path: Path):
    machines = Path(__file__).parents[1] / "mpkir" / "machines"
    tiny = json.loads((machines / "cpu.json").read_text()) | {"workers": 5}
    (tmp_path / "tiny.json").write_text(json.dumps(tiny))
    (tmp_path / "plugin.py").write_text(EVERYTHING)
    (tmp_path / "step.mlir").write_text(STEP)
    plugin = ("--load-plugin", tmp_path / "plugin.py", tmp_path / "step.mlir")
    done = mpk_opt(*plugin, "-p", "mpk-pipeline{target=tiny policy=last-worker}")
    assert done.returncode == 0, done.stderr
    assert "mpk.workers = 5" in done.stdout
    assert "workers [4, 4, 4" in done.stdout.replace("array<i64: ", "[")
    done = mpk_opt(*plugin, "-p", "mpk-pipeline{target=tiny}", "--run-before-and-after=mine")
    assert "mine: 1 outputs and states identical" in done.stderr
    assert mpk_opt(*plugin, "-t", "count").stdout == "7 operations\n"
    (tmp_path / "tiny.json").write_text("{}")
    done = mpk_opt(*plugin, "-p", "mpk-pipeline{target=tiny}")
    assert "tiny.json: the machine model lacks arch, workers" in done.stderr


class Signed(CpuBuilder):
    """The CPU's backend, with a comment of its own."""

    def emit(self, bodies: Sequence[Body], machine: Machine, tokens: int) -> str:
        return f"// signed\n{super().emit(bodies, machine, tokens)}"


def test_a_machine_names_its_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def compiled() -> Artifact:
        machine = replace(machine_named("cpu", 1), backend="signed")
        return compile_module(Parser(context(), STEP).parse_module(), machine, output=tmp_path)

    with pytest.raises(MpkirError, match="no backend is named 'signed', which cpu asks for; load"):
        compiled()
    monkeypatch.setattr(registry, "_files", [])
    universe = MpkirUniverse(all_backends={"signed": lambda: Signed})
    registry.add_universe(Source("test", universe))
    assert (compiled().path / "kernel.cpp").read_text().startswith("// signed")
