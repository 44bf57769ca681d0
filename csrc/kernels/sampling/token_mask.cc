#include "kernels/sampling/token_mask.h"

#include <algorithm>
#include <span>

#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/operand.h"

namespace fastserve::kernels {
namespace {

constexpr std::int64_t kWordBits = 32;

}  // namespace

void mask_logits(const TensorView& logits, const TensorView& masks, const TensorView& rows, ThreadPool& pool) {
  for (const auto* array : {&logits, &masks, &rows}) require_cpu(*array, "logits, masks and rows");
  require_ndim(logits, 2, "logits");
  const std::int64_t num_rows = logits.size(0);
  const std::int64_t vocab_size = logits.size(1);
  require_matrix(logits, num_rows, vocab_size, DType::kFloat32, "logits");
  require_matrix(masks, num_rows, (vocab_size + kWordBits - 1) / kWordBits, DType::kInt32, "masks");
  require_ndim(rows, 1, "rows");
  require_vector(rows, rows.size(0), DType::kInt32, "rows");
  const std::span<const std::int32_t> wanted{rows.as<std::int32_t>(), static_cast<std::size_t>(rows.size(0))};
  FS_REQUIRE(std::ranges::all_of(wanted, [&](std::int32_t row) { return row >= 0 && row < num_rows; }),
             "rows must be between 0 and ", num_rows - 1);
  pool.parallel_for(rows.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = wanted[static_cast<std::size_t>(i)];
      const auto* mask = reinterpret_cast<const std::uint32_t*>(masks.as<std::int32_t>() + row * row_stride(masks));
      FS_DISPATCH_CPU(mask_row, logits.as<float>() + row * row_stride(logits), mask, vocab_size);
    }
  });
}

}  // namespace fastserve::kernels
