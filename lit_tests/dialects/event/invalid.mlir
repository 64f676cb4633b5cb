// RUN: mpk-opt %s --verify-diagnostics --parsing-diagnostics --split-input-file | filecheck %s

mpk_event.tensor @e counters 0 arrivals [1]
// CHECK: event tensor needs at least one counter, got 0

// -----
mpk_event.tensor @e counters 3 arrivals [1, 2]
// CHECK: 3 counters have 2 numbers of arrivals

// -----
mpk_event.tensor @e counters 2 arrivals [1, 0]
// CHECK: event needs at least one arrival

// -----
mpk_event.tensor @e counters 1 arrivals [8] orders 32 where 32 conflict
// CHECK: an event tensor may order more pairs than conflict, not 32 where 32 do

// -----
mpk_event.tensor @e counters 2 arrivals [1] handoff carrier_pigeon
// CHECK: Expected `local`, `counter`, `flag`, or `peer`

// -----
"test.op"() {edge = #mpk_event.edge<@e, affine_map<(d0) -> (d0, d0)>>} : () -> ()
// CHECK: an edge's map gives one counter

// -----
"test.op"() {edge = #mpk_event.edge<@e, affine_map<(d0) -> (d0)>, lag 2>} : () -> ()
// CHECK: lag is 0 or 1, got 2

// -----
"test.op"() {edge = #mpk_event.edge<@e, 3 : i64>} : () -> ()
// CHECK: expected an event's name and an affine map
