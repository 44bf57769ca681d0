// The CUDA backend of the offload engine over a CUDA runtime made of threads: what it orders, bounds and cleans up.
#include "offload/cuda/cuda_offload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <thread>

#include "base/block_hash.h"
#include "base/error.h"
#include "cudart/runtime.h"
#include "internals/fault_injector.h"
#include "offload/factory.h"

namespace fastserve::offload {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr double kForeverS = std::numeric_limits<double>::infinity();
constexpr auto kOffload = Direction::kDeviceToHost;
constexpr auto kUpload = Direction::kHostToDevice;

/// A "GPU" whose memory is a vector, an arena that is pinned in name, and a compute stream.
class CudaOffloadTest : public testing::Test {
 protected:
  CudaOffloadTest() { cudart::reset(); }
  ~CudaOffloadTest() override {
    if (engine) engine->check_integrity();
    engine.reset();
    EXPECT_EQ(cudart::counters().rerecorded_events, 0);
    if (compute != nullptr) (void)cudaStreamDestroy(compute);  // runs what it still has to
    host.reset();
    EXPECT_EQ(cudart::counters().pinned_ranges, 0);
    cudart::reset();
  }

  void make(std::int32_t num_blocks, std::int64_t block_bytes, OffloadOptions options = {}, bool pin = true) {
    device_bytes.resize(static_cast<std::size_t>(num_blocks * block_bytes));
    for (std::size_t i = 0; i < device_bytes.size(); ++i) device_bytes[i] = static_cast<std::byte>(i * 131 + (i >> 9));
    TensorView device;
    device.data = device_bytes.data();
    device.dtype = DType::kUInt8;
    device.device = DeviceType::kCuda;
    device.ndim = 2;
    device.shape = {num_blocks, block_bytes};
    device.strides = {block_bytes, 1};
    host = std::make_shared<HostArena>(num_blocks, block_bytes, HostArenaOptions{.num_threads = 1, .pin = pin});
    ASSERT_EQ(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking), cudaSuccess);
    options.compute_stream = reinterpret_cast<std::uintptr_t>(compute);
    engine = make_offload_engine(device, host, options);
  }

  Completion run(Direction direction, const Ids& source, const Ids& target) {
    return *engine->wait(engine->submit({direction, source, target}), kForeverS);
  }

  std::byte* device_block(std::int32_t block) { return device_bytes.data() + block * host->block_bytes(); }
  std::vector<std::byte> device_copy(std::int32_t block) {
    return {device_block(block), device_block(block) + host->block_bytes()};
  }
  std::vector<std::byte> host_copy(std::int32_t block) {
    const auto bytes = host->block(block);
    return {bytes.begin(), bytes.end()};
  }
  static void take_a_while() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }
  void fill(std::int32_t block, int value) {
    std::memset(device_block(block), value, static_cast<std::size_t>(host->block_bytes()));
  }
  bool is_filled(const std::byte* block, int value) const {
    return std::all_of(block, block + host->block_bytes(), [=](std::byte b) { return b == std::byte(value); });
  }

  std::vector<std::byte> device_bytes;
  std::shared_ptr<HostArena> host;
  cudaStream_t compute = nullptr;
  std::unique_ptr<OffloadEngine> engine;
};

