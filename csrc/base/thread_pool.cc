#include "base/thread_pool.h"

#include <algorithm>

#include "base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastserve {
namespace {

constexpr int kSpinRounds = 20'000;  // about 100 us: longer than the gap between two kernels of a step

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

constexpr std::uint64_t kGeneration = std::uint64_t{1} << 32;
constexpr std::uint64_t kClosed = std::uint64_t{1} << 31;
constexpr std::uint64_t kJoinedMask = kClosed - 1;

std::uint64_t generation_of(std::uint64_t state) { return state / kGeneration; }

}  // namespace

ThreadPool::ThreadPool(int num_threads) : state_(kClosed) {
  FS_REQUIRE(num_threads >= 1 && num_threads <= 1024, "num_threads must be between 1 and 1024, got ", num_threads);
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(sleep_mutex_);
    stopping_.store(true);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::int64_t count, std::int64_t grain, Task task, void* context) {
  if (count <= 0) return;
  const Loop loop{task, context, count, std::max<std::int64_t>(grain, 1)};
  if (workers_.empty() || count <= loop.grain) {
    task(context, 0, count);
    return;
  }
  std::lock_guard serialise(run_mutex_);
  loop_ = loop;
  next_item_.store(0, std::memory_order_relaxed);
  {
    std::lock_guard lock(sleep_mutex_);
    const std::uint64_t generation = generation_of(state_.load(std::memory_order_relaxed)) + 1;
    state_.store(generation * kGeneration, std::memory_order_release);  // open, no worker joined
  }
  wake_.notify_all();
  take_chunks(loop);
  state_.fetch_or(kClosed, std::memory_order_acq_rel);  // a late worker stays out
  while ((state_.load(std::memory_order_acquire) & kJoinedMask) != 0) pause_cpu();
}

void ThreadPool::take_chunks(const Loop& loop) {
  for (;;) {
    const std::int64_t begin = next_item_.fetch_add(loop.grain, std::memory_order_relaxed);
    if (begin >= loop.count) return;
    loop.task(loop.context, begin, std::min(begin + loop.grain, loop.count));
  }
}

void ThreadPool::work() {
  std::uint64_t seen = 0;  // generation of the last loop this worker dealt with
  // The end is no generation: a worker late for the last loop could take it for that loop's, and sleep forever.
  const auto has_update = [&] {
    return stopping_.load() || generation_of(state_.load(std::memory_order_acquire)) != seen;
  };
  for (;;) {
    for (int spin = 0; !has_update() && spin < kSpinRounds; ++spin) pause_cpu();
    if (!has_update()) {
      std::unique_lock lock(sleep_mutex_);
      wake_.wait(lock, has_update);
    }
    if (stopping_.load()) return;
    std::uint64_t state = state_.load(std::memory_order_acquire);
    bool joined = false;
    while ((state & kClosed) == 0 && !joined) {
      joined = state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel);
    }
    seen = generation_of(state);
    if (!joined) continue;
    take_chunks(loop_);
    state_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace fastserve
