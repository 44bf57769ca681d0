// Paged attention in the plainest way; see attention_naive_gpu.h for the thread mapping; no shared memory. Compiled for
// sm_80 and sm_90a; it has never run on a GPU. It has run as PTX on the machine of tests/cpp/ptx_machine, and
// its body under the emulator of tests/cpp/kernels.

#include "kernels/attention_naive_gpu.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/machine.cuh"

namespace fastserve::kernels {
namespace {

using namespace cuda;

template <DType kType>
__global__ void __launch_bounds__(kNaiveThreads) naive_kernel(const __grid_constant__ AttentionLaunch launch) {
  AttentionNaive<CudaMachine, kType>::run(launch);
}

}  // namespace

void attention_naive_cuda(const AttentionLaunch& launch, void* stream) {
  const AttentionParams& p = launch.params;
  const auto kernel = p.dtype == DType::kFloat32    ? naive_kernel<DType::kFloat32>
                      : p.dtype == DType::kBFloat16 ? naive_kernel<DType::kBFloat16>
                                                    : naive_kernel<DType::kFloat16>;
  const unsigned grid = ceil_div(launch.num_tokens * p.num_q_heads, kNaiveThreads / 32);
  cuda::launch(FS_SITE("attention_naive"), kernel, grid, kNaiveThreads, stream, launch);
}

}  // namespace fastserve::kernels