TEST_F(CudaOffloadTest, BlocksGoToTheHostAndComeBackElsewhere) {
  make(16, 70'000, {.verify_checksums = true});
  const auto block_3 = device_copy(3);
  const auto block_7 = device_copy(7);
  const auto out = run(kOffload, {3, 7}, {12, 1});
  ASSERT_TRUE(out.ok) << out.error;
  EXPECT_GT(out.seconds, 0);
  EXPECT_EQ(host_copy(12), block_3);
  ASSERT_TRUE(run(kUpload, {1, 12}, {3, 9}).ok);
  EXPECT_EQ(device_copy(3), block_7);
  EXPECT_EQ(device_copy(9), block_3);
  EXPECT_EQ(engine->num_verified(), 4);
  EXPECT_EQ(engine->num_mismatches(), 0);
}

TEST_F(CudaOffloadTest, AnOffloadWaitsForTheKernelThatWritesItsBlocks) {
  make(8, 4096);
  cudart::launch(compute, [] { take_a_while(); });  // something before it
  cudart::launch(compute, [this] { fill(5, 0x77); });
  ASSERT_TRUE(run(kOffload, {5}, {2}).ok);
  EXPECT_TRUE(is_filled(host->block(2).data(), 0x77));
}

TEST_F(CudaOffloadTest, AnUploadWaitsForTheStepThatMayStillWriteItsTarget) {
  make(8, 4096);
  ASSERT_TRUE(run(kOffload, {1}, {1}).ok);
  const auto kept = device_copy(1);
  cudart::launch(compute, [this] {  // the owner before, in a step already enqueued
    take_a_while();
    fill(6, 0x11);
  });
  ASSERT_TRUE(run(kUpload, {1}, {6}).ok);
  cudaStreamSynchronize(compute);
  EXPECT_EQ(device_copy(6), kept);
}

TEST_F(CudaOffloadTest, ACopyDoesNotWaitForWorkEnqueuedAfterItsSubmission) {
  make(8, 4096);
  std::mutex held;
  std::unique_lock hold(held);
  const Ids block{4};
  const Ticket ticket = engine->submit({kOffload, block, block});
  cudart::launch(compute, [&] { std::lock_guard wait(held); });
  EXPECT_TRUE(engine->wait(ticket, kForeverS)->ok);
  hold.unlock();
  cudaStreamSynchronize(compute);
}

TEST_F(CudaOffloadTest, ACompletionComesAfterTheLastByte) {
  make(64, 40'000);
  cudart::delay_operations(0.002);
  Ids scattered(32);
  for (std::int32_t i = 0; i < 32; ++i) scattered[static_cast<std::size_t>(i)] = i * 2;
  Ids reversed(scattered.rbegin(), scattered.rend());
  ASSERT_TRUE(run(kOffload, scattered, reversed).ok);
  for (std::size_t i = 0; i < scattered.size(); ++i) EXPECT_EQ(host_copy(reversed[i]), device_copy(scattered[i]));
}

TEST_F(CudaOffloadTest, LargeRunsAreCutAndFewGroupsAreQueued) {
  make(40, 3 << 20);
  cudart::delay_operations(0.0005);
  Ids all(40);
  std::iota(all.begin(), all.end(), 0);
  ASSERT_TRUE(run(kOffload, all, all).ok);
  EXPECT_EQ(host_copy(39), device_copy(39));
  const auto counters = cudart::counters();
  EXPECT_LE(counters.largest_copy_bytes, 16 << 20);
  EXPECT_EQ(engine->counters(kOffload).num_copies, 8);  // 120 MiB in pieces of 16
  EXPECT_LE(counters.most_queued_operations, 12);       // 5 groups of copy + event, the wait and the timing
}

TEST_F(CudaOffloadTest, ScatteredBlocksGoInOneCall) {
  make(64, 64 << 10);
  Ids even(32);
  for (std::int32_t i = 0; i < 32; ++i) even[static_cast<std::size_t>(i)] = i * 2;
  ASSERT_TRUE(run(kOffload, even, even).ok);
  EXPECT_EQ(cudart::counters().batches, 1);
  EXPECT_EQ(cudart::counters().batched_copies, 32);
  EXPECT_EQ(cudart::counters().copies, 0);
}

TEST_F(CudaOffloadTest, ADriverWithoutBatchesGetsSingleCopies) {
  make(64, 64 << 10);
  cudart::fail_call("cudaMemcpyBatchAsync", cudaErrorCallRequiresNewerDriver);
  const Ids even{0, 2, 4};
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(run(kUpload, even, even).ok);
  EXPECT_EQ(cudart::counters().copies, 6);  // of both transfers: it is not tried again
  EXPECT_EQ(cudart::counters().batches, 0);
}

TEST_F(CudaOffloadTest, AnotherErrorOfABatchFailsItsTransfer) {
  make(64, 64 << 10);
  cudart::fail_call("cudaMemcpyBatchAsync", cudaErrorIllegalAddress);
  const auto failed = run(kUpload, {0, 2, 4}, {0, 2, 4});
  EXPECT_FALSE(failed.ok);
  EXPECT_NE(failed.error.find("cudaMemcpyBatchAsync"), std::string::npos) << failed.error;
}

TEST_F(CudaOffloadTest, ManySmallBlocksAreCopiedByAKernel) {
  make(400, 1024);
  Ids even(200);
  for (std::int32_t i = 0; i < 200; ++i) even[static_cast<std::size_t>(i)] = i * 2;
  for (const Direction direction : kDirections) ASSERT_TRUE(run(direction, even, even).ok);
  EXPECT_EQ(cudart::counters().kernel_launches, 4);  // 128 + 72, each way
  EXPECT_EQ(cudart::counters().copies + cudart::counters().batches, 0);
  EXPECT_EQ(host_copy(398), device_copy(398));
}

TEST_F(CudaOffloadTest, MemoryThatIsNotPageLockedIsRefusedUnlessAskedFor) {
  EXPECT_THROW(make(4, 4096, {}, false), InvalidArgumentError);
  cudaStreamDestroy(compute);
  make(64, 1024, {.allow_pageable = true}, false);
  Ids even(20);
  for (std::int32_t i = 0; i < 20; ++i) even[static_cast<std::size_t>(i)] = i * 2;
  ASSERT_TRUE(run(kOffload, even, even).ok);
  EXPECT_EQ(host_copy(38), device_copy(38));
  EXPECT_EQ(cudart::counters().kernel_launches, 0);  // a kernel cannot reach such memory
}

TEST_F(CudaOffloadTest, AFailedCallFailsItsTransferAfterWhatMovesHasEnded) {
  make(40, 3 << 20);
  cudart::delay_operations(0.002);
  cudart::fail_call("cudaMemcpyAsync", cudaErrorInvalidValue, 3);
  Ids all(40);
  std::iota(all.begin(), all.end(), 0);
  const auto failed = run(kOffload, all, all);
  EXPECT_FALSE(failed.ok);
  EXPECT_NE(failed.error.find("cuda_offload.cc:"), std::string::npos) << failed.error;
  EXPECT_NE(failed.error.find("cudaMemcpyAsync"), std::string::npos) << failed.error;
  std::memset(host->data(), 0, static_cast<std::size_t>(host->num_bytes()));  // a copy still moving would be seen below
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
  EXPECT_TRUE(std::all_of(host->data(), host->data() + host->num_bytes(), is_zero));
  EXPECT_EQ(engine->device_fault(), "");  // other calls succeed: it was this copy alone
  ASSERT_TRUE(run(kOffload, all, all).ok);
}

std::atomic<int> hash_launches{0};

/// As the kernel of the canary: works later, on the stream.
void hash_on_fake_device(const std::byte* arena, std::int64_t block_bytes, std::span<const std::int32_t> ids,
                         std::int64_t* out, void* stream) {
  ++hash_launches;
  cudart::launch(static_cast<cudaStream_t>(stream), [=, blocks = Ids(ids.begin(), ids.end())] {
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      out[i] = static_cast<std::int64_t>(
          hash_block({arena + blocks[i] * block_bytes, static_cast<std::size_t>(block_bytes)}));
    }
  });
}

TEST_F(CudaOffloadTest, TheCanaryHashesBlocksOnTheDeviceWhereItCan) {
  hash_launches = 0;
  make(600, 64, {.verify_checksums = true, .hash_on_device = hash_on_fake_device});
  cudart::delay_operations(0.001);
  Ids all(600);
  std::iota(all.begin(), all.end(), 0);
  ASSERT_TRUE(run(kOffload, all, all).ok);
  EXPECT_EQ(hash_launches, 2);  // 512 at a time
  EXPECT_EQ(engine->num_verified(), 600);
  host->data()[64 * 37] ^= std::byte{1};
  const auto failed = run(kUpload, all, all);
  EXPECT_EQ(failed.error, "checksum mismatch: device block 37, host block 37");
  EXPECT_EQ(engine->num_mismatches(), 1);
}

TEST_F(CudaOffloadTest, AFaultThatSpoilsTheContextIsReportedAsOneOfTheDevice) {
  make(4, 4096);
  cudart::fail_calls_from_now_on("cudaEventSynchronize", cudaErrorIllegalAddress);
  cudart::fail_calls_from_now_on("cudaStreamQuery", cudaErrorIllegalAddress);
  const auto failed = run(kUpload, {0}, {0});
  EXPECT_FALSE(failed.ok);
  EXPECT_NE(failed.error.find("cudaEventSynchronize"), std::string::npos) << failed.error;
  EXPECT_EQ(engine->device_fault(), failed.error);
}

TEST_F(CudaOffloadTest, ARefusedSubmissionKeepsNoEvent) {
  make(4, 4096, {.queue_capacity = 1});
  const Ids twice{1, 1};
  const Ids two{0, 1};
  for (int i = 0; i < 3; ++i) EXPECT_THROW(engine->submit({kOffload, two, twice}), InvalidArgumentError);
  FaultInjector::install(*engine)->inject_delay(kOffload, 3600);
  const Ids one{0};
  engine->submit({kOffload, one, one});
  const Ids other{1};
  for (int i = 0; i < 3; ++i) EXPECT_EQ(engine->try_submit({kOffload, other, other}), std::nullopt);
}

TEST_F(CudaOffloadTest, AThreadThatCannotReachItsDeviceFailsItsTransfers) {
  cudart::fail_calls_from_now_on("cudaSetDevice", cudaErrorDevicesUnavailable);
  make(4, 4096);
  const auto failed = run(kOffload, {0}, {0});
  EXPECT_FALSE(failed.ok);
  EXPECT_NE(failed.error.find("cudaSetDevice"), std::string::npos) << failed.error;
  EXPECT_EQ(engine->device_fault(), failed.error);
}

TEST_F(CudaOffloadTest, ARefusedPageLockLeavesNothingBehind) {
  cudart::fail_call("cudaHostRegister", cudaErrorMemoryAllocation);
  try {
    make(4, 4096);
    FAIL() << "not refused";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("page-lock"), std::string::npos) << error.what();
  }
  EXPECT_EQ(cudart::counters().pinned_ranges, 0);
}

