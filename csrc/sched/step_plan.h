#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sched/latency_model.h"

namespace fastserve::sched {

enum class StepId : std::int64_t {};

/// One iteration as the workers need it: the only struct that leaves the scheduler. Flat arrays, read in Python as
/// numpy views without a copy. R rows (requests in the batch), T tokens, S sampled rows, J transfers.
///
/// Rows with one query token (decodes) come first: num_decode_rows of them; prefill chunks follow.
struct StepPlan {
  StepId step{};

  // --- rows [R] ---
  std::vector<std::int64_t> request_ids;
  std::vector<std::int32_t> query_start;  // [R + 1], cumulative tokens
  std::vector<std::int32_t> seq_lens;     // [R], KV length after this step
  std::vector<std::int32_t> block_start;  // [R + 1], into block_ids
  std::vector<std::int32_t> block_ids;    // device blocks that hold seq_lens[r] tokens, in order
  std::int32_t num_decode_rows = 0;

  // --- tokens [T] ---
  std::vector<std::int32_t> token_ids;  // -1: not known yet, see token_source_rows
  std::vector<std::int32_t> positions;
  std::vector<std::int64_t> slots;  // block * block_size + offset of this token's KV

  /// [R]: where the first token of row r is -1, the sampling entry of the *previous* step whose token it is; else -1.
  std::vector<std::int32_t> token_sources;

  // --- sampling [S], one entry for every row whose last token ends its prompt or is a decode ---
  std::vector<std::int32_t> sample_rows;
  std::vector<float> temperature;
  std::vector<std::int32_t> top_k;
  std::vector<float> top_p;
  std::vector<float> min_p;
  std::vector<float> repetition_penalty;
  std::vector<float> presence_penalty;
  std::vector<float> frequency_penalty;
  std::vector<std::uint64_t> seeds;
  std::vector<std::int64_t> counters;      // position of the sampled token
  std::vector<std::int32_t> num_logprobs;  // -1: none wanted
  /// Prompt and output of the entries with a penalty; empty for the others. A last token that is not known yet is -1:
  /// the worker puts it in, as it does in token_ids.
  std::vector<std::int32_t> history_start;  // [S + 1]
  std::vector<std::int32_t> history_tokens;
  std::vector<std::int32_t> history_prompt_len;  // [S], 0 without a history
  /// Tokens forbidden at this position: stop tokens before min_tokens is reached.
  std::vector<std::int32_t> banned_start;  // [S + 1]
  std::vector<std::int32_t> banned_tokens;

  // --- transfers [J], to start before this step's forward pass ---
  std::vector<std::int64_t> transfer_ids;
  std::vector<std::uint8_t> transfer_to_host;  // 1: device to host, 0: host to device
  std::vector<std::int32_t> transfer_start;    // [J + 1], into the two below
  std::vector<std::int32_t> transfer_sources;
  std::vector<std::int32_t> transfer_targets;

  /// Every array of the plan by name, in the order of its wire format; the only list of them.
  template <typename Plan, typename Visit>
  static void for_each_array(Plan& plan, Visit&& visit) {
    visit("request_ids", plan.request_ids);
    visit("query_start", plan.query_start);
    visit("seq_lens", plan.seq_lens);
    visit("block_start", plan.block_start);
    visit("block_ids", plan.block_ids);
    visit("token_ids", plan.token_ids);
    visit("positions", plan.positions);
    visit("slots", plan.slots);
    visit("token_sources", plan.token_sources);
    visit("sample_rows", plan.sample_rows);
    visit("temperature", plan.temperature);
    visit("top_k", plan.top_k);
    visit("top_p", plan.top_p);
    visit("min_p", plan.min_p);
    visit("repetition_penalty", plan.repetition_penalty);
    visit("presence_penalty", plan.presence_penalty);
    visit("frequency_penalty", plan.frequency_penalty);
    visit("seeds", plan.seeds);
    visit("counters", plan.counters);
    visit("num_logprobs", plan.num_logprobs);
    visit("history_start", plan.history_start);
    visit("history_tokens", plan.history_tokens);
    visit("history_prompt_len", plan.history_prompt_len);
    visit("banned_start", plan.banned_start);
    visit("banned_tokens", plan.banned_tokens);
    visit("transfer_ids", plan.transfer_ids);
    visit("transfer_to_host", plan.transfer_to_host);
    visit("transfer_start", plan.transfer_start);
    visit("transfer_sources", plan.transfer_sources);
    visit("transfer_targets", plan.transfer_targets);
  }

  /// Empty every array, keeping its memory; the *_start arrays begin with their 0.
  void clear();

  /// Check that the arrays fit together: lengths, ascending starts, row and source indices in range. Throws
  /// InvalidArgumentError naming the array.
  void validate() const;

  /// For other processes: a header (magic, version, step, num_decode_rows, number of arrays), then each array as its
  /// length and its elements, all little-endian.
  std::vector<std::byte> to_bytes() const;
  /// Throws InvalidArgumentError unless `bytes` is exactly one plan that passes validate().
  static StepPlan from_bytes(std::span<const std::byte> bytes);

  /// The rows [first, end) as a plan of their own, with their sampling entries and without transfers. Throws
  /// InvalidArgumentError unless 0 <= first <= end <= num_rows().
  StepPlan slice(std::int32_t first, std::int32_t end) const;

  /// What the time of the iteration depends on. O(rows).
  IterationShape shape() const;

  std::int32_t num_rows() const { return static_cast<std::int32_t>(request_ids.size()); }
  std::int32_t num_tokens() const { return static_cast<std::int32_t>(token_ids.size()); }
  std::int32_t num_samples() const { return static_cast<std::int32_t>(sample_rows.size()); }
  std::int32_t num_transfers() const { return static_cast<std::int32_t>(transfer_ids.size()); }
};

}  // namespace fastserve::sched
