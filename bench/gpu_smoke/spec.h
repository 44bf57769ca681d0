#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace fastserve::smoke {

/// KV tokens of a row, those of its query tokens included; and its query tokens, the last ones.
struct SpecRow {
  int length = 0;
  int queries = 1;
};

/// Which kernel attends what. Written as words: `decode bf16 32/8 d128 p16 4097:1,1:1*3 fused`.
struct AttentionSpec {
  std::string kernel;  // decode, mma (prefill of any GPU), hopper, naive
  DType dtype = DType::kBFloat16;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int page_tokens = 16;
  std::vector<SpecRow> rows;  // length:queries, and *count where rows are the same
  bool fused = false;         // queries are a part of a wider matrix, as after a fused projection
  bool ordered = false;       // pages follow one another in memory; otherwise they are shuffled
  bool far = false;           // half of the pages lie behind 2^31 elements of the cache

  int num_tokens() const;
  int longest() const;
};

/// Throws InvalidArgumentError that says which word does not fit.
AttentionSpec parse_spec(std::string_view words);

/// The comparisons that are made when nothing else is asked for: kernels in the order in which they depend on one another.
std::vector<std::string> default_comparisons();
/// What is timed.
std::vector<std::string> default_timings();

}  // namespace fastserve::smoke
