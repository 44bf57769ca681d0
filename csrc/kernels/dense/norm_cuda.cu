// RMSNorm and LayerNorm of rows, with the residual added.
//
// Thread mapping: one CTA per row. Where a row is aligned, each thread holds 1, 2 or 4 vectors of 16 bytes of it in
// registers, so that each byte moves once. Other rows are read again after the sum,
// from the cache. The shape of the CTA follows from the size of a row alone, so a row has the same bits in every batch.
// Shared memory: 256 bytes, a partial sum per warp, twice.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/dense/norm.h"

namespace fastserve::kernels {
namespace {

using namespace cuda;

constexpr int kStreamThreads = 256;
constexpr int kFewThreads = 256;  // of rows up to 512 vectors
constexpr int kMaxThreads = 1024;

/// What turns a value of the row into its normalised one.
struct Moments {
  float mean;   // 0 for RMSNorm
  float scale;  // 1 / sqrt(mean square or variance + eps)
};

template <bool kLayerNorm>
FS_DEVICE float normalise(float h, Moments moments, float weight, float bias) {
  if constexpr (kLayerNorm) return (h - moments.mean) * moments.scale * weight + bias;
  return h * moments.scale * weight;
}

/// sum_of(term) is the CTA's sum of term(h) over the row.
template <bool kLayerNorm, typename SumOf>
FS_DEVICE Moments moments_of(const NormParams& p, SumOf sum_of, float (&partials)[2][kWarp]) {
  const float count = static_cast<float>(p.hidden);
  float mean = 0.0f;
  if constexpr (kLayerNorm) mean = block_sum(sum_of([](float h) { return h; }), partials[0]) / count;
  const float squares = block_sum(sum_of([mean](float h) { return (h - mean) * (h - mean); }), partials[1]);
  return {mean, 1.0f / sqrtf(squares / count + p.eps)};
}

/// The sums of two vectors of T, each rounded once.
template <typename T>
FS_DEVICE uint4 add(uint4 a, uint4 b) {
  float x[kVectorSize<T>], y[kVectorSize<T>];
  unpack<T>(a, x);
  unpack<T>(b, y);
#pragma unroll
  for (int i = 0; i < kVectorSize<T>; ++i) x[i] += y[i];
  return pack<T>(x);
}

template <typename T, bool kLayerNorm, int kVectors>
__global__ void __launch_bounds__(kVectors == 4 ? kMaxThreads : kFewThreads) held_row_kernel(NormParams p) {
  constexpr int kSize = kVectorSize<T>;
  constexpr bool kEarlyWeights = kVectors < 4;  // wider rows would not leave the registers for them
  __shared__ float partials[2][kWarp];
  const std::int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  T* residual = p.residual == nullptr ? nullptr : static_cast<T*>(p.residual) + row * p.residual_stride;
  T* out = static_cast<T*>(p.out) + row * p.out_stride;
  const T* weight = static_cast<const T*>(p.weight);
  const T* bias = static_cast<const T*>(p.bias);
  const auto num_vectors = static_cast<int>(p.hidden / kSize);
  const auto index_of = [](int v) { return static_cast<int>(threadIdx.x + static_cast<unsigned>(v) * blockDim.x); };

  const uint4 zeros = make_uint4(0, 0, 0, 0);
  uint4 h[kVectors], addend[kVectors], weights[kVectors], biases[kVectors];  // h rounded to T loses nothing in 16 bytes
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int index = index_of(v);
    h[v] = addend[v] = weights[v] = biases[v] = zeros;
    if (index >= num_vectors) continue;
    h[v] = load_vector(x + index * kSize);
    if (residual != nullptr) addend[v] = load_vector(residual + index * kSize);
    if constexpr (kEarlyWeights) {
      weights[v] = load_constant(weight + index * kSize);
      if constexpr (kLayerNorm) biases[v] = load_constant(bias + index * kSize);
    }
  }
  if (residual != nullptr) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      h[v] = add<T>(h[v], addend[v]);
      if (index_of(v) < num_vectors) store_vector(residual + index_of(v) * kSize, h[v]);
    }
  }

  const auto sum_of = [&](auto term) {
    float sum = 0.0f;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (index_of(v) >= num_vectors) continue;
      float values[kSize];
      unpack<T>(h[v], values);
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum += term(values[i]);
    }
    return sum;
  };
  const Moments moments = moments_of<kLayerNorm>(p, sum_of, partials);

