"""Programs as text, run through passes; what they compute before and after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.passes import PassPipeline
from xdsl.universe import Universe

from mpkir.backends.interpreter import task_level, tensor_level
from mpkir.backends.interpreter.values import storage_dtype
from mpkir.dialects import task, tensor
from mpkir.pipeline import context


@pytest.fixture
def run() -> Callable[[str, str], ModuleOp]:
    """Parse a module and run a pipeline like "mpk-lower-dependencies,mpk-fuse-events" on it."""

    def parse_and_run(text: str, pipeline: str) -> ModuleOp:
        ctx = context()
        module = Parser(ctx, text).parse_module()
        passes = Universe.get_multiverse().all_passes
        PassPipeline.parse_spec(passes, pipeline).apply(ctx, module)
        module.verify()
        return module

    return parse_and_run


class Numbers:
    """Random inputs and weights for a program, and what it makes of them."""

    def __init__(self, module: ModuleOp) -> None:
        rng = np.random.default_rng(0)
        self.weights: dict[str, np.ndarray] = {}
        self.inputs: dict[str, np.ndarray] = {}
        self.initial: dict[str, np.ndarray] = {}
        for op in module.walk():
            if isinstance(op, tensor.WeightOp | tensor.InputOp | tensor.StateOp):
                shape = tensor.shape_of(op.result)
                dtype = storage_dtype(tensor.element_type_of(op.result))
                values = rng.standard_normal(shape).astype(dtype)
                if isinstance(op, tensor.WeightOp):
                    self.weights[op.sym.data] = values
                elif isinstance(op, tensor.InputOp):
                    self.inputs[op.sym.data] = values
                else:
                    self.initial[op.sym.data] = values

    def run(self, module: ModuleOp, steps: int = 3) -> dict[str, np.ndarray]:
        """Outputs of every step and the states after the last, at the level of the module."""
        states = {name: value.copy() for name, value in self.initial.items()}
        lowered = any(isinstance(op, task.GridOp) for op in module.walk())
        make = task_level.TaskProgram if lowered else tensor_level.TensorProgram
        program = make(module, self.weights)
        found: dict[str, np.ndarray] = {}
        for position in range(steps):
            for name, value in program.step(states, self.inputs, position).items():
                found[f"{name} of step {position}"] = value
        return found | states


@pytest.fixture(scope="session")
def assert_same_numbers() -> Callable[[ModuleOp, ModuleOp, float], None]:
    """That two programs, at tensor or task level, give the same, up to a part of the largest value.

    Integers have to be equal.
    """

    def check(before: ModuleOp, after: ModuleOp, tolerance: float = 1e-5) -> None:
        numbers = Numbers(before)
        wanted, found = numbers.run(before), numbers.run(after)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            ours = found[name]
            assert (ours.shape, ours.dtype) == (value.shape, value.dtype), name
            if value.dtype.kind == "i":
                np.testing.assert_array_equal(ours, value, err_msg=name)
                continue
            exact, got = value.astype(np.float64), ours.astype(np.float64)
            finite = np.isfinite(exact)
            np.testing.assert_array_equal(got[~finite], exact[~finite], err_msg=name)
            exact, got = exact[finite], got[finite]
            largest = np.abs(exact).max(initial=1.0)
            apart = np.abs(got - exact).max(initial=0.0)
            assert apart <= tolerance * largest, f"{name}: {apart} apart of {largest}"

    return check
