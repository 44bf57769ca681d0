#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sched/requests/request_types.h"

namespace fastserve::sched {

/// The part of a request that SchedulerCore changes: its state, where its time went, whether it counts as started. Anyone
/// may note a decision.
class Lifecycle {
 public:
  static constexpr int kDecisionsKept = 6;

  explicit Lifecycle(double now_s) : since_s_(now_s) {}

  RequestState state() const { return state_; }
  Place place() const { return kPlaces[static_cast<std::size_t>(state_)]; }
  bool finished() const { return state_ == RequestState::kFinished; }
  bool counts_as_started() const { return counts_as_started_; }

  void note(Decision decision, double now_s);
  /// The decisions kept, oldest first.
  std::vector<DecisionEntry> decisions() const;

 protected:
  /// Add the seconds of its states, the present one included.
  void add_times(RequestStats& stats, double now_s) const;

 private:
  friend struct SchedulerCore;
  friend struct RequestPeer;  // of the tests

  /// Throws InternalError unless the step is legal.
  void move_to(RequestState next, double now_s) {
    if ((kNext[static_cast<std::size_t>(state_)] >> static_cast<unsigned>(next) & 1u) == 0) refuse_move(next);
    if (const Account account = this->account()) this->*account += now_s - since_s_;
    since_s_ = now_s;
    state_ = next;
    ran_ = ran_ || next == RequestState::kRunning;
  }
  void count_as_started(bool started) { counts_as_started_ = started; }

  using Account = double Lifecycle::*;
  /// The counter that the present state adds its seconds to; null for none.
  Account account() const {
    switch (state_) {
      case RequestState::kRunning:
      case RequestState::kFinished: return nullptr;
      case RequestState::kUploading: return ran_ ? &Lifecycle::upload_wait_s_ : &Lifecycle::queue_s_;
      case RequestState::kOffloading:
      case RequestState::kParked: return ran_ ? &Lifecycle::host_s_ : &Lifecycle::queue_s_;
      default: return ran_ ? &Lifecycle::parked_s_ : &Lifecycle::queue_s_;
    }
  }
  [[noreturn]] void refuse_move(RequestState next) const;

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

  RequestState state_ = RequestState::kWaiting;
  bool ran_ = false;
  bool counts_as_started_ = false;
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
