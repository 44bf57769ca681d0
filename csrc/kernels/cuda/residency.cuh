#pragma once

// Kernels with dynamic shared memory: what must be set once per device, and how many CTAs run at once.

#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <utility>

#include "base/error.h"
#include "kernels/attention/attention_gpu.h"
#include "kernels/cuda/launch.cuh"

namespace fastserve::kernels::cuda {

/// CTAs of kKernel that the current device runs at once; InvalidArgumentError when it has too little shared memory, before
/// anything is launched. The first call on a device lets the kernel have its shared memory; it must not be made while a
/// graph is captured, so every kernel runs once before.
template <auto kKernel, int kThreads, int kSharedBytes>
int resident_ctas(Site site) {
  static std::array<std::atomic<int>, 64> known{};
  int device = 0;
  check(cudaGetDevice(&device), site, "choice of the device");
  FS_CHECK(device < static_cast<int>(known.size()), "more devices than expected: ", device);
  std::atomic<int>& ctas = known[static_cast<std::size_t>(device)];
  if (const int count = ctas.load(std::memory_order_relaxed); count > 0) return count;
  int most_bytes = 0;
  check(cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), site, "shared memory");
  FS_REQUIRE(kSharedBytes <= most_bytes, site.kernel, " needs ", kSharedBytes,
             " bytes of shared memory at this shape, and the GPU has ", most_bytes, "; use another backend");
  check(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes), site,
        "shared memory");
  int per_sm = 0;
  int num_sms = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kKernel, kThreads, kSharedBytes), site, "occupancy");
  check(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device), site, "number of processors");
  FS_CHECK(per_sm > 0, site.kernel, " does not fit a processor of this GPU");
  ctas.store(per_sm * num_sms, std::memory_order_relaxed);
  return per_sm * num_sms;
}

/// What the compiler made of kKernel, and how much of it the current device runs at once; as resident_ctas.
template <auto kKernel, int kThreads, int kSharedBytes>
KernelResidency residency(Site site) {
  const int ctas = resident_ctas<kKernel, kThreads, kSharedBytes>(site);
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kKernel), site, "attributes");
  return {site.kernel,
          kThreads,
          attributes.numRegs,
          static_cast<int>(attributes.localSizeBytes),
          static_cast<int>(attributes.sharedSizeBytes) + kSharedBytes,
          ctas,
          attributes.binaryVersion};
}

/// Queue kKernel with dynamic shared memory; resident_ctas has been called before on this device.
template <auto kKernel, int kThreads, int kSharedBytes, typename... Arguments>
void launch_with_shared(Site site, unsigned grid, void* stream, Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kKernel, std::forward<Arguments>(arguments)...), site, "launch");
}

}  // namespace fastserve::kernels::cuda
