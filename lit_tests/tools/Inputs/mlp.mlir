builtin.module {
  func.func @step() {
    %0 = mpk_tensor.weight "a.weight" : tensor<72x40xf32>
    %1 = mpk_tensor.weight "a.bias" : tensor<72xf32>
    %2 = mpk_tensor.weight "n.weight" : tensor<72xf32>
    %3 = mpk_tensor.weight "n.bias" : tensor<72xf32>
    %4 = mpk_tensor.weight "b.weight" : tensor<24x72xf32>
    %5 = mpk_tensor.weight "b.bias" : tensor<24xf32>
    %6 = mpk_tensor.input "x" : tensor<4x40xf32>
    %7 = mpk_tensor.linear %6, [%0] epilogue {
    ^bb0(%8: f32, %9: f32):
      %10 = arith.addf %8, %9 : f32
      mpk_tensor.yield %10 : f32
    } with %1 : tensor<72xf32> : tensor<4x40xf32>, [tensor<72x40xf32>] to tensor<4x72xf32>
    %11 = mpk_tensor.layer_norm %7, %2, %3 eps 1.000000e-05 : (tensor<4x72xf32>, tensor<72xf32>, tensor<72xf32>) -> tensor<4x72xf32>
    %12 = mpk_tensor.elementwise %11 {
    ^bb0(%13: f32):
      %14 = arith.constant 0.707106769 : f32
      %15 = arith.mulf %13, %14 : f32
      %16 = math.erf %15 : f32
      %17 = arith.constant 5.000000e-01 : f32
      %18 = arith.mulf %17, %13 : f32
      %19 = arith.constant 1.000000e+00 : f32
      %20 = arith.addf %19, %16 : f32
      %21 = arith.mulf %18, %20 : f32
      mpk_tensor.yield %21 : f32
    } : (tensor<4x72xf32>) -> tensor<4x72xf32>
    %22 = mpk_tensor.linear %12, [%4] epilogue {
    ^bb0(%23: f32, %24: f32):
      %25 = arith.addf %23, %24 : f32
      mpk_tensor.yield %25 : f32
    } with %5 : tensor<24xf32> : tensor<4x72xf32>, [tensor<24x72xf32>] to tensor<4x24xf32>
    mpk_tensor.output "output0", %22 : tensor<4x24xf32>
    func.return
  }
}
