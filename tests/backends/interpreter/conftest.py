"""Programs as text, parsed, and random arrays for their names."""

from collections.abc import Callable

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func
from xdsl.dialects.math import Math
from xdsl.parser import Parser

from mpkir.backends.interpreter.values import element_type_of, storage_dtype
from mpkir.dialects import event, task, tensor


@pytest.fixture
def parse() -> Callable[[str], ModuleOp]:
    def parse(text: str) -> ModuleOp:
        context = Context()
        for dialect in (Builtin, Arith, Math, Func, tensor.Tensor, task.Task, event.Event):
            context.load_dialect(dialect)
        module = Parser(context, text).parse_module()
        module.verify()
        return module

    return parse


@pytest.fixture
def random_weights() -> Callable[[ModuleOp], dict[str, np.ndarray]]:
    def random_weights(module: ModuleOp) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        weights: dict[str, np.ndarray] = {}
        for op in module.walk():
            weight = isinstance(op, tensor.WeightOp) or (
                isinstance(op, task.BufferOp) and op.kind.data is task.BufferKind.WEIGHT
            )
            if weight:
                type = op.results[0].type
                values = rng.standard_normal(type.get_shape()) * 0.5
                weights[op.sym.data] = values.astype(storage_dtype(element_type_of(type)))
        return weights

    return random_weights
