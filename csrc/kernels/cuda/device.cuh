#pragma once

// The device side that the CUDA kernels share: conversions, vectors of 16 bytes, sums in a fixed order.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#define FS_DEVICE __device__ __forceinline__

namespace fastserve::kernels::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

FS_DEVICE float to_float(float x) { return x; }
FS_DEVICE float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
FS_DEVICE float to_float(__half x) { return __half2float(x); }

/// Rounds to nearest even.
template <typename T>
FS_DEVICE T from_float(float x);
template <>
FS_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
FS_DEVICE __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
FS_DEVICE __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

/// Elements of T in 16 bytes.
template <typename T>
constexpr int kVectorSize = 16 / static_cast<int>(sizeof(T));

FS_DEVICE void unpack_word(std::uint32_t word, __nv_bfloat16, float* x) {
  x[0] = __uint_as_float(word << 16);
  x[1] = __uint_as_float(word & 0xffff0000u);
}
FS_DEVICE void unpack_word(std::uint32_t word, __half, float* x) {
  x[0] = __half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xffffu)));
  x[1] = __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
}
FS_DEVICE void unpack_word(std::uint32_t word, float, float* x) { x[0] = __uint_as_float(word); }

FS_DEVICE std::uint32_t pack_word(const float* x, __nv_bfloat16) {
  const std::uint32_t low = __bfloat16_as_ushort(__float2bfloat16_rn(x[0]));
  const std::uint32_t high = __bfloat16_as_ushort(__float2bfloat16_rn(x[1]));
  return low | high << 16;
}
FS_DEVICE std::uint32_t pack_word(const float* x, __half) {
  const std::uint32_t low = __half_as_ushort(__float2half_rn(x[0]));
  const std::uint32_t high = __half_as_ushort(__float2half_rn(x[1]));
  return low | high << 16;
}
FS_DEVICE std::uint32_t pack_word(const float* x, float) { return __float_as_uint(x[0]); }

/// The kVectorSize<T> elements of 16 bytes as floats, and back, each rounded once.
template <typename T>
FS_DEVICE void unpack(uint4 raw, float* x) {
  constexpr int kPerWord = kVectorSize<T> / 4;
  unpack_word(raw.x, T{}, x);
  unpack_word(raw.y, T{}, x + kPerWord);
  unpack_word(raw.z, T{}, x + 2 * kPerWord);
  unpack_word(raw.w, T{}, x + 3 * kPerWord);
}
template <typename T>
FS_DEVICE uint4 pack(const float* x) {
  constexpr int kPerWord = kVectorSize<T> / 4;
  return make_uint4(pack_word(x, T{}), pack_word(x + kPerWord, T{}), pack_word(x + 2 * kPerWord, T{}),
                    pack_word(x + 3 * kPerWord, T{}));
}

/// 16 bytes at `p`, which is aligned to them. load_constant is for memory that nothing writes during the kernel.
FS_DEVICE uint4 load_vector(const void* p) { return *static_cast<const uint4*>(p); }
FS_DEVICE uint4 load_constant(const void* p) { return __ldg(static_cast<const uint4*>(p)); }
FS_DEVICE void store_vector(void* p, uint4 raw) { *static_cast<uint4*>(p) = raw; }

/// kSize elements as floats: one vector of 16 bytes, or a single element for what is not aligned.
template <typename T, int kSize>
FS_DEVICE void load_floats(const T* p, float* x) {
  static_assert(kSize == 1 || kSize == kVectorSize<T>);
  if constexpr (kSize == 1) {
    x[0] = to_float(*p);
  } else {
    unpack<T>(load_vector(p), x);
  }
}
template <typename T, int kSize>
FS_DEVICE void store_floats(T* p, const float* x) {
  static_assert(kSize == 1 || kSize == kVectorSize<T>);
  if constexpr (kSize == 1) {
    *p = from_float<T>(x[0]);
  } else {
    store_vector(p, pack<T>(x));
  }
}

/// Sum over the groups of `kWidth` neighbouring lanes, in all of them; the order is that of a tree, so the bits are the
/// same every time. All lanes of the warp must take part.
template <int kWidth = kWarp, typename T>
FS_DEVICE T warp_sum(T x) {
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

FS_DEVICE float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

/// Sum over the CTA, in all threads, in a fixed order. `partials` is shared memory for a value per warp, at most 32; it
/// may be used again after a __syncthreads() that follows. The number of threads is a multiple of 32.
template <typename T>
FS_DEVICE T block_sum(T x, T* partials) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  x = warp_sum(x);
  if (lane == 0) partials[threadIdx.x / kWarp] = x;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / kWarp ? partials[lane] : T{0});
}

/// Largest value over the CTA, in all threads; as block_sum. Values are not NaN.
FS_DEVICE float block_max(float x, float* partials) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  x = warp_max(x);
  if (lane == 0) partials[threadIdx.x / kWarp] = x;
  __syncthreads();
  return warp_max(lane < static_cast<int>(blockDim.x) / kWarp ? partials[lane] : -INFINITY);
}

}  // namespace fastserve::kernels::cuda