#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int index = index_of(v);
    if (index >= num_vectors) continue;
    if constexpr (!kEarlyWeights) {
      weights[v] = load_constant(weight + index * kSize);
      if constexpr (kLayerNorm) biases[v] = load_constant(bias + index * kSize);
    }
    float values[kSize], scales[kSize], shifts[kSize];
    unpack<T>(h[v], values);
    unpack<T>(weights[v], scales);
    unpack<T>(biases[v], shifts);
#pragma unroll
    for (int i = 0; i < kSize; ++i) values[i] = normalise<kLayerNorm>(values[i], moments, scales[i], shifts[i]);
    store_vector(out + index * kSize, pack<T>(values));
  }
}

/// Any size and alignment: the row is read once for each sum and once for the result, by the same thread each time.
template <typename T, bool kLayerNorm>
__global__ void __launch_bounds__(kStreamThreads) streamed_row_kernel(NormParams p) {
  __shared__ float partials[2][kWarp];
  const std::int64_t row = blockIdx.x;
  const T* h = static_cast<const T*>(p.x) + row * p.x_stride;
  const T* weight = static_cast<const T*>(p.weight);
  const T* bias = static_cast<const T*>(p.bias);
  T* out = static_cast<T*>(p.out) + row * p.out_stride;
  if (p.residual != nullptr) {
    T* residual = static_cast<T*>(p.residual) + row * p.residual_stride;
    for (std::int64_t i = threadIdx.x; i < p.hidden; i += kStreamThreads) {
      residual[i] = from_float<T>(to_float(residual[i]) + to_float(h[i]));
    }
    h = residual;
  }
  const auto sum_of = [&](auto term) {
    float sum = 0.0f;
    for (std::int64_t i = threadIdx.x; i < p.hidden; i += kStreamThreads) sum += term(to_float(h[i]));
    return sum;
  };
  const Moments moments = moments_of<kLayerNorm>(p, sum_of, partials);
  for (std::int64_t i = threadIdx.x; i < p.hidden; i += kStreamThreads) {
    const float shift = kLayerNorm ? to_float(bias[i]) : 0.0f;
    out[i] = from_float<T>(normalise<kLayerNorm>(to_float(h[i]), moments, to_float(weight[i]), shift));
  }
}

template <typename T, bool kLayerNorm, int kVectors>
void launch_held(Site site, const NormParams& p, std::int64_t num_vectors, void* stream) {
  const unsigned threads = ceil_div(ceil_div(num_vectors, kVectors), kWarp) * kWarp;
  launch(site, held_row_kernel<T, kLayerNorm, kVectors>, dim3(static_cast<unsigned>(p.num_tokens)), threads, stream, p);
}

template <typename T, bool kLayerNorm>
void launch_norm(Site site, const NormParams& p, void* stream) {
  constexpr int kSize = kVectorSize<T>;
  const std::int64_t num_vectors = p.hidden / kSize;
  const bool whole = aligned({p.out, p.x, p.residual, p.weight, p.bias}) &&
                     multiples(kSize, {p.hidden, p.out_stride, p.x_stride, p.residual_stride});
  if (!whole || num_vectors > 4 * kMaxThreads) {
    launch(site, streamed_row_kernel<T, kLayerNorm>, dim3(static_cast<unsigned>(p.num_tokens)), kStreamThreads, stream,
           p);
  } else if (num_vectors <= kFewThreads) {
    launch_held<T, kLayerNorm, 1>(site, p, num_vectors, stream);
  } else if (num_vectors <= 2 * kFewThreads) {
    launch_held<T, kLayerNorm, 2>(site, p, num_vectors, stream);
  } else {
    launch_held<T, kLayerNorm, 4>(site, p, num_vectors, stream);
  }
}

}  // namespace

void rms_norm_cuda(const NormParams& params, void* stream) {
  if (params.hidden == 0) return;
  with_model_type(params.dtype,
                  [&](auto zero) { launch_norm<decltype(zero), false>(FS_SITE("rms_norm"), params, stream); });
}

void layer_norm_cuda(const NormParams& params, void* stream) {
  if (params.hidden == 0) return;
  with_model_type(params.dtype,
                  [&](auto zero) { launch_norm<decltype(zero), true>(FS_SITE("layer_norm"), params, stream); });
}

}  // namespace fastserve::kernels
