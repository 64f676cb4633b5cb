// RUN: mpk-opt %S/../../benchmarks/graphs/two-gpu.mlir -p mpk-verify-schedule | filecheck %s
// RUN: sed 's/@h counters 1 arrivals .4./& handoff flag/' %S/../../benchmarks/graphs/two-gpu.mlir | mpk-opt -f mlir -p mpk-verify-schedule | filecheck %s --check-prefix FLAG
// RUN: sed 's/"p" exchange/& flagged/;/@parts/d' %S/../../benchmarks/graphs/two-gpu.mlir | mpk-opt -f mlir -p mpk-verify-schedule | filecheck %s --check-prefix TAGS
// RUN: sed '/@parts counters/s/.2. handoff peer/[1]/' %S/../../benchmarks/graphs/two-gpu.mlir | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix NEAR
// RUN: sed '/@end counters/s/.4. handoff peer/[2]/' %S/../../benchmarks/graphs/two-gpu.mlir | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix NEXT
// RUN: sed 's/"p" exchange/& flagged/;/@parts/d;/@end counters/s/.4. handoff peer/[2]/' %S/../../benchmarks/graphs/two-gpu.mlir | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix NEXT
// RUN: sed '/@parts counters/s/.2. handoff peer/[1] handoff flag/' %S/../../benchmarks/graphs/two-gpu.mlir | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix UNSEEN
// RUN: sed '/@h counters/s/$/ handoff local/' %S/../../benchmarks/graphs/two-gpu.mlir | not mpk-opt -f mlir -p mpk-verify-schedule 2>&1 | filecheck %s --check-prefix LOCAL

// Two ranks: partial sums are written into both memories, handed over between peers or by their
// tags; what stays on a rank goes by counters or flags, what stays on a worker locally. The next
// step may write only what all ranks have read, which nothing says that stays on a rank.

// CHECK:  mpk_event.tensor @parts counters 2 arrivals [2] handoff peer
// FLAG:   mpk_event.tensor @h counters 1 arrivals [4] handoff flag
// TAGS:   mpk_task.buffer scratch "p" exchange flagged
// NEAR:   race within a step: down[0] (mpk_tensor.linear) of another rank writes 'p' and sum[0] (mpk_tensor.elementwise) reads the same elements
// NEAR-SAME: an edge from down[0] to sum[0], with the hand-off 'peer', is missing
// NEXT:   race from step to step: sum[0] (mpk_tensor.elementwise) of another rank reads 'p' and down[0] (mpk_tensor.linear) writes the same elements
// NEXT-SAME: an edge from sum[0] to down[0], with the hand-off 'peer', is missing
// UNSEEN: sum[0] (mpk_tensor.elementwise) waits by flag for down[0] (mpk_tensor.linear), of whose tagged elements it reads none
// LOCAL:  up[1] (mpk_tensor.linear) on worker 1 and down[0] (mpk_tensor.linear) on worker 0 meet at h[0], whose hand-off is 'local'
