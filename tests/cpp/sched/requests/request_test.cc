#include "sched/requests/request.h"

#include <gtest/gtest.h>

#include <vector>

#include "../request_peer.h"
#include "base/error.h"

namespace fastserve::sched {
namespace {

Request made(std::int32_t max_total = 10) {
  return Request({.id = 1, .serial = 1, .max_total = max_total}, std::vector<std::int32_t>{1, 2}, RequestOptions{});
}

// Each part is changed by its owner alone: none of this compiles elsewhere.
template <typename R>
concept ChangesProgress =
    requires(R request) { request.add_output(1, 0.0); } || requires(R request) { request.enter_plan(1, -1); } ||
    requires(R request) { request.finish(FinishReason::kStop); } ||
    requires(R request) { request.tokens().push_back(1); };
template <typename R>
concept ChangesKv = requires(R request) { request.write(1); } || requires(R request) { request.leave_device(); } ||
                    requires(R request) { request.blocks().clear(); };
template <typename R>
concept ChangesState = requires(R request) { request.move_to(RequestState::kReady, 0.0); } ||
                       requires(R request) { request.count_as_started(true); };
template <typename R>
concept ChangesQueue = requires(R request) { request.queue().level = 1; } || requires(R request) { request.queue_; };
template <typename R>
concept ChangesIdentity =
    requires(R request) { request.id = 1; } || requires(R request) { request.options.priority = 1; };
template <typename R>
concept IsReadByAll =
    requires(R request) { request.tokens().size() + request.blocks().size() + request.queue().level; };
static_assert(!ChangesProgress<Request&> && !ChangesKv<Request&> && !ChangesState<Request&> &&
              !ChangesQueue<Request&> && !ChangesIdentity<Request&>);
static_assert(IsReadByAll<const Request&>);

TEST(Request, RefusesIllegalStates) {
  Request request = made();
  EXPECT_THROW(RequestPeer::move_to(request, RequestState::kOffloading), InternalError);
  RequestPeer::move_to(request, RequestState::kReady, 1.0);
  RequestPeer::move_to(request, RequestState::kRunning, 2.0);
  EXPECT_THROW(RequestPeer::move_to(request, RequestState::kParked, 2.0), InternalError);
  RequestPeer::move_to(request, RequestState::kFinished, 3.0);
  EXPECT_THROW(RequestPeer::move_to(request, RequestState::kReady, 3.0), InternalError);
}

TEST(Request, AccountsForItsTime) {
  Request request = made();
  RequestPeer::move_to(request, RequestState::kReady, 1.0);
  RequestPeer::move_to(request, RequestState::kRunning, 2.0);
  RequestPeer::move_to(request, RequestState::kReady, 3.0);
  RequestPeer::move_to(request, RequestState::kOffloading, 5.0);
  RequestPeer::move_to(request, RequestState::kParked, 6.0);
  RequestPeer::move_to(request, RequestState::kUploading, 9.0);
  const RequestStats stats = request.stats(13.0);
  EXPECT_DOUBLE_EQ(stats.queue_s, 2.0);
  EXPECT_DOUBLE_EQ(stats.parked_s, 2.0);
  EXPECT_DOUBLE_EQ(stats.host_s, 4.0);
  EXPECT_DOUBLE_EQ(stats.upload_wait_s, 4.0);
}

TEST(Request, LeavesThePlansThatItIsInAndEntersNoneAfterItsEnd) {
  Request request = made();
  EXPECT_THROW(RequestPeer::leave_plan(request), InternalError);
  RequestPeer::enter_plan(request);
  RequestPeer::enter_plan(request);
  EXPECT_EQ(request.scheduled(), 2);
  RequestPeer::leave_plan(request);
  RequestPeer::finish(request, FinishReason::kAbort);
  EXPECT_THROW(RequestPeer::enter_plan(request), InternalError);
  RequestPeer::leave_plan(request);
  EXPECT_EQ(request.plans_in_flight(), 0);
}

TEST(Request, TakesNoOutputBeyondItsLimitOrItsEnd) {
  Request full = made(3);
  RequestPeer::add_output(full, 5.0);
  EXPECT_EQ(full.first_output_s(), 5.0);
  EXPECT_THROW(RequestPeer::add_output(full), InternalError);
  Request ended = made();
  RequestPeer::finish(ended, FinishReason::kStop);
  EXPECT_THROW(RequestPeer::add_output(ended), InternalError);
}

TEST(Request, EndsOnce) {
  Request request = made();
  EXPECT_THROW(RequestPeer::finish(request, FinishReason::kNone), InternalError);
  RequestPeer::end_with(request, FinishReason::kStop);
  EXPECT_THROW(RequestPeer::end_with(request, FinishReason::kAbort), InternalError);
  RequestPeer::finish(request, FinishReason::kStop);
  EXPECT_THROW(RequestPeer::finish(request, FinishReason::kStop), InternalError);
}

TEST(Request, IsHeldAndReleasedInTurn) {
  Request request = made();
  EXPECT_THROW(RequestPeer::hold(request, false), InternalError);
  RequestPeer::hold(request, true);
  EXPECT_THROW(RequestPeer::hold(request, true), InternalError);
}

TEST(Request, ItsStepsRise) {
  Request request = made();
  EXPECT_EQ(RequestPeer::take_row(request, 3, 0, 2), 0);
  EXPECT_THROW(RequestPeer::take_row(request, 3, 0, 2), InternalError);
  EXPECT_EQ(RequestPeer::take_row(request, 4, 0, 4), 2);  // the KV of two tokens once more
  EXPECT_EQ(request.recomputed_tokens(), 2);
}

TEST(Request, ItsKvBeginsAndEndsInTurn) {
  Request request = made();
  EXPECT_THROW(RequestPeer::write_kv(request, 1), InternalError);
  EXPECT_THROW(RequestPeer::end_kv(request), InternalError);
  EXPECT_THROW(RequestPeer::leave_device(request), InternalError);
  RequestPeer::begin_kv(request, 1);
  EXPECT_THROW(RequestPeer::begin_kv(request, 0), InternalError);
  RequestPeer::write_kv(request, 1);
  EXPECT_EQ(request.num_computed(), 2);
  EXPECT_THROW(RequestPeer::lose_computed(request), InternalError);
  RequestPeer::end_kv(request);
  RequestPeer::lose_computed(request);
  EXPECT_EQ(request.num_computed(), 0);
}

}  // namespace
}  // namespace fastserve::sched
