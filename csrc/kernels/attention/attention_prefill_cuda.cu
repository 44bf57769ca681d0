// Paged prefill attention; see attention_prefill.cuh for thread mapping and shared memory.

#include "kernels/attention/attention_prefill.cuh"
#include "kernels/cuda/attention_dispatch.cuh"
#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/residency.cuh"

namespace fastserve::kernels {
namespace {

using namespace cuda;

template <DType kType, int kHeadDim>
__global__ void __launch_bounds__(32 * prefill_warps(kHeadDim), kHeadDim > 128 ? 1 : 2)
    prefill_kernel(const __grid_constant__ AttentionLaunch launch) {
  AttentionPrefill<kType, kHeadDim>::run(launch);
}

}  // namespace

void attention_prefill_cuda(const AttentionLaunch& launch, void* stream) {
  const AttentionParams& p = launch.params;
  with_attention_shape(p, [&]<DType kType, int kHeadDim>() {
    constexpr auto kKernel = prefill_kernel<kType, kHeadDim>;
    constexpr int kThreads = 32 * prefill_warps(kHeadDim);
    constexpr int kSharedBytes = AttentionPrefill<kType, kHeadDim>::kSharedBytes;
    const Site site = FS_SITE("attention_prefill");
    resident_ctas<kKernel, kThreads, kSharedBytes>(site);
    // The host does not know the rows: every one may end with a tile that is not full.
    const std::int64_t group = p.num_q_heads / p.num_kv_heads;
    const std::int64_t most_tiles = launch.num_tokens * group / kPrefillRows + (p.row_end - p.row_begin);
    launch_with_shared<kKernel, kThreads, kSharedBytes>(site, static_cast<unsigned>(most_tiles * p.num_kv_heads),
                                                        stream, launch);
  });
}

KernelResidency attention_prefill_residency(const AttentionParams& params) {
  KernelResidency result;
  with_attention_shape(params, [&]<DType kType, int kHeadDim>() {
    result = residency<prefill_kernel<kType, kHeadDim>, 32 * prefill_warps(kHeadDim),
                       AttentionPrefill<kType, kHeadDim>::kSharedBytes>(FS_SITE("attention_prefill"));
  });
  return result;
}

}  // namespace fastserve::kernels
