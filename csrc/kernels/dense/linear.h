#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/forward.h"
#include "kernels/isa.h"

namespace fastserve::kernels {

/// Output features per panel of a packed weight. [out_features, in_features] is stored as panels
/// [ceil(out_features / 32)][in_features][32], the last one padded with zeros: one step over the inputs reads 32
/// neighbouring weights, and a panel is one contiguous stream.
///
/// In bf16 the inputs 2 i and 2 i + 1 lie beside each other, [in_features / 2][32][2], as matrix units read them, and
/// in_features is rounded up to a multiple of kLinearInputUnit with zeros.
constexpr std::int64_t kPanelWidth = 32;
constexpr std::int64_t kLinearInputUnit = 32;
constexpr int kLinearMaxSegments = 8;

/// In-features of a packed weight.
constexpr std::int64_t packed_inputs(DType dtype, std::int64_t in_features) {
  return dtype == DType::kBFloat16 ? (in_features + kLinearInputUnit - 1) / kLinearInputUnit * kLinearInputUnit
                                   : in_features;
}

/// out[t][n] = sum over k of x[t][k] * weight[n][k], plus bias[n]. Strides are in elements.
struct LinearParams {
  void* out;           // [num_tokens, out_features], of out_dtype
  const void* x;       // [num_tokens, in_features]
  const void* weight;  // packed panels
  const void* bias;    // [out_features] or null
  DType dtype;         // of x, weight and bias
  DType out_dtype;     // dtype or float32
  std::int64_t out_stride;
  std::int64_t x_stride;
  std::int64_t num_tokens;
  std::int64_t in_features;
  std::int64_t out_features;
  int num_segments;  // 1, 2, 4 or 8: the inputs are summed in so many segments, and these added up as a binary tree
};

FS_DECLARE_CPU(void linear(const LinearParams& params, ThreadPool& pool))
namespace amx {
void linear_bf16(const LinearParams& params, ThreadPool& pool);
}

/// Copy weight [out_features, in_features] (dense rows) into packed panels: packed is contiguous
/// [ceil(out_features / 32), packed_inputs(dtype, in_features), 32] of the same dtype. Throws InvalidArgumentError when
/// they do not fit.
void pack_linear_weight(const TensorView& packed, const TensorView& weight, ThreadPool& pool);

/// Compute out = x @ weight.T + bias on the CPU, accumulating in fp32 in an order that follows from the number of
/// inputs and of segments alone, so that a row of out has the same bits whatever other rows, threads or blocks there
/// are. A product of the first half of the inputs in num_segments / 2 segments, added to that of the second half, has
/// the bits of the whole (where a half is a multiple of kLinearInputUnit).
///
/// out is [T, N] of the dtype of x or float32, x is [T, K] (both dense in the last dimension), packed is the result of
/// pack_linear_weight for [N, K], bias is [N] or null. Throws InvalidArgumentError when they do not fit.
void linear(const TensorView& out, const TensorView& x, const TensorView& packed, const TensorView* bias,
            int num_segments, ThreadPool& pool);

}  // namespace fastserve::kernels
