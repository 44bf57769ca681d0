#pragma once

#include <cstdint>

// Words for kernel bodies that run on more than one machine. Such a body is a template over a Machine, a type with
// static members only: CudaMachine (cuda/machine.cuh) on a GPU, and an emulator of warps in the C++ tests, which keeps
// to the documented semantics of each instruction and so runs the very same body on a machine without a GPU.
//
//   int thread(), cta(), num_ctas()                 index in the thread block, index and number of thread blocks
//   char* shared()                                  the dynamic shared memory, aligned to 16 bytes
//   void sync(), sync_warp(), fence()               barriers; memory fence for the whole device
//   T shfl(value, lane), shfl_up, shfl_xor          whole warps only
//   bool all(bool)                                  whether it is true in every lane; whole warps only
//   uint32_t fetch_add(uint32_t*, uint32_t)         atomic, on global memory
//   float load_fresh(const float*)                  global load that no stale first-level cache line answers
//   void copy16(void* shared, const void* global, bool wanted)   asynchronous; if not wanted, zeros and nothing is read
//   void commit(), wait<kLeft>()                    end a group of copies; wait until at most kLeft are unfinished
//   void ldmatrix(uint32_t (&out)[4], const void* row), ldmatrix_transposed
//   void mma<kType>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)       m16n8k16
//   uint32_t pack<kType>(float low, float high)     round to 16 bits each
//   float exp2(float)
//   int fresh_lane()                                thread() % 32, read anew: what follows from it is computed where it
//                                                   is used, not ahead of a loop, where it would occupy registers
//   float load<kType>(const void* array, index), void store<kType>(void* array, index, float)     one element

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
