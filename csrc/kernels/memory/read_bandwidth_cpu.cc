#include "kernels/memory/read_bandwidth.h"
#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace fastserve::kernels::FS_ISA {
namespace {

constexpr int kAccumulators = 8;  // enough additions in flight for the loads to be what limits

float sum(const float* x, std::int64_t size) {
  Vec sums[kAccumulators];
  for (int a = 0; a < kAccumulators; ++a) sums[a] = set1(0.0f);
  std::int64_t i = 0;
  for (; i + kAccumulators * Vec::kLanes <= size; i += kAccumulators * Vec::kLanes) {
    for (int a = 0; a < kAccumulators; ++a) sums[a] = sums[a] + load(x + i + a * Vec::kLanes);
  }
  float total = 0.0f;
  for (int a = 0; a < kAccumulators; ++a) total += reduce_sum(sums[a]);
  for (; i < size; ++i) total += x[i];
  return total;
}

void sum_chunks(void* context, std::int64_t begin, std::int64_t end) {
  const ReadBandwidthParams& p = *static_cast<const ReadBandwidthParams*>(context);
  for (std::int64_t c = begin; c < end; ++c) {
    const std::int64_t first = c * p.elements_per_chunk;
    p.sums[c] = sum(p.x + first, min_of(p.elements_per_chunk, p.size - first));
  }
}

}  // namespace

void read_bandwidth(const ReadBandwidthParams& params, ThreadPool& pool) {
  ReadBandwidthParams context = params;
  parallel_run(pool, ceil_div(params.size, params.elements_per_chunk), 1, sum_chunks, &context);
}

}  // namespace fastserve::kernels::FS_ISA
