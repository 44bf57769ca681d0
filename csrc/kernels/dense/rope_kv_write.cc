#include "kernels/dense/rope_kv_write.h"

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "kernels/operand.h"

namespace fastserve::kernels {
namespace {

void require_heads(const TensorView& tensor, std::int64_t tokens, std::int64_t heads, std::int64_t head_dim,
                   DType dtype, const char* name) {
  require_shape(tensor, {tokens, heads, head_dim}, name);
  require_dtype(tensor, dtype, name);
  const bool dense = tensor.stride(2) == 1 && (heads == 1 || tensor.stride(1) == head_dim);
  FS_REQUIRE(dense, name, " must have dense heads (strides [any, ", head_dim, ", 1]), got ", tensor.describe(),
             " with strides [", tensor.stride(0), ", ", tensor.stride(1), ", ", tensor.stride(2), "]");
}

/// The head dimension, checked: every later check builds on it.
std::int64_t require_head_dim(const TensorView& q) {
  require_model_tensor(q, "q");
  require_ndim(q, 3, "q");
  const std::int64_t head_dim = q.size(2);
  FS_REQUIRE(head_dim >= 1 && head_dim <= kMaxHeadDim, "head_dim must be between 1 and ", kMaxHeadDim, ", got ",
             head_dim);
  return head_dim;
}

void require_cache(const TensorView& cache, std::int64_t kv_heads, std::int64_t head_dim, DType dtype,
                   std::int64_t layer) {
  require_dtype(cache, dtype, "kv_cache");
  require_contiguous(cache, "kv_cache");
  FS_REQUIRE(cache.ndim == 6 && cache.size(2) == 2 && cache.size(3) == kv_heads && cache.size(5) == head_dim,
             "kv_cache must have shape [num_blocks, num_layers, 2, ", kv_heads, ", block_size, ", head_dim, "], got ",
             cache.describe());
  FS_REQUIRE(layer >= 0 && layer < cache.size(1), "layer must be between 0 and ", cache.size(1) - 1, ", got ", layer);
}

void require_table(const TensorView& cos_sin, std::int64_t head_dim) {
  require_ndim(cos_sin, 2, "cos_sin");
  require_matrix(cos_sin, cos_sin.size(0), cos_sin.size(1), DType::kFloat32, "cos_sin");
  FS_REQUIRE(cos_sin.size(1) % 2 == 0 && cos_sin.size(1) <= head_dim,
             "cos_sin must have an even number of columns (rot_dim), at most head_dim ", head_dim, ", got ",
             cos_sin.describe());
}

void require_positions(const TensorView& positions, const TensorView& cos_sin) {
  const auto* rows = positions.as<const std::int32_t>();
  for (std::int64_t t = 0; t < positions.size(0); ++t) {
    FS_REQUIRE(rows[t] >= 0 && rows[t] < cos_sin.size(0), "positions[", t, "] must be between 0 and ",
               cos_sin.size(0) - 1, " (the rows of cos_sin), got ", rows[t]);
  }
}

void require_slots(const TensorView& slots, std::int64_t num_slots) {
  const auto* rows = slots.as<const std::int64_t>();
  for (std::int64_t t = 0; t < slots.size(0); ++t) {
    FS_REQUIRE(rows[t] >= -1 && rows[t] < num_slots, "slots[", t, "] must be between 0 and ", num_slots - 1,
               " (the slots of kv_cache), or -1 to skip, got ", rows[t]);
  }
}

RopeKvWriteParams checked_params(const RopeKvWriteOperands& o, std::int64_t layer, bool interleaved, float norm_eps) {
  const std::int64_t head_dim = require_head_dim(o.q);
  const std::int64_t tokens = o.q.size(0);
  require_ndim(o.k, 3, "k");
  require_heads(o.q, tokens, o.q.size(1), head_dim, o.q.dtype, "q");
  require_heads(o.k, tokens, o.k.size(1), head_dim, o.q.dtype, "k");
  require_heads(o.v, tokens, o.k.size(1), head_dim, o.q.dtype, "v");
  require_vector(o.positions, tokens, DType::kInt32, "positions");
  require_vector(o.slots, tokens, DType::kInt64, "slots");
  if (o.q_norm != nullptr) require_vector(*o.q_norm, head_dim, o.q.dtype, "q_norm");
  if (o.k_norm != nullptr) require_vector(*o.k_norm, head_dim, o.q.dtype, "k_norm");
  FS_REQUIRE(norm_eps >= 0.0f, "norm_eps must not be negative, got ", norm_eps);
  require_cache(o.kv_cache, o.k.size(1), head_dim, o.q.dtype, layer);
  if (o.cos_sin != nullptr) require_table(*o.cos_sin, head_dim);
  return {
      .q = o.q.data,
      .k = o.k.data,
      .v = o.v.data,
      .positions = o.positions.as<const std::int32_t>(),
      .cos_sin = static_cast<const float*>(data_or_null(o.cos_sin)),
      .kv_cache = o.kv_cache.data,
      .slots = o.slots.as<const std::int64_t>(),
      .q_norm = data_or_null(o.q_norm),
      .k_norm = data_or_null(o.k_norm),
      .dtype = o.q.dtype,
      .interleaved = interleaved,
      .norm_eps = norm_eps,
      .q_stride = o.q.stride(0),
      .k_stride = o.k.stride(0),
      .v_stride = o.v.stride(0),
      .cos_sin_stride = o.cos_sin == nullptr ? 0 : row_stride(*o.cos_sin),
      .num_tokens = tokens,
      .num_q_heads = o.q.size(1),
      .num_kv_heads = o.k.size(1),
      .head_dim = head_dim,
      .rot_dim = o.cos_sin == nullptr ? 0 : o.cos_sin->size(1),
      .num_layers = o.kv_cache.size(1),
      .layer = layer,
      .block_size = o.kv_cache.size(4),
      .max_position = o.cos_sin == nullptr ? 0 : o.cos_sin->size(0),
      .num_slots = o.kv_cache.size(0) * o.kv_cache.size(4),
  };
}

}  // namespace

void rope_kv_write(const RopeKvWriteOperands& operands, std::int64_t layer, bool interleaved, float norm_eps,
                   std::int64_t stream, ThreadPool& pool) {
  const DeviceType device = device_of(stream, {{&operands.q, "q"},
                                               {&operands.k, "k"},
                                               {&operands.v, "v"},
                                               {&operands.positions, "positions"},
                                               {operands.cos_sin, "cos_sin"},
                                               {&operands.kv_cache, "kv_cache"},
                                               {&operands.slots, "slots"},
                                               {operands.q_norm, "q_norm"},
                                               {operands.k_norm, "k_norm"}});
  const RopeKvWriteParams params = checked_params(operands, layer, interleaved, norm_eps);
  if (device == DeviceType::kCpu) {  // the values in a GPU's memory are out of sight
    require_slots(operands.slots, params.num_slots);
    if (operands.cos_sin != nullptr) require_positions(operands.positions, *operands.cos_sin);
  }
  FS_DISPATCH(device, rope_kv_write, params, stream, pool);
}

}  // namespace fastserve::kernels
