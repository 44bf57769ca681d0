#include "kernels/dense/rope_kv_write.h"
#include "kernels/parallel.h"
#include "kernels/simd.h"

// One token at a time; a head is read into fp32 on the stack, normalised, rotated and rounded once on its way out.
namespace fastserve::kernels::FS_ISA {
namespace {

constexpr std::int64_t kElementsPerChunk = 16 * 1024;  // a few microseconds: less is not worth another thread

struct Head {
  alignas(64) float x[kMaxHeadDim];
};

template <typename T>
FS_INLINE void load_head(Head& head, const T* x, std::int64_t size) {
  std::int64_t i = 0;
  for (; i + Vec::kLanes <= size; i += Vec::kLanes) store(head.x + i, load(x + i));
  for (; i < size; ++i) head.x[i] = to_float(x[i]);
}

template <typename T>
FS_INLINE void store_head(T* out, const Head& head, std::int64_t size) {
  std::int64_t i = 0;
  for (; i + Vec::kLanes <= size; i += Vec::kLanes) store(out + i, load(head.x + i));
  for (; i < size; ++i) out[i] = from_float<T>(head.x[i]);
}

template <typename T>
FS_INLINE void normalise(Head& head, const T* weight, std::int64_t size, float eps) {
  Vec squares = set1(0.0f);
  std::int64_t i = 0;
  for (; i + Vec::kLanes <= size; i += Vec::kLanes) squares = fma(load(head.x + i), load(head.x + i), squares);
  float sum = reduce_sum(squares);
  for (; i < size; ++i) sum += head.x[i] * head.x[i];
  const float scale = 1.0f / __builtin_sqrtf(sum / static_cast<float>(size) + eps);
  for (i = 0; i + Vec::kLanes <= size; i += Vec::kLanes) {
    store(head.x + i, load(head.x + i) * set1(scale) * load(weight + i));
  }
  for (; i < size; ++i) head.x[i] = head.x[i] * scale * to_float(weight[i]);
}

/// Pairs (i, i + half).
FS_INLINE void rotate_halves(float* x, const float* cos, const float* sin, std::int64_t half) {
  std::int64_t i = 0;
  for (; i + Vec::kLanes <= half; i += Vec::kLanes) {
    const Vec a = load(x + i);
    const Vec b = load(x + half + i);
    store(x + i, a * load(cos + i) - b * load(sin + i));
    store(x + half + i, b * load(cos + i) + a * load(sin + i));
  }
  for (; i < half; ++i) {
    const float a = x[i];
    const float b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

/// Pairs (2i, 2i + 1).
FS_INLINE void rotate_pairs(float* x, const float* cos, const float* sin, std::int64_t half) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

/// out = rotate(norm(x)) for one head; out may be x.
template <typename T>
void rotate_head(const RopeKvWriteParams& p, T* out, const T* x, const void* norm, const float* cos) {
  Head head;
  load_head(head, x, p.head_dim);
  if (norm != nullptr) normalise(head, static_cast<const T*>(norm), p.head_dim, p.norm_eps);
  const std::int64_t half = p.rot_dim / 2;
  if (p.interleaved) {
    rotate_pairs(head.x, cos, cos + half, half);
  } else {
    rotate_halves(head.x, cos, cos + half, half);
  }
  store_head(out, head, p.head_dim);
}

template <typename T>
void write_kv(const RopeKvWriteParams& p, std::int64_t t, const float* cos) {
  const std::int64_t slot = p.slots[t];
  if (slot < 0) return;
  const std::int64_t head_size = p.block_size * p.head_dim;
  const std::int64_t plane = (slot / p.block_size * p.num_layers + p.layer) * 2;  // of K; V is the next one
  T* k_out = static_cast<T*>(p.kv_cache) + plane * p.num_kv_heads * head_size + slot % p.block_size * p.head_dim;
  T* v_out = k_out + p.num_kv_heads * head_size;
  const T* k = static_cast<const T*>(p.k) + t * p.k_stride;
  const T* v = static_cast<const T*>(p.v) + t * p.v_stride;
  for (std::int64_t h = 0; h < p.num_kv_heads; ++h) {
    rotate_head(p, k_out + h * head_size, k + h * p.head_dim, p.k_norm, cos);
    __builtin_memcpy(v_out + h * head_size, v + h * p.head_dim, static_cast<std::size_t>(p.head_dim) * sizeof(T));
  }
}

template <typename T>
void run_tokens(void* context, std::int64_t begin, std::int64_t end) {
  const RopeKvWriteParams& p = *static_cast<const RopeKvWriteParams*>(context);
  const bool changes_q = p.rot_dim > 0 || p.q_norm != nullptr;
  for (std::int64_t t = begin; t < end; ++t) {
    const float* cos = p.rot_dim == 0 ? nullptr : p.cos_sin + p.positions[t] * p.cos_sin_stride;
    T* q = static_cast<T*>(p.q) + t * p.q_stride;
    for (std::int64_t h = 0; changes_q && h < p.num_q_heads; ++h) {
      rotate_head(p, q + h * p.head_dim, q + h * p.head_dim, p.q_norm, cos);
    }
    write_kv<T>(p, t, cos);
  }
}

}  // namespace

void rope_kv_write(const RopeKvWriteParams& params, ThreadPool& pool) {
  ParallelTask task = run_tokens<float>;
  if (params.dtype == DType::kBFloat16) task = run_tokens<BFloat16>;
  if (params.dtype == DType::kFloat16) task = run_tokens<Float16>;
  RopeKvWriteParams context = params;
  const std::int64_t token_size = (params.num_q_heads + 2 * params.num_kv_heads) * params.head_dim;
  parallel_run(pool, params.num_tokens, ceil_div(kElementsPerChunk, max_of(token_size, 1)), task, &context);
}

}  // namespace fastserve::kernels::FS_ISA
