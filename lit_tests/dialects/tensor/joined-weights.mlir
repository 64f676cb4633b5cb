// RUN: mpk-opt %s --verify-diagnostics --parsing-diagnostics --split-input-file | filecheck %s
// RUN: mpk-opt %s --verify-diagnostics --parsing-diagnostics --split-input-file --print-op-generic | filecheck %s --check-prefix GENERIC

// A weight that several tensors of the model fill, at both levels.

// CHECK:   %qk = mpk_tensor.weight "qk" parts <"q.weight" : 64, "k 2" : 16> : tensor<80x64xbf16>
// CHECK:   %b = mpk_task.buffer weight "b" parts <"q.bias" : 64, "k.bias" : 16> : memref<80xbf16>
// GENERIC: parts = #mpk_tensor.parts<"q.weight" : 64, "k 2" : 16>
%qk = mpk_tensor.weight "qk" parts <"q.weight" : 64, "k 2" : 16> : tensor<80x64xbf16>
%b = mpk_task.buffer weight "b" parts <"q.bias" : 64, "k.bias" : 16> : memref<80xbf16>

// -----
%qk = mpk_tensor.weight "qk" parts <"q" : 64, "k" : 8> : tensor<80x64xbf16>
// CHECK: parts of 72 rows do not fill a shape of [80, 64]

// -----
%qk = mpk_task.buffer weight "qk" parts <"q" : 64, "k" : 8> : memref<80x64xbf16>
// CHECK: parts of 72 rows do not fill a shape of [80, 64]

// -----
%qk = mpk_task.buffer input "qk" parts <"q" : 64, "k" : 16> : memref<80x64xbf16>
// CHECK: only a weight has parts, not input "qk"

// -----
%qk = mpk_tensor.weight "qk" parts <"q" : 80> : tensor<80x64xbf16>
// CHECK: a joined weight has several parts of a row or more

// -----
%qk = mpk_tensor.weight "qk" parts <"q" : 80, "k" : 0> : tensor<80x64xbf16>
// CHECK: a joined weight has several parts of a row or more
