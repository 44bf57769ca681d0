#include "sched/plans/plan_builder.h"

#include <algorithm>
#include <atomic>

namespace fastserve::sched {
namespace {

/// Rows that a plan under construction looks ahead, at the blocks: nothing else in a step reads them.
constexpr std::size_t kPrefetchRows = 4;

void prefetch_blocks(const Request& request) {
  constexpr std::size_t kPerLine = 64 / sizeof(std::int32_t);
  for (std::size_t i = 0; i < request.blocks().size(); i += kPerLine) __builtin_prefetch(request.blocks().data() + i);
}

/// Where the next row, token, block and sample of a plan under construction go.
struct Cursor {
  std::size_t row = 0;
  std::size_t token = 0;
  std::size_t block = 0;
  std::size_t sample = 0;
};

bool samples(const Pick& pick) { return pick.start + pick.count == pick.request->length(); }

std::int32_t num_blocks_of(const Pick& pick, std::int32_t block_size) {
  return (pick.start + pick.count + block_size - 1) / block_size;
}

/// Give every array of rows, tokens and samples its length, so that the rows are written without a check each.
void size_arrays(StepPlan& plan, std::span<const Pick> picks, std::int32_t block_size) {
  Cursor end{.row = picks.size()};
  for (const Pick& pick : picks) {
    end.token += static_cast<std::size_t>(pick.count);
    end.block += static_cast<std::size_t>(num_blocks_of(pick, block_size));
    end.sample += samples(pick);
    plan.num_decode_rows += pick.count == 1;
  }
  plan.request_ids.resize(end.row);
  plan.request_slots.resize(end.row);
  plan.query_start.resize(end.row + 1);
  plan.seq_lens.resize(end.row);
  plan.block_start.resize(end.row + 1);
  plan.block_ids.resize(end.block);
  plan.token_sources.resize(end.row);
  plan.token_ids.resize(end.token);
  plan.positions.resize(end.token);
  plan.slots.resize(end.token);
  plan.sample_rows.resize(end.sample);
}

void write_row(StepPlan& plan, const Pick& pick, std::int32_t block_size, Cursor& at) {
  const Request& request = *pick.request;
  const std::int32_t end = pick.start + pick.count;
  const std::size_t row = at.row++;
  plan.request_ids[row] = request.id;
  plan.request_slots[row] = request.slot();
  plan.seq_lens[row] = end;
  const auto num_blocks = static_cast<std::size_t>(num_blocks_of(pick, block_size));
  std::copy_n(request.blocks().data(), num_blocks, plan.block_ids.data() + at.block);
  at.block += num_blocks;
  plan.block_start[row + 1] = static_cast<std::int32_t>(at.block);

  const bool pending =
      request.num_tokens() < end;  // only the last token can be: it is the sample of the plan in flight
  std::copy(request.tokens().data() + pick.start, request.tokens().data() + (pending ? end - 1 : end),
            plan.token_ids.data() + at.token);
  const std::size_t first = at.token;
  at.token += static_cast<std::size_t>(pick.count);
  if (pending) plan.token_ids[at.token - 1] = -1;
  plan.token_sources[row] = pending ? request.last_sample() : -1;
  plan.query_start[row + 1] = static_cast<std::int32_t>(at.token);
  std::int32_t position = pick.start;
  for (std::size_t token = first; token < at.token;) {
    const std::int32_t block = position / block_size;
    const std::int32_t block_end = std::min((block + 1) * block_size, end);
    const std::int64_t shift =
        std::int64_t{request.blocks()[static_cast<std::size_t>(block)]} * block_size - std::int64_t{block} * block_size;
    for (; position < block_end; ++position, ++token) {
      plan.positions[token] = position;
      plan.slots[token] = shift + position;
    }
  }
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
  if (pool_.size() < max_pooled_) pool_.push_back(plan);
  plan->clear();
  return plan;
}

std::shared_ptr<StepPlan> PlanBuilder::build(StepId step, std::span<const Pick> picks,
                                             std::span<const kv::Transfer> transfers, std::int32_t block_size) {
  auto plan = vacant();
  plan->step = step;
  size_arrays(*plan, picks, block_size);
  Cursor at;
  for (std::size_t i = 0; i < picks.size(); ++i) {
    const Pick& pick = picks[i];
    if (i + kPrefetchRows < picks.size()) prefetch_blocks(*picks[i + kPrefetchRows].request);
    write_row(*plan, pick, block_size, at);
    if (samples(pick)) plan->sample_rows[at.sample++] = static_cast<std::int32_t>(i);
  }
  for (const kv::Transfer& transfer : transfers) add_transfer(*plan, transfer);
  return plan;
}

}  // namespace fastserve::sched
