#include "cudart/runtime.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

/// One recording of an event.
struct Recording {
  std::mutex mutex;
  std::condition_variable happened_;
  bool happened = false;
  int waiters = 0;  // those who will wait, or do
  Clock::time_point time;

  void expect_waiter() {
    std::lock_guard lock(mutex);
    ++waiters;
  }
  void wait() {
    std::unique_lock lock(mutex);
    happened_.wait(lock, [&] { return happened; });
    --waiters;
  }
  void happen() {
    {
      std::lock_guard lock(mutex);
      happened = true;
      time = Clock::now();
    }
    happened_.notify_all();
  }
};

struct Fault {
  cudaError_t status = cudaSuccess;
  int skip = 0;
  bool stays = false;
};

struct State {
  std::mutex mutex;
  cudaError_t lost = cudaSuccess;  // what every call returns once the device is lost
  std::map<cudaError_t, const std::string*> texts;
  std::deque<std::string> all_texts;  // for as long as the process lives: callers hold pointers
  cudart::Counters counters;
  std::map<std::string, Fault> faults;
  double max_delay_s = 0;
  std::mt19937_64 random{5};
};

State& state() {
  static State instance;
  return instance;
}

void sleep_a_while() {
  double seconds = 0;
  {
    std::lock_guard lock(state().mutex);
    if (state().max_delay_s > 0) {
      seconds = std::uniform_real_distribution<double>(0, state().max_delay_s)(state().random);
    }
  }
  if (seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

}  // namespace

struct CUevent_st {
  std::shared_ptr<Recording> last;  // null: never recorded, which counts as happened
};

struct CUstream_st {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> queue;
  bool stopping = false;
  std::int64_t running = 0;
  std::thread thread{[this] { work(); }};

  ~CUstream_st() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_all();
    thread.join();
  }

  void push(std::function<void()> operation) {
    std::int64_t queued = 0;
    {
      std::lock_guard lock(mutex);
      queue.push_back(std::move(operation));
      queued = std::ssize(queue) + running;
    }
    changed.notify_all();
    std::lock_guard lock(state().mutex);
    state().counters.most_queued_operations = std::max(state().counters.most_queued_operations, queued);
  }

  void drain() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return queue.empty() && running == 0; });
  }

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      auto operation = std::move(queue.front());
      queue.pop_front();
      running = 1;
      lock.unlock();
      sleep_a_while();
      operation();
      operation = nullptr;
      lock.lock();
      running = 0;
      changed.notify_all();
    }
  }
};

namespace {

/// Work for a stream; that of the legacy default stream is done here and now.
void push(cudaStream_t stream, std::function<void()> operation) {
  if (stream == nullptr) {
    operation();
  } else {
    stream->push(std::move(operation));
  }
}

std::shared_ptr<Recording> last_recording(cudaEvent_t event) {
  std::lock_guard lock(state().mutex);
  return event->last;
}

void count_copy(std::size_t num_bytes) {
  std::lock_guard lock(state().mutex);
  state().counters.largest_copy_bytes =
      std::max(state().counters.largest_copy_bytes, static_cast<std::int64_t>(num_bytes));
}

}  // namespace

namespace cudart {

Counters counters() {
  std::lock_guard lock(state().mutex);
  return state().counters;
}

void reset() {
  std::lock_guard lock(state().mutex);
  state().lost = cudaSuccess;
  state().texts.clear();
  const auto pinned = state().counters.pinned_ranges;
  state().counters = {};
  state().counters.pinned_ranges = pinned;
  state().faults.clear();
  state().max_delay_s = 0;
}

void delay_operations(double max_seconds) {
  std::lock_guard lock(state().mutex);
  state().max_delay_s = max_seconds;
}

void fail_call(const char* function, cudaError_t status, int skip) {
  std::lock_guard lock(state().mutex);
  state().faults[function] = {status, skip, false};
}

void fail_calls_from_now_on(const char* function, cudaError_t status) {
  std::lock_guard lock(state().mutex);
  state().faults[function] = {status, 0, true};
}

void launch(cudaStream_t stream, std::function<void()> kernel) {
  {
    std::lock_guard lock(state().mutex);
    ++state().counters.kernel_launches;
  }
  push(stream, std::move(kernel));
}

cudaError_t status_of(const char* function) {
  std::lock_guard lock(state().mutex);
  if (state().lost != cudaSuccess) return state().lost;
  const auto fault = state().faults.find(function);
  if (fault == state().faults.end()) return cudaSuccess;
  if (fault->second.skip-- > 0) return cudaSuccess;
  const cudaError_t status = fault->second.status;
  if (!fault->second.stays) state().faults.erase(fault);
  return status;
}

cudaError_t explain(cudaError_t status, std::string text) {
  std::lock_guard lock(state().mutex);
  state().texts[status] = &state().all_texts.emplace_back(std::move(text));
  return status;
}

cudaError_t lose_device(cudaError_t status, std::string text) {
  explain(status, std::move(text));
  std::lock_guard lock(state().mutex);
  return state().lost = status;
}

}  // namespace cudart

