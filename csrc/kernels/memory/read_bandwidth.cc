#include "kernels/memory/read_bandwidth.h"

#include <algorithm>
#include <vector>

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/operand.h"

namespace fastserve::kernels {
namespace {

constexpr std::int64_t kElementsPerChunk = 256 * 1024;  // 1 MiB: long streams, still many chunks to share out

void read_on_cpu(const TensorView& x, const TensorView& out, ThreadPool& pool) {
  std::vector<float> sums(static_cast<std::size_t>((x.numel() + kElementsPerChunk - 1) / kElementsPerChunk));
  const ReadBandwidthParams params{x.as<const float>(), x.numel(), kElementsPerChunk, sums.data()};
  FS_DISPATCH_CPU(read_bandwidth, params, pool);
  auto* const parts = out.as<float>();
  std::fill_n(parts, out.size(0), 0.0f);
  for (std::size_t c = 0; c < sums.size(); ++c) parts[static_cast<std::int64_t>(c) % out.size(0)] += sums[c];
}

}  // namespace

void read_bandwidth(const TensorView& x, const TensorView& out, std::int64_t stream, ThreadPool& pool) {
  const DeviceType device = device_of(stream, {{&x, "x"}, {&out, "out"}});
  require_dtype(x, DType::kFloat32, "x");
  require_contiguous(x, "x");
  require_ndim(out, 1, "out");
  require_vector(out, out.size(0), DType::kFloat32, "out");
  FS_REQUIRE(out.size(0) >= 1, "out must have an entry to put a sum in, got ", out.describe());
  if (device == DeviceType::kCpu) return read_on_cpu(x, out, pool);
#ifdef FASTSERVE_WITH_CUDA
  read_bandwidth_cuda(x.as<const float>(), x.numel(), out.as<float>(), out.size(0), reinterpret_cast<void*>(stream));
#endif
}

}  // namespace fastserve::kernels
