#include "sched/requests/request_table.h"

#include <gtest/gtest.h>

#include <vector>

#include "../request_peer.h"
#include "base/error.h"

namespace fastserve::sched {
namespace {

using Slots = std::vector<std::int32_t>;

class RequestTableTest : public ::testing::Test {
 protected:
  RequestTable table_;

  Request& add(std::int64_t id) { return table_.add(id, std::vector<std::int32_t>{1, 2}, 18, {}, 0.0); }

  Slots purge() {
    Slots ended;
    table_.purge(ended);
    table_.check_slots();
    return ended;
  }
};

TEST_F(RequestTableTest, EveryRequestHasASlotOfItsOwn) {
  for (const std::int32_t expected : {0, 1, 2}) EXPECT_EQ(add(10 + expected).slot(), expected);
  EXPECT_THROW(add(10), InvalidArgumentError);
  table_.check_slots();
  EXPECT_EQ(purge(), Slots{});
}

TEST_F(RequestTableTest, ASlotIsFreeOnceTheFinishWasDeliveredAndNoPlanInFlightNamesIt) {
  Request& request = add(1);
  RequestPeer::enter_plan(request);
  RequestPeer::enter_plan(request);
  table_.retire(request);
  EXPECT_EQ(purge(), Slots{});
  table_.mark_delivered();
  EXPECT_EQ(purge(), Slots{});
  EXPECT_EQ(add(2).slot(), 1);
  RequestPeer::leave_plan(request);
  EXPECT_EQ(purge(), Slots{});
  RequestPeer::leave_plan(request);
  EXPECT_EQ(purge(), Slots{0});
  EXPECT_EQ(purge(), Slots{});
  EXPECT_EQ(add(1).slot(), 0);
}

TEST_F(RequestTableTest, ASlotIsItsRequestsUntilTheFinishWasDelivered) {
  table_.retire(add(1));
  EXPECT_EQ(add(2).slot(), 1);
  EXPECT_EQ(purge(), Slots{});
  table_.mark_delivered();
  EXPECT_EQ(purge(), Slots{0});
}

TEST_F(RequestTableTest, TwoRequestsInOneSlotAreFound) {
  RequestPeer::set_slot(add(1), 1);
  EXPECT_THROW(table_.check_slots(), InternalError);
  add(2);
  EXPECT_THROW(table_.check_slots(), InternalError);
}

}  // namespace
}  // namespace fastserve::sched
