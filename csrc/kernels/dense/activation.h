#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/forward.h"
#include "kernels/isa.h"

namespace fastserve::kernels {

enum class ActivationKind : std::uint8_t { kSilu, kGelu, kGeluTanh, kRelu };

/// out[t][i] = act(x[t][i]), times x[t][size + i] when gated. Strides are in elements.
struct ActivationParams {
  void* out;      // [num_tokens, size]
  const void* x;  // [num_tokens, size], gated: [num_tokens, 2 * size]
  DType dtype;
  ActivationKind kind;
  bool gated;
  std::int64_t out_stride;
  std::int64_t x_stride;
  std::int64_t num_tokens;
  std::int64_t size;
};

FS_DECLARE_CPU(void activation(const ActivationParams& params, ThreadPool& pool))

/// "silu", "gelu" (with erf), "gelu_tanh" or "relu"; throws InvalidArgumentError for anything else.
ActivationKind parse_activation(const char* name);

/// out = act(x), or with `gated` act(x[:, :I]) * x[:, I:], in fp32 and rounded once. out is [T, I], x is [T, I] or
/// [T, 2I], both dense in the last dimension; out may be x when not gated. On a GPU the work is queued on `stream` (a
/// cudaStream_t as an integer; 0 on the CPU). Throws InvalidArgumentError when they do not fit.
void activation(const TensorView& out, const TensorView& x, ActivationKind kind, bool gated, std::int64_t stream,
                ThreadPool& pool);

/// Queue the kernel on `stream` (a cudaStream_t); throws DeviceError when the launch fails.
void activation_cuda(const ActivationParams& params, void* stream);

}  // namespace fastserve::kernels
