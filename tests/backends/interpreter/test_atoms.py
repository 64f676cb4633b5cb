"""Atoms of buffers seen through strided views."""

from mpkir.backends.interpreter.atoms import Atoms
from mpkir.backends.interpreter.families import families_of
from mpkir.backends.interpreter.memory import Memory


def test_strided_and_broadcast_views_touch_the_atoms_of_their_elements(parse) -> None:
    module = parse("""
    func.func @step() {
      %x = mpk_task.buffer scratch "x" : memref<8xf32>
      %even = mpk_task.view %x : memref<8xf32> to memref<4xf32, strided<[2]>>
      %often = mpk_task.view %x : memref<8xf32> to memref<5x2xf32, strided<[0, 1]>>
      mpk_task.grid @whole [1] writes(%x : memref<8xf32>)
        boxes [#mpk_task.region<affine_map<(d0) -> (0)>, [8]>] {
        %0 = mpk_tensor.full 0.0 : f32 : tensor<8xf32>
        mpk_task.yield %0 : tensor<8xf32>
      }
      mpk_task.grid @even [2] writes(%even : memref<4xf32, strided<[2]>>)
        boxes [#mpk_task.region<affine_map<(d0) -> (d0 * 2)>, [2]>] {
        %0 = mpk_tensor.full 0.0 : f32 : tensor<2xf32>
        mpk_task.yield %0 : tensor<2xf32>
      }
      mpk_task.grid @often [1] reads(%often : memref<5x2xf32, strided<[0, 1]>>)
        boxes [#mpk_task.region<affine_map<(d0) -> (0, 0)>, [5, 2]>] {
      ^bb0(%0 : tensor<5x2xf32>):
        mpk_task.yield
      }
      func.return
    }
    """)
    whole, even, often = families = families_of(module, Memory(module, {}))
    atoms = Atoms(families)
    # Elements 0; 1; 2; 4 and 6; 3, 5 and 7, where the even ones of a task are 0, 2 and 4, 6.
    assert len(atoms.buffers) == 5
    assert len(atoms.touched(whole, 0).writes) == 5
    tasks = [set(atoms.touched(even, task).writes.tolist()) for task in range(2)]
    seen = set(atoms.touched(often, 0).reads.tolist())
    assert [len(task) for task in tasks] == [2, 1]
    assert not tasks[0] & tasks[1]
    assert [len(task & seen) for task in tasks] == [1, 0]
    assert len(seen) == 2
