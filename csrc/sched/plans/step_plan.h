#pragma once

#include <cstdint>
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
  std::vector<std::int32_t> request_slots;  // of the workers' request tables, which hold how it is sampled
  std::vector<std::int32_t> query_start;    // [R + 1], cumulative tokens
  std::vector<std::int32_t> seq_lens;       // [R], KV length after this step
  std::vector<std::int32_t> block_start;    // [R + 1], into block_ids
  std::vector<std::int32_t> block_ids;      // device blocks that hold seq_lens[r] tokens, in order
  std::int32_t num_decode_rows = 0;

  // --- tokens [T] ---
  std::vector<std::int32_t> token_ids;  // -1: not known yet, see token_sources
  std::vector<std::int32_t> positions;
  std::vector<std::int64_t> slots;  // block * block_size + offset of this token's KV

  /// [R]: where the first token of row r is -1, the sampling entry of the *previous* step whose token it is; else -1.
  std::vector<std::int32_t> token_sources;

  // --- sampling [S], one entry for every row whose last token ends its prompt or is a decode ---
  std::vector<std::int32_t> sample_rows;

  // --- transfers [J], to start before this step's forward pass ---
  std::vector<std::int64_t> transfer_ids;
  std::vector<std::uint8_t> transfer_to_host;  // 1: device to host, 0: host to device
  std::vector<std::int32_t> transfer_start;    // [J + 1], into the two below
  std::vector<std::int32_t> transfer_sources;
  std::vector<std::int32_t> transfer_targets;

  std::vector<std::int32_t> ended_slots;  // of requests that have ended and are in no plan any more

  /// Every array of the plan by name; the only list of them.
  template <typename Plan, typename Visit>
  static constexpr void for_each_array(Plan& plan, Visit&& visit) {
    visit("request_ids", plan.request_ids);
    visit("request_slots", plan.request_slots);
    visit("query_start", plan.query_start);
    visit("seq_lens", plan.seq_lens);
    visit("block_start", plan.block_start);
    visit("block_ids", plan.block_ids);
    visit("token_ids", plan.token_ids);
    visit("positions", plan.positions);
    visit("slots", plan.slots);
    visit("token_sources", plan.token_sources);
    visit("sample_rows", plan.sample_rows);
    visit("transfer_ids", plan.transfer_ids);
    visit("transfer_to_host", plan.transfer_to_host);
    visit("transfer_start", plan.transfer_start);
    visit("transfer_sources", plan.transfer_sources);
    visit("transfer_targets", plan.transfer_targets);
    visit("ended_slots", plan.ended_slots);
  }

  /// Empty every array, keeping its memory; the *_start arrays begin with their 0.
  void clear();

  /// The rows [first, end) as a plan of their own, with their sampling entries, without transfers and ended slots.
  /// Throws InvalidArgumentError unless 0 <= first <= end <= num_rows().
  StepPlan slice(std::int32_t first, std::int32_t end) const;

  /// What the time of the iteration depends on. O(rows).
  IterationShape shape() const;

  std::int32_t num_rows() const { return static_cast<std::int32_t>(request_ids.size()); }
  std::int32_t num_tokens() const { return static_cast<std::int32_t>(token_ids.size()); }
  std::int32_t num_samples() const { return static_cast<std::int32_t>(sample_rows.size()); }
  std::int32_t num_transfers() const { return static_cast<std::int32_t>(transfer_ids.size()); }
};

}  // namespace fastserve::sched
