// Kernels of the smoke test itself: numbers to look for in memory of the host, and thread blocks that count one another.

#include <cuda_runtime.h>

#include <cstddef>

#include "base/cuda_check.h"
#include "probe_kernels.h"

namespace fastserve::smoke {
namespace {

constexpr int kThreads = 128;

/// A thread per number; no shared memory.
__global__ void numbers_kernel(std::int32_t* target, int count, std::int32_t seed) {
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i < count) target[i] = 3 * i + seed;
}

__device__ std::uint64_t now_ns() {
  std::uint64_t time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
  return time;
}

/// The first thread of each thread block counts; dynamic shared memory is only occupied.
__global__ void gathering_kernel(std::uint32_t* arrived, std::uint32_t* seen, std::uint64_t patience_ns) {
  if (threadIdx.x != 0) return;
  const std::uint64_t begin = now_ns();
  std::uint32_t count = atomicAdd(arrived, 1u) + 1;
  while (count < gridDim.x && now_ns() - begin < patience_ns) count = atomicAdd(arrived, 0u);
  seen[blockIdx.x] = count;
}

template <typename... Params>
void launch(void (*kernel)(Params...), int ctas, int threads, int shared_bytes, cudaStream_t stream,
            Params... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(ctas));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  FS_CUDA(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace

void launch_numbers(std::int32_t* target, int count, std::int32_t seed, cudaStream_t stream) {
  launch(numbers_kernel, (count + kThreads - 1) / kThreads, kThreads, 0, stream, target, count, seed);
}

void launch_gathering(std::uint32_t* arrived, std::uint32_t* seen, int ctas, int threads, int shared_bytes,
                      int carveout, std::uint64_t patience_ns, cudaStream_t stream) {
  FS_CUDA(cudaFuncSetAttribute(gathering_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  FS_CUDA(cudaFuncSetAttribute(gathering_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, carveout));
  launch(gathering_kernel, ctas, threads, shared_bytes, stream, arrived, seen, patience_ns);
}

}  // namespace fastserve::smoke
