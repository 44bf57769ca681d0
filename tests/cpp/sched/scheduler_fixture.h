#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "sched/scheduler.h"

namespace fastserve::sched {

using Ids = std::vector<std::int64_t>;

/// The lengths of the arrays agree, starts rise, indices are in range.
inline void expect_consistent(const StepPlan& plan) {
  const std::size_t rows = plan.request_ids.size(), tokens = plan.token_ids.size();
  const std::size_t copies = plan.transfer_ids.size(), moved = plan.transfer_sources.size();
  for (const std::size_t size : {plan.request_slots.size(), plan.seq_lens.size(), plan.token_sources.size()})
    EXPECT_EQ(size, rows);
  for (const std::size_t size : {plan.positions.size(), plan.slots.size()}) EXPECT_EQ(size, tokens);
  EXPECT_EQ(plan.transfer_to_host.size(), copies);
  EXPECT_EQ(plan.transfer_targets.size(), moved);
  const auto expect_starts = [](const std::vector<std::int32_t>& starts, std::size_t entries, std::size_t total) {
    ASSERT_EQ(starts.size(), entries + 1);
    EXPECT_EQ(starts.front(), 0);
    EXPECT_EQ(static_cast<std::size_t>(starts.back()), total);
    EXPECT_TRUE(std::ranges::is_sorted(starts));
  };
  expect_starts(plan.query_start, rows, tokens);
  expect_starts(plan.block_start, rows, plan.block_ids.size());
  expect_starts(plan.transfer_start, copies, moved);
  EXPECT_LE(static_cast<std::size_t>(plan.num_decode_rows), rows);
  for (const auto* indices : {&plan.request_slots, &plan.sample_rows, &plan.block_ids, &plan.positions,
                              &plan.transfer_sources, &plan.transfer_targets, &plan.ended_slots})
    for (const std::int32_t index : *indices) EXPECT_GE(index, 0);
  for (const std::int32_t row : plan.sample_rows) EXPECT_LT(static_cast<std::size_t>(row), rows);
}

/// Blocks of 4 tokens; an iteration takes 1 s however large, so that q_1 = 1 s.
class SchedulerTest : public ::testing::Test {
 protected:
  SchedulerConfig config_{.max_num_seqs = 2,
                          .max_num_batched_tokens = 32,
                          .max_prefill_chunk_tokens = 8,
                          .max_model_len = 64,
                          .starvation_limit_s = 1e6,
                          .max_pause_s = 1e6,
                          .num_levels = 4,
                          .proactive_offload = false,
                          .write_through = false,
                          .reserve_iterations = 0};
  LatencyModel latency_{LatencyModel::Coefficients{1, 0, 0, 0, 0}};
  std::unique_ptr<kv::KvManager> kv_;
  std::unique_ptr<Scheduler> scheduler_;
  double now_s_ = 0.0;

  void make(std::int32_t device_blocks, std::int32_t host_blocks = 0, bool prefix_caching = false) {
    kv_ = std::make_unique<kv::KvManager>(kv::KvConfig{4, device_blocks, host_blocks, prefix_caching});
    scheduler_ = std::make_unique<Scheduler>(config_, *kv_, latency_);
  }

  void add(std::int64_t id, std::int32_t prompt_tokens, std::int32_t max_tokens = 100, std::int32_t priority = 0) {
    std::vector<std::int32_t> prompt(static_cast<std::size_t>(prompt_tokens));
    std::iota(prompt.begin(), prompt.end(), static_cast<std::int32_t>(100 * id));
    RequestOptions options;
    options.max_tokens = max_tokens;
    options.priority = priority;
    scheduler_->add(id, prompt, options, now_s_);
  }

  std::shared_ptr<const StepPlan> plan() {
    auto plan = scheduler_->schedule(now_s_);
    expect_consistent(*plan);
    scheduler_->check_integrity();
    return plan;
  }

  void commit(const StepPlan& plan, double iteration_s = 1.0) {
    now_s_ += iteration_s;
    const std::vector<std::int32_t> sampled(plan.sample_rows.size(), 7);
    scheduler_->commit(plan.step, sampled, iteration_s, now_s_);
    scheduler_->check_integrity();
  }

  void complete(const StepPlan& plan, bool ok = true) {
    const std::vector<std::uint8_t> flags(plan.transfer_ids.size(), ok);
    scheduler_->complete_transfers(plan.transfer_ids, flags, now_s_);
    scheduler_->check_integrity();
  }

  /// One iteration at depth 1, copies done with it; the requests in it.
  Ids step() {
    const auto made = plan();
    commit(*made);
    complete(*made);
    return made->request_ids;
  }
};

}  // namespace fastserve::sched
