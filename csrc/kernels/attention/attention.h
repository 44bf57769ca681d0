#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/forward.h"
#include "kernels/isa.h"

// Attention of query tokens over a paged KV cache, causal, with grouped query heads.
//
// An output row is a function of its own query and of the keys and values it sees, bit for bit: not of the other rows,
// the number of threads, the block table or how the prompt was cut into chunks. Both kernels walk the keys in the same
// tiles of kAttentionTileTokens counted from position 0, accumulate every product in the same order (scores over
// head_dim, values over tokens, one fused multiply-add each) and start a new online softmax every kAttentionSplitTokens
// tokens, merged from left to right. Only the vector width, so the instruction set, changes a bit.

namespace fastserve::kernels {

inline constexpr int kAttentionTileTokens = 64;     // a multiple of every block size
inline constexpr int kAttentionSplitTokens = 1024;  // unit of work that decode may hand to different threads
inline constexpr int kAttentionMaxHeadDim = 256;
inline constexpr int kAttentionMaxHeadsPerPass = 32;  // query heads of one KV head that share one reading of its pages

/// Checked input of the kernels. Strides are in elements.
struct AttentionParams {
  const void* q = nullptr;        // [num_tokens, num_q_heads, head_dim], dense in head_dim
  const void* kv = nullptr;       // this layer of block 0: [2][num_kv_heads][block_size][head_dim]
  void* out = nullptr;            // [num_tokens, num_q_heads, head_dim], dense in head_dim
  DType dtype = DType::kFloat32;  // of q, kv and out
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int block_size = 0;
  std::int64_t q_token_stride = 0;
  std::int64_t q_head_stride = 0;
  std::int64_t out_token_stride = 0;
  std::int64_t out_head_stride = 0;
  std::int64_t block_stride = 0;              // from one block to the next
  float scale = 1.0f;                         // applied to the query
  const std::int32_t* query_start = nullptr;  // [num_rows + 1] tokens
  const std::int32_t* seq_lens = nullptr;     // [num_rows] KV tokens, this step's included
  const std::int32_t* block_start = nullptr;  // [num_rows + 1] into block_ids
  const std::int32_t* block_ids = nullptr;
  std::int64_t row_begin = 0;  // the kernel handles the rows [row_begin, row_end)
  std::int64_t row_end = 0;
  /// Decode only, null to walk every row in one piece: splits before each row, [row_end - row_begin + 1], and room for
  /// the unfinished softmax of each split, [split_start.back() * units per row][heads per pass][head_dim + 2].
  const std::int64_t* split_start = nullptr;
  float* partials = nullptr;
};

FS_DECLARE_CPU(void attention_decode(const AttentionParams& params, ThreadPool& pool))
FS_DECLARE_CPU(void attention_prefill(const AttentionParams& params, ThreadPool& pool))

/// Which kernels run on a GPU. Native: the best ones, for tensor cores where those take the shape and else the naive
/// one. Mma: the same, but prefill on Hopper uses the kernel of other GPUs. Naive: always that one, for comparison. The
/// CPU has native ones only.
enum class AttentionBackend : std::uint8_t { kNative, kMma, kNaive };

/// "native", "mma" or "naive"; throws InvalidArgumentError for any other name.
AttentionBackend parse_attention_backend(const char* name);

/// What a caller passes; see AttentionParams for the meaning of each array.
struct AttentionInputs {
  const TensorView& q;            // float [num_tokens, num_q_heads, head_dim]; tokens and heads may be strided
  const TensorView& kv_cache;     // float [num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim], contiguous
  const TensorView& query_start;  // int32 [num_rows + 1]
  const TensorView& seq_lens;     // int32 [num_rows]
  const TensorView& block_start;  // int32 [num_rows + 1]
  const TensorView& block_ids;    // int32 [num_ids]
  const TensorView& out;          // as q
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  std::int64_t layer = 0;
  double scale = 1.0;
  // For tensors on a GPU only:
  const TensorView* workspace = nullptr;  // uint8, at least attention_workspace_bytes; null where nothing needs it
  std::int64_t max_seq_len = 0;           // no row is longer
  AttentionBackend backend = AttentionBackend::kNative;
  std::int64_t stream = 0;  // a cudaStream_t
};

/// Bytes of workspace for attention on a GPU, and decode of up to `num_rows` rows of up to max_seq_len tokens. The
/// caller fills it with zeros once; every launch leaves it fit for the next one, of any shape, on the same stream.
/// Throws InvalidArgumentError when an argument is not positive.
std::int64_t attention_workspace_bytes(std::int64_t num_rows, std::int64_t num_q_heads, std::int64_t head_dim,
                                       std::int64_t max_seq_len);

// On a GPU the kernels are queued on `stream` and nothing waits. A launch depends on shapes, max_seq_len and addresses
// alone, so a captured one may be replayed with other values in the arrays. The host cannot see those values: only the
// CPU checks them. A row of length 0 gets zeros there, and its blocks are not looked at.

/// Attention of the rows [row_begin, row_end), each of which has exactly one query token.
/// Throws InvalidArgumentError when a shape, dtype, length or block id does not fit, DeviceError when a launch fails.
void attention_decode(const AttentionInputs& inputs, ThreadPool& pool);

/// Attention of the rows [row_begin, row_end) with any number of query tokens each, the last ones of their sequences:
/// token i of n sees the KV positions up to seq_len - n + i. Throws like attention_decode.
void attention_prefill(const AttentionInputs& inputs, ThreadPool& pool);

}  // namespace fastserve::kernels
