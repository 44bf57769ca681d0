#pragma once

#include <cstdint>
#include <span>
#include <unordered_set>
#include <vector>

#include "sched/core.h"

namespace fastserve::sched {

/// Carries out decisions about KV: calls the manager, follows the copies, updates the state of the request.
class KvMover {
 public:
  /// After this many failed uploads the KV is dropped and computed again.
  static constexpr std::int32_t kMaxFailedUploads = 3;

  /// A start that failed for lack of memory is measured again (O(prompt)) after this many steps: what it shares with
  /// the prefix cache may have changed.
  static constexpr std::int64_t kProbeInterval = 64;

  explicit KvMover(SchedulerCore& core) : core_(core) {}

  /// Start the KV of a waiting request, with what the prefix cache holds of it: ready, or on its way from the host. False,
  /// with what it takes measured, when that would leave fewer than `spare_blocks` free.
  bool start(Request& request, std::int32_t spare_blocks);
  /// Give the KV up. The state does not change.
  void end(Request& request);
  /// A start takes `num_blocks`, as measured; that holds until `until_step`.
  void expect_start(Request& request, std::int32_t num_blocks, std::int64_t until_step = 0) {
    request.expect_start(num_blocks, until_step);
  }
  /// It goes without this step, so that it can be evicted once no plan in flight contains it.
  void leave_out(Request& request);
  /// It may come back in the step in which it was parked.
  void allow_return(Request& request) { request.allow_return(); }
  /// Its turn came before its KV did.
  void note_late_upload(Request& request) { request.note_late_upload(); }
  /// Hold device blocks for `num_tokens` in all; false when the pool is short.
  bool reserve(Request& request, std::int32_t num_tokens);
  /// The KV of `num_tokens` more of its tokens is written.
  void commit(Request& request, std::int32_t num_tokens);

  /// Move the KV of a ready request to the host; false when the host pool is short.
  bool offload(Request& request);
  /// Take the KV of a ready request off the device, as `how` says or, when the host pool is short, by dropping it.
  /// Blocks come free at once or when the copy is complete.
  void evict(Request& request, Decision how);
  /// Bring a parked request back; false when the pool is short.
  bool upload(Request& request, Decision why);
  bool mirror(Request& request, std::int32_t max_blocks);
  /// Back to waiting; the KV is computed again when it is picked.
  void drop(Request& request, Decision why);

  /// Device blocks that offloads in flight will free.
  std::int32_t blocks_leaving() const { return blocks_leaving_; }
  std::int64_t num_transfers() const { return static_cast<std::int64_t>(in_flight_.size()); }
  /// Throws InvalidArgumentError for an id that is not in flight; nothing changes then.
  void complete(std::span<const std::int64_t> ids, std::span<const std::uint8_t> ok);

  /// Copies to start with the plan being made; the caller clears them.
  std::vector<kv::Transfer>& planned() { return planned_; }
  void count_pick(Request& request);
  void check_integrity() const;

 private:
  struct Transit {
    Request* request = nullptr;
    std::int32_t num_blocks = 0;  // device blocks that come free; 0 for an upload
  };
  void begin(Request& request);
  void issue(kv::Transfer transfer);
  void refresh_blocks(Request& request);
  void count_park(Request& request, Decision how);
  void settle(Request& request);
  bool forget_transit(const Request& request);
  void waste_upload(Request& request);

  SchedulerCore& core_;
  std::int64_t next_seq_ = 0;
  std::int32_t blocks_leaving_ = 0;
  std::unordered_set<std::int64_t> in_flight_;  // transfers; looked up, never walked
  std::vector<Transit> transit_;  // in order of start; a move may end with another's copy, of a block they share
  std::vector<kv::Transfer> planned_;
};

}  // namespace fastserve::sched
