#pragma once

#include <cstdint>
#include <vector>

#include "kv/types.h"

namespace fastserve::sched {

/// Why a request ended; kNone while it goes on.
enum class FinishReason : std::uint8_t { kNone, kStop, kLength, kAbort, kError, kDeadline };

/// kWaiting: no KV. kReady: KV on the device, in no plan. kRunning: in one or two plans in flight. kOffloading, kParked
/// (host), kUploading: in no plan. kFinished: for good; KV may be held until the last plan that contains it is
/// committed.
enum class RequestState : std::uint8_t { kWaiting, kReady, kRunning, kOffloading, kParked, kUploading, kFinished };
inline constexpr int kNumRequestStates = 7;
const char* name_of(RequestState state);
const char* name_of(FinishReason reason);

/// What a request must get before it can run; one bit plane each in the queues.
enum class Place : std::uint8_t { kResident, kTransit, kHost, kWaiting };
inline constexpr int kNumPlaces = 4;
using PlaceMask = std::uint8_t;
constexpr PlaceMask mask_of(Place place) { return static_cast<PlaceMask>(1u << static_cast<unsigned>(place)); }
inline constexpr PlaceMask kAnyPlace = 0xF;

/// What the caller asks of one request. How its tokens are sampled is the workers' business.
struct RequestOptions {
  std::int32_t max_tokens = 16;
  std::int32_t min_tokens = 0;  // eos and stop tokens do not end it before; workers do not sample them before
  bool ignore_eos = false;
  std::vector<std::int32_t> eos_token_ids;
  std::vector<std::int32_t> stop_token_ids;
  std::int32_t priority = 0;              // lower first
  std::uint64_t cache_salt = 0;           // prefix blocks are shared only under the same salt
  double deadline_s = 0.0;                // absolute; <= 0: none
  double max_pause_s = 0.0;               // longest pause between outputs, where memory allows; <= 0: the engine's
  double ttft_slo_s = 0.0;                // objective until the first output; <= 0: the engine's
  double tpot_slo_s = 0.0;                // objective per output after it, on average; <= 0: the engine's
  std::int32_t oracle_output_tokens = 0;  // output length, for srpt; 0: unknown
  std::uint64_t length_class = 0;         // requests of one class have similar output lengths, for learned
};

/// Throws InvalidArgumentError naming the first option that is out of range or no number.
void check_options(const RequestOptions& options);

/// Where the time of a request went, seconds. `parked_s`: after its first iteration, in no batch, with the KV on the
/// device or dropped; `host_s`: with the KV on the host or on its way there; `upload_wait_s`: while an upload was under
/// way.
struct RequestStats {
  std::int64_t preemptions = 0;
  double parked_s = 0.0;
  double host_s = 0.0;
  double upload_wait_s = 0.0;
  std::int64_t recomputed_tokens = 0;
  double queue_s = 0.0;
};

/// What the scheduler did to a request and why, for `explain`.
enum class Decision : std::uint8_t {
  kNone,
  kJoined,
  kStarted,
  kPromoted,
  kDemoted,
  kBlockedByMemory,
  kLeftOut,            // of a plan, to be evicted once no plan in flight contains it
  kOffloaded,          // copied to the host
  kOffloadedMirrored,  // to the host without a copy: it was mirrored
  kDroppedByMode,      // preemption_mode recompute
  kDroppedCheaper,     // recomputing costs less than the copy back
  kDroppedHostFull,
  kDroppedNoHost,
  kDroppedCopyFailed,
  kDroppedEmpty,  // nothing was computed yet
  kUploadedOnDemand,
  kUploadedAhead,
  kCopyFailed,
  kParkedByCaller,
  kHeld,
  kReleased,
};
const char* name_of(Decision decision);

struct DecisionEntry {
  double now_s = 0.0;
  Decision decision = Decision::kNone;
};

/// A request as `explain` shows it.
struct RequestView {
  RequestState state = RequestState::kWaiting;
  kv::Residency residency = kv::Residency::kNone;
  FinishReason finish_reason = FinishReason::kNone;
  std::int32_t priority = 0;
  std::int32_t level = 0;  // 0 = Q_1
  bool starving = false;
  bool held = false;
  double attained_s = 0.0;
  double quantum_s = 0.0;
  double waited_s = 0.0;
  double enst_s = 0.0;
  std::int64_t requests_ahead = 0;
  std::uint64_t length_class = 0;
  double index_s = 0.0;  // Gittins index; 0: the level does not follow one
  std::int32_t prompt_tokens = 0;
  std::int32_t output_tokens = 0;
  std::int32_t computed_tokens = 0;
  std::int32_t device_blocks = 0;
  std::int32_t parks = 0;
  std::int64_t promotions = 0;
  std::vector<DecisionEntry> decisions;  // oldest first
};

}  // namespace fastserve::sched
