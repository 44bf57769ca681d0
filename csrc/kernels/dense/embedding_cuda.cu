// Rows of the embedding table.
//
// Thread mapping: one CTA of 256 threads per token, each thread every 256th vector of 16 bytes of the row (pairs of
// bytes where rows are not aligned). No shared memory.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/dense/embedding.h"

namespace fastserve::kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 256;

FS_DEVICE void set_all_bits(uint4& unit) { unit = make_uint4(~0u, ~0u, ~0u, ~0u); }
FS_DEVICE void set_all_bits(std::uint16_t& unit) { unit = 0xffffu; }

/// All bits set is a NaN in every model dtype: what the row of an id outside the table becomes.
template <typename Unit>
__global__ void __launch_bounds__(kThreads) embedding_kernel(EmbeddingParams p) {
  const std::int64_t token = blockIdx.x;
  const std::int32_t id = p.ids[token];
  const bool known = id >= 0 && id < p.num_rows;
  const auto* row = reinterpret_cast<const Unit*>(p.weight + (known ? id : 0) * p.weight_stride_bytes);
  auto* out = reinterpret_cast<Unit*>(p.out + token * p.out_stride_bytes);
  const std::int64_t num_units = p.row_bytes / static_cast<std::int64_t>(sizeof(Unit));
  for (std::int64_t i = threadIdx.x; i < num_units; i += kThreads) {
    Unit unit;
    set_all_bits(unit);
    if (known) unit = row[i];
    out[i] = unit;
  }
}

}  // namespace

void embedding_cuda(const EmbeddingParams& params, void* stream) {
  const bool whole = aligned({params.out, params.weight}) &&
                     multiples(16, {params.row_bytes, params.out_stride_bytes, params.weight_stride_bytes});
  const auto kernel = whole ? embedding_kernel<uint4> : embedding_kernel<std::uint16_t>;
  launch(FS_SITE("embedding"), kernel, dim3(static_cast<unsigned>(params.num_tokens)), kThreads, stream, params);
}

}  // namespace fastserve::kernels
