// RUN: mpk-opt %s -p mpk-raise --split-input-file | filecheck %s

// x * rsqrt(mean(x * x) + eps), rounded to bf16 and times a weight: an RMSNorm of the bf16 x.

// CHECK-LABEL: func.func @rms_norm
// CHECK:         [[X:%\w+]] = mpk_tensor.input "x"
// CHECK-NEXT:    [[W:%\w+]] = mpk_tensor.weight "w"
// CHECK-NEXT:    [[Y:%\w+]] = mpk_tensor.rms_norm [[X]], [[W]] eps 1.000000e-05 : (tensor<1x8xbf16>, tensor<8xbf16>) -> tensor<1x8xbf16>
// CHECK-NEXT:    mpk_tensor.output "y", [[Y]]
func.func @rms_norm() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %w = mpk_tensor.weight "w" : tensor<8xbf16>
  %wide = mpk_tensor.elementwise %x {
  ^bb0(%a: bf16):
    %b = arith.extf %a : bf16 to f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x8xbf16>) -> tensor<1x8xf32>
  %square = mpk_tensor.elementwise %wide {
  ^bb0(%a: f32):
    %b = arith.mulf %a, %a : f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x8xf32>) -> tensor<1x8xf32>
  %mean = mpk_tensor.reduce mean %square dims [1] : tensor<1x8xf32> to tensor<1x1xf32>
  %shifted = mpk_tensor.elementwise %mean {
  ^bb0(%a: f32):
    %eps = arith.constant 1.0e-05 : f32
    %b = arith.addf %a, %eps : f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x1xf32>) -> tensor<1x1xf32>
  %root = mpk_tensor.elementwise %shifted {
  ^bb0(%a: f32):
    %b = math.rsqrt %a : f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x1xf32>) -> tensor<1x1xf32>
  %normal = mpk_tensor.elementwise %wide, %root {
  ^bb0(%a: f32, %b: f32):
    %c = arith.mulf %a, %b : f32
    mpk_tensor.yield %c : f32
  } : (tensor<1x8xf32>, tensor<1x1xf32>) -> tensor<1x8xf32>
  %narrow = mpk_tensor.elementwise %normal {
  ^bb0(%a: f32):
    %b = arith.truncf %a : f32 to bf16
    mpk_tensor.yield %b : bf16
  } : (tensor<1x8xf32>) -> tensor<1x8xbf16>
  %y = mpk_tensor.elementwise %w, %narrow {
  ^bb0(%a: bf16, %b: bf16):
    %c = arith.extf %a : bf16 to f32
    %d = arith.extf %b : bf16 to f32
    %e = arith.mulf %c, %d : f32
    %f = arith.truncf %e : f32 to bf16
    mpk_tensor.yield %f : bf16
  } : (tensor<8xbf16>, tensor<1x8xbf16>) -> tensor<1x8xbf16>
  mpk_tensor.output "y", %y : tensor<1x8xbf16>
  func.return
}

// -----

// The sum is over another x: no norm.

// CHECK-LABEL: func.func @no_norm
// CHECK-NOT:     rms_norm
// CHECK:         mpk_tensor.reduce mean
func.func @no_norm() {
  %x = mpk_tensor.input "x" : tensor<1x8xf32>
  %z = mpk_tensor.input "z" : tensor<1x8xf32>
  %square = mpk_tensor.elementwise %z {
  ^bb0(%a: f32):
    %b = arith.mulf %a, %a : f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x8xf32>) -> tensor<1x8xf32>
  %mean = mpk_tensor.reduce mean %square dims [1] : tensor<1x8xf32> to tensor<1x1xf32>
  %shifted = mpk_tensor.elementwise %mean {
  ^bb0(%a: f32):
    %eps = arith.constant 1.0e-05 : f32
    %b = arith.addf %a, %eps : f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x1xf32>) -> tensor<1x1xf32>
  %root = mpk_tensor.elementwise %shifted {
  ^bb0(%a: f32):
    %b = math.rsqrt %a : f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x1xf32>) -> tensor<1x1xf32>
  %y = mpk_tensor.elementwise %x, %root {
  ^bb0(%a: f32, %b: f32):
    %c = arith.mulf %a, %b : f32
    mpk_tensor.yield %c : f32
  } : (tensor<1x8xf32>, tensor<1x1xf32>) -> tensor<1x8xf32>
  mpk_tensor.output "y", %y : tensor<1x8xf32>
  func.return
}

// -----

// x - mean(x), normalized, times a weight, plus a bias: a LayerNorm.

