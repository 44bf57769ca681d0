#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/forward.h"
#include "kernels/isa.h"

namespace fastserve::kernels {

/// One normalisation per row; strides are in elements. All buffers are of `dtype`.
struct NormParams {
  void* out;           // [num_tokens, hidden]; may be x
  const void* x;       // [num_tokens, hidden]
  void* residual;      // [num_tokens, hidden] or null: x is added to it first and the sum is normalised
  const void* weight;  // [hidden]
  const void* bias;    // [hidden]; layer_norm only
  DType dtype;
  std::int64_t out_stride;
  std::int64_t x_stride;
  std::int64_t residual_stride;
  std::int64_t num_tokens;
  std::int64_t hidden;
  float eps;
};

FS_DECLARE_CPU(void rms_norm(const NormParams& params, ThreadPool& pool))
FS_DECLARE_CPU(void layer_norm(const NormParams& params, ThreadPool& pool))

/// out = h / sqrt(mean(h^2) + eps) * weight in fp32, rounded once, where h is x, or with `residual` the sum
/// residual + x rounded to the model dtype and stored in residual.
/// Shapes: out, x, residual [T, H] (dense in the last dimension), weight [H]; out may be x.
/// On a GPU the work is queued on `stream` (a cudaStream_t as an integer; 0 on the CPU) and this returns at once.
/// Throws InvalidArgumentError when they do not fit. Source: RMSNorm (Zhang and Sennrich, 2019).
void rms_norm(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView* residual,
              float eps, std::int64_t stream, ThreadPool& pool);

/// out = (h - mean(h)) / sqrt(var(h) + eps) * weight + bias; the rest as in rms_norm, bias [H].
void layer_norm(const TensorView& out, const TensorView& x, const TensorView& weight, const TensorView& bias,
                const TensorView* residual, float eps, std::int64_t stream, ThreadPool& pool);

/// Queue the kernel on `stream` (a cudaStream_t); throw DeviceError when the launch fails.
void rms_norm_cuda(const NormParams& params, void* stream);
void layer_norm_cuda(const NormParams& params, void* stream);

}  // namespace fastserve::kernels
