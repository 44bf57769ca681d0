#include "kernels/memory_roof.h"

#include <numeric>
#include <vector>

#include "base/tensor_view.h"
#include "base/thread_pool.h"

namespace fastserve::kernels {
namespace {

constexpr std::int64_t kElementsPerChunk = 256 * 1024;  // 1 MiB: long streams, still many chunks to share out

}  // namespace

double memory_roof(const TensorView& x, ThreadPool& pool) {
  require_cpu(x, "x");
  require_dtype(x, DType::kFloat32, "x");
  require_contiguous(x, "x");
  std::vector<float> sums(static_cast<std::size_t>((x.numel() + kElementsPerChunk - 1) / kElementsPerChunk));
  const MemoryRoofParams params{x.as<const float>(), x.numel(), kElementsPerChunk, sums.data()};
  FS_DISPATCH_CPU(memory_roof, params, pool);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace fastserve::kernels