// CHECK-LABEL: func.func @layer_norm
// CHECK:         [[Y:%\w+]] = mpk_tensor.layer_norm %{{\w+}}, %{{\w+}}, %{{\w+}} eps 1.000000e-05
// CHECK-NEXT:    mpk_tensor.output "y", [[Y]]
func.func @layer_norm() {
  %x = mpk_tensor.input "x" : tensor<1x8xf32>
  %w = mpk_tensor.weight "w" : tensor<8xf32>
  %bias = mpk_tensor.weight "b" : tensor<8xf32>
  %centre = mpk_tensor.reduce mean %x dims [1] : tensor<1x8xf32> to tensor<1x1xf32>
  %d = mpk_tensor.elementwise %x, %centre {
  ^bb0(%a: f32, %b: f32):
    %c = arith.subf %a, %b : f32
    mpk_tensor.yield %c : f32
  } : (tensor<1x8xf32>, tensor<1x1xf32>) -> tensor<1x8xf32>
  %square = mpk_tensor.elementwise %d {
  ^bb0(%a: f32):
    %b = arith.mulf %a, %a : f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x8xf32>) -> tensor<1x8xf32>
  %mean = mpk_tensor.reduce mean %square dims [1] : tensor<1x8xf32> to tensor<1x1xf32>
  %shifted = mpk_tensor.elementwise %mean {
  ^bb0(%a: f32):
    %eps = arith.constant 1.0e-05 : f32
    %b = arith.addf %a, %eps : f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x1xf32>) -> tensor<1x1xf32>
  %root = mpk_tensor.elementwise %shifted {
  ^bb0(%a: f32):
    %b = math.sqrt %a : f32
    mpk_tensor.yield %b : f32
  } : (tensor<1x1xf32>) -> tensor<1x1xf32>
  %normal = mpk_tensor.elementwise %d, %root {
  ^bb0(%a: f32, %b: f32):
    %c = arith.divf %a, %b : f32
    mpk_tensor.yield %c : f32
  } : (tensor<1x8xf32>, tensor<1x1xf32>) -> tensor<1x8xf32>
  %scaled = mpk_tensor.elementwise %normal, %w {
  ^bb0(%a: f32, %b: f32):
    %c = arith.mulf %a, %b : f32
    mpk_tensor.yield %c : f32
  } : (tensor<1x8xf32>, tensor<8xf32>) -> tensor<1x8xf32>
  %y = mpk_tensor.elementwise %scaled, %bias {
  ^bb0(%a: f32, %b: f32):
    %c = arith.addf %a, %b : f32
    mpk_tensor.yield %c : f32
  } : (tensor<1x8xf32>, tensor<8xf32>) -> tensor<1x8xf32>
  mpk_tensor.output "y", %y : tensor<1x8xf32>
  func.return
}

// -----

// relu(gate(x)) * up(x): one linear with two weights; the accumulators are not rounded in between.

// CHECK-LABEL: func.func @gated
// CHECK:         [[Y:%\w+]] = mpk_tensor.linear %{{\w+}}, [%{{\w+}}, %{{\w+}}] epilogue {
// CHECK-NEXT:    ^bb0([[G:%\w+]]: f32, [[U:%\w+]]: f32):
// CHECK-NEXT:      [[Z:%\w+]] = arith.constant 0.000000e+00 : f32
// CHECK-NEXT:      [[R:%\w+]] = arith.maximumf [[G]], [[Z]] : f32
// CHECK-NEXT:      [[P:%\w+]] = arith.mulf [[R]], [[U]] : f32
// CHECK-NEXT:      [[T:%\w+]] = arith.truncf [[P]] : f32 to bf16
// CHECK-NEXT:      mpk_tensor.yield [[T]] : bf16
// CHECK-NEXT:    }
// CHECK-NEXT:    mpk_tensor.output "y", [[Y]]
func.func @gated() {
  %x = mpk_tensor.input "x" : tensor<1x8xbf16>
  %g = mpk_tensor.weight "gate" : tensor<16x8xbf16>
  %u = mpk_tensor.weight "up" : tensor<16x8xbf16>
  %gate = mpk_tensor.linear %x, [%g] : tensor<1x8xbf16>, [tensor<16x8xbf16>] to tensor<1x16xbf16>
  %act = mpk_tensor.elementwise %gate {
  ^bb0(%a: bf16):
    %b = arith.extf %a : bf16 to f32
    %zero = arith.constant 0.0 : f32
    %c = arith.maximumf %b, %zero : f32
    %d = arith.truncf %c : f32 to bf16
    mpk_tensor.yield %d : bf16
  } : (tensor<1x16xbf16>) -> tensor<1x16xbf16>
  %up = mpk_tensor.linear %x, [%u] : tensor<1x8xbf16>, [tensor<16x8xbf16>] to tensor<1x16xbf16>
  %y = mpk_tensor.elementwise %act, %up {
  ^bb0(%a: bf16, %b: bf16):
    %c = arith.extf %a : bf16 to f32
    %d = arith.extf %b : bf16 to f32
    %e = arith.mulf %c, %d : f32
    %f = arith.truncf %e : f32 to bf16
    mpk_tensor.yield %f : bf16
  } : (tensor<1x16xbf16>, tensor<1x16xbf16>) -> tensor<1x16xbf16>
  mpk_tensor.output "y", %y : tensor<1x16xbf16>
  func.return
}
