#include "kernels/embedding.h"

#include <algorithm>
#include <cstring>

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/operand.h"

namespace fastserve::kernels {
namespace {

constexpr std::int64_t kBytesPerChunk = 256 * 1024;

}  // namespace

void embedding(const TensorView& out, const TensorView& ids, const TensorView& weight, ThreadPool& pool) {
  require_model_tensor(weight, "weight");
  require_ndim(weight, 2, "weight");
  require_dense_rows(weight, "weight");
  require_ndim(ids, 1, "ids");
  require_vector(ids, ids.size(0), DType::kInt32, "ids");
  require_matrix(out, ids.size(0), weight.size(1), weight.dtype, "out");
  const auto* rows = ids.as<const std::int32_t>();
  for (std::int64_t t = 0; t < ids.size(0); ++t) {
    FS_REQUIRE(rows[t] >= 0 && rows[t] < weight.size(0), "ids[", t, "] must be between 0 and ", weight.size(0) - 1,
               " (the rows of weight), got ", rows[t]);
  }
  const std::int64_t item_bytes = dtype_bytes(weight.dtype);
  const std::int64_t row_bytes = weight.size(1) * item_bytes;
  const std::int64_t out_stride_bytes = row_stride(out) * item_bytes;
  const std::int64_t weight_stride_bytes = row_stride(weight) * item_bytes;
  const std::int64_t grain = kBytesPerChunk / std::max<std::int64_t>(row_bytes, 1);
  pool.parallel_for(ids.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      std::memcpy(out.as<char>() + t * out_stride_bytes, weight.as<const char>() + rows[t] * weight_stride_bytes,
                  static_cast<std::size_t>(row_bytes));
    }
  });
}

}  // namespace fastserve::kernels
