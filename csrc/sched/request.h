#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kv/types.h"

namespace fastserve::sched {

struct PriorityClass;  // queues of one priority, owned by the MLFQ
class LengthClass;     // what is learned of one class of output lengths, owned by the learned policy

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

/// One request: tokens, progress, place in the queues, history. Owned by the request table; its address is stable. The
/// state changes through move_to only, which checks that the step is legal and keeps the time account.
class Request {
 public:
  static constexpr int kDecisionsKept = 6;
  static constexpr std::size_t kPrefetchDistance = 4;  // requests that a walk looks ahead

  Request(std::int64_t request_id, std::int64_t serial_number, std::span<const std::int32_t> prompt,
          const RequestOptions& request_options, double now_s);

  RequestState state() const { return state_; }
  Place place() const { return kPlaces[static_cast<std::size_t>(state_)]; }
  bool finished() const { return state_ == RequestState::kFinished; }
  void move_to(RequestState next, double now_s) {
    if ((kNext[static_cast<std::size_t>(state_)] >> static_cast<unsigned>(next) & 1u) == 0) refuse_move(next);
    if (double* const seconds = account()) *seconds += now_s - since_s_;
    since_s_ = now_s;
    state_ = next;
    ran_ = ran_ || next == RequestState::kRunning;
  }
  void note(Decision decision, double now_s);
  /// The decisions kept, oldest first.
  std::vector<DecisionEntry> decisions() const;
  RequestStats stats(double now_s) const;

  std::int32_t num_tokens() const { return static_cast<std::int32_t>(tokens.size()); }
  std::int32_t num_outputs() const { return num_tokens() - num_prompt; }
  /// Those of its outputs that its caller uses: up to the stop string, where it ended at one.
  std::int32_t num_answer_tokens() const { return stopped_after >= 0 ? stopped_after : num_outputs(); }
  /// Tokens once the samples of the plans in flight are known.
  std::int32_t length() const { return num_tokens() + num_pending; }
  /// Tokens whose KV is written once the plans in flight have run.
  std::int32_t scheduled() const { return num_computed + num_in_flight; }
  /// The samples in flight bring it to its greatest length.
  bool ends_in_flight() const { return length() >= max_total; }
  bool is_stop_token(std::int32_t token) const { return has_stop_tokens && stops_at(token); }
  /// Bring what a step touches into the cache, for those who walk over many requests.
  void prefetch() const {
    for (const void* line :
         {static_cast<const void*>(this), static_cast<const void*>(&max_total), static_cast<const void*>(&blocks),
          static_cast<const void*>(&level), static_cast<const void*>(&state_)})
      __builtin_prefetch(line);
  }

  // What every step of a running request touches comes first, close together.

  // --- identity ---
  std::int64_t id;
  std::int64_t serial;  // order of arrival
  double arrival_s;

  // --- tokens and progress ---
  std::vector<std::int32_t> tokens;  // prompt and output
  std::int32_t num_prompt;
  std::int32_t max_total = 0;      // prompt + output, at most
  std::int32_t num_computed = 0;   // KV written, by committed plans
  std::int32_t num_in_flight = 0;  // further KV, by plans in flight
  std::int32_t num_pending = 0;    // samples of plans in flight
  std::int32_t last_sample = -1;   // sampling entry in the newest plan that samples for it
  std::int32_t plans_in_flight = 0;
  std::int32_t slot = -1;       // of the workers' request tables; given and taken back by the request table
  std::int64_t last_step = -2;  // newest plan that contains it; negative: none
  std::int32_t num_cached_tokens = 0;
  std::int32_t most_scheduled = 0;            // tokens whose KV was there once, dropped since or not
  bool has_stop_tokens;                       // some token may end it
  FinishReason ending = FinishReason::kNone;  // decided, but announced with the commit of a plan in flight
  FinishReason finish_reason = FinishReason::kNone;
  std::int32_t stopped_after = -1;  // outputs up to the stop string that the caller found; negative: none

