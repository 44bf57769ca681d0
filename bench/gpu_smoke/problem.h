#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor_view.h"
#include "base/thread_pool.h"
#include "device_memory.h"
#include "kernels/attention/attention.h"
#include "spec.h"

namespace fastserve::smoke {

/// Dense [shape] at `data` on the GPU.
TensorView view_of(void* data, DType dtype, std::initializer_list<std::int64_t> shape);

/// The tensors of a shape on the device. Whatever no token has written is NaN.
class AttentionProblem {
 public:
  /// `seed` draws the values; a problem that is only timed repeats a few of them.
  AttentionProblem(AttentionSpec spec, std::uint64_t seed, bool only_timed = false);

  const AttentionSpec& spec() const { return spec_; }
  std::size_t num_values() const { return static_cast<std::size_t>(spec_.num_tokens()) * heads_ * head_dim_; }
  std::size_t value_bytes() const { return value_bytes_; }

  /// Queue a kernel (as in AttentionSpec) on `stream`. out: [num_tokens, num_q_heads, head_dim].
  void launch(const std::string& kernel, void* out, cudaStream_t stream);
  /// Overwrite the lengths in place, none greater than before; the pages stay.
  void set_lengths(const std::vector<std::int32_t>& lengths);
  /// The checked input that `launch` gives to kernels, for what is asked about them.
  kernels::AttentionParams params() const;
  /// Words of the workspace that a launch should have left at zero, and has not.
  std::int64_t counters_left() const;
  /// The output in double precision, computed on the host from the values as they were rounded; small problems only.
  std::vector<double> expected_on_host() const;

 private:
  std::size_t token_stride() const;  // of the queries, in values
  void make_queries(std::uint64_t seed);
  void make_cache(std::uint64_t seed, bool only_timed);

  AttentionSpec spec_;
  std::size_t heads_, head_dim_, value_bytes_;
  std::int64_t num_blocks_ = 0;
  std::vector<std::uint32_t> query_bits_;              // [num_tokens, token_stride]
  std::vector<std::vector<std::uint32_t>> page_bits_;  // of every page in use: [2, num_kv_heads, page_tokens, head_dim]
  std::vector<std::int32_t> block_start_, block_ids_;
  std::unique_ptr<DeviceMemory> queries_, cache_, arrays_, workspace_;
  ThreadPool pool_{1};  // for the signature: nothing is computed on the host
};

}  // namespace fastserve::smoke
