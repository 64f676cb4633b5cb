// RUN: ROUNDTRIP

// CHECK: mpk_event.tensor @a counters 16 arrivals [64]
mpk_event.tensor @a counters 16 arrivals [64]
// CHECK: mpk_event.tensor @b counters 3 arrivals [1, 2, 3] handoff local
mpk_event.tensor @b counters 3 arrivals [1, 2, 3] handoff local
// CHECK: mpk_event.tensor @c counters 1 arrivals [8] orders 48 where 32 conflict
mpk_event.tensor @c counters 1 arrivals [8] orders 48 where 32 conflict
// CHECK: edge = #mpk_event.edge<@a, affine_map<(d0) -> ((d0 floordiv 64))>>
"test.op"() {edge = #mpk_event.edge<@a, affine_map<(d0) -> (d0 floordiv 64)>>} : () -> ()
// CHECK: edge = #mpk_event.edge<@a, affine_map<(d0) -> (0)>, lag 1>
"test.op"() {edge = #mpk_event.edge<@a, affine_map<(d0) -> (0)>, lag 1>} : () -> ()
