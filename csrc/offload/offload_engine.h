#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "offload/copy/copy_hook.h"
#include "offload/transfer.h"

namespace fastserve::offload {

/// Queues on `stream` (a cudaStream_t): out[i] = hash_block (base/block_hash.h) of block ids[i] of an arena on a GPU.
/// The ids are taken before it returns; `out` is page-locked. Throws DeviceError when the launch fails.
using HashBlocksOnDevice = void (*)(const std::byte* arena, std::int64_t block_bytes, std::span<const std::int32_t> ids,
                                    std::int64_t* out, void* stream);

struct OffloadOptions {
  /// Transfers per direction that may be queued or running at once.
  std::int64_t queue_capacity = 64;
  /// Hash every block on both sides of every copy (the KV canary): a corrupt block fails its transfer. Costs one read
  /// of each side per copy; for tests, burn-in and chasing races.
  bool verify_checksums = false;

  // For device arenas on a GPU; the CPU backend has no use for them.

  /// The cudaStream_t that the model's kernels run on, as an integer; 0 is the legacy default stream. A copy begins
  /// after what was enqueued there before its `submit`.
  std::uintptr_t compute_stream = 0;
  /// Take a host arena that is not page-locked: copies then block the copy threads and lose most of the link.
  bool allow_pageable = false;
  /// Hand many pieces to the copy engine in one call where the driver can; off: one call for each (for comparison).
  bool batch_copies = true;
  /// With verify_checksums: hashes blocks where they lie. Null: they are copied to the host for it.
  HashBlocksOnDevice hash_on_device = nullptr;
};

/// Copies KV blocks between the device arena and the host arena beside the compute, each direction on its own.
///
/// Order. Transfers of one direction run and complete in the order of submission; the two directions run at once and
/// know no order between them. Therefore a transfer that touches the blocks of another one in flight is *refused*
/// (InvalidArgumentError): a block being written may be neither read nor written by another transfer, a block being
/// read may not be written. An upload of a host block whose offload is still queued is thus an error of the caller, who
/// submits it after that offload completed (KvManager guarantees this); two transfers may read the same block.
///
/// Beside the compute. The engine does not see the model's reads and writes of the device arena. The caller submits an
/// offload when the step that wrote its source blocks has ended (CPU) or was enqueued on the compute stream (GPU), does not
/// write them until it completed, and does not touch the targets of an upload between its submission and its
/// completion. On a GPU every copy also waits for what the compute stream was given before its submission.
///
/// Failure. A transfer that fails completes with ok = false and the reason; its targets hold unspecified bytes, every
/// other transfer goes on. `device_fault` tells whether the device itself was lost.
///
/// Threads. Every method may be called from any thread. Each completion is reported once, by `poll` or by `wait`.
class OffloadEngine {
 public:
  virtual ~OffloadEngine() = default;

  /// Queue a transfer; the ids are copied and the copy itself is never waited for. While the direction's queue is full
  /// this waits for room. A transfer of no blocks is legal and completes in its turn.
  /// Throws InvalidArgumentError: lengths differ, an id out of range, a target given twice, a block in use by a
  /// transfer in flight (see Order), engine closed.
  virtual Ticket submit(const Transfer& transfer) = 0;
  /// The same, but nullopt where `submit` would wait.
  virtual std::optional<Ticket> try_submit(const Transfer& transfer) = 0;

  /// The completions not reported yet, in the order in which the transfers ended; never waits.
  virtual std::vector<Completion> poll() = 0;
  /// Wait until `poll` would return something; false after `timeout_s` seconds (infinity: no limit), or at once when
  /// nothing is in flight. Throws InvalidArgumentError for a timeout that is negative or not a number.
  virtual bool wait_any(double timeout_s) = 0;
  /// Wait for one transfer and report it, so that `poll` does not; nullopt after `timeout_s` seconds (as above).
  /// Throws InvalidArgumentError: unknown ticket, already reported, or another thread waits for it.
  virtual std::optional<Completion> wait(Ticket ticket, double timeout_s) = 0;

  /// Rate of recent copies with their verification: bytes over seconds, both decayed by 0.8 per transfer. A prior
  /// (10 GB/s) until the first transfer ended ok.
  virtual double link_bytes_per_s(Direction direction) const = 0;
  /// Transfers submitted and not yet reported.
  virtual std::int64_t num_in_flight() const = 0;
  virtual DirectionCounters counters(Direction direction) const = 0;
  /// Blocks whose hashes were compared, and of these the ones that differed; 0 without `verify_checksums`.
  virtual std::int64_t num_verified() const = 0;
  virtual std::int64_t num_mismatches() const = 0;
  /// Why the device is lost for this process; empty while it works. Known before the transfer that met it is reported.
  /// Once set, nothing that lies on the device can be trusted any more.
  virtual std::string device_fault() const = 0;
  /// Bytes of one block.
  virtual std::int64_t block_bytes() const = 0;
  /// Call `hook` around every copy that starts from now on; null (the default): none. The engine closes its hook with itself.
  virtual void set_copy_hook(std::shared_ptr<CopyHook> hook) = 0;

  /// Throw InternalError when the queues, tickets and block uses contradict each other.
  virtual void check_integrity() const = 0;
  /// Cancel what is queued (ok = false, "cancelled ..."), let running transfers end and join the threads. Completions
  /// can still be polled afterwards. May be called twice; the destructor calls it.
  virtual void close() = 0;
};

}  // namespace fastserve::offload
