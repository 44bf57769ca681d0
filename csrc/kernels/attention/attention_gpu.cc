#include "kernels/attention/attention_gpu.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/tensor_view.h"
#include "kernels/attention/attention_hopper_schedule.h"
#include "kernels/attention/attention_schedule.h"

namespace fastserve::kernels {
namespace {

constexpr std::int64_t kCounterBytes = kAttentionCounters * 4;

/// Partial results of decode, in floats.
std::int64_t partial_floats(std::int64_t num_rows, std::int64_t num_q_heads, std::int64_t head_dim, int max_seq_len) {
  const int splits = decode_max_splits(max_seq_len);
  return splits == 1 ? 0 : num_rows * num_q_heads * splits * (head_dim + 2);
}

int checked_length(std::int64_t max_seq_len) {
  FS_REQUIRE(max_seq_len >= 1 && max_seq_len <= std::numeric_limits<int>::max() / 2,
             "max_seq_len must be positive for tensors on a GPU, got ", max_seq_len);
  return static_cast<int>(max_seq_len);
}

}  // namespace

std::int64_t attention_workspace_bytes(std::int64_t num_rows, std::int64_t num_q_heads, std::int64_t head_dim,
                                       std::int64_t max_seq_len) {
  FS_REQUIRE(num_rows >= 1 && num_q_heads >= 1 && head_dim >= 1, "a workspace is for at least one row, head and ",
             "element, got ", num_rows, ", ", num_q_heads, " and ", head_dim);
  return kCounterBytes + 4 * partial_floats(num_rows, num_q_heads, head_dim, checked_length(max_seq_len));
}

bool attention_fits_tensor_cores(const AttentionParams& params) {
  constexpr int kHeadDims[] = {64, 80, 96, 128, 256};
  const auto bits = reinterpret_cast<std::uintptr_t>(params.q) | reinterpret_cast<std::uintptr_t>(params.kv) |
                    reinterpret_cast<std::uintptr_t>(params.out);
  const auto strides = params.q_token_stride | params.q_head_stride | params.out_token_stride | params.out_head_stride;
  return params.dtype != DType::kFloat32 && std::ranges::find(kHeadDims, params.head_dim) != std::end(kHeadDims) &&
         params.block_size % 16 == 0 && bits % 16 == 0 && strides % 8 == 0;
}

bool attention_fits_hopper(const AttentionParams& params) {
  return attention_fits_tensor_cores(params) && params.num_q_heads <= kHopperRows * params.num_kv_heads &&
         params.scale > 0.0f && params.q_token_stride > 0 && params.q_head_stride > 0;
}

#ifdef FASTSERVE_WITH_CUDA
namespace {

AttentionLaunch make_launch(const AttentionParams& params, const AttentionInputs& inputs) {
  AttentionLaunch launch;
  launch.params = params;
  launch.num_tokens = inputs.q.size(0);
  launch.num_blocks = inputs.kv_cache.size(0);
  launch.max_seq_len = checked_length(inputs.max_seq_len);
  launch.block_shift = std::countr_zero(static_cast<unsigned>(params.block_size));
  return launch;
}

void take_counters(const AttentionInputs& inputs, AttentionLaunch& launch) {
  FS_REQUIRE(inputs.workspace != nullptr,
             "attention on a GPU needs a workspace; make one of attention_workspace_bytes");
  const TensorView& workspace = *inputs.workspace;
  require_dtype(workspace, DType::kUInt8, "workspace");
  require_contiguous(workspace, "workspace");
  FS_REQUIRE(workspace.numel() >= kCounterBytes, "workspace must have at least ", kCounterBytes, " bytes, got ",
             workspace.numel());
  FS_REQUIRE(reinterpret_cast<std::uintptr_t>(workspace.data) % 16 == 0, "workspace must be aligned to 16 bytes");
  launch.counters = workspace.as<std::uint32_t>();
}

void take_workspace(const AttentionInputs& inputs, AttentionLaunch& launch) {
  take_counters(inputs, launch);
  const AttentionParams& p = launch.params;
  const std::int64_t num_rows = p.row_end - p.row_begin;
  const TensorView& workspace = *inputs.workspace;
  const std::int64_t bytes = attention_workspace_bytes(num_rows, p.num_q_heads, p.head_dim, launch.max_seq_len);
  FS_REQUIRE(workspace.numel() >= bytes, "workspace must have ", bytes, " bytes for ", num_rows, " rows of up to ",
             launch.max_seq_len, " tokens, got ", workspace.numel());
  const int group = p.num_q_heads / p.num_kv_heads;
  const std::int64_t units = std::int64_t{p.num_kv_heads} * ((group + kDecodeUnitHeads - 1) / kDecodeUnitHeads);
  FS_REQUIRE(num_rows * units <= kAttentionCounters, "decode on a GPU takes at most ", kAttentionCounters / units,
             " rows of ", p.num_kv_heads, " KV heads at a time, got ", num_rows);
  launch.max_splits = decode_max_splits(launch.max_seq_len);
  launch.partial_values = reinterpret_cast<float*>(workspace.as<char>() + kCounterBytes);
  launch.partial_state = launch.partial_values + num_rows * p.num_q_heads * launch.max_splits * p.head_dim;
}

}  // namespace

void attention_decode_on_gpu(const AttentionParams& params, const AttentionInputs& inputs) {
  AttentionLaunch launch = make_launch(params, inputs);
  if (params.row_begin == params.row_end || params.num_q_heads == 0) return;
  auto* const stream = reinterpret_cast<void*>(inputs.stream);
  if (inputs.backend == AttentionBackend::kNaive || !attention_fits_tensor_cores(params)) {
    return attention_naive_cuda(launch, stream);
  }
  take_workspace(inputs, launch);
  attention_decode_cuda(launch, stream);
}

void attention_prefill_on_gpu(const AttentionParams& params, const AttentionInputs& inputs) {
  AttentionLaunch launch = make_launch(params, inputs);
  if (params.row_begin == params.row_end || params.num_q_heads == 0 || launch.num_tokens == 0) return;
  auto* const stream = reinterpret_cast<void*>(inputs.stream);
  if (inputs.backend == AttentionBackend::kNaive || !attention_fits_tensor_cores(params)) {
    return attention_naive_cuda(launch, stream);
  }
  if (inputs.backend == AttentionBackend::kMma || !attention_fits_hopper(params) || !attention_hopper_available()) {
    return attention_prefill_cuda(launch, stream);
  }
  take_counters(inputs, launch);
  attention_hopper_cuda(launch, stream);
}

#else

bool attention_hopper_available() { return false; }

// device_of has refused tensors on a GPU already.
void attention_decode_on_gpu(const AttentionParams&, const AttentionInputs&) {
  detail::raise<InternalError>("this build has no CUDA kernels");
}
void attention_prefill_on_gpu(const AttentionParams&, const AttentionInputs&) {
  detail::raise<InternalError>("this build has no CUDA kernels");
}

#endif

}  // namespace fastserve::kernels
