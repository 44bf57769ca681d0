// Rotary embedding of q in place and of k on its way into the KV cache, with v.
//
// Thread mapping: grid (tokens, pieces of a token's heads), 128 threads. The heads of a token are its query heads, its
// key heads and its value heads, in this order. Where the whole head rotates in halves and everything is aligned, a
// head is the work of a group of kLanes = head_dim / 2 / (elements in 16 bytes) lanes, each of which holds one vector
// of the first half and the vector of the second half that it is paired with; otherwise a warp takes a head, pair by
// pair. A pair is read and written by the same lane, so q may change in place. No shared memory.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/dense/rope_kv_write.h"

namespace fastserve::kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 128;

enum class Part : std::uint8_t { kQuery, kKey, kValue, kNone };

/// One head of a token: where it is read, where it goes (null: nowhere), the weights of its norm (null: none).
template <typename T>
struct Head {
  Part part = Part::kNone;
  const T* in = nullptr;
  T* out = nullptr;
  const T* norm = nullptr;
};

/// Where head `head` of `token`'s K (kind 0) or V (kind 1) goes; null when its slot is no slot.
template <typename T>
FS_DEVICE T* cache_row(const RopeKvWriteParams& p, std::int64_t token, std::int64_t kind, std::int64_t head) {
  const std::int64_t slot = p.slots[token];
  if (slot < 0 || slot >= p.num_slots) return nullptr;
  std::int64_t block = 0;
  if (slot <= 0xffffffffll && p.block_size <= 0xffffffffll) {  // a division of 64 bits takes several times longer
    block = static_cast<std::uint32_t>(slot) / static_cast<std::uint32_t>(p.block_size);
  } else {
    block = slot / p.block_size;
  }
  const std::int64_t row = slot - block * p.block_size;
  const std::int64_t plane = ((block * p.num_layers + p.layer) * 2 + kind) * p.num_kv_heads + head;
  return static_cast<T*>(p.kv_cache) + (plane * p.block_size + row) * p.head_dim;
}

template <typename T>
FS_DEVICE Head<T> head_of(const RopeKvWriteParams& p, std::int64_t token, std::int64_t index) {
  if (index < p.num_q_heads) {
    T* q = static_cast<T*>(p.q) + token * p.q_stride + index * p.head_dim;
    return {Part::kQuery, q, q, static_cast<const T*>(p.q_norm)};
  }
  index -= p.num_q_heads;
  if (index < p.num_kv_heads) {
    const T* k = static_cast<const T*>(p.k) + token * p.k_stride + index * p.head_dim;
    return {Part::kKey, k, cache_row<T>(p, token, 0, index), static_cast<const T*>(p.k_norm)};
  }
  index -= p.num_kv_heads;
  if (index >= p.num_kv_heads) return {};
  const T* v = static_cast<const T*>(p.v) + token * p.v_stride + index * p.head_dim;
  return {Part::kValue, v, cache_row<T>(p, token, 1, index), nullptr};
}

/// Row of the table for a token; null for a position outside, which makes cosines and sines NaN.
FS_DEVICE const float* table_row(const RopeKvWriteParams& p, std::int64_t token) {
  const std::int64_t position = p.positions[token];
  return position >= 0 && position < p.max_position ? p.cos_sin + position * p.cos_sin_stride : nullptr;
}

template <int kSize>
FS_DEVICE void load_table(const float* row, std::int64_t first, float* x) {
#pragma unroll
  for (int i = 0; i < kSize; i += 4) {
    const float4 four =
        row == nullptr ? make_float4(NAN, NAN, NAN, NAN) : __ldg(reinterpret_cast<const float4*>(row + first + i));
    x[i] = four.x;
    x[i + 1] = four.y;
    x[i + 2] = four.z;
    x[i + 3] = four.w;
  }
}

template <typename T, int kLanes, bool kNorms>
__global__ void __launch_bounds__(kThreads) rope_vector_kernel(RopeKvWriteParams p) {
  constexpr int kSize = kVectorSize<T>;
  constexpr int kHalf = kLanes * kSize;
  constexpr int kHeadsPerCta = kThreads / kLanes;
  const std::int64_t token = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.y) * kHeadsPerCta + threadIdx.x / kLanes;
  const Head<T> head = head_of<T>(p, token, index);

  uint4 first = make_uint4(0, 0, 0, 0);
  uint4 second = first;
  if (head.part != Part::kNone) {
    first = load_vector(head.in + lane * kSize);
    second = load_vector(head.in + kHalf + lane * kSize);
  }
  float a[kSize], b[kSize];
  unpack<T>(first, a);
  unpack<T>(second, b);
  if constexpr (kNorms) {  // all lanes of the warp take part in the sum, whatever their heads are
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kSize; ++i) squares += a[i] * a[i] + b[i] * b[i];
    squares = warp_sum<kLanes>(squares);
    if (head.norm != nullptr) {
      const float scale = 1.0f / sqrtf(squares / static_cast<float>(2 * kHalf) + p.norm_eps);
      float weight[kSize];
      unpack<T>(load_constant(head.norm + lane * kSize), weight);
#pragma unroll
      for (int i = 0; i < kSize; ++i) a[i] = a[i] * scale * weight[i];
      unpack<T>(load_constant(head.norm + kHalf + lane * kSize), weight);
#pragma unroll
      for (int i = 0; i < kSize; ++i) b[i] = b[i] * scale * weight[i];
    }
  }
  if (head.out == nullptr) return;
  if (head.part != Part::kValue) {
    const float* row = table_row(p, token);
    float cos[kSize], sin[kSize];
    load_table<kSize>(row, lane * kSize, cos);
    load_table<kSize>(row, kHalf + lane * kSize, sin);
    float x[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) x[i] = a[i] * cos[i] - b[i] * sin[i];
    first = pack<T>(x);
#pragma unroll
    for (int i = 0; i < kSize; ++i) x[i] = b[i] * cos[i] + a[i] * sin[i];
    second = pack<T>(x);
  }
  store_vector(head.out + lane * kSize, first);
  store_vector(head.out + kHalf + lane * kSize, second);
}