/// Steps of a model that write the blocks they own, with parking and resuming in between, as the scheduler orders them.
TEST_F(CudaOffloadTest, NoStepEverSeesAWrongByteUnderRandomDelays) {
  constexpr std::int32_t kOwners = 6;
  make(kOwners + 2, 2048);
  cudart::delay_operations(0.0003);
  std::mt19937_64 random(17);
  std::vector<std::int32_t> block_of(kOwners);  // device block, or -1 - host block
  std::iota(block_of.begin(), block_of.end(), 0);
  std::vector<std::int32_t> free_device{kOwners, kOwners + 1};
  std::vector<std::int32_t> free_host(kOwners + 2);
  std::iota(free_host.begin(), free_host.end(), 0);
  std::vector<int> stamp(kOwners, 0);
  std::atomic<int> wrong{0};
  for (std::int32_t i = 0; i < kOwners; ++i) fill(i, 0);
  const auto take = [&](std::vector<std::int32_t>& list) {
    const auto at = static_cast<std::size_t>(random() % list.size());
    const std::int32_t taken = list[at];
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(at));
    return taken;
  };
  for (int step = 0; step < 400; ++step) {
    for (std::int32_t owner = 0; owner < kOwners; ++owner) {  // one step: check what the step before wrote, write again
      const std::int32_t block = block_of[static_cast<std::size_t>(owner)];
      if (block < 0) continue;
      const int before = stamp[static_cast<std::size_t>(owner)];
      const int after = stamp[static_cast<std::size_t>(owner)] = static_cast<int>(random() % 256);
      cudart::launch(compute, [this, block, before, after, &wrong] {
        if (!is_filled(device_block(block), before)) ++wrong;
        fill(block, after);
      });
    }
    const auto owner = static_cast<std::size_t>(random() % kOwners);  // parked or brought back behind the step
    if (block_of[owner] >= 0) {
      const Ids from{block_of[owner]};
      const Ids to{take(free_host)};
      ASSERT_TRUE(run(kOffload, from, to).ok);
      free_device.push_back(from[0]);
      block_of[owner] = -1 - to[0];
    } else if (!free_device.empty()) {
      const Ids from{-1 - block_of[owner]};
      const Ids to{take(free_device)};
      ASSERT_TRUE(run(kUpload, from, to).ok);
      free_host.push_back(from[0]);
      block_of[owner] = to[0];
    }
  }
  cudaStreamSynchronize(compute);
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace fastserve::offload
