#include "sched/plan_builder.h"

#include <algorithm>
#include <atomic>

namespace fastserve::sched {
namespace {

/// Two plans in flight, one being made, and a few that readers still look at.
constexpr std::size_t kMaxPooledPlans = 8;

void add_row(StepPlan& plan, const Pick& pick, std::int32_t block_size) {
  const Request& request = *pick.request;
  const std::int32_t end = pick.start + pick.count;
  plan.request_ids.push_back(request.id);
  plan.seq_lens.push_back(end);
  const auto num_blocks = (end + block_size - 1) / block_size;
  plan.block_ids.insert(plan.block_ids.end(), request.blocks.begin(), request.blocks.begin() + num_blocks);
  plan.block_start.push_back(static_cast<std::int32_t>(plan.block_ids.size()));

  const std::int32_t known = std::min(end, request.num_tokens());
  plan.token_ids.insert(plan.token_ids.end(), request.tokens.begin() + pick.start, request.tokens.begin() + known);
  const bool pending = known < end;  // only the last token can be: it is the sample of the plan in flight
  if (pending) plan.token_ids.push_back(-1);
  plan.token_sources.push_back(pending ? request.last_sample : -1);
  plan.query_start.push_back(static_cast<std::int32_t>(plan.token_ids.size()));
  for (std::int32_t position = pick.start; position < end; ++position) {
    plan.positions.push_back(position);
    const std::int64_t block = request.blocks[static_cast<std::size_t>(position / block_size)];
    plan.slots.push_back(block * block_size + position % block_size);
  }
}

void add_sample(StepPlan& plan, std::int32_t row, const Request& request) {
  const RequestOptions& options = request.options;
  const bool pending = request.num_pending > 0;
  plan.sample_rows.push_back(row);
  plan.temperature.push_back(options.temperature);
  plan.top_k.push_back(options.top_k);
  plan.top_p.push_back(options.top_p);
  plan.min_p.push_back(options.min_p);
  plan.repetition_penalty.push_back(options.repetition_penalty);
  plan.presence_penalty.push_back(options.presence_penalty);
  plan.frequency_penalty.push_back(options.frequency_penalty);
  plan.seeds.push_back(options.seed);
  plan.counters.push_back(request.length());
  plan.num_logprobs.push_back(options.num_logprobs);
  if (options.has_penalty()) {
    plan.history_tokens.insert(plan.history_tokens.end(), request.tokens.begin(), request.tokens.end());
    if (pending) plan.history_tokens.push_back(-1);
  }
  plan.history_start.push_back(static_cast<std::int32_t>(plan.history_tokens.size()));
  plan.history_prompt_len.push_back(request.options.has_penalty() ? request.num_prompt : 0);
  if (request.length() - request.num_prompt < options.min_tokens) {
    auto& banned = plan.banned_tokens;
    if (!options.ignore_eos) banned.insert(banned.end(), options.eos_token_ids.begin(), options.eos_token_ids.end());
    banned.insert(banned.end(), options.stop_token_ids.begin(), options.stop_token_ids.end());
  }
  plan.banned_start.push_back(static_cast<std::int32_t>(plan.banned_tokens.size()));
}

void add_transfer(StepPlan& plan, const kv::Transfer& transfer) {
  plan.transfer_ids.push_back(static_cast<std::int64_t>(transfer.id));
  plan.transfer_to_host.push_back(transfer.kind != kv::TransferKind::kUpload);
  for (const kv::BlockId block : transfer.source) plan.transfer_sources.push_back(kv::index_of(block));
  for (const kv::BlockId block : transfer.target) plan.transfer_targets.push_back(kv::index_of(block));
  plan.transfer_start.push_back(static_cast<std::int32_t>(plan.transfer_sources.size()));
}

}  // namespace

std::shared_ptr<StepPlan> PlanBuilder::vacant() {
  for (const auto& plan : pool_) {
    if (plan.use_count() != 1) continue;
    std::atomic_thread_fence(std::memory_order_acquire);  // the last reader may have been another thread
    plan->clear();
    return plan;
  }
  auto plan = std::make_shared<StepPlan>();
  if (pool_.size() < kMaxPooledPlans) pool_.push_back(plan);
  plan->clear();
  return plan;
}

std::shared_ptr<StepPlan> PlanBuilder::build(StepId step, std::span<const Pick> picks,
                                             std::span<const kv::Transfer> transfers, std::int32_t block_size) {
  auto plan = vacant();
  plan->step = step;
  for (const Pick& pick : picks) {
    add_row(*plan, pick, block_size);
    plan->num_decode_rows += pick.count == 1;
    if (pick.start + pick.count == pick.request->length()) add_sample(*plan, plan->num_rows() - 1, *pick.request);
  }
  for (const kv::Transfer& transfer : transfers) add_transfer(*plan, transfer);
  return plan;
}

}  // namespace fastserve::sched
