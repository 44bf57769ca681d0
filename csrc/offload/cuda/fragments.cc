#include "offload/cuda/fragments.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"

#ifdef FASTSERVE_WITH_CUDA
#include "offload/cuda/fragment_copy.h"
#endif

namespace fastserve::offload {
namespace {

void require_bytes(const TensorView& tensor, const char* name) {
  require_ndim(tensor, 1, name);
  require_dtype(tensor, DType::kUInt8, name);
  require_contiguous(tensor, name);
}

void require_counts(const TensorView& counts, std::int64_t size, const char* name) {
  require_cpu(counts, name);
  require_dtype(counts, DType::kInt64, name);
  require_shape(counts, {size}, name);
  require_contiguous(counts, name);
}

#ifdef FASTSERVE_WITH_CUDA

constexpr std::int64_t kLeastShareBytes = 4096;
constexpr std::int64_t kShareAlignment = 16;

/// What one warp copies of a range: little, so that many share the work, but so much that all fits into one launch.
std::int64_t share_bytes(const std::int64_t* sizes, std::int64_t count) {
  const std::int64_t room = kMaxFragments - count;  // every range may end with a share that is not full
  if (room <= 0) return kLeastShareBytes;
  const std::int64_t needed = std::accumulate(sizes, sizes + count, std::int64_t{0}) / room + 1;
  return std::max(kLeastShareBytes, (needed + kShareAlignment - 1) / kShareAlignment * kShareAlignment);
}

void copy_by_kernel(const std::byte* source, std::byte* target, const std::int64_t* offsets, const std::int64_t* sizes,
                    std::int64_t count, std::uintptr_t stream) {
  FragmentList list;
  const auto launch = [&] {
    launch_fragment_copy(list, reinterpret_cast<cudaStream_t>(stream));
    list.count = 0;
  };
  const std::int64_t share = share_bytes(sizes, count);
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t done = 0; done < sizes[i]; done += share) {
      const std::int64_t at = offsets[i] + done;
      list.fragments[list.count++] = {target + at, source + at, std::min(share, sizes[i] - done)};
      if (list.count == kMaxFragments) launch();
    }
  }
  if (list.count > 0) launch();
}

#endif

}  // namespace

void copy_fragments(const TensorView& source, const TensorView& target, const TensorView& offsets,
                    const TensorView& sizes, std::uintptr_t stream) {
  require_bytes(source, "source");
  require_bytes(target, "target");
  FS_REQUIRE(source.size(0) == target.size(0), "source and target must have one size, got ", source.size(0), " and ",
             target.size(0), " bytes");
  FS_REQUIRE(offsets.ndim == 1, "offsets must have 1 dimension, got ", offsets.describe());
  const std::int64_t count = offsets.size(0);
  require_counts(offsets, count, "offsets");
  require_counts(sizes, count, "sizes");
  const auto* first = offsets.as<const std::int64_t>();
  const auto* length = sizes.as<const std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) {
    FS_REQUIRE(first[i] >= 0 && length[i] >= 0 && length[i] <= source.size(0) && first[i] <= source.size(0) - length[i],
               "range ", i, " must lie within ", source.size(0), " bytes, got ", length[i], " bytes at ", first[i]);
  }
  if (source.device == DeviceType::kCpu && target.device == DeviceType::kCpu) {
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(target.as<std::byte>() + first[i], source.as<const std::byte>() + first[i],
                  static_cast<std::size_t>(length[i]));
    }
    return;
  }
#ifdef FASTSERVE_WITH_CUDA
  copy_by_kernel(source.as<const std::byte>(), target.as<std::byte>(), first, length, count, stream);
#else
  detail::raise<InvalidArgumentError>("this build has no CUDA: source and target must be on the cpu, got ",
                                      source.describe(), " and ", target.describe(), " for stream ", stream);
#endif
}

}  // namespace fastserve::offload
