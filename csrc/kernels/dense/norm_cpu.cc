#include "kernels/dense/norm.h"
#include "kernels/parallel.h"
#include "kernels/simd.h"

// One row at a time, all of its passes while it is in the L1 cache. Sums run in four vector accumulators of fixed
// order, so that a row has the same bits in every batch.
namespace fastserve::kernels::FS_ISA {
namespace {

constexpr std::int64_t kElementsPerChunk = 32 * 1024;  // about 4 us: less is not worth another thread
constexpr int kAccumulators = 4;

/// Sum of term(Vec) over h[0..hidden), where scalar_term does the tail.
template <typename T, typename Term, typename ScalarTerm>
FS_INLINE float sum_row(const T* h, std::int64_t hidden, Term term, ScalarTerm scalar_term) {
  Vec sums[kAccumulators] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
  std::int64_t i = 0;
  for (; i + kAccumulators * Vec::kLanes <= hidden; i += kAccumulators * Vec::kLanes) {
    for (int a = 0; a < kAccumulators; ++a) sums[a] = term(load(h + i + a * Vec::kLanes), sums[a]);
  }
  for (; i + Vec::kLanes <= hidden; i += Vec::kLanes) sums[0] = term(load(h + i), sums[0]);
  float sum = reduce_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < hidden; ++i) sum += scalar_term(to_float(h[i]));
  return sum;
}

/// residual += x, rounded to the model dtype.
template <typename T>
FS_INLINE void add_row(T* residual, const T* x, std::int64_t hidden) {
  std::int64_t i = 0;
  for (; i + Vec::kLanes <= hidden; i += Vec::kLanes) store(residual + i, load(residual + i) + load(x + i));
  for (; i < hidden; ++i) residual[i] = from_float<T>(to_float(residual[i]) + to_float(x[i]));
}

template <typename T>
struct RmsNorm {
  static FS_INLINE void row(const NormParams& p, T* out, const T* h) {
    const T* weight = static_cast<const T*>(p.weight);
    const float squares =
        sum_row(h, p.hidden, [](Vec v, Vec sum) { return fma(v, v, sum); }, [](float v) { return v * v; });
    const float scale = 1.0f / __builtin_sqrtf(squares / static_cast<float>(p.hidden) + p.eps);
    std::int64_t i = 0;
    for (; i + Vec::kLanes <= p.hidden; i += Vec::kLanes) store(out + i, load(h + i) * set1(scale) * load(weight + i));
    for (; i < p.hidden; ++i) out[i] = from_float<T>(to_float(h[i]) * scale * to_float(weight[i]));
  }
};

template <typename T>
struct LayerNorm {
  static FS_INLINE void row(const NormParams& p, T* out, const T* h) {
    const T* weight = static_cast<const T*>(p.weight);
    const T* bias = static_cast<const T*>(p.bias);
    const float count = static_cast<float>(p.hidden);
    const float mean = sum_row(h, p.hidden, [](Vec v, Vec sum) { return sum + v; }, [](float v) { return v; }) / count;
    const auto square = [mean](Vec v, Vec sum) { return fma(v - set1(mean), v - set1(mean), sum); };
    const float squares = sum_row(h, p.hidden, square, [mean](float v) { return (v - mean) * (v - mean); });
    const float scale = 1.0f / __builtin_sqrtf(squares / count + p.eps);
    std::int64_t i = 0;
    for (; i + Vec::kLanes <= p.hidden; i += Vec::kLanes) {
      store(out + i, (load(h + i) - set1(mean)) * set1(scale) * load(weight + i) + load(bias + i));
    }
    for (; i < p.hidden; ++i) {
      out[i] = from_float<T>((to_float(h[i]) - mean) * scale * to_float(weight[i]) + to_float(bias[i]));
    }
  }
};

template <typename T, template <typename> typename Norm>
void run_rows(void* context, std::int64_t begin, std::int64_t end) {
  const NormParams& p = *static_cast<const NormParams*>(context);
  for (std::int64_t t = begin; t < end; ++t) {
    const T* h = static_cast<const T*>(p.x) + t * p.x_stride;
    if (p.residual != nullptr) {
      T* residual = static_cast<T*>(p.residual) + t * p.residual_stride;
      add_row(residual, h, p.hidden);
      h = residual;
    }
    Norm<T>::row(p, static_cast<T*>(p.out) + t * p.out_stride, h);
  }
}

template <template <typename> typename Norm>
void run(NormParams params, ThreadPool& pool) {
  ParallelTask task = run_rows<float, Norm>;
  if (params.dtype == DType::kBFloat16) task = run_rows<BFloat16, Norm>;
  if (params.dtype == DType::kFloat16) task = run_rows<Float16, Norm>;
  parallel_run(pool, params.num_tokens, ceil_div(kElementsPerChunk, max_of(params.hidden, 1)), task, &params);
}

}  // namespace

void rms_norm(const NormParams& params, ThreadPool& pool) { run<RmsNorm>(params, pool); }
void layer_norm(const NormParams& params, ThreadPool& pool) { run<LayerNorm>(params, pool); }

}  // namespace fastserve::kernels::FS_ISA
