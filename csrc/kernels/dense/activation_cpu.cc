#include "kernels/dense/activation.h"
#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace fastserve::kernels::FS_ISA {
namespace {

constexpr std::int64_t kElementsPerChunk = 8 * 1024;  // a few microseconds: less is not worth another thread

FS_INLINE Vec silu(Vec x) { return x / (set1(1.0f) + exp(set1(0.0f) - x)); }

/// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3).
FS_INLINE Vec gelu_tanh(Vec x) {
  const Vec inner = fma(x * x * x, set1(0.044715f), x) * set1(1.5957691216057308f);
  return x / (set1(1.0f) + exp(set1(0.0f) - inner));
}

/// 0.5 x (1 + erf(x / sqrt(2))) as max(x, 0) - 0.5 |x| erfc(|x| / sqrt(2)), without cancellation for negative x.
/// erfc: Abramowitz and Stegun 7.1.26, absolute error below 2e-7.
FS_INLINE Vec gelu(Vec x) {
  const Vec size = max(x, set1(0.0f) - x);
  const Vec z = size * set1(0.70710678118654752f);
  const Vec t = set1(1.0f) / fma(z, set1(0.3275911f), set1(1.0f));
  Vec p = set1(1.061405429f);
  p = fma(p, t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  const Vec half_erfc = set1(0.5f) * p * t * exp(set1(0.0f) - z * z);
  return max(set1(0.0f), x) - size * half_erfc;
}

template <ActivationKind kKind>
FS_INLINE Vec activate(Vec x) {
  if constexpr (kKind == ActivationKind::kSilu) return silu(x);
  if constexpr (kKind == ActivationKind::kGelu) return gelu(x);
  if constexpr (kKind == ActivationKind::kGeluTanh) return gelu_tanh(x);
  if constexpr (kKind == ActivationKind::kRelu) return max(set1(0.0f), x);  // this order keeps NaN
}

/// out[0..size) = act(x[0..size)) * gate[0..size); no product when gate is null.
template <typename T, ActivationKind kKind>
void run_row(T* out, const T* x, const T* gate, std::int64_t size) {
  std::int64_t i = 0;
  for (; i + Vec::kLanes <= size; i += Vec::kLanes) {
    const Vec y = activate<kKind>(load(x + i));
    store(out + i, gate == nullptr ? y : y * load(gate + i));
  }
  if (i == size) return;
  const auto tail_bytes = static_cast<std::size_t>(size - i) * sizeof(T);
  T x_tail[Vec::kLanes] = {};
  T gate_tail[Vec::kLanes] = {};
  __builtin_memcpy(x_tail, x + i, tail_bytes);
  if (gate != nullptr) __builtin_memcpy(gate_tail, gate + i, tail_bytes);
  const Vec y = activate<kKind>(load(x_tail));
  store(x_tail, gate == nullptr ? y : y * load(gate_tail));
  __builtin_memcpy(out + i, x_tail, tail_bytes);
}

template <typename T, ActivationKind kKind>
void run_rows(void* context, std::int64_t begin, std::int64_t end) {
  const ActivationParams& p = *static_cast<const ActivationParams*>(context);
  for (std::int64_t t = begin; t < end; ++t) {
    const T* x = static_cast<const T*>(p.x) + t * p.x_stride;
    run_row<T, kKind>(static_cast<T*>(p.out) + t * p.out_stride, x, p.gated ? x + p.size : nullptr, p.size);
  }
}

template <typename T>
ParallelTask task_of(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kSilu: return run_rows<T, ActivationKind::kSilu>;
    case ActivationKind::kGelu: return run_rows<T, ActivationKind::kGelu>;
    case ActivationKind::kGeluTanh: return run_rows<T, ActivationKind::kGeluTanh>;
    case ActivationKind::kRelu: return run_rows<T, ActivationKind::kRelu>;
  }
  __builtin_unreachable();
}

}  // namespace

void activation(const ActivationParams& params, ThreadPool& pool) {
  ParallelTask task = task_of<float>(params.kind);
  if (params.dtype == DType::kBFloat16) task = task_of<BFloat16>(params.kind);
  if (params.dtype == DType::kFloat16) task = task_of<Float16>(params.kind);
  ActivationParams context = params;
  parallel_run(pool, params.num_tokens, ceil_div(kElementsPerChunk, max_of(params.size, 1)), task, &context);
}

}  // namespace fastserve::kernels::FS_ISA
