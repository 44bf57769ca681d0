// Paged decode attention; see attention_decode_gpu.h for thread mapping and shared memory. Compiled for sm_80 and
// sm_90a; it has never run on a GPU. It has run as PTX on the machine of tests/cpp/ptx_machine, and
// its body under the emulator of tests/cpp/kernels.

#include <algorithm>

#include "kernels/attention_decode_gpu.h"
#include "kernels/cuda/attention_dispatch.cuh"
#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/residency.cuh"

namespace fastserve::kernels {
namespace {

using namespace cuda;

template <DType kType, int kHeadDim>
__global__ void __launch_bounds__(kDecodeThreads, kHeadDim > 128 ? 1 : 2)
    decode_kernel(const __grid_constant__ AttentionLaunch launch) {
  AttentionDecode<CudaMachine, kType, kHeadDim>::run(launch);
}

}  // namespace

void attention_decode_cuda(const AttentionLaunch& launch, void* stream) {
  const AttentionParams& p = launch.params;
  with_attention_shape(p, [&]<DType kType, int kHeadDim>() {
    constexpr auto kKernel = decode_kernel<kType, kHeadDim>;
    constexpr int kSharedBytes = AttentionDecode<CudaMachine, kType, kHeadDim>::kSharedBytes;
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
    result = residency<decode_kernel<kType, kHeadDim>, kDecodeThreads,
                       AttentionDecode<CudaMachine, kType, kHeadDim>::kSharedBytes>(FS_SITE("attention_decode"));
  });
  return result;
}

}  // namespace fastserve::kernels
