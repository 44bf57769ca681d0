// Copy of small pieces between page-locked host memory and the memory of one GPU. Compiled for sm_80 and sm_90a; never
// run on a GPU.
//
// Thread mapping: up to 2 thread blocks of 32 warps; a warp takes a fragment at a time and each lane 4 vectors of 16
// bytes, one warp width apart: 128 KiB in flight over the whole grid, enough for the latency of a PCIe 5 link. All
// loads are issued before the first store. No shared memory.

#include <cuda_runtime.h>

#include "base/cuda_check.h"
#include "offload/cuda/fragment_copy.h"

namespace fastserve::offload {
namespace {

constexpr int kWarpLanes = 32;
constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int kMostThreadBlocks = 2;
constexpr int kVectorsPerLane = 4;

/// Copy num_units units of one fragment with the lanes of a warp.
template <typename Unit>
__device__ void copy_units(Unit* target, const Unit* source, std::int64_t num_units, int lane) {
  constexpr std::int64_t kStep = kWarpLanes * kVectorsPerLane;
  for (std::int64_t base = lane; base < num_units; base += kStep) {
    Unit units[kVectorsPerLane] = {};
#pragma unroll
    for (int i = 0; i < kVectorsPerLane; ++i) {
      if (base + i * kWarpLanes < num_units) units[i] = source[base + i * kWarpLanes];
    }
#pragma unroll
    for (int i = 0; i < kVectorsPerLane; ++i) {
      if (base + i * kWarpLanes < num_units) target[base + i * kWarpLanes] = units[i];
    }
  }
}

__global__ void __launch_bounds__(kThreads) fragment_copy_kernel(const __grid_constant__ FragmentList list) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int first = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarpLanes;
  const int stride = static_cast<int>(gridDim.x) * kWarps;
  for (int index = first; index < list.count; index += stride) {
    const Fragment& fragment = list.fragments[index];
    const auto alignment = reinterpret_cast<std::uintptr_t>(fragment.target) |
                           reinterpret_cast<std::uintptr_t>(fragment.source) |
                           static_cast<std::uintptr_t>(fragment.num_bytes);
    if (alignment % sizeof(uint4) == 0) {
      copy_units(reinterpret_cast<uint4*>(fragment.target), reinterpret_cast<const uint4*>(fragment.source),
                 fragment.num_bytes / static_cast<std::int64_t>(sizeof(uint4)), lane);
    } else {
      copy_units(reinterpret_cast<char*>(fragment.target), reinterpret_cast<const char*>(fragment.source),
                 fragment.num_bytes, lane);
    }
  }
}

}  // namespace

void launch_fragment_copy(const FragmentList& list, cudaStream_t stream) {
  if (list.count == 0) return;
  const int thread_blocks = list.count <= kWarps ? 1 : kMostThreadBlocks;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(thread_blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  FS_CUDA(cudaLaunchKernelEx(&config, fragment_copy_kernel, list));
}

}  // namespace fastserve::offload
