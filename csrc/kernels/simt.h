#pragma once

#include <cstdint>

// What a header needs that the compilers of the host and of the GPU both read.

#ifdef __CUDACC__
#define FS_DEVICE __device__ __forceinline__
#define FS_HOST_DEVICE __host__ __device__
#define FS_UNROLL _Pragma("unroll")
#define FS_UNROLL_BY_4 _Pragma("unroll 4")
#define FS_UNROLL_BY_8 _Pragma("unroll 8")
#else
#define FS_DEVICE inline
#define FS_HOST_DEVICE
#define FS_UNROLL
#define FS_UNROLL_BY_4
#define FS_UNROLL_BY_8
#endif

namespace fastserve::kernels {

// What one load or store instruction moves.
struct alignas(8) Float2 {
  float x, y;
};
struct alignas(8) Word2 {
  std::uint32_t x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};
struct alignas(16) Word4 {
  std::uint32_t x, y, z, w;
};

}  // namespace fastserve::kernels
