// Paged attention in the plainest way; see attention_naive.cuh for the thread mapping; no shared memory.

#include "kernels/attention/attention_naive.cuh"
#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/launch.cuh"

namespace fastserve::kernels {
namespace {

using namespace cuda;

template <DType kType>
__global__ void __launch_bounds__(kNaiveThreads) naive_kernel(const __grid_constant__ AttentionLaunch launch) {
  AttentionNaive<kType>::run(launch);
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
