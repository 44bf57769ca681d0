#include "kernels/attention/attention.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <vector>

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "kernels/attention/attention_gpu.h"
#include "kernels/operand.h"

namespace fastserve::kernels {
namespace {

void require_index_array(const TensorView& array, std::int64_t size, const char* name) {
  require_dtype(array, DType::kInt32, name);
  require_contiguous(array, name);
  require_shape(array, {size}, name);
}

void check_tensors(const AttentionInputs& in) {
  require_ndim(in.q, 3, "q");
  require_ndim(in.kv_cache, 6, "kv_cache");
  require_dense_rows(in.q, "q");
  require_dense_rows(in.out, "out");
  require_contiguous(in.kv_cache, "kv_cache");
  require_model_tensor(in.q, "q");
  const DType dtype = in.q.dtype;
  require_dtype(in.kv_cache, dtype, "kv_cache");
  require_dtype(in.out, dtype, "out");
  require_shape(in.out, {in.q.size(0), in.q.size(1), in.q.size(2)}, "out");

  const std::int64_t head_dim = in.q.size(2);
  const std::int64_t num_kv_heads = in.kv_cache.size(3);
  const std::int64_t block_size = in.kv_cache.size(4);
  FS_REQUIRE(in.kv_cache.size(2) == 2, "kv_cache must hold K and V in dimension 2, got ", in.kv_cache.describe());
  FS_REQUIRE(in.kv_cache.size(5) == head_dim, "kv_cache must have the head_dim of q, ", head_dim, ", got ",
             in.kv_cache.describe());
  FS_REQUIRE(head_dim >= 32 && head_dim <= kAttentionMaxHeadDim && head_dim % 8 == 0,
             "head_dim must be a multiple of 8 between 32 and ", kAttentionMaxHeadDim, ", got ", head_dim);
  FS_REQUIRE(block_size == 8 || block_size == 16 || block_size == 32, "block_size must be 8, 16 or 32, got ",
             block_size);
  FS_REQUIRE(num_kv_heads >= 1 && in.q.size(1) % num_kv_heads == 0,
             "the number of query heads must be a multiple of the number of KV heads, got ", in.q.size(1), " and ",
             num_kv_heads);
  FS_REQUIRE(in.layer >= 0 && in.layer < in.kv_cache.size(1), "layer must be in [0, ", in.kv_cache.size(1), "), got ",
             in.layer);
}

// The smallest and largest of the ids decide; a plain loop, which the compiler vectorises.
void check_block_ids(const std::int32_t* ids, std::int64_t count, std::int64_t num_blocks, std::int64_t row) {
  std::int32_t lowest = 0;
  std::int32_t highest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    lowest = std::min(lowest, ids[i]);
    highest = std::max(highest, ids[i]);
  }
  FS_REQUIRE(count == 0 || (lowest >= 0 && highest < num_blocks), "the block ids of row ", row, " must be in [0, ",
             num_blocks, "), got ", lowest < 0 ? lowest : highest);
}

void check_index_arrays(const AttentionInputs& in) {
  FS_REQUIRE(in.seq_lens.ndim == 1, "seq_lens must have 1 dimension, got ", in.seq_lens.describe());
  const std::int64_t num_rows = in.seq_lens.size(0);
  require_index_array(in.seq_lens, num_rows, "seq_lens");
  require_index_array(in.query_start, num_rows + 1, "query_start");
  require_index_array(in.block_start, num_rows + 1, "block_start");
  FS_REQUIRE(in.block_ids.ndim == 1, "block_ids must have 1 dimension, got ", in.block_ids.describe());
  require_index_array(in.block_ids, in.block_ids.size(0), "block_ids");
  FS_REQUIRE(in.row_begin >= 0 && in.row_begin <= in.row_end && in.row_end <= num_rows, "the rows must lie in [0, ",
             num_rows, "], got [", in.row_begin, ", ", in.row_end, ")");
}

/// The values of the arrays, which are on the CPU.
void check_rows(const AttentionInputs& in, bool decode) {
  const std::int64_t num_ids = in.block_ids.size(0);
  const auto* query_start = in.query_start.as<std::int32_t>();
  const auto* block_start = in.block_start.as<std::int32_t>();
  for (std::int64_t row = in.row_begin; row < in.row_end; ++row) {
    const std::int64_t num_queries = std::int64_t{query_start[row + 1]} - query_start[row];
    const std::int64_t seq_len = in.seq_lens.as<std::int32_t>()[row];
    FS_REQUIRE(query_start[row] >= 0 && num_queries >= 0 && query_start[row + 1] <= in.q.size(0),
               "query_start must ascend within the ", in.q.size(0), " tokens of q, got ", query_start[row], " and ",
               query_start[row + 1], " at row ", row);
    FS_REQUIRE(!decode || num_queries == 1, "a decode row must have one query token, row ", row, " has ", num_queries);
    FS_REQUIRE(seq_len >= num_queries, "seq_lens counts this step's tokens too: row ", row, " has length ", seq_len,
               " and ", num_queries, " query tokens");
    const std::int64_t num_blocks = (seq_len + in.kv_cache.size(4) - 1) / in.kv_cache.size(4);
    FS_REQUIRE(block_start[row] >= 0 && block_start[row] <= block_start[row + 1] && block_start[row + 1] <= num_ids,
               "block_start must ascend within the ", num_ids, " block_ids, got ", block_start[row], " and ",
               block_start[row + 1], " at row ", row);
    FS_REQUIRE(block_start[row + 1] - block_start[row] >= num_blocks, "row ", row, " of length ", seq_len, " needs ",
               num_blocks, " blocks, got ", block_start[row + 1] - block_start[row]);
    check_block_ids(in.block_ids.as<std::int32_t>() + block_start[row], num_blocks, in.kv_cache.size(0), row);
  }
}

/// Whether the operands are on a GPU, after all checks that shapes allow.
bool checked_on_gpu(const AttentionInputs& in) {
  const DeviceType device = device_of(in.stream, {{&in.q, "q"},
                                                  {&in.kv_cache, "kv_cache"},
                                                  {&in.query_start, "query_start"},
                                                  {&in.seq_lens, "seq_lens"},
                                                  {&in.block_start, "block_start"},
                                                  {&in.block_ids, "block_ids"},
                                                  {&in.out, "out"},
                                                  {in.workspace, "workspace"}});
  check_tensors(in);
  check_index_arrays(in);
  FS_REQUIRE(device == DeviceType::kCuda || in.backend == AttentionBackend::kNative,
             "the mma and naive kernels are for tensors on a GPU, got ", in.q.describe(), "; use native");
  return device == DeviceType::kCuda;
}

AttentionParams make_params(const AttentionInputs& in) {
  AttentionParams params;
  params.q = in.q.data;
  params.kv = in.kv_cache.as<char>() + in.layer * in.kv_cache.stride(1) * dtype_bytes(in.q.dtype);
  params.out = in.out.data;
  params.dtype = in.q.dtype;
  params.num_q_heads = static_cast<int>(in.q.size(1));
  params.num_kv_heads = static_cast<int>(in.kv_cache.size(3));
  params.head_dim = static_cast<int>(in.q.size(2));
  params.block_size = static_cast<int>(in.kv_cache.size(4));
  params.q_token_stride = in.q.stride(0);
  params.q_head_stride = in.q.stride(1);
  params.out_token_stride = in.out.stride(0);
  params.out_head_stride = in.out.stride(1);
  params.block_stride = in.kv_cache.stride(0);
  params.scale = static_cast<float>(in.scale);
  params.query_start = in.query_start.as<std::int32_t>();
  params.seq_lens = in.seq_lens.as<std::int32_t>();
  params.block_start = in.block_start.as<std::int32_t>();
  params.block_ids = in.block_ids.as<std::int32_t>();
  params.row_begin = in.row_begin;
  params.row_end = in.row_end;
  return params;
}

}  // namespace

