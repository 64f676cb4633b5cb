"""Scalar regions: every arith and math op against PyTorch, conversions, comparisons."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import FloatAttr, TensorType, bf16, f32, i1, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.utils.test_value import create_ssa_value

from mpkir.backends.interpreter.kernels import Scalars, evaluate
from mpkir.backends.interpreter.values import storage_dtype
from mpkir.dialects import tensor as t
from mpkir.errors import MpkirError

X = np.array([-2.5, -1.5, -0.7, -0.0, 0.3, 0.5, 1.0, 2.5, 7.0], np.float32)
Y = np.array([2.0, -1.5, 3.0, 1.0, 0.3, -0.5, 2.0, 0.1, -7.0], np.float32)


def elementwise(
    arrays: Sequence[np.ndarray],
    types: Sequence[Attribute],
    make: Callable[..., Sequence[Operation]],
) -> np.ndarray:
    """Run a region: `make` takes its arguments and gives its ops, the last of which yields."""
    block = Block(arg_types=types)
    ops = make(*block.args)
    block.add_ops([*ops, t.YieldOp(ops[-1].results[0])])
    inputs: list[SSAValue] = [
        create_ssa_value(TensorType(type, array.shape))
        for type, array in zip(types, arrays, strict=True)
    ]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    op = t.ElementwiseOp(inputs, block, TensorType(ops[-1].results[0].type, shape))
    op.verify()
    operands = [a.astype(storage_dtype(type)) for type, a in zip(types, arrays, strict=True)]
    (result,) = evaluate(op, operands, Scalars())
    return result


@pytest.mark.parametrize(
    ("op", "function"),
    [
        (math.AbsFOp, torch.abs),
        (math.AcosOp, torch.acos),
        (math.AsinhOp, torch.asinh),
        (math.AtanOp, torch.atan),
        (math.CeilOp, torch.ceil),
        (math.CosOp, torch.cos),
        (math.ErfOp, torch.erf),
        (math.Exp2Op, torch.exp2),
        (math.ExpM1Op, torch.expm1),
        (math.ExpOp, torch.exp),
        (math.FloorOp, torch.floor),
        (math.Log1pOp, torch.log1p),
        (math.Log2Op, torch.log2),
        (math.LogOp, torch.log),
        (math.RoundEvenOp, torch.round),
        (math.RsqrtOp, torch.rsqrt),
        (math.SinOp, torch.sin),
        (math.SqrtOp, torch.sqrt),
        (math.TanhOp, torch.tanh),
        (math.TruncOp, torch.trunc),
        (arith.NegfOp, torch.neg),
    ],
)
def test_unary(op: type[Operation], function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    result = elementwise([X], [f32], lambda x: [op(x)])
    expected = function(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("op", "function"),
    [
        (arith.AddfOp, torch.add),
        (arith.SubfOp, torch.sub),
        (arith.MulfOp, torch.mul),
        (arith.DivfOp, torch.div),
        (arith.MaximumfOp, torch.maximum),
        (arith.MinnumfOp, torch.fmin),
        (math.PowFOp, torch.pow),
        (math.Atan2Op, torch.atan2),
        (math.CopySignOp, torch.copysign),
    ],
)
def test_binary_broadcasts(op: type[Operation], function: Callable[..., torch.Tensor]) -> None:
    result = elementwise([X[:, np.newaxis], Y], [f32, f32], lambda x, y: [op(x, y)])
    expected = function(torch.from_numpy(X[:, np.newaxis]), torch.from_numpy(Y)).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_every_op_rounds_to_its_own_type() -> None:
    """bf16 arithmetic rounds after each op, fp32 arithmetic only at the end."""
    one, small = np.array([1.0]), np.array([2.0**-9])
    narrow = elementwise(
        [one, small],
        [bf16, bf16],
        lambda a, b: [first := arith.AddfOp(a, b), arith.AddfOp(first, b)],
    )
    assert narrow.astype(np.float32).item() == 1.0

    def wide(a: SSAValue, b: SSAValue) -> list[Operation]:
        x, y = arith.ExtFOp(a, f32), arith.ExtFOp(b, f32)
        first = arith.AddfOp(x, y)
        second = arith.AddfOp(first, y)
        third = arith.AddfOp(second, y)
        return [x, y, first, second, third, arith.TruncFOp(third, bf16)]

    assert elementwise([one, small], [bf16, bf16], wide).astype(np.float32).item() == 1 + 2.0**-7


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("oeq", [False, True, False, False]),
        ("one", [True, False, True, False]),
        ("olt", [True, False, False, False]),
        ("oge", [False, True, True, False]),
        ("ord", [True, True, True, False]),
        ("ueq", [False, True, False, True]),
        ("ult", [True, False, False, True]),
        ("une", [True, False, True, True]),
        ("uno", [False, False, False, True]),
    ],
)
def test_float_comparison(predicate: str, expected: list[bool]) -> None:
    a, b = np.array([1, 2, 3, np.nan]), np.array([2, 2, 2, 2])
    result = elementwise([a, b], [f32, f32], lambda x, y: [arith.CmpfOp(x, y, predicate)])
    assert result.tolist() == expected


def test_integers_and_select() -> None:
    a, b = np.array([-7, 7, 5]), np.array([2, -2, 5])
    pairs = [
        (arith.DivSIOp, [-3, -3, 1]),
        (arith.FloorDivSIOp, [-4, -4, 1]),
        (arith.CeilDivSIOp, [-3, -3, 1]),
        (arith.RemSIOp, [-1, 1, 0]),
        (arith.MaxSIOp, [2, 7, 5]),
    ]
    for op, expected in pairs:
        assert elementwise([a, b], [i64, i64], lambda x, y, op=op: [op(x, y)]).tolist() == expected
    result = elementwise(
        [a, b],
        [i64, i64],
        lambda x, y: [less := arith.CmpiOp(x, y, "slt"), arith.SelectOp(less.result, x, y)],
    )
    assert result.tolist() == [-7, -2, 5]


def test_conversions() -> None:
    a = np.array([-2, 0, 3])
    assert elementwise([a], [i64], lambda x: [arith.SIToFPOp(x, f32)]).tolist() == [-2.0, 0.0, 3.0]
    b = np.array([True, False])
    assert elementwise([b], [i1], lambda x: [arith.UIToFPOp(x, f32)]).tolist() == [1.0, 0.0]
    assert elementwise([b], [i1], lambda x: [arith.ExtUIOp(x, i64)]).tolist() == [1, 0]
    assert elementwise([X], [f32], lambda x: [arith.FPToSIOp(x, i64)]).tolist()[:2] == [-2, -1]


def test_constant_and_ops_of_it() -> None:
    half = arith.ConstantOp(FloatAttr(0.5, f32))
    result = elementwise([X], [f32], lambda x: [half, arith.MulfOp(half.result, x)])
    np.testing.assert_array_equal(result, X / 2)


def test_unknown_op_is_named() -> None:
    with pytest.raises(MpkirError, match=r"cannot run 'math.ctpop'.*register a function"):
        elementwise([np.array([1])], [i64], lambda x: [math.CtPopOp(x)])


def test_wrong_array_is_refused() -> None:
    op = t.SoftmaxOp(create_ssa_value(TensorType(f32, [3])))
    with pytest.raises(MpkirError, match=r"operand 0 of mpk_tensor.softmax is float64\[3\]"):
        evaluate(op, [np.zeros(3)], Scalars())
