// Paged prefill attention on Hopper; see attention_hopper.cuh for thread mapping and shared memory.

#include <algorithm>

#include "kernels/attention/attention_hopper.cuh"
#include "kernels/cuda/attention_dispatch.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/residency.cuh"
#include "kernels/cuda/tensor_map.cuh"

namespace fastserve::kernels {
namespace {

using namespace cuda;

/// Nothing on other architectures, for which the file is compiled too: attention_hopper_available() keeps it off them.
template <DType kType, int kHeadDim>
__global__ void __launch_bounds__(kHopperThreads, 1)
    hopper_kernel(const __grid_constant__ AttentionLaunch launch, const __grid_constant__ CUtensorMap queries,
                  const __grid_constant__ CUtensorMap pages) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  AttentionHopper<kType, kHeadDim>::run(launch, queries, pages);
#endif
}

bool is_hopper(int device) {
  int major = 0;
  int minor = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 &&
         minor == 0;
}

}  // namespace

bool attention_hopper_available() {
#ifdef FASTSERVE_WITH_SM90A
  int device = 0;
  return cudaGetDevice(&device) == cudaSuccess && is_hopper(device) && tensor_map_encoder() != nullptr;
#else
  return false;
#endif
}

void attention_hopper_cuda(const AttentionLaunch& launch, void* stream) {
  const AttentionParams& p = launch.params;
  with_attention_shape(p, [&]<DType kType, int kHeadDim>() {
    constexpr auto kKernel = hopper_kernel<kType, kHeadDim>;
    constexpr int kSharedBytes = AttentionHopper<kType, kHeadDim>::kSharedBytes;
    const Site site = FS_SITE("attention_hopper");
    const int resident = resident_ctas<kKernel, kHopperThreads, kSharedBytes>(site);
    // The host does not know the rows: every one may end with a tile that is not full.
    const std::int64_t most_tiles =
        launch.num_tokens / hopper_tile_queries(p.num_q_heads / p.num_kv_heads) + (p.row_end - p.row_begin);
    const auto grid = static_cast<unsigned>(std::min<std::int64_t>(resident, most_tiles * p.num_kv_heads));
    const CUtensorMap queries = make_tensor_map(hopper_query_map<kHeadDim>(launch), kType);
    const CUtensorMap pages = lasting_tensor_map(hopper_page_map<kHeadDim>(launch), kType);
    launch_with_shared<kKernel, kHopperThreads, kSharedBytes>(site, grid, stream, launch, queries, pages);
  });
}

KernelResidency attention_hopper_residency(const AttentionParams& params) {
  KernelResidency result;
  with_attention_shape(params, [&]<DType kType, int kHeadDim>() {
    result = residency<hopper_kernel<kType, kHeadDim>, kHopperThreads, AttentionHopper<kType, kHeadDim>::kSharedBytes>(
        FS_SITE("attention_hopper"));
  });
  return result;
}

}  // namespace fastserve::kernels
