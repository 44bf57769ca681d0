#include "sched/plans/step_plan.h"

#include <algorithm>

#include "base/error.h"

namespace fastserve::sched {
namespace {

/// Entries [first, end) of an array.
struct Range {
  std::int32_t first;
  std::int32_t end;

  template <typename T>
  std::vector<T> of(const std::vector<T>& array) const {
    return {array.begin() + first, array.begin() + end};
  }
  /// Of an array of starts, so that they begin with 0 again.
  std::vector<std::int32_t> of_starts(const std::vector<std::int32_t>& starts) const {
    std::vector<std::int32_t> cut(starts.begin() + first, starts.begin() + end + 1);
    for (std::int32_t& start : cut) start -= starts[static_cast<std::size_t>(first)];
    return cut;
  }
  /// What lies between the starts.
  Range within(const std::vector<std::int32_t>& starts) const {
    return {starts[static_cast<std::size_t>(first)], starts[static_cast<std::size_t>(end)]};
  }
};

}  // namespace

StepPlan StepPlan::slice(std::int32_t first, std::int32_t end) const {
  FS_REQUIRE(first >= 0 && first <= end && end <= num_rows(), "a slice must lie within the ", num_rows(), " rows, got ",
             first, " to ", end);
  StepPlan part;
  part.clear();
  part.step = step;
  part.num_decode_rows = std::clamp(num_decode_rows, first, end) - first;
  const Range rows{first, end};
  const auto sample_at = [this](std::int32_t row) {
    return static_cast<std::int32_t>(std::ranges::lower_bound(sample_rows, row) - sample_rows.begin());
  };
  const Range samples{sample_at(first), sample_at(end)};
  const Range tokens = rows.within(query_start), blocks = rows.within(block_start);
  const auto cut = [&](const Range& range, auto... members) { ((part.*members = range.of(this->*members)), ...); };
  cut(rows, &StepPlan::request_ids, &StepPlan::request_slots, &StepPlan::seq_lens, &StepPlan::token_sources);
  cut(tokens, &StepPlan::token_ids, &StepPlan::positions, &StepPlan::slots);
  cut(blocks, &StepPlan::block_ids);
  cut(samples, &StepPlan::sample_rows);
  part.query_start = rows.of_starts(query_start);
  part.block_start = rows.of_starts(block_start);
  for (std::int32_t& row : part.sample_rows) row -= first;
  return part;
}

void StepPlan::clear() {
  for_each_array(*this, [](const char*, auto& array) { array.clear(); });
  for (auto* starts : {&query_start, &block_start, &transfer_start}) starts->push_back(0);
  num_decode_rows = 0;
}

IterationShape StepPlan::shape() const {
  IterationShape shape;
  const auto decodes = static_cast<std::size_t>(num_decode_rows);
  shape.num_decodes = num_decode_rows;
  std::int64_t decode_ctx = 0;  // whole numbers: summed several at a time, and as exact
  for (std::size_t row = 0; row < decodes; ++row) decode_ctx += seq_lens[row];
  shape.decode_ctx = static_cast<double>(decode_ctx);
  for (std::size_t row = decodes; row < request_ids.size(); ++row) {
    const std::int32_t count = query_start[row + 1] - query_start[row];
    shape.prefill_tokens += count;
    shape.prefill_pairs += prefill_pairs(count, seq_lens[row] - count);
  }
  return shape;
}

}  // namespace fastserve::sched
