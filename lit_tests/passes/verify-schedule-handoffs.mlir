// RUN: mpk-opt %S/../../benchmarks/graphs/two-gpu.mlir -p mpk-verify-schedule | filecheck %s
// RUN: sed 's/@h0 counters 1 arrivals .4./& handoff flag/' %S/../../benchmarks/graphs/two-gpu.mlir | mpk-opt -f mlir -p mpk-verify-schedule | filecheck %s --check-prefix FLAG
// RUN: sed '/@parts counters/s/peer/counter/' %S/../../benchmarks/graphs/two-gpu.mlir | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix NEAR
// RUN: sed '/@parts counters/s/peer/flag/' %S/../../benchmarks/graphs/two-gpu.mlir | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix NEAR
// RUN: sed '/@h0 counters/s/$/ handoff local/' %S/../../benchmarks/graphs/two-gpu.mlir | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix LOCAL
// RUN: sed '/buffer scratch "p0_1"/s/device 1//' %S/../../benchmarks/graphs/two-gpu.mlir | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix REMOTE

// Two devices: partial sums are written into both memories, handed over between peers; what stays on
// a device goes by counters or flags, what stays on a worker locally.

// CHECK:  mpk_event.tensor @parts counters 2 arrivals [2] handoff peer
// FLAG:   mpk_event.tensor @h0 counters 1 arrivals [4] handoff flag
// NEAR:   down1[0] (mpk_tensor.linear) on device 1 and sum0[0] (mpk_tensor.elementwise) on device 0 meet
// NEAR-SAME: the edge from down1[0] to sum0[0] needs the hand-off 'peer'
// LOCAL:  up0[1] (mpk_tensor.linear) on worker 1 and down0[0] (mpk_tensor.linear) on worker 0 meet at h0[0], whose hand-off is 'local'
// REMOTE: sum1[0] (mpk_tensor.elementwise) on device 1 reads 'p0_1', which lies on device 0
