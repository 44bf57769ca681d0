#include "offload/transfer_board.h"

#include <gtest/gtest.h>

#include <future>

#include "arenas.h"
#include "base/error.h"

namespace fastserve::offload {
namespace {

constexpr auto kOffload = Direction::kDeviceToHost;
constexpr auto kUpload = Direction::kHostToDevice;

/// The test plays the workers: nothing moves unless it takes and completes transfers.
class TransferBoardTest : public testing::Test {
 protected:
  ~TransferBoardTest() override { board.check_integrity(); }

  Ticket run_next(Direction direction, CopyOutcome outcome = {}) {
    const Ticket ticket = board.take(direction)->ticket;
    board.complete(direction, std::move(outcome));
    return ticket;
  }

  TransferBoard board{{.num_device_blocks = 8,
                       .num_host_blocks = 8,
                       .block_bytes = 100,
                       .queue_capacity = 2,
                       .prior_bytes_per_s = 5e9}};
};

TEST_F(TransferBoardTest, EachDirectionRunsInTheOrderOfSubmission) {
  const Ticket first = board.submit(offload_of({0}, {0}));
  const Ticket second = board.submit(upload_of({1}, {1}));
  const Ticket third = board.submit(offload_of({2}, {2}));
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
  EXPECT_EQ(run_next(kOffload), first);
  EXPECT_EQ(run_next(kOffload), third);
  EXPECT_EQ(run_next(kUpload), second);
}

TEST_F(TransferBoardTest, PollReportsEachCompletionOnceInTheOrderOfCompletion) {
  const Ticket slow = board.submit(offload_of({0}, {0}));
  const Ticket fast = board.submit(upload_of({1}, {1}));
  EXPECT_TRUE(board.poll().empty());
  run_next(kUpload, {.num_copies = 1, .seconds = 0.5});
  run_next(kOffload, {.error = "no luck"});
  const auto completions = board.poll();
  ASSERT_EQ(completions.size(), 2u);
  EXPECT_EQ(completions[0].ticket, fast);
  EXPECT_TRUE(completions[0].ok);
  EXPECT_EQ(completions[0].bytes, 100);
  EXPECT_EQ(completions[0].seconds, 0.5);
  EXPECT_EQ(completions[1].ticket, slow);
  EXPECT_EQ(completions[1].direction, kOffload);
  EXPECT_FALSE(completions[1].ok);
  EXPECT_EQ(completions[1].error, "no luck");
  EXPECT_TRUE(board.poll().empty());
}

TEST_F(TransferBoardTest, AFullQueueRefusesOnlyItsOwnDirection) {
  board.submit(offload_of({0}, {0}));
  board.submit(offload_of({1}, {1}));
  EXPECT_EQ(board.try_submit(offload_of({2}, {2})), std::nullopt);
  EXPECT_NE(board.try_submit(upload_of({3}, {3})), std::nullopt);
  run_next(kOffload);
  EXPECT_NE(board.try_submit(offload_of({2}, {2})), std::nullopt);
}

TEST_F(TransferBoardTest, SubmitWaitsForRoom) {
  board.submit(offload_of({0}, {0}));
  board.submit(offload_of({1}, {1}));
  auto third = std::async(std::launch::async, [&] { return board.submit(offload_of({2}, {2})); });
  EXPECT_EQ(third.wait_for(std::chrono::milliseconds(10)), std::future_status::timeout);
  run_next(kOffload);
  EXPECT_EQ(third.get(), Ticket{3});
}

TEST_F(TransferBoardTest, BlocksAreFreeAgainWhenTheCopyCompletedEvenWithoutAPoll) {
  board.submit(offload_of({0}, {5}));
  EXPECT_THROW(board.submit(upload_of({5}, {1})), InvalidArgumentError);
  run_next(kOffload);
  board.submit(upload_of({5}, {1}));
}

TEST_F(TransferBoardTest, ARefusedTransferLeavesNoTrace) {
  EXPECT_THROW(board.submit(offload_of({0, 1}, {2, 2})), InvalidArgumentError);
  EXPECT_THROW(board.submit(offload_of({0}, {8})), InvalidArgumentError);
  EXPECT_EQ(board.num_in_flight(), 0);
  EXPECT_EQ(board.submit(offload_of({0}, {2})), Ticket{1});
}

TEST_F(TransferBoardTest, WaitReportsItsTransferAndLeavesTheOthersToPoll) {
  const Ticket first = board.submit(offload_of({0}, {0}));
  const Ticket second = board.submit(offload_of({1}, {1}));
  EXPECT_EQ(board.wait(second, 0), std::nullopt);
  run_next(kOffload);
  run_next(kOffload);
  EXPECT_EQ(board.wait(second, kForeverS)->ticket, second);
  EXPECT_THROW(board.wait(second, 0), InvalidArgumentError);
  const auto left = board.poll();
  ASSERT_EQ(left.size(), 1u);
  EXPECT_EQ(left[0].ticket, first);
  EXPECT_EQ(board.num_in_flight(), 0);
}

TEST_F(TransferBoardTest, ATicketWaitedForIsNotPolledAndNotWaitedForTwice) {
  const Ticket ticket = board.submit(offload_of({0}, {0}));
  auto waiter = std::async(std::launch::async, [&] { return board.wait(ticket, kForeverS); });
  // The claim of the other thread shows as a refusal; until then this thread's own claim times out at once.
  bool refused = false;
  while (!refused) {
    try {
      EXPECT_EQ(board.wait(ticket, 0), std::nullopt);
    } catch (const InvalidArgumentError&) {
      refused = true;
    }
    if (waiter.wait_for(std::chrono::seconds(0)) == std::future_status::ready) break;  // met this thread's claim
  }
  run_next(kOffload);
  if (refused) {
    EXPECT_TRUE(board.poll().empty());
    EXPECT_EQ(waiter.get()->ticket, ticket);
  } else {
    EXPECT_THROW(waiter.get(), InvalidArgumentError);
  }
}

TEST_F(TransferBoardTest, WaitAnyNeedsSomethingInFlightAndASaneTimeout) {
  EXPECT_FALSE(board.wait_any(kForeverS));
  board.submit(offload_of({0}, {0}));
  EXPECT_FALSE(board.wait_any(0.001));
  auto waiter = std::async(std::launch::async, [&] { return board.wait_any(kForeverS); });
  run_next(kOffload);
  EXPECT_TRUE(waiter.get());
  EXPECT_TRUE(board.wait_any(0));
  EXPECT_THROW(board.wait_any(-1), InvalidArgumentError);
  EXPECT_THROW(board.wait_any(std::numeric_limits<double>::quiet_NaN()), InvalidArgumentError);
  EXPECT_THROW(board.wait(Ticket{1}, std::numeric_limits<double>::quiet_NaN()), InvalidArgumentError);
  EXPECT_THROW(board.wait(Ticket{0}, 0), InvalidArgumentError);
  EXPECT_THROW(board.wait(Ticket{2}, 0), InvalidArgumentError);
}

TEST_F(TransferBoardTest, CloseCancelsTheQueuedAndLetsTheRunningEnd) {
  const Ticket running = board.submit(offload_of({0}, {0}));
  const Ticket queued = board.submit(offload_of({1}, {1}));
  ASSERT_EQ(board.take(kOffload)->ticket, running);
  board.close();
  board.close();
  board.check_integrity();
  EXPECT_THROW(board.submit(upload_of({3}, {3})), InvalidArgumentError);
  EXPECT_THROW(board.try_submit(upload_of({3}, {3})), InvalidArgumentError);
  board.complete(kOffload, {});
  EXPECT_EQ(board.take(kOffload), nullptr);
  EXPECT_EQ(board.take(kUpload), nullptr);
  const auto completions = board.poll();
  ASSERT_EQ(completions.size(), 2u);
  EXPECT_EQ(completions[0].ticket, queued);
  EXPECT_EQ(completions[0].error, "cancelled: the offload engine was closed before the copy started");
  EXPECT_EQ(completions[1].ticket, running);
  EXPECT_TRUE(completions[1].ok);
}

TEST_F(TransferBoardTest, CloseEndsASubmitThatWaitsForRoom) {
  board.submit(offload_of({0}, {0}));
  board.submit(offload_of({1}, {1}));
  auto third = std::async(std::launch::async, [&] { return board.submit(offload_of({2}, {2})); });
  board.close();
  EXPECT_THROW(third.get(), InvalidArgumentError);
}

TEST_F(TransferBoardTest, TheLinkRateFollowsSuccessfulCopiesOnly) {
  EXPECT_EQ(board.link_bytes_per_s(kOffload), 5e9);
  board.submit(offload_of({0}, {0}));
  run_next(kOffload, {.error = "lost", .seconds = 100});
  board.submit(offload_of({}, {}));
  run_next(kOffload);
  EXPECT_EQ(board.link_bytes_per_s(kOffload), 5e9);
  board.submit(offload_of({0, 1}, {0, 1}));
  run_next(kOffload, {.num_copies = 1, .seconds = 0.5});
  EXPECT_DOUBLE_EQ(board.link_bytes_per_s(kOffload), 400);
  EXPECT_EQ(board.link_bytes_per_s(kUpload), 5e9);
  EXPECT_EQ(board.counters(kOffload).num_transfers, 3);
  EXPECT_EQ(board.counters(kOffload).num_failed, 1);
  EXPECT_EQ(board.counters(kOffload).num_blocks, 2);
  EXPECT_EQ(board.counters(kOffload).bytes, 200);
}

TEST(TransferBoard, AQueueWithoutRoomIsRefused) {
  EXPECT_THROW(TransferBoard({.num_device_blocks = 1, .num_host_blocks = 1, .block_bytes = 1, .queue_capacity = 0}),
               InvalidArgumentError);
}

}  // namespace
}  // namespace fastserve::offload
