#pragma once

// A small emulator of CUDA on the CPU, for machines without a GPU: it runs the sources of our kernels, compiled as C++,
// so that their index arithmetic, tails and synchronisation are tested. It knows nothing of time, caches or memory
// order.
//
// The threads of a CTA are fibers that switch at __syncthreads and at warp exchanges only, in an order that a test may
// turn around: a missing barrier then shows as a wrong result. CTAs run one after the other, so `__shared__` is
// `static`. A barrier that some threads never reach throws std::logic_error.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cuda_emulation {

/// In which order the threads of a CTA run between two barriers.
enum class Order { kForward, kBackward, kShuffled };
void set_order(Order order);

/// Run `thread` for every thread of every CTA.
void run(dim3 grid, dim3 block, const std::function<void()>& thread);

void sync_block();
/// Hand in 8 bytes and see those of the other lanes of the warp; all lanes that have not returned must take part.
const std::uint64_t* exchange(std::uint64_t value);

template <typename T>
T from_lane(T value, unsigned lane) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t) && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const std::uint64_t* lanes = exchange(bits);
  std::memcpy(&value, &lanes[lane], sizeof(T));
  return value;
}
unsigned lane();

}  // namespace cuda_emulation

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { cuda_emulation::sync_block(); }
inline void __syncwarp(unsigned = ~0u) { cuda_emulation::exchange(0); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  return cuda_emulation::from_lane(value, cuda_emulation::lane() ^ static_cast<unsigned>(offset));
}
template <typename T>
T __shfl_sync(unsigned, T value, int source) {
  return cuda_emulation::from_lane(value, static_cast<unsigned>(source) % 32);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned offset) {
  const unsigned lane = cuda_emulation::lane();
  return cuda_emulation::from_lane(value, lane >= offset ? lane - offset : lane);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  const std::uint64_t* votes = cuda_emulation::exchange(vote);
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; ++i) bits |= static_cast<unsigned>(votes[i] & 1) << i;
  return bits;
}

template <typename T>
T __ldg(const T* p) {
  return *p;
}
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
__extension__ typedef unsigned __int128 WideInteger;
inline std::uint64_t __umul64hi(std::uint64_t a, std::uint64_t b) {
  return static_cast<std::uint64_t>(static_cast<WideInteger>(a) * b >> 64);
}
inline int __ffs(int bits) { return bits == 0 ? 0 : std::countr_zero(static_cast<unsigned>(bits)) + 1; }
inline int __popc(unsigned bits) { return std::popcount(bits); }
using std::max;
using std::min;

template <typename T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  const T before = *p;
  *p += value;
  return before;
}
template <typename T>
T atomicExch(T* p, std::type_identity_t<T> value) {
  const T before = *p;
  *p = value;
  return before;
}
template <typename T>
T atomicOr(T* p, std::type_identity_t<T> value) {
  const T before = *p;
  *p |= value;
  return before;
}
template <typename T>
T atomicMin(T* p, std::type_identity_t<T> value) {
  const T before = *p;
  *p = std::min(before, value);
  return before;
}
template <typename T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  const T before = *p;
  *p = std::max(before, value);
  return before;
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
struct cudaPointerAttributes {
  cudaMemoryType type;
  void* devicePointer;
};
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorName(cudaError_t) { return "emulated"; }
inline const char* cudaGetErrorString(cudaError_t) { return "refused by the emulator"; }
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  *attributes = {cudaMemoryTypeHost, const_cast<void*>(pointer)};
  return cudaSuccess;
}
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};
template <typename... Params, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Arguments&&... arguments) {
  const unsigned threads = config->blockDim.x * config->blockDim.y * config->blockDim.z;
  if (threads == 0 || threads > 1024 || config->gridDim.y > 65535 || config->gridDim.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  cuda_emulation::run(config->gridDim, config->blockDim, [&] { kernel(Params(arguments)...); });
  return cudaSuccess;
}
