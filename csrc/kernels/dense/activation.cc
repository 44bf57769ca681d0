#include "kernels/dense/activation.h"

#include <cstring>

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "kernels/operand.h"

namespace fastserve::kernels {

ActivationKind parse_activation(const char* name) {
  if (std::strcmp(name, "silu") == 0) return ActivationKind::kSilu;
  if (std::strcmp(name, "gelu") == 0) return ActivationKind::kGelu;
  if (std::strcmp(name, "gelu_tanh") == 0) return ActivationKind::kGeluTanh;
  if (std::strcmp(name, "relu") == 0) return ActivationKind::kRelu;
  detail::raise<InvalidArgumentError>("unknown activation '", name, "': use silu, gelu, gelu_tanh or relu");
}

void activation(const TensorView& out, const TensorView& x, ActivationKind kind, bool gated, std::int64_t stream,
                ThreadPool& pool) {
  const DeviceType device = device_of(stream, {{&x, "x"}, {&out, "out"}});
  require_model_tensor(out, "out");
  require_ndim(out, 2, "out");
  require_dense_rows(out, "out");
  require_matrix(x, out.size(0), out.size(1) * (gated ? 2 : 1), out.dtype, "x");
  const ActivationParams params{
      .out = out.data,
      .x = x.data,
      .dtype = out.dtype,
      .kind = kind,
      .gated = gated,
      .out_stride = row_stride(out),
      .x_stride = row_stride(x),
      .num_tokens = out.size(0),
      .size = out.size(1),
  };
  FS_DISPATCH(device, activation, params, stream, pool);
}

}  // namespace fastserve::kernels
