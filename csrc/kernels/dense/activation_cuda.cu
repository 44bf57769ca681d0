// Activation functions of the MLP, plain and gated.
//
// Thread mapping: grid (rows, pieces of a row), 256 threads, each one vector of 16 bytes (gated: two in, one out), or
// one element where rows are not aligned. No shared memory.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/dense/activation.h"

namespace fastserve::kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 256;

FS_DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

/// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3).
FS_DEVICE float gelu_tanh(float x) {
  const float twice = 1.5957691216057308f * fmaf(x * x * x, 0.044715f, x);
  return x / (1.0f + expf(-twice));
}

/// 0.5 x (1 + erf(x / sqrt(2))) without cancellation for negative x.
FS_DEVICE float gelu(float x) { return 0.5f * x * erfcf(-0.70710678118654752f * x); }

template <ActivationKind kKind>
FS_DEVICE float activate(float x) {
  if constexpr (kKind == ActivationKind::kSilu) return silu(x);
  if constexpr (kKind == ActivationKind::kGelu) return gelu(x);
  if constexpr (kKind == ActivationKind::kGeluTanh) return gelu_tanh(x);
  if constexpr (kKind == ActivationKind::kRelu) return x < 0.0f ? 0.0f : x;  // NaN stays NaN
}

template <typename T, ActivationKind kKind, bool kGated, int kSize>
__global__ void __launch_bounds__(kThreads) activation_kernel(ActivationParams p) {
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kSize;
  if (first >= p.size) return;
  const T* x = static_cast<const T*>(p.x) + blockIdx.x * p.x_stride + first;
  float values[kSize], gate[kSize];
  load_floats<T, kSize>(x, values);
  if constexpr (kGated) load_floats<T, kSize>(x + p.size, gate);
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    values[i] = activate<kKind>(values[i]);
    if constexpr (kGated) values[i] *= gate[i];
  }
  store_floats<T, kSize>(static_cast<T*>(p.out) + blockIdx.x * p.out_stride + first, values);
}

template <typename T, ActivationKind kKind, bool kGated>
void launch_activation(const ActivationParams& p, void* stream) {
  constexpr int kSize = kVectorSize<T>;
  const bool whole = aligned({p.out, p.x}) && multiples(kSize, {p.size, p.out_stride, p.x_stride});
  const dim3 grid(static_cast<unsigned>(p.num_tokens), ceil_div(p.size, kThreads * (whole ? kSize : 1)));
  const auto kernel = whole ? activation_kernel<T, kKind, kGated, kSize> : activation_kernel<T, kKind, kGated, 1>;
  launch(FS_SITE("activation"), kernel, grid, kThreads, stream, p);
}

template <typename T, ActivationKind kKind>
void launch_kind(const ActivationParams& p, void* stream) {
  p.gated ? launch_activation<T, kKind, true>(p, stream) : launch_activation<T, kKind, false>(p, stream);
}

}  // namespace

void activation_cuda(const ActivationParams& params, void* stream) {
  with_model_type(params.dtype, [&](auto zero) {
    using T = decltype(zero);
    switch (params.kind) {
      case ActivationKind::kSilu: return launch_kind<T, ActivationKind::kSilu>(params, stream);
      case ActivationKind::kGelu: return launch_kind<T, ActivationKind::kGelu>(params, stream);
      case ActivationKind::kGeluTanh: return launch_kind<T, ActivationKind::kGeluTanh>(params, stream);
      case ActivationKind::kRelu: return launch_kind<T, ActivationKind::kRelu>(params, stream);
    }
  });
}

}  // namespace fastserve::kernels