/// Any head size, pairing and alignment: a warp per head. The sum of the norm ends before the first element is written.
template <typename T>
__global__ void __launch_bounds__(kThreads) rope_pair_kernel(RopeKvWriteParams p) {
  const std::int64_t token = blockIdx.x;
  const auto lane = static_cast<std::int64_t>(threadIdx.x) % kWarp;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.y) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const Head<T> head = head_of<T>(p, token, index);
  if (head.out == nullptr) return;  // the same in the whole warp
  if (head.part == Part::kValue) {
    for (std::int64_t i = lane; i < p.head_dim; i += kWarp) head.out[i] = head.in[i];
    return;
  }
  float scale = 1.0f;
  if (head.norm != nullptr) {
    float squares = 0.0f;
    for (std::int64_t i = lane; i < p.head_dim; i += kWarp) squares += to_float(head.in[i]) * to_float(head.in[i]);
    scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(p.head_dim) + p.norm_eps);
  }
  const auto value = [&](std::int64_t i) {
    const float x = to_float(head.in[i]);
    return head.norm == nullptr ? x : x * scale * to_float(head.norm[i]);
  };
  const std::int64_t half = p.rot_dim / 2;
  const float* row = half == 0 ? nullptr : table_row(p, token);
  for (std::int64_t pair = lane; pair < half; pair += kWarp) {
    const std::int64_t i = p.interleaved ? 2 * pair : pair;
    const std::int64_t j = p.interleaved ? 2 * pair + 1 : pair + half;
    const float cos = row == nullptr ? NAN : row[pair];
    const float sin = row == nullptr ? NAN : row[half + pair];
    const float a = value(i);
    const float b = value(j);
    head.out[i] = from_float<T>(a * cos - b * sin);
    head.out[j] = from_float<T>(b * cos + a * sin);
  }
  for (std::int64_t i = p.rot_dim + lane; i < p.head_dim; i += kWarp) head.out[i] = from_float<T>(value(i));
}

template <typename T, int kLanes>
void launch_vectors(const RopeKvWriteParams& p, std::int64_t num_heads, void* stream) {
  const dim3 grid(static_cast<unsigned>(p.num_tokens), ceil_div(num_heads, kThreads / kLanes));
  const bool norms = p.q_norm != nullptr || p.k_norm != nullptr;
  const auto kernel = norms ? rope_vector_kernel<T, kLanes, true> : rope_vector_kernel<T, kLanes, false>;
  launch(FS_SITE("rope_kv_write"), kernel, grid, kThreads, stream, p);
}

template <typename T>
void launch_rope(const RopeKvWriteParams& p, void* stream) {
  constexpr int kSize = kVectorSize<T>;
  const std::int64_t num_heads = p.num_q_heads + 2 * p.num_kv_heads;
  const bool whole = p.rot_dim == p.head_dim && !p.interleaved && p.head_dim % (2 * kSize) == 0 &&
                     aligned({p.q, p.k, p.v, p.kv_cache, p.cos_sin, p.q_norm, p.k_norm}) &&
                     multiples(kSize, {p.q_stride, p.k_stride, p.v_stride}) && p.cos_sin_stride % 4 == 0;
  switch (whole ? p.head_dim / (2 * kSize) : 0) {
    case 4: return launch_vectors<T, 4>(p, num_heads, stream);
    case 8: return launch_vectors<T, 8>(p, num_heads, stream);
    case 16: return launch_vectors<T, 16>(p, num_heads, stream);
    case 32: return launch_vectors<T, 32>(p, num_heads, stream);
    default: {
      const dim3 grid(static_cast<unsigned>(p.num_tokens), ceil_div(num_heads, kThreads / kWarp));
      launch(FS_SITE("rope_kv_write"), rope_pair_kernel<T>, grid, kThreads, stream, p);
    }
  }
}

}  // namespace

void rope_kv_write_cuda(const RopeKvWriteParams& params, void* stream) {
  with_model_type(params.dtype, [&](auto zero) { launch_rope<decltype(zero)>(params, stream); });
}

}  // namespace fastserve::kernels