using cudart::status_of;

extern "C" {

cudaError_t cudaGetLastError() {
  std::lock_guard lock(state().mutex);
  return state().lost;
}
const char* cudaGetErrorName(cudaError_t) { return "fakeError"; }
const char* cudaGetErrorString(cudaError_t status) {
  std::lock_guard lock(state().mutex);
  const auto text = state().texts.find(status);
  return text == state().texts.end() ? "a fault of the test" : text->second->c_str();
}

cudaError_t cudaHostAlloc(void** data, std::size_t num_bytes, unsigned) {
  *data = std::malloc(num_bytes);
  return status_of("cudaHostAlloc");
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void*, std::size_t, unsigned) {
  const cudaError_t status = status_of("cudaHostRegister");
  if (status != cudaSuccess) return status;
  std::lock_guard lock(state().mutex);
  ++state().counters.pinned_ranges;
  return status;
}
cudaError_t cudaHostUnregister(void*) {
  std::lock_guard lock(state().mutex);
  --state().counters.pinned_ranges;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const cudaError_t status = status_of("cudaStreamCreateWithFlags");
  if (status == cudaSuccess) *stream = new CUstream_st;
  return status;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream != nullptr) stream->drain();
  return status_of("cudaStreamSynchronize");
}
cudaError_t cudaStreamQuery(cudaStream_t) { return status_of("cudaStreamQuery"); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const cudaError_t status = status_of("cudaStreamWaitEvent");
  if (status != cudaSuccess) return status;
  if (auto recording = last_recording(event)) {
    recording->expect_waiter();
    push(stream, [recording] { recording->wait(); });
  }
  return status;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return status_of("cudaEventCreateWithFlags");
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const cudaError_t status = status_of("cudaEventRecord");
  if (status != cudaSuccess) return status;
  auto recording = std::make_shared<Recording>();
  {
    std::lock_guard lock(state().mutex);
    if (event->last) {
      std::lock_guard before(event->last->mutex);
      if (!event->last->happened && event->last->waiters > 0) ++state().counters.rerecorded_events;
    }
    event->last = recording;
  }
  push(stream, [recording] { recording->happen(); });
  return status;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (auto recording = last_recording(event)) {
    recording->expect_waiter();
    recording->wait();
  }
  return status_of("cudaEventSynchronize");
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const auto elapsed = last_recording(end)->time - last_recording(begin)->time;
  *milliseconds = std::chrono::duration<float, std::milli>(elapsed).count();
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t num_bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  const cudaError_t status = status_of("cudaMemcpyAsync");
  if (status != cudaSuccess) return status;
  count_copy(num_bytes);
  {
    std::lock_guard lock(state().mutex);
    ++state().counters.copies;
  }
  push(stream, [=] { std::memcpy(target, source, num_bytes); });
  return status;
}

cudaError_t cudaMemcpyBatchAsync(void* const* targets, const void* const* sources, const std::size_t* sizes,
                                 std::size_t count, cudaMemcpyAttributes* attributes, std::size_t* attribute_indices,
                                 std::size_t num_attributes, cudaStream_t stream) {
  const cudaError_t status = status_of("cudaMemcpyBatchAsync");
  if (status != cudaSuccess) return status;
  if (stream == nullptr || count == 0 || num_attributes != 1 || attribute_indices[0] != 0 ||
      attributes->srcAccessOrder != cudaMemcpySrcAccessOrderStream) {
    return cudaErrorInvalidValue;
  }
  struct Copy {
    void* target;
    const void* source;
    std::size_t num_bytes;
  };
  std::vector<Copy> copies;
  for (std::size_t i = 0; i < count; ++i) {
    copies.push_back({targets[i], sources[i], sizes[i]});
    count_copy(sizes[i]);
  }
  {
    std::lock_guard lock(state().mutex);
    ++state().counters.batches;
    state().counters.batched_copies += static_cast<std::int64_t>(count);
    std::shuffle(copies.begin(), copies.end(), state().random);  // a batch promises no order
  }
  push(stream, [copies = std::move(copies)] {
    for (const Copy& copy : copies) std::memcpy(copy.target, copy.source, copy.num_bytes);
  });
  return status;
}

}  // extern "C"