AttentionBackend parse_attention_backend(const char* name) {
  if (std::string_view(name) == "native") return AttentionBackend::kNative;
  if (std::string_view(name) == "mma") return AttentionBackend::kMma;
  if (std::string_view(name) == "naive") return AttentionBackend::kNaive;
  detail::raise<InvalidArgumentError>("the attention kernels must be native, mma or naive, got ", name);
}

void attention_decode(const AttentionInputs& inputs, ThreadPool& pool) {
  const bool on_gpu = checked_on_gpu(inputs);
  AttentionParams params = make_params(inputs);
  if (on_gpu) return attention_decode_on_gpu(params, inputs);
  check_rows(inputs, true);
  const std::int64_t num_rows = params.row_end - params.row_begin;
  if (num_rows == 0 || params.num_q_heads == 0) return;
  std::int64_t longest = 0;  // splits
  std::vector<std::int64_t> split_start{0};
  split_start.reserve(static_cast<std::size_t>(num_rows) + 1);
  for (std::int64_t row = params.row_begin; row < params.row_end; ++row) {
    const std::int64_t splits = (params.seq_lens[row] + kAttentionSplitTokens - 1) / kAttentionSplitTokens;
    longest = std::max(longest, splits);
    split_start.push_back(split_start.back() + splits);
  }
  // Cut the rows into splits when the longest one would take more than half of a thread's fair share on its own.
  const std::int64_t heads = params.num_q_heads / params.num_kv_heads;
  const std::int64_t passes = (heads + kAttentionMaxHeadsPerPass - 1) / kAttentionMaxHeadsPerPass;
  const std::int64_t units = split_start.back() * params.num_kv_heads * passes;
  std::unique_ptr<float[]> partials;
  if (longest > 1 && pool.num_threads() > 1 && units < 2 * longest * pool.num_threads()) {
    const std::int64_t floats = std::min<std::int64_t>(heads, kAttentionMaxHeadsPerPass) * (params.head_dim + 2);
    partials = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(units * floats));
    params.partials = partials.get();
    params.split_start = split_start.data();
  }
  FS_DISPATCH_CPU(attention_decode, params, pool);
}

void attention_prefill(const AttentionInputs& inputs, ThreadPool& pool) {
  const bool on_gpu = checked_on_gpu(inputs);
  const AttentionParams params = make_params(inputs);
  if (on_gpu) return attention_prefill_on_gpu(params, inputs);
  check_rows(inputs, false);
  if (params.row_begin == params.row_end || params.num_q_heads == 0) return;
  FS_DISPATCH_CPU(attention_prefill, params, pool);
}

}  // namespace fastserve::kernels
