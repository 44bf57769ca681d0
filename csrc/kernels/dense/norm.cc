#include "kernels/dense/norm.h"

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "kernels/operand.h"

namespace fastserve::kernels {
namespace {

NormParams checked_params(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView* bias,
                          const TensorView* residual, float eps) {
  require_model_tensor(x, "x");
  require_ndim(x, 2, "x");
  const std::int64_t tokens = x.size(0);
  const std::int64_t hidden = x.size(1);
  require_matrix(x, tokens, hidden, x.dtype, "x");
  require_matrix(out, tokens, hidden, x.dtype, "out");
  require_vector(weight, hidden, x.dtype, "weight");
  if (bias != nullptr) require_vector(*bias, hidden, x.dtype, "bias");
  if (residual != nullptr) require_matrix(*residual, tokens, hidden, x.dtype, "residual");
  FS_REQUIRE(eps >= 0.0f, "eps must not be negative, got ", eps);
  return {
      .out = out.data,
      .x = x.data,
      .residual = data_or_null(residual),
      .weight = weight.data,
      .bias = data_or_null(bias),
      .dtype = x.dtype,
      .out_stride = row_stride(out),
      .x_stride = row_stride(x),
      .residual_stride = residual == nullptr ? 0 : row_stride(*residual),
      .num_tokens = tokens,
      .hidden = hidden,
      .eps = eps,
  };
}

}  // namespace

void rms_norm(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView* residual,
              float eps, std::int64_t stream, ThreadPool& pool) {
  const DeviceType device = device_of(stream, {{&x, "x"}, {&out, "out"}, {&weight, "weight"}, {residual, "residual"}});
  const NormParams params = checked_params(out, x, weight, nullptr, residual, eps);
  FS_DISPATCH(device, rms_norm, params, stream, pool);
}

void layer_norm(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView& bias,
                const TensorView* residual, float eps, std::int64_t stream, ThreadPool& pool) {
  const DeviceType device =
      device_of(stream, {{&x, "x"}, {&out, "out"}, {&weight, "weight"}, {&bias, "bias"}, {residual, "residual"}});
  const NormParams params = checked_params(out, x, weight, &bias, residual, eps);
  FS_DISPATCH(device, layer_norm, params, stream, pool);
}

}  // namespace fastserve::kernels
