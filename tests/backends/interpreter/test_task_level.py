"""Task level: tiles cut at the buffers' ends, views, states in place, the task's own index."""

import numpy as np

from mpkir.backends.interpreter import task_level, tensor_level
from mpkir.backends.interpreter.memory import initial_states

WHOLE = """
func.func @step() {
  %x = mpk_tensor.input "x" : tensor<1x6xf32>
  %w = mpk_tensor.weight "w" : tensor<10x6xf32>
  %y = mpk_tensor.linear %x, [%w] : tensor<1x6xf32>, [tensor<10x6xf32>] to tensor<1x10xf32>
  mpk_tensor.output "y", %y : tensor<1x10xf32>
  func.return
}
"""
TILED = """
func.func @step() {
  %x = mpk_task.buffer input "x" : memref<1x6xf32>
  %w = mpk_task.buffer weight "w" : memref<10x6xf32>
  %y = mpk_task.buffer output "y" : memref<1x10xf32>
  %flat = mpk_task.view %y : memref<1x10xf32> to memref<10x1xf32>
  mpk_task.grid @linear [3] reads(%x, %w : memref<1x6xf32>, memref<10x6xf32>)
    writes(%flat : memref<10x1xf32>) boxes [
      #mpk_task.region<affine_map<(d0) -> (0, 0)>, [1, 6]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 6]>,
      #mpk_task.region<affine_map<(d0) -> (d0 * 4, 0)>, [4, 1]>] {
  ^bb0(%0 : tensor<1x6xf32>, %1 : tensor<4x6xf32>):
    %2 = mpk_tensor.linear %0, [%1] : tensor<1x6xf32>, [tensor<4x6xf32>] to tensor<1x4xf32>
    %3 = mpk_tensor.reshape %2 : tensor<1x4xf32> to tensor<4x1xf32>
    mpk_task.yield %3 : tensor<4x1xf32>
  }
  func.return
}
"""


def test_tiles_that_do_not_divide_give_the_same_numbers(parse, random_weights) -> None:
    whole, tiled = parse(WHOLE), parse(TILED)
    weights = random_weights(whole)
    inputs = {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 6)}
    expected = tensor_level.run_step(whole, weights, {}, inputs, 0)
    result = task_level.run_step(tiled, weights, {}, inputs, 0)
    np.testing.assert_allclose(result["y"], expected["y"], rtol=1e-6)


def test_state_is_updated_in_place_and_the_body_knows_its_index(parse) -> None:
    module = parse("""
    func.func @step() {
      %s = mpk_task.buffer state "s" initial 5 : memref<3xi64>
      mpk_task.grid @add [3] reads(%s : memref<3xi64>) writes(%s : memref<3xi64>) boxes [
          #mpk_task.region<affine_map<(d0) -> (d0)>, [1]>,
          #mpk_task.region<affine_map<(d0) -> (d0)>, [1]>] {
      ^bb0(%0 : tensor<1xi64>):
        %1 = mpk_task.index 0 : tensor<1xi64>
        %2 = mpk_tensor.position : tensor<1xi64>
        %3 = mpk_tensor.elementwise %0, %1, %2 {
        ^bb1(%a : i64, %b : i64, %c : i64):
          %d = arith.addi %a, %b : i64
          %e = arith.addi %d, %c : i64
          mpk_tensor.yield %e : i64
        } : (tensor<1xi64>, tensor<1xi64>, tensor<1xi64>) -> tensor<1xi64>
        mpk_task.yield %3 : tensor<1xi64>
      }
      func.return
    }
    """)
    states = initial_states(module)
    task_level.run_step(module, {}, states, {}, 100)
    assert states["s"].tolist() == [105, 106, 107]


def test_what_no_task_has_written_is_nan(parse) -> None:
    module = parse(TILED.replace("@linear [3]", "@linear [2]"))
    weights = {"w": np.ones((10, 6), np.float32)}
    y = task_level.run_step(module, weights, {}, {"x": np.ones((1, 6), np.float32)}, 0)["y"]
    np.testing.assert_array_equal(np.isnan(y[0]), [False] * 8 + [True] * 2)


def test_strided_views_show_and_keep_their_elements(parse) -> None:
    """Odd columns of x, transposed, plus a row repeated, into every other row of y."""
    module = parse("""
    func.func @step() {
      %x = mpk_task.buffer input "x" : memref<3x4xf32>
      %r = mpk_task.buffer input "r" : memref<3xf32>
      %y = mpk_task.buffer output "y" : memref<4x3xf32>
      %odd = mpk_task.view %x : memref<3x4xf32> to memref<2x3xf32, strided<[2, 4], offset: 1>>
      %row = mpk_task.view %r : memref<3xf32> to memref<2x3xf32, strided<[0, 1]>>
      %half = mpk_task.view %y : memref<4x3xf32> to memref<2x3xf32, strided<[6, 1], offset: 3>>
      mpk_task.grid @add [2] reads(%odd, %row : memref<2x3xf32, strided<[2, 4], offset: 1>>,
          memref<2x3xf32, strided<[0, 1]>>)
        writes(%half : memref<2x3xf32, strided<[6, 1], offset: 3>>) boxes [
          #mpk_task.region<affine_map<(d0) -> (0, d0 * 2)>, [2, 2]>,
          #mpk_task.region<affine_map<(d0) -> (0, d0 * 2)>, [2, 2]>,
          #mpk_task.region<affine_map<(d0) -> (0, d0 * 2)>, [2, 2]>] {
      ^bb0(%0 : tensor<2x2xf32>, %1 : tensor<2x2xf32>):
        %2 = mpk_tensor.elementwise %0, %1 {
        ^bb1(%a : f32, %b : f32):
          %c = arith.addf %a, %b : f32
          mpk_tensor.yield %c : f32
        } : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
        mpk_task.yield %2 : tensor<2x2xf32>
      }
      func.return
    }
    """)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    r = np.array([100, 200, 300], np.float32)
    y = task_level.run_step(module, {}, {}, {"x": x, "r": r}, 0)["y"]
    np.testing.assert_array_equal(y[1::2], x[:, 1::2].T + r)
    assert np.isnan(y[::2]).all()
