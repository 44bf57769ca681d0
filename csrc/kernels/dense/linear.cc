#include "kernels/dense/linear.h"

#include <algorithm>

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/operand.h"

namespace fastserve::kernels {
namespace {

constexpr std::int64_t kPackGrain = 4;  // panels

void require_packed(const TensorView& packed) {
  require_cpu(packed, "packed");
  require_model_tensor(packed, "packed");
  FS_REQUIRE(packed.ndim == 3 && packed.size(2) == kPanelWidth,
             "packed must have shape [ceil(out_features / 32), in_features, 32], got ", packed.describe());
  require_contiguous(packed, "packed");
}

/// Write a panel whose inputs lie kGroup by kGroup beside each other.
template <int kGroup, typename Element>
void pack_panel(Element* panel, const Element* weight, std::int64_t weight_stride, std::int64_t rows,
                std::int64_t inputs, std::int64_t padded_inputs) {
  for (std::int64_t k = 0; k < padded_inputs; ++k) {
    Element* at = panel + k / kGroup * kGroup * kPanelWidth + k % kGroup;
    for (std::int64_t n = 0; n < kPanelWidth; ++n) {
      at[n * kGroup] = n < rows && k < inputs ? weight[n * weight_stride + k] : Element{0};
    }
  }
}

template <int kGroup, typename Element>
void pack(const TensorView& packed, const TensorView& weight, ThreadPool& pool) {
  const std::int64_t outputs = weight.size(0);
  pool.parallel_for(packed.size(0), kPackGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const std::int64_t row = p * kPanelWidth;
      pack_panel<kGroup>(packed.as<Element>() + row * packed.size(1),
                         weight.as<const Element>() + row * weight.stride(0), weight.stride(0),
                         std::min(kPanelWidth, outputs - row), weight.size(1), packed.size(1));
    }
  });
}

}  // namespace

void pack_linear_weight(const TensorView& packed, const TensorView& weight, ThreadPool& pool) {
  require_packed(packed);
  require_cpu(weight, "weight");
  require_ndim(weight, 2, "weight");
  require_dense_rows(weight, "weight");
  require_dtype(weight, packed.dtype, "weight");
  require_shape(
      packed,
      {(weight.size(0) + kPanelWidth - 1) / kPanelWidth, packed_inputs(weight.dtype, weight.size(1)), kPanelWidth},
      "packed");
  switch (weight.dtype) {
    case DType::kFloat32: return pack<1, std::uint32_t>(packed, weight, pool);
    case DType::kBFloat16: return pack<2, std::uint16_t>(packed, weight, pool);
    case DType::kFloat16: return pack<1, std::uint16_t>(packed, weight, pool);
    default: break;
  }
}

void linear(const TensorView& out, const TensorView& x, const TensorView& packed, const TensorView* bias,
            int num_segments, ThreadPool& pool) {
  require_packed(packed);
  require_cpu(x, "x");
  require_ndim(x, 2, "x");
  const bool fits = packed_inputs(x.dtype, x.size(1)) == packed.size(1);  // in bf16 the padded number is known alone
  require_matrix(x, x.size(0), fits ? x.size(1) : packed.size(1), packed.dtype, "x");
  FS_REQUIRE(num_segments == 1 || num_segments == 2 || num_segments == 4 || num_segments == kLinearMaxSegments,
             "num_segments must be 1, 2, 4 or ", kLinearMaxSegments, ", got ", num_segments);
  require_cpu(out, "out");
  require_ndim(out, 2, "out");
  require_dense_rows(out, "out");
  FS_REQUIRE(out.dtype == x.dtype || out.dtype == DType::kFloat32, "out must be ", dtype_name(x.dtype),
             " like x, or float32, got ", out.describe());
  FS_REQUIRE(out.size(0) == x.size(0) && (out.size(1) + kPanelWidth - 1) / kPanelWidth == packed.size(0),
             "out must have one row per row of x and the weight's output features (", packed.size(0),
             " panels of 32), got ", out.describe(), " for x ", x.describe());
  if (bias != nullptr) {
    require_cpu(*bias, "bias");
    require_vector(*bias, out.size(1), x.dtype, "bias");
  }
  const LinearParams params{
      .out = out.data,
      .x = x.data,
      .weight = packed.data,
      .bias = data_or_null(bias),
      .dtype = x.dtype,
      .out_dtype = out.dtype,
      .out_stride = row_stride(out),
      .x_stride = row_stride(x),
      .num_tokens = x.size(0),
      .in_features = x.size(1),
      .out_features = out.size(1),
      .num_segments = num_segments,
  };
  if (params.num_tokens == 0 || params.out_features == 0) return;
#if defined(__x86_64__)
  if (x.dtype == DType::kBFloat16 && cpu_isa() == CpuIsa::kAmx) return amx::linear_bf16(params, pool);
#endif
  FS_DISPATCH_CPU(linear, params, pool);
}

}  // namespace fastserve::kernels
