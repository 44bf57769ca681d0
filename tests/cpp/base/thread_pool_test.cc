#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <numeric>
#include <thread>
#include <vector>

#include "base/error.h"

namespace fastserve {
namespace {

TEST(ThreadPool, EveryItemIsVisitedOnce) {
  ThreadPool pool(3);
  for (const std::int64_t count : {0, 1, 2, 7, 1000}) {
    std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
    pool.parallel_for(count, 3, [&](std::int64_t begin, std::int64_t end) {
      for (auto i = begin; i < end; ++i) visits[static_cast<std::size_t>(i)].fetch_add(1);
    });
    for (const auto& visit : visits) EXPECT_EQ(visit.load(), 1);
  }
}

TEST(ThreadPool, ManyShortLoopsFromSeveralCallersDoNotMix) {
  ThreadPool pool(3);
  const auto caller = [&] {
    for (int round = 0; round < 2000; ++round) {
      std::atomic<std::int64_t> sum{0};
      pool.parallel_for(64, 1, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = begin; i < end; ++i) sum.fetch_add(i);
      });
      ASSERT_EQ(sum.load(), 64 * 63 / 2);
    }
  };
  std::thread other(caller);
  caller();
  other.join();
}

TEST(ThreadPool, SleepingWorkersWakeForTheNextLoop) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than the workers spin
    std::atomic<int> visits{0};
    pool.parallel_for(100, 1, [&](std::int64_t begin, std::int64_t end) { visits += static_cast<int>(end - begin); });
    EXPECT_EQ(visits.load(), 100);
  }
}

TEST(ThreadPool, EndsWhileItsWorkersAreLateForTheLastLoop) {
  for (int round = 0; round < 10'000; ++round) {
    ThreadPool pool(4);
    pool.parallel_for(2, 1, [](std::int64_t, std::int64_t) {});
  }
}

TEST(ThreadPool, RejectsAThreadCountOfZero) { EXPECT_THROW(ThreadPool(0), InvalidArgumentError); }

}  // namespace
}  // namespace fastserve
