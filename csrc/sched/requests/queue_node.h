#pragma once

#include <cstdint>
#include <limits>

namespace fastserve::sched {

class Request;
struct PriorityClass;  // queues of one priority, owned by a queue of levels
class LengthClass;     // what is learned of one class of output lengths, owned by the learned policy

/// The part of a request that the policy changes: its place in the order. What one policy alone uses is in its part.
struct QueueNode {
  struct LearnedPart {
    LengthClass* lengths = nullptr;
    std::int32_t length_bin = 0;          // of the outputs, as last looked at
    std::int32_t next_length_tokens = 0;  // outputs at which to look again
  };
  struct SloPart {
    double slack_ends_s = 0.0;  // while watched: when it has to run to meet its objective
    double paced_per_s = 0.0;   // outputs that it is to get, as counted
    bool watched = false;
    bool missed_objective = false;
    bool counts_as_rest = false;  // started, without an objective that it can meet
  };

  bool queued = false;
  bool starving = false;          // promoted
  bool seated_as_stream = false;  // promoted because its stream paused, not because it waited for its first output
  bool timed = false;             // its wait is followed
  std::int32_t outputs_when_seated = 0;
  double first_iteration_s = 0.0;  // of its whole prefill, as predicted when it joined
  /// Seconds of iterations that it is taken to run for once it gets on: what its level or its seat grants; infinite where
  /// its place says nothing.
  double work_s = std::numeric_limits<double>::infinity();
  std::int32_t level = 0;
  std::int32_t promotions = 0;
  std::int64_t ticket = -1;  // place in a queue of levels
  double sort_key = 0.0;     // place in a sorted queue
  std::int64_t attained_ns = 0;
  double wait_since_s = 0.0;  // last run, or arrival
  double due_s = 0.0;         // when it is to be promoted
  Request* older = nullptr;
  Request* newer = nullptr;
  PriorityClass* queue_class = nullptr;
  LearnedPart learned;
  SloPart slo;
};

}  // namespace fastserve::sched
