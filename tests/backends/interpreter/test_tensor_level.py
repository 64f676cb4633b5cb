"""Steps of a whole program at tensor level: names, states, the token loop, bad input."""

import ml_dtypes
import numpy as np
import pytest

from mpkir.backends.interpreter.tensor_level import TensorProgram, initial_states, run_step
from mpkir.errors import MpkirError

LOOP = """
func.func @step() {
  %pos = mpk_tensor.position : tensor<1xi64>
  %tokens = mpk_tensor.state "tokens" initial -1 : tensor<9xi64>
  %table = mpk_tensor.weight "table" : tensor<16x4xbf16>
  %head = mpk_tensor.weight "head" : tensor<16x4xbf16>
  %x = mpk_tensor.embedding %table, %tokens at %pos
    : (tensor<16x4xbf16>, tensor<9xi64>, tensor<1xi64>) -> tensor<1x1x4xbf16>
  %logits = mpk_tensor.linear %x, [%head]
    : tensor<1x1x4xbf16>, [tensor<16x4xbf16>] to tensor<1x1x16xbf16>
  %next = mpk_tensor.argmax %logits : tensor<1x1x16xbf16> to tensor<1x1xi64>
  %after = mpk_tensor.sequence_append %tokens, %next at %pos stop [3]
    : (tensor<9xi64>, tensor<1x1xi64>, tensor<1xi64>) -> tensor<9xi64>
  mpk_tensor.store_state "tokens", %after : tensor<9xi64>
  mpk_tensor.output "logits", %logits : tensor<1x1x16xbf16>
  func.return
}
"""


def one_hot_weights() -> dict[str, np.ndarray]:
    """Tokens 0..3 are unit vectors, and token i is followed by i + 1."""
    table, head = np.zeros((16, 4)), np.zeros((16, 4))
    table[range(4), range(4)] = 1
    head[[1, 2, 3, 4], range(4)] = 1
    return {name: w.astype(ml_dtypes.bfloat16) for name, w in (("table", table), ("head", head))}


def test_prompt_and_generation_run_through_one_loop(parse) -> None:
    module = parse(LOOP)
    states = initial_states(module)
    assert states["tokens"].tolist() == [-1] * 9
    states["tokens"][:3] = [2, 0, 0]  # a prompt is not overwritten
    program = TensorProgram(module, one_hot_weights())
    stopped = []
    for position in range(5):
        program.step(states, {}, position)
        stopped.append(program.stopped)
    assert states["tokens"].tolist() == [2, 0, 0, 1, 2, 3, -1, -1, -1]
    assert stopped == [False, False, False, False, True]


def test_outputs_have_their_dtype(parse) -> None:
    module = parse(LOOP)
    states = initial_states(module)
    states["tokens"][0] = 1
    logits = run_step(module, one_hot_weights(), states, {}, 0)["logits"]
    assert logits.dtype == ml_dtypes.bfloat16
    assert logits.shape == (1, 1, 16)
    assert np.argmax(logits.astype(np.float32)) == 2


def test_position_outside_the_sequence_is_an_error(parse) -> None:
    module = parse(LOOP)
    states = initial_states(module)
    states["tokens"][:] = 1
    with pytest.raises(MpkirError, match="position 8 is outside a sequence for 8"):
        run_step(module, one_hot_weights(), states, {}, 8)


def test_missing_and_wrong_weights_are_named(parse) -> None:
    module, weights = parse(LOOP), one_hot_weights()
    with pytest.raises(MpkirError, match=r"weight 'head' is float64\[4\], the program wants bfl"):
        TensorProgram(module, weights | {"head": np.zeros(4)})
    del weights["table"]
    with pytest.raises(MpkirError, match="no array for the weight 'table'"):
        TensorProgram(module, weights)


def test_states_change_only_at_the_end_of_the_step(parse) -> None:
    module = parse("""
    func.func @step() {
      %a = mpk_tensor.state "a" : tensor<2xf32>
      %b = mpk_tensor.state "b" initial 1 : tensor<2xf32>
      mpk_tensor.store_state "a", %b : tensor<2xf32>
      mpk_tensor.store_state "b", %a : tensor<2xf32>
      func.return
    }
    """)
    states = initial_states(module)
    run_step(module, {}, states, {}, 0)
    assert (states["a"].tolist(), states["b"].tolist()) == ([1, 1], [0, 0])


def test_value_used_before_it_is_defined_is_an_error(parse) -> None:
    module = parse("""
    func.func @step() {
      %a = mpk_tensor.input "a" : tensor<2xf32>
      %b = mpk_tensor.softmax %a : tensor<2xf32> to tensor<2xf32>
      mpk_tensor.output "b", %b : tensor<2xf32>
      func.return
    }
    """)
    softmax = next(op for op in module.walk() if op.name == "mpk_tensor.softmax")
    block = softmax.parent_block()
    softmax.detach()
    block.insert_op_before(softmax, block.first_op)
    with pytest.raises(MpkirError, match=r"mpk_tensor.softmax' uses a value"):
        run_step(module, {}, {}, {"a": np.zeros(2, np.float32)}, 0)
