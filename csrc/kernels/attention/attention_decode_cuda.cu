// Paged decode attention; see attention_decode.cuh for thread mapping and shared memory.

#include <algorithm>

#include "kernels/attention/attention_decode.cuh"
#include "kernels/cuda/attention_dispatch.cuh"
#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/residency.cuh"

namespace fastserve::kernels {
namespace {

using namespace cuda;

template <DType kType, int kHeadDim>
__global__ void __launch_bounds__(kDecodeThreads, kHeadDim > 128 ? 1 : 2)
    decode_kernel(const __grid_constant__ AttentionLaunch launch) {
  AttentionDecode<kType, kHeadDim>::run(launch);
}

}  // namespace

void attention_decode_cuda(const AttentionLaunch& launch, void* stream) {
  const AttentionParams& p = launch.params;
  with_attention_shape(p, [&]<DType kType, int kHeadDim>() {
    constexpr auto kKernel = decode_kernel<kType, kHeadDim>;
    constexpr int kSharedBytes = AttentionDecode<kType, kHeadDim>::kSharedBytes;
    const Site site = FS_SITE("attention_decode");
    const std::int64_t resident = resident_ctas<kKernel, kDecodeThreads, kSharedBytes>(site);
    const std::int64_t most_items = (p.row_end - p.row_begin) * p.num_q_heads * launch.max_splits;
    launch_with_shared<kKernel, kDecodeThreads, kSharedBytes>(
        site, static_cast<unsigned>(std::min(resident, most_items)), stream, launch);
  });
}

KernelResidency attention_decode_residency(const AttentionParams& params) {
  KernelResidency result;
  with_attention_shape(params, [&]<DType kType, int kHeadDim>() {
    result = residency<decode_kernel<kType, kHeadDim>, kDecodeThreads, AttentionDecode<kType, kHeadDim>::kSharedBytes>(
        FS_SITE("attention_decode"));
  });
  return result;
}

}  // namespace fastserve::kernels
