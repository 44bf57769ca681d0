#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "kv/types.h"

namespace fastserve::sched {

/// The part of a request that KvMover changes: what KV it has, where, and what became of the attempts to move it. A
/// change that cannot be throws InternalError.
class KvState {
 public:
  /// The KV manager knows `seq()`, a new one each time the KV starts from nothing.
  bool has_kv() const { return has_kv_; }
  kv::SeqId seq() const { return seq_; }
  /// Tokens whose KV is written, by committed plans.
  std::int32_t num_computed() const { return num_computed_; }
  /// Device blocks, as the manager lists them.
  const std::vector<std::int32_t>& blocks() const { return blocks_; }
  std::int32_t num_blocks() const { return static_cast<std::int32_t>(blocks_.size()); }
  /// Its KV is a cached prefix on the host, not brought back since.
  bool holds_host_prefix() const { return holds_host_prefix_; }

  /// Blocks that a start takes, as last measured; the measurement holds until next_probe_step().
  std::int32_t start_need() const { return start_need_; }
  std::int64_t next_probe_step() const { return next_probe_step_; }

  /// Step in which it was parked last; negative: none, or it may come back at once.
  std::int64_t parked_step() const { return parked_step_; }
  std::int32_t parks() const { return parks_; }
  /// Step whose plan goes without it, so that it can be evicted.
  std::int64_t left_out_step() const { return left_out_step_; }
  /// A copy of its KV to the host failed.
  bool offload_failed() const { return offload_failed_; }

 private:
  friend class KvMover;
  friend struct RequestPeer;  // of the tests

  void begin(kv::SeqId seq, std::int32_t num_cached) {
    FS_CHECK(!has_kv_, "KV that is there cannot begin");
    has_kv_ = true;
    seq_ = seq;
    num_computed_ = num_cached;
  }
  void end() {
    FS_CHECK(has_kv_, "KV that is not there cannot end");
    has_kv_ = holds_host_prefix_ = false;
    blocks_.clear();
  }
  void hold_blocks(std::span<const kv::BlockId> blocks) {
    FS_CHECK(has_kv_, "blocks without KV");
    blocks_.resize(blocks.size());
    std::ranges::transform(blocks, blocks_.begin(), kv::index_of);
  }
  void leave_device() {
    FS_CHECK(has_kv_, "KV that is not there cannot leave the device");
    blocks_.clear();
  }
  void write(std::int32_t num_tokens) {
    FS_CHECK(has_kv_ && num_tokens >= 0, "cannot write the KV of ", num_tokens, " tokens: it is not there");
    num_computed_ += num_tokens;
  }
  /// What was computed is to be computed again.
  void lose_computed() {
    FS_CHECK(!has_kv_, "KV that is there is not lost");
    num_computed_ = 0;
  }
  void expect_start(std::int32_t num_blocks, std::int64_t until_step) {
    start_need_ = num_blocks;
    next_probe_step_ = until_step;
  }
  void adopt_host_prefix() {
    FS_CHECK(has_kv_, "a prefix without KV");
    holds_host_prefix_ = true;
  }
  void settle() { holds_host_prefix_ = false; }

  void count_park(std::int64_t step) {
    ++parks_;
    parked_step_ = step;
  }
  void allow_return() { parked_step_ = -2; }
  void leave_out(std::int64_t step) { left_out_step_ = step; }
  void fail_offload() { offload_failed_ = true; }
  /// Returns how many uploads failed since one was of use.
  std::int32_t fail_upload() { return ++failed_uploads_; }
  void begin_upload() {
    upload_unused_ = true;
    upload_late_ = false;
  }
  void note_late_upload() { upload_late_ = true; }
  /// The KV went away again before it was of use; false when no upload waited for that.
  bool waste_upload() { return std::exchange(upload_unused_, false); }
  bool use_upload() {
    if (!upload_unused_) return false;
    failed_uploads_ = 0;
    return std::exchange(upload_unused_, false);
  }
  bool upload_late() const { return upload_late_; }

  bool has_kv_ = false;
  bool holds_host_prefix_ = false;
  bool offload_failed_ = false;
  bool upload_unused_ = false;  // uploaded, not picked since
  bool upload_late_ = false;    // its turn came first
  std::int32_t num_computed_ = 0;
  kv::SeqId seq_{};
  std::vector<std::int32_t> blocks_;
  std::int32_t start_need_ = 0;
  std::int64_t next_probe_step_ = 0;
  std::int64_t parked_step_ = -2;
  std::int64_t left_out_step_ = -2;
  std::int32_t parks_ = 0;
  std::int32_t failed_uploads_ = 0;
};

}  // namespace fastserve::sched
