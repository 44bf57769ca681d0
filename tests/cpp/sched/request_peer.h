#pragma once

#include <cstdint>

#include "sched/requests/request.h"

namespace fastserve::sched {

/// Changes a request as the owners of its parts do.
struct RequestPeer {
  static void add_output(Request& request, double now_s = 0.0) { request.add_output(1, now_s); }
  static std::int32_t take_row(Request& request, std::int64_t step, std::int32_t start, std::int32_t count) {
    return request.take_row(step, start, count);
  }
  static void enter_plan(Request& request) { request.enter_plan(1, -1); }
  static void leave_plan(Request& request) { request.leave_plan(1, -1); }
  static void cut_answer(Request& request, std::int32_t num_outputs) { request.cut_answer(num_outputs); }
  static void hold(Request& request, bool held) { request.hold(held); }
  static void end_with(Request& request, FinishReason reason) { request.end_with(reason); }
  static void finish(Request& request, FinishReason reason) { request.finish(reason); }

  static void begin_kv(Request& request, std::int32_t num_cached) { request.begin(kv::SeqId{1}, num_cached); }
  static void end_kv(Request& request) { request.end(); }
  static void write_kv(Request& request, std::int32_t num_tokens) { request.write(num_tokens); }
  static void leave_device(Request& request) { request.leave_device(); }
  static void lose_computed(Request& request) { request.lose_computed(); }
  /// The KV of all tokens but the last is written.
  static void compute_all_but_last(Request& request) { request.num_computed_ = request.num_tokens() - 1; }

  static void count_as_started(Request& request, bool started) { request.count_as_started(started); }
  static void move_to(Request& request, RequestState next, double now_s = 0.0) { request.move_to(next, now_s); }
  static void set_slot(Request& request, std::int32_t slot) { request.slot_ = slot; }
};

}  // namespace fastserve::sched
