// RUN: mpk-opt %S/decode-h100.mlir -p "mpk-pipeline{target=h100 launch=per-operator}" | filecheck %s
// RUN: mpk-opt %S/decode-h100.mlir -p "mpk-pipeline{target=h100 launch=per-operator}" -t "mpk-cuda{launch=per-operator}" | filecheck %s --check-prefix=CUDA
// RUN: not mpk-opt %S/decode-h100.mlir -p "mpk-pipeline{target=cpu launch=per-operator}" 2>&1 | filecheck %s --check-prefix=CPU

// A kernel for each family: no events, half of an SM's memory for the ring of one.

// CHECK:       builtin.module attributes {mpk.activations = {{.*}}, mpk.workers = 132 : i64}
// CHECK-NOT:   mpk_event
// CHECK:       mpk_task.ring slots 6 bytes 16384 in_flight 5
// CHECK-NOT:   mpk_event
// CHECK:       mpk_task.grid @embedding [1]
// CHECK-SAME:    workers [0] slots [0]
// CHECK:       mpk_task.grid @linear
// CHECK-SAME:    stream

// CUDA:        using kernel_0 = mpk::Embedding<body_0>;
// CUDA:        #include <mpk/per_operator.cuh>
// CUDA:        static constexpr int tokens = 1;
// CUDA-NEXT:   static constexpr int shared_bytes = 232448;
// CUDA-NEXT:   static constexpr int ring_slots = 13;
// CUDA-NEXT:   static constexpr int half_bytes = 115712;
// CUDA-NEXT:   static constexpr int half_slots = 6;
// CUDA:        MPK_OPERATOR(0, machine, kernel_0)
// CUDA-NEXT:   MPK_OPERATOR(1, machine, kernel_1)
// CUDA:        MPK_OPERATORS(machine, {{[0-9]+}}, mpk::operator_facts<operator_0>(), mpk::operator_facts<operator_1>()

// CPU:         mpk-opt: error: cpu has no launch 'per-operator'; only GPUs have kernels to launch
