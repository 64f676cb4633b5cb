"""lower-dependencies on random programs: every conflict is ordered, and figures tell the rest."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Region

from mpkir.analysis.families import Family, evaluate, families_of
from mpkir.analysis.precision import precision_of
from mpkir.dialects import event, task
from mpkir.passes.lower_dependencies import LowerDependenciesPass


def module_of(families: tuple[Family, ...]) -> ModuleOp:
    """The module whose grids have these accesses, with empty bodies."""
    block = Block()
    buffers = dict.fromkeys(a.buffer for f in families for a in f.accesses)
    for number, buffer in enumerate(buffers):
        buffer.properties["name"] = task.BufferOp(
            task.BufferKind.STATE, f"b{number}", buffer.result.type
        ).sym
        block.add_op(buffer)
    for family in families:
        accesses = sorted(family.accesses, key=lambda access: access.is_write)
        views = [task.ViewOp(a.buffer.result, a.shape, a.strides, a.offset) for a in accesses]
        block.add_ops(views)
        values = [view.result for view in views]
        reads = sum(not access.is_write for access in accesses)
        boxes = [access.box for access in accesses]
        body = Block([task.YieldOp()])
        grid = task.GridOp(family.name, family.op.grid, values[:reads], values[reads:], boxes, body)
        block.add_op(grid)
    block.add_op(func.ReturnOp())
    return ModuleOp([func.FuncOp("step", ((), ()), Region(block))])


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_conflicting_tasks_are_ordered_within_a_step_and_across(
    families, elements, data: st.DataObject
):
    module = module_of(data.draw(families()))
    LowerDependenciesPass().apply(Context(), module)
    found = families_of(module)
    offsets = np.cumsum([0, *(f.size for f in found)]).tolist()
    count = offsets[-1]
    before = np.zeros((2 * count, 2 * count), bool)
    for earlier, later in product(found, found):
        for signal, wait in product(earlier.op.signals or (), later.op.waits or ()):
            if signal.symbol != wait.symbol:
                continue
            a = evaluate(signal.index.data, earlier.coordinates)[:, 0]
            b = evaluate(wait.index.data, later.coordinates)[:, 0]
            tied = a[:, None] == b[None, :]
            i, j = offsets[earlier.number], offsets[later.number]
            for step in range(wait.lag.data, 2):
                rows = slice(i + (step - wait.lag.data) * count, None)
                columns = slice(j + step * count, None)
                before[rows, columns][: len(a), : len(b)] |= tied
    for middle in range(2 * count):
        before |= before[:, middle, None] & before[None, middle, :]
    assert not before.diagonal().any()
    sets = [[elements(a, f.op.grid) for a in f.accesses] for f in found]
    for a, b in product(found, found):
        for (m, x), (n, y) in product(enumerate(a.accesses), enumerate(b.accesses)):
            if x.buffer is not y.buffer or not (x.is_write or y.is_write):
                continue
            for i, j in product(range(a.size), range(b.size)):
                if sets[a.number][m][i] & sets[b.number][n][j]:
                    one, other = offsets[a.number] + i, offsets[b.number] + j
                    assert before[one, other + count]
                    assert a.number >= b.number or before[one, other]
    precise = {each.name: each for each in precision_of(module, found)}
    for op in module.walk():
        if isinstance(op, event.TensorOp) and (each := precise.get(op.sym_name.data)):
            coarsened = (op.ordered, op.conflicting) != (None, None)
            assert coarsened == (each.ordered > each.needed)
            if op.ordered is not None and op.conflicting is not None:
                figures = op.ordered.value.data, op.conflicting.value.data
                assert figures == (each.ordered, each.needed)
