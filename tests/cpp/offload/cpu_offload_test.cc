#include "offload/cpu_offload.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <set>
#include <thread>

#include "arenas.h"
#include "base/error.h"
#include "internals/fault_injector.h"
#include "offload/factory.h"

namespace fastserve::offload {
namespace {

constexpr auto kOffload = Direction::kDeviceToHost;
constexpr auto kUpload = Direction::kHostToDevice;

class CpuOffloadTest : public testing::Test {
 protected:
  ~CpuOffloadTest() override { engine.check_integrity(); }

  Arenas arenas{16, 24, 70'000};
  CpuOffloadEngine engine{arenas.device, arenas.host, {.queue_capacity = 4}};
  const std::shared_ptr<FaultInjector> faults = FaultInjector::install(engine);
};

TEST_F(CpuOffloadTest, BlocksGoToTheHostAndComeBackElsewhere) {
  const auto block_3 = arenas.device_copy(3);
  const auto block_7 = arenas.device_copy(7);
  const auto out = engine.wait(engine.submit(offload_of({3, 7}, {20, 1})), kForeverS);
  ASSERT_TRUE(out->ok) << out->error;
  EXPECT_EQ(out->bytes, 2 * 70'000);
  EXPECT_GT(out->seconds, 0);
  EXPECT_EQ(arenas.host_copy(20), block_3);
  EXPECT_EQ(arenas.host_copy(1), block_7);
  ASSERT_TRUE(engine.wait(engine.submit(upload_of({1, 20}, {3, 12})), kForeverS)->ok);
  EXPECT_EQ(arenas.device_copy(3), block_7);
  EXPECT_EQ(arenas.device_copy(12), block_3);
}

TEST_F(CpuOffloadTest, AdjacentBlocksAreCopiedTogether) {
  const auto block_6 = arenas.device_copy(6);
  engine.wait(engine.submit(offload_of({4, 5, 6, 9}, {10, 11, 12, 13})), kForeverS);
  EXPECT_EQ(engine.counters(kOffload).num_blocks, 4);
  EXPECT_EQ(engine.counters(kOffload).num_copies, 2);
  EXPECT_EQ(engine.counters(kUpload).num_copies, 0);
  EXPECT_EQ(arenas.host_copy(12), block_6);
}

TEST_F(CpuOffloadTest, TheIdsMayChangeOnceSubmitReturned) {
  Ids device{2}, host{2};
  faults->inject_delay(kOffload, 0.01);
  const Ticket ticket = engine.submit(offload_of(device, host));
  device = {5};
  host = {6};
  ASSERT_TRUE(engine.wait(ticket, kForeverS)->ok);
  EXPECT_EQ(arenas.host_copy(2), arenas.device_copy(2));
}

TEST_F(CpuOffloadTest, EachDirectionRunsWhileTheOtherIsBusy) {
  for (const Direction slow : kDirections) {
    Arenas own(4, 4, 4096);
    CpuOffloadEngine both(own.device, own.host, {});
    FaultInjector::install(both)->inject_delay(slow, kBeyondAnyTestS);
    both.submit({slow, Ids{0}, Ids{0}});
    const Direction fast = slow == kOffload ? kUpload : kOffload;
    EXPECT_TRUE(both.wait(both.submit({fast, Ids{1}, Ids{1}}), kForeverS)->ok);
    EXPECT_EQ(both.num_in_flight(), 1);
    EXPECT_TRUE(both.poll().empty());
  }
}

TEST_F(CpuOffloadTest, TransfersOfOneDirectionCompleteInOrder) {
  faults->inject_random_delay(0.002, 11);
  std::vector<Ticket> submitted;
  for (std::int32_t i = 0; i < 12; ++i) submitted.push_back(engine.submit(offload_of({i}, {i})));
  std::vector<Ticket> completed;
  while (engine.wait_any(kForeverS)) {
    for (const Completion& completion : engine.poll()) completed.push_back(completion.ticket);
  }
  EXPECT_EQ(completed, submitted);
}

TEST_F(CpuOffloadTest, AnInjectedFailureFailsItsTransferAndNoOther) {
  faults->inject_failure(kOffload, 1);
  const Ticket failing = engine.submit(offload_of({0}, {0}));
  const Ticket other = engine.submit(offload_of({1}, {1}));
  const Ticket upload = engine.submit(upload_of({5}, {5}));
  const auto failed = engine.wait(failing, kForeverS);
  EXPECT_FALSE(failed->ok);
  EXPECT_EQ(failed->error, "injected failure of a copy device to host");
  EXPECT_TRUE(engine.wait(other, kForeverS)->ok);
  EXPECT_TRUE(engine.wait(upload, kForeverS)->ok);
  EXPECT_EQ(arenas.host_copy(0), std::vector<std::byte>(70'000));
  EXPECT_EQ(arenas.host_copy(1), arenas.device_copy(1));
  EXPECT_EQ(engine.counters(kOffload).num_failed, 1);
  ASSERT_TRUE(engine.wait(engine.submit(offload_of({0}, {0})), kForeverS)->ok);
}

TEST_F(CpuOffloadTest, AnInjectedFaultOfTheDeviceIsKnownBeforeTheTransferThatMetIt) {
  EXPECT_EQ(engine.device_fault(), "");
  faults->inject_device_fault();
  const auto failed = engine.wait(engine.submit(upload_of({0}, {0})), kForeverS);
  EXPECT_FALSE(failed->ok);
  EXPECT_EQ(engine.device_fault(), "injected fault of the device in a copy host to device");
  EXPECT_FALSE(engine.wait(engine.submit(offload_of({1}, {1})), kForeverS)->ok);
  EXPECT_EQ(engine.device_fault(), "injected fault of the device in a copy host to device");  // the first reason
}

TEST_F(CpuOffloadTest, ADelayIsPartOfTheMeasuredLink) {
  faults->inject_delay(kUpload, 0.02);
  EXPECT_EQ(engine.link_bytes_per_s(kUpload), 10e9);
  EXPECT_GE(engine.wait(engine.submit(upload_of({0}, {0})), kForeverS)->seconds, 0.02);
  EXPECT_LE(engine.link_bytes_per_s(kUpload), 70'000 / 0.02);
}

TEST_F(CpuOffloadTest, CloseCancelsTheQueueAndIsDoneSoonDespiteADelay) {
  faults->inject_delay(kOffload, kBeyondAnyTestS);
  for (std::int32_t i = 0; i < 4; ++i) engine.submit(offload_of({i}, {i}));
  EXPECT_EQ(engine.try_submit(offload_of({4}, {4})), std::nullopt);
  std::thread second([&] { engine.close(); });
  engine.close();
  second.join();
  engine.check_integrity();
  const auto completions = engine.poll();
  ASSERT_EQ(completions.size(), 4u);  // the running one may have ended ok, or been cancelled before its start
  for (const Completion& completion : completions) {
    EXPECT_TRUE(completion.ok || completion.error.starts_with("cancelled")) << completion.error;
  }
  EXPECT_THROW(engine.submit(offload_of({4}, {4})), InvalidArgumentError);
  EXPECT_EQ(engine.num_in_flight(), 0);
}

TEST_F(CpuOffloadTest, EachCompletionIsReportedToOneOfManyThreads) {
  constexpr int kTransfers = 400;
  std::atomic<int> num_submitted{0};
  std::atomic<std::int64_t> sum_reported{0};
  std::atomic<int> num_reported{0};
  const auto report = [&](const Completion& completion) {
    EXPECT_TRUE(completion.ok);
    sum_reported += static_cast<std::int64_t>(completion.ticket);
    ++num_reported;
  };
  const auto poller = [&] {
    while (num_reported < kTransfers) {
      engine.wait_any(0.001);
      for (const Completion& completion : engine.poll()) report(completion);
    }
  };
  const auto submitter = [&](Direction direction) {
    for (std::int32_t i = 0; num_submitted++ < kTransfers; ++i) {
      const std::int32_t block = (direction == kOffload ? 0 : 8) + i % 8;
      for (bool submitted = false; !submitted;) {
        try {
          const Ticket ticket = engine.submit({direction, Ids{block}, Ids{block}});
          submitted = true;
          if (i % 3 != 0) continue;
          if (const auto completion = engine.wait(ticket, kForeverS)) report(*completion);
        } catch (const InvalidArgumentError&) {  // the block is still in flight, or a poller was first
          std::this_thread::yield();
        }
      }
    }
  };
  std::vector<std::jthread> threads;
  threads.emplace_back(poller);
  threads.emplace_back(poller);
  for (const Direction direction : kDirections) threads.emplace_back(submitter, direction);
  threads.clear();
  EXPECT_EQ(num_reported, kTransfers);
  EXPECT_EQ(sum_reported, kTransfers * (kTransfers + 1) / 2);
}

TEST(OffloadFactory, ArenasThatDoNotFitAreRefused) {
  Arenas arenas(4, 4, 4096);
  const auto refused = [&](const TensorView& device) {
    EXPECT_THROW(make_offload_engine(device, arenas.host, {}), InvalidArgumentError) << device.describe();
  };
  EXPECT_EQ(make_offload_engine(arenas.device, arenas.host, {})->block_bytes(), 4096);
  EXPECT_THROW(make_offload_engine(arenas.device, nullptr, {}), InvalidArgumentError);
  EXPECT_THROW(make_offload_engine(arenas.device, arenas.host, {.queue_capacity = 0}), InvalidArgumentError);
  refused(arenas.host->view());  // the same memory
  TensorView device = arenas.device;
  device.device = DeviceType::kCuda;
  refused(device);
  device = arenas.device;
  device.dtype = DType::kFloat32;  // larger blocks
  refused(device);
  device = arenas.device;
  device.shape[0] = 2;
  device.strides[0] = 2 * 4096;  // every second block
  refused(device);
  device.shape[0] = 0;
  refused(device);
}

}  // namespace
}  // namespace fastserve::offload
