#pragma once

#include <cstdint>
#include <vector>

namespace fastserve::sched {

/// State and counters of the scheduler at one moment; counters run from its construction.
struct SchedulerStats {
  // --- state ---
  std::int64_t num_running = 0;  // unfinished requests in the newest plan of each stage
  std::int64_t num_waiting = 0;  // without KV
  std::int64_t num_parked_device = 0;
  std::int64_t num_parked_host = 0;  // on the host, or on the way there or back
  std::int64_t num_held = 0;
  std::vector<std::int32_t> level_requests;
  double device_usage = 0.0;  // share of the blocks held or in transfer
  double host_usage = 0.0;

  // --- policy ---
  std::int64_t iterations = 0;  // plans with rows
  std::int64_t iteration_tokens = 0;
  std::int64_t preemptions = 0;
  std::int64_t promotions = 0;
  std::int64_t demotions = 0;
  std::int64_t finished = 0;
  std::int64_t thrash_governor_trips = 0;

  // --- KV movement; parks = swaps + recomputes ---
  std::int64_t parks = 0;
  std::int64_t swaps = 0;
  std::int64_t swaps_without_copy = 0;  // of the swaps: everything was mirrored
  std::int64_t recomputes = 0;
  std::int64_t recomputes_by_mode = 0;
  std::int64_t recomputes_cheaper = 0;
  std::int64_t recomputes_host_full = 0;
  std::int64_t recomputes_no_host = 0;
  std::int64_t recomputes_copy_failed = 0;
  std::int64_t recomputes_empty = 0;
  std::int64_t recomputed_tokens = 0;
  double dropped_s = 0.0;  // predicted seconds of recomputing what was dropped
  std::int64_t offload_blocks = 0;
  std::int64_t mirror_blocks = 0;
  std::int64_t upload_blocks = 0;
  double offload_bytes = 0.0;  // offloads and mirrors
  double upload_bytes = 0.0;
  std::int64_t uploads_hit = 0;
  std::int64_t uploads_late = 0;
  std::int64_t uploads_wasted = 0;
  std::int64_t failed_transfers = 0;
  std::int64_t prefix_cache_queries = 0;  // prompt tokens, looked up with the first iteration of their request
  std::int64_t prefix_cache_hits = 0;     // of them, taken from the cache
};

}  // namespace fastserve::sched
