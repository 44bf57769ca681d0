// Copy whole KV blocks within the memory of one GPU. Compiled for sm_80 and sm_90a; it has never run on a GPU.
//
// Thread mapping: grid (pieces of a block, copies of the launch), 256 threads, each thread 8 vectors of 16 bytes, one
// thread block apart, so a CTA moves 32 KiB; all loads are issued before the first store. No shared memory. Block ids
// travel in the kernel's parameters (at most kMaxCopies pairs a launch), so nothing is allocated and nothing waits.

#include <cuda_runtime_api.h>

#include <algorithm>

#include "base/error.h"
#include "kernels/copy_blocks.h"

namespace fastserve::kernels {
namespace {

constexpr int kMaxCopies = 480;  // 8 bytes each: with the pointers below the 4 KiB that every launch may pass
constexpr int kThreads = 256;
constexpr int kVectorsPerThread = 8;

struct Launch {
  const char* src;
  char* dst;
  std::int64_t block_bytes;
  std::int32_t src_ids[kMaxCopies];
  std::int32_t dst_ids[kMaxCopies];
};
static_assert(sizeof(Launch) <= 4096);

/// Copy one block in units of Unit; block_bytes is a multiple of it.
template <typename Unit>
__global__ void __launch_bounds__(kThreads) copy_kernel(const __grid_constant__ Launch launch) {
  const std::int64_t num_units = launch.block_bytes / static_cast<std::int64_t>(sizeof(Unit));
  const auto* src = reinterpret_cast<const Unit*>(launch.src + launch.src_ids[blockIdx.y] * launch.block_bytes);
  auto* dst = reinterpret_cast<Unit*>(launch.dst + launch.dst_ids[blockIdx.y] * launch.block_bytes);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kVectorsPerThread) + threadIdx.x;
  Unit units[kVectorsPerThread];
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; ++i) {
    if (first + i * kThreads < num_units) units[i] = src[first + i * kThreads];
  }
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; ++i) {
    if (first + i * kThreads < num_units) dst[first + i * kThreads] = units[i];
  }
}

template <typename Unit>
void launch_copies(const CopyBlocksParams& params, cudaStream_t stream) {
  const std::int64_t units_per_cta = kThreads * kVectorsPerThread;
  const std::int64_t num_units = params.block_bytes / static_cast<std::int64_t>(sizeof(Unit));
  const auto pieces = static_cast<unsigned>((num_units + units_per_cta - 1) / units_per_cta);
  for (std::int64_t first = 0; first < params.num_copies; first += kMaxCopies) {
    const std::int64_t count = std::min<std::int64_t>(kMaxCopies, params.num_copies - first);
    Launch launch{params.src, params.dst, params.block_bytes, {}, {}};
    std::copy_n(params.src_ids + first, count, launch.src_ids);
    std::copy_n(params.dst_ids + first, count, launch.dst_ids);
    copy_kernel<Unit><<<dim3(pieces, static_cast<unsigned>(count)), kThreads, 0, stream>>>(launch);
    const cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess) {
      detail::raise<DeviceError>(__FILE__, ":", __LINE__,
                                 ": launch of copy_blocks failed: ", cudaGetErrorString(status));
    }
  }
}

}  // namespace

void copy_blocks_cuda(const CopyBlocksParams& params, void* stream) {
  auto* const cuda_stream = static_cast<cudaStream_t>(stream);
  const auto alignment = reinterpret_cast<std::uintptr_t>(params.src) | reinterpret_cast<std::uintptr_t>(params.dst) |
                         static_cast<std::uintptr_t>(params.block_bytes);
  if (alignment % sizeof(uint4) == 0) {
    launch_copies<uint4>(params, cuda_stream);
  } else {
    launch_copies<char>(params, cuda_stream);
  }
}

}  // namespace fastserve::kernels
