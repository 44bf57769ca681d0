#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace fastserve {

/// A fixed set of compute threads running one parallel loop at a time.
///
/// The caller works too, so a pool of `num_threads` has num_threads - 1 workers; they spin for a short while after a
/// loop (the next kernel of a forward pass comes within microseconds) and then sleep. Chunks are handed out dynamically and
/// a worker that wakes too late is left out, so a busy core does not hold up a loop. Loops must not nest. Thread-safe:
/// concurrent callers of `run` are serialised.
class ThreadPool {
 public:
  /// task(context, begin, end) handles the items [begin, end).
  using Task = void (*)(void* context, std::int64_t begin, std::int64_t end);

  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Run `task` over [0, count) in chunks of at most `grain` items; returns when all are done.
  /// `task` must not throw.
  void run(std::int64_t count, std::int64_t grain, Task task, void* context);

  /// The same for a callable fn(begin, end).
  template <typename Fn>
  void parallel_for(std::int64_t count, std::int64_t grain, Fn&& fn) {
    run(
        count, grain,
        [](void* context, std::int64_t begin, std::int64_t end) { (*static_cast<Fn*>(context))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  struct Loop {
    Task task = nullptr;
    void* context = nullptr;
    std::int64_t count = 0;
    std::int64_t grain = 1;
  };

  void work();
  void take_chunks(const Loop& loop);

  std::vector<std::thread> workers_;
  std::mutex run_mutex_;  // one loop at a time
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  Loop loop_;  // written by run() while no worker is joined
  /// Generation of the loop (high 32 bits), closed bit, number of workers that joined it (low bits).
  alignas(64) std::atomic<std::uint64_t> state_;
  alignas(64) std::atomic<std::int64_t> next_item_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace fastserve