  // --- KV ---
  bool has_kv = false;  // the manager knows `seq`
  bool holds_host_prefix = false;
  kv::SeqId seq{};                   // a new one each time the KV starts from nothing
  std::vector<std::int32_t> blocks;  // device blocks, as the manager lists them
  std::int32_t start_need = 0;       // blocks a start takes, as last measured
  std::int64_t next_probe_step = 0;  // the measurement holds until this step
  std::int64_t parked_step = -2;
  std::int64_t left_out_step = -2;
  std::int32_t parks = 0;
  std::int32_t failed_uploads = 0;
  bool offload_failed = false;
  bool park_requested = false;
  bool held = false;
  bool counts_as_started = false;
  bool upload_unused = false;  // uploaded, not picked since
  bool upload_late = false;

  // --- queues; written by the policy only ---
  bool queued = false;
  bool starving = false;
  bool seated_as_stream = false;  // promoted because its stream paused, not because it waited for its first output
  bool timed = false;             // its wait is followed
  std::int32_t outputs_when_seated = 0;
  double first_iteration_s = 0.0;  // of its whole prefill, as predicted when it joined
  double turn_s = 0.0;             // of iterations, that the seat grants at least
  std::int32_t level = 0;
  std::int64_t ticket = -1;  // place in the queue
  std::int64_t attained_ns = 0;
  std::int32_t promotions = 0;
  double order_key = 0.0;
  double wait_since_s;  // last run, or arrival
  double due_s = 0.0;   // when it is to be promoted
  Request* older = nullptr;
  Request* newer = nullptr;
  PriorityClass* queue_class = nullptr;
  LengthClass* lengths = nullptr;
  std::int32_t length_bin = 0;          // of the outputs, as last looked at
  std::int32_t next_length_tokens = 0;  // outputs at which to look again
  double first_output_s = 0.0;
  double slack_ends_s = 0.0;  // while watched: when it has to run, lest it miss its objective
  double paced_per_s = 0.0;   // outputs that it is to get, as counted
  bool watched = false;
  bool missed_objective = false;
  bool counts_as_rest = false;  // started, without an objective that it can meet

  // --- what the caller asked ---
  RequestOptions options;

  std::int64_t preemptions = 0;
  std::int64_t recomputed_tokens = 0;

 private:
  /// By state: waiting, ready, running, offloading, parked, uploading, finished.
  static constexpr std::array<Place, kNumRequestStates> kPlaces = {Place::kWaiting, Place::kResident, Place::kResident,
                                                                   Place::kTransit, Place::kHost,     Place::kTransit,
                                                                   Place::kWaiting};

  /// Legal next states, per state.
  static constexpr std::array<std::uint8_t, kNumRequestStates> kNext = [] {
    using enum RequestState;
    std::array<std::uint8_t, kNumRequestStates> next{};
    const auto allow = [&](RequestState from, auto... to) {
      next[static_cast<std::size_t>(from)] = static_cast<std::uint8_t>(((1u << static_cast<unsigned>(to)) | ...));
    };
    allow(kWaiting, kReady, kRunning, kParked, kFinished);  // kParked: its cached prefix is on the host
    allow(kReady, kRunning, kOffloading, kParked, kWaiting, kFinished);
    allow(kRunning, kReady, kFinished);
    allow(kOffloading, kParked, kReady, kFinished);  // kReady: the copy failed
    allow(kParked, kUploading, kReady, kWaiting, kFinished);
    allow(kUploading, kReady, kParked, kFinished);  // kParked: the copy failed
    return next;
  }();

  [[noreturn]] void refuse_move(RequestState next) const;
  bool stops_at(std::int32_t token) const;
  /// The counter that the present state adds its seconds to; null for none.
  double* account() {
    switch (state_) {
      case RequestState::kRunning:
      case RequestState::kFinished: return nullptr;
      case RequestState::kUploading: return ran_ ? &upload_wait_s_ : &queue_s_;
      case RequestState::kOffloading:
      case RequestState::kParked: return ran_ ? &host_s_ : &queue_s_;
      default: return ran_ ? &parked_s_ : &queue_s_;
    }
  }

  RequestState state_ = RequestState::kWaiting;
  bool ran_ = false;
  std::uint8_t num_decisions_ = 0;
  std::uint8_t next_decision_ = 0;
  double since_s_;
  double queue_s_ = 0.0;
  double parked_s_ = 0.0;
  double host_s_ = 0.0;
  double upload_wait_s_ = 0.0;
  std::array<DecisionEntry, kDecisionsKept> ring_{};
};

}  // namespace fastserve::sched
