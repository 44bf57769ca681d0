#include "kernels/dense/embedding.h"

#include <algorithm>
#include <cstring>

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/operand.h"

namespace fastserve::kernels {
namespace {

constexpr std::int64_t kBytesPerChunk = 256 * 1024;

EmbeddingParams checked_params(const TensorView& out, const TensorView& ids, const TensorView& weight) {
  require_model_tensor(weight, "weight");
  require_ndim(weight, 2, "weight");
  require_dense_rows(weight, "weight");
  require_ndim(ids, 1, "ids");
  require_vector(ids, ids.size(0), DType::kInt32, "ids");
  require_matrix(out, ids.size(0), weight.size(1), weight.dtype, "out");
  const std::int64_t item_bytes = dtype_bytes(weight.dtype);
  return {
      .out = out.as<char>(),
      .ids = ids.as<const std::int32_t>(),
      .weight = weight.as<const char>(),
      .row_bytes = weight.size(1) * item_bytes,
      .out_stride_bytes = row_stride(out) * item_bytes,
      .weight_stride_bytes = row_stride(weight) * item_bytes,
      .num_tokens = ids.size(0),
      .num_rows = weight.size(0),
  };
}

void embedding_on_cpu(const EmbeddingParams& params, ThreadPool& pool) {
  for (std::int64_t t = 0; t < params.num_tokens; ++t) {
    FS_REQUIRE(params.ids[t] >= 0 && params.ids[t] < params.num_rows, "ids[", t, "] must be between 0 and ",
               params.num_rows - 1, " (the rows of weight), got ", params.ids[t]);
  }
  const std::int64_t grain = kBytesPerChunk / std::max<std::int64_t>(params.row_bytes, 1);
  pool.parallel_for(params.num_tokens, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      std::memcpy(params.out + t * params.out_stride_bytes, params.weight + params.ids[t] * params.weight_stride_bytes,
                  static_cast<std::size_t>(params.row_bytes));
    }
  });
}

}  // namespace

void embedding(const TensorView& out, const TensorView& ids, const TensorView& weight, std::int64_t stream,
               ThreadPool& pool) {
  const DeviceType device = device_of(stream, {{&weight, "weight"}, {&ids, "ids"}, {&out, "out"}});
  const EmbeddingParams params = checked_params(out, ids, weight);
  if (device == DeviceType::kCpu) return embedding_on_cpu(params, pool);
#ifdef FASTSERVE_WITH_CUDA
  embedding_cuda(params, reinterpret_cast<void*>(stream));
#endif
}

}  // namespace fastserve::kernels
