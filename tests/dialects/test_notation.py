"""Index notation: good and bad input, and what follows from a definition."""

import numpy as np
import pytest

from mpkir.dialects import tensor
from mpkir.dialects.notation import Access, define
from mpkir.errors import MpkirError

RNG = np.random.default_rng(0)


def test_linear() -> None:
    linear = define(tensor.LinearOp.NOTATION)
    assert linear.output == Access("y", ("r", "n"))
    assert [str(access) for access in linear.inputs] == ["x[r, k]", "w[n, k]"]
    assert linear.iteration_space == ("r", "n", "k")
    assert linear.reduction_axes == ("k",)
    sizes = linear.sizes({"x": (2, 8), "w": (16, 8)})
    assert sizes == {"r": 2, "n": 16, "k": 8}
    assert linear.footprint({"n": (4, 4)}, sizes) == (((0, 2), (0, 8)), ((4, 4), (0, 8)))
    assert linear.arithmetic(sizes) == 2 * 2 * 16 * 8
    assert linear.bytes(sizes, {"x": 2, "w": 2, "y": 4}) == 2 * 16 + 2 * 128 + 4 * 32


def test_references() -> None:
    x, w = RNG.standard_normal((3, 5)), RNG.standard_normal((4, 5))
    linear = define(tensor.LinearOp.NOTATION)
    np.testing.assert_allclose(linear.reference({"x": x, "w": w}), x @ w.T)

    a, c = RNG.standard_normal((2, 3, 5)), RNG.standard_normal((2, 5, 4))
    matmul = define(tensor.MatmulOp.NOTATION)
    np.testing.assert_allclose(matmul.reference({"a": a, "c": c}), a @ c)

    embedding = define(tensor.EmbeddingOp.NOTATION)
    ids = np.array([3, 0])
    np.testing.assert_array_equal(embedding.reference({"table": w, "ids": ids}), w[ids])

    softmax = define("p[h, t] = exp(s[h, t] - m[h]) / 2")
    s, m = RNG.standard_normal((3, 4)), RNG.standard_normal(3)
    np.testing.assert_allclose(
        softmax.reference({"s": s, "m": m}), np.exp(s - m[:, np.newaxis]) / 2
    )

    distance = define("y[i] += (x[i, k] - w[j, k]) * (x[i, k] - w[j, k])")
    expected = ((x[:, np.newaxis] - w) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(distance.reference({"x": x, "w": w}), expected)
    assert distance.reduction_axes == ("k", "j")
    assert distance.arithmetic({"i": 3, "k": 5, "j": 4}) == 4 * 3 * 5 * 4


def test_look_up_may_be_anywhere() -> None:
    embedding = define(tensor.EmbeddingOp.NOTATION)
    sizes = embedding.sizes({"table": (100, 8), "ids": (3,)})
    assert [access.name for access in embedding.inputs] == ["table", "ids"]
    assert embedding.footprint({"t": (1, 1)}, sizes) == ((None, (0, 8)), ((1, 1),))
    assert embedding.bytes(sizes, {"table": 2, "ids": 8, "y": 2}) == 3 * 8 * 2 + 3 * 8 + 3 * 8 * 2


@pytest.mark.parametrize(
    ("text", "caret", "message"),
    [
        ("", "", "more was expected"),
        ("y[b]", "    ", "more was expected"),
        ("y[b] = x[b k]", "           ", "unexpected"),
        ("y[b] = x[b] +", "             ", "more was expected"),
        ("y[b] = x[]", "         ", "unexpected"),
        ("y[b] = x[b] ? 2", "            ", "unexpected"),
        ("y[b] = foo(x[b])", "       ", "no function; there are abs, cos"),
        ("y[b] = x[b, k]", "     ", "a sum over k is written +="),
        ("y[b] += x[b]", "     ", "there is no axis to sum over"),
        ("y[b, b] = x[b]", "", "the output has each of its axes once"),
        ("y[i[b]] = x[b]", "", "the output has each of its axes once"),
        ("y[b, c] = x[b]", "", "axis c is not given a meaning"),
    ],
)
def test_bad_input_is_shown_with_a_caret(text: str, caret: str, message: str) -> None:
    with pytest.raises(MpkirError) as caught:
        define(text)
    _, line, pointer = str(caught.value).split("\n")
    assert line == f"  {text}"
    assert pointer.startswith(f"  {caret}^ {message}")


def test_contradicting_shapes_are_refused() -> None:
    linear = define(tensor.LinearOp.NOTATION)
    with pytest.raises(MpkirError, match=r"axis k has size 8, but 9 in w\[n, k\]"):
        linear.sizes({"x": (2, 8), "w": (16, 9)})
    with pytest.raises(MpkirError, match=r"x\[r, k\] has not the rank of \[2\]"):
        linear.sizes({"x": (2,)})
