#include "kernels/memory/copy_blocks.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "base/block_hash.h"
#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/operand.h"

namespace fastserve::kernels {
namespace {

constexpr std::int64_t kPieceBytes = 256 * 1024;  // what one thread copies at a time

std::int64_t block_bytes(const TensorView& tensor) {
  return tensor.size(0) == 0 ? 0 : tensor.numel() / tensor.size(0) * dtype_bytes(tensor.dtype);
}

std::span<const std::int32_t> checked_ids(const TensorView& ids, std::int64_t count, std::int64_t num_blocks,
                                          const char* name) {
  require_cpu(ids, name);
  require_vector(ids, count, DType::kInt32, name);
  const std::span view(ids.as<std::int32_t>(), static_cast<std::size_t>(count));
  for (const std::int32_t id : view) {
    FS_REQUIRE(id >= 0 && id < num_blocks, name, " must be in [0, ", num_blocks, "), got ", id);
  }
  return view;
}

void check_targets(std::span<const std::int32_t> src_ids, std::span<const std::int32_t> dst_ids, bool one_tensor) {
  std::vector<std::int32_t> targets(dst_ids.begin(), dst_ids.end());
  std::ranges::sort(targets);
  const auto twice = std::ranges::adjacent_find(targets);
  FS_REQUIRE(twice == targets.end(), "dst_ids must name each block once, got ", *twice, " twice");
  if (!one_tensor) return;
  for (const std::int32_t id : src_ids) {
    FS_REQUIRE(!std::ranges::binary_search(targets, id),
               "within one tensor a block must not be both read and written, got ", id, " in src_ids and dst_ids");
  }
}

CopyBlocksParams checked_params(const TensorView& src, const TensorView& dst, const TensorView& src_ids,
                                const TensorView& dst_ids) {
  for (const auto& [tensor, name] : {std::pair{&src, "src"}, std::pair{&dst, "dst"}}) {
    FS_REQUIRE(tensor->ndim >= 1, name, " must have a dimension of blocks, got ", tensor->describe());
    require_contiguous(*tensor, name);
  }
  FS_REQUIRE(src.dtype == dst.dtype && block_bytes(src) == block_bytes(dst),
             "src and dst must have blocks of one dtype and size, got ", src.describe(), " and ", dst.describe());
  FS_REQUIRE(src_ids.ndim == 1, "src_ids must have 1 dimension, got ", src_ids.describe());
  const auto from = checked_ids(src_ids, src_ids.size(0), src.size(0), "src_ids");
  const auto to = checked_ids(dst_ids, src_ids.size(0), dst.size(0), "dst_ids");

  const auto* src_begin = src.as<const char>();
  const auto* dst_begin = dst.as<const char>();
  const bool one_tensor = src_begin == dst_begin;
  const bool apart = src_begin + src.size(0) * block_bytes(src) <= dst_begin ||
                     dst_begin + dst.size(0) * block_bytes(dst) <= src_begin;
  FS_REQUIRE(one_tensor || apart, "src and dst must be the same tensor or not overlap");
  check_targets(from, to, one_tensor);
  return {src_begin, dst.as<char>(), block_bytes(src), static_cast<std::int64_t>(from.size()), from.data(), to.data()};
}

void copy_on_cpu(const CopyBlocksParams& params, ThreadPool& pool) {
  const std::int64_t pieces = std::max<std::int64_t>(1, (params.block_bytes + kPieceBytes - 1) / kPieceBytes);
  pool.parallel_for(params.num_copies * pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t copy = item / pieces;
      const std::int64_t offset = item % pieces * kPieceBytes;
      std::memcpy(params.dst + params.dst_ids[copy] * params.block_bytes + offset,
                  params.src + params.src_ids[copy] * params.block_bytes + offset,
                  static_cast<std::size_t>(std::min(kPieceBytes, params.block_bytes - offset)));
    }
  });
}

void checksum_on_cpu(const ChecksumBlocksParams& params, ThreadPool& pool) {
  pool.parallel_for(params.num_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto* block = reinterpret_cast<const std::byte*>(params.cache + params.ids[i] * params.block_bytes);
      const std::span bytes(block, static_cast<std::size_t>(params.block_bytes));
      params.out[i] = static_cast<std::int64_t>(hash_block(bytes));
    }
  });
}

}  // namespace

void copy_blocks(const TensorView& src, const TensorView& dst, const TensorView& src_ids, const TensorView& dst_ids,
                 std::int64_t stream, ThreadPool& pool) {
  const DeviceType device = device_of(stream, {{&src, "src"}, {&dst, "dst"}});
  const CopyBlocksParams params = checked_params(src, dst, src_ids, dst_ids);
  if (params.num_copies == 0 || params.block_bytes == 0) return;
  if (device == DeviceType::kCpu) return copy_on_cpu(params, pool);
#ifdef FASTSERVE_WITH_CUDA
  copy_blocks_cuda(params, reinterpret_cast<void*>(stream));
#endif
}

void checksum_blocks(const TensorView& cache, const TensorView& ids, const TensorView& out, std::int64_t stream,
                     ThreadPool& pool) {
  const DeviceType device = device_of(stream, {{&cache, "cache"}});
  FS_REQUIRE(cache.ndim >= 1, "cache must have a dimension of blocks, got ", cache.describe());
  require_contiguous(cache, "cache");
  FS_REQUIRE(ids.ndim == 1, "ids must have 1 dimension, got ", ids.describe());
  const auto blocks = checked_ids(ids, ids.size(0), cache.size(0), "ids");
  require_vector(out, ids.size(0), DType::kInt64, "out");
  ChecksumBlocksParams params{cache.as<const char>(), out.as<std::int64_t>(), block_bytes(cache), ids.size(0),
                              blocks.data()};
  if (device == DeviceType::kCpu) {
    require_cpu(out, "out");
    return checksum_on_cpu(params, pool);
  }
#ifdef FASTSERVE_WITH_CUDA
  params.out = static_cast<std::int64_t*>(device_address(out, cache, "out"));
  checksum_blocks_cuda(params, reinterpret_cast<void*>(stream));
#endif
}

HashBlocksOnGpu hash_blocks_on_gpu() {
#ifdef FASTSERVE_WITH_CUDA
  return [](const std::byte* cache, std::int64_t block_bytes, std::span<const std::int32_t> ids, std::int64_t* out,
            void* stream) {
    checksum_blocks_cuda({reinterpret_cast<const char*>(cache), out, block_bytes, std::ssize(ids), ids.data()}, stream);
  };
#else
  return nullptr;
#endif
}

}  // namespace fastserve::kernels
