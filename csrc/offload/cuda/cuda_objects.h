// Owned CUDA streams, events and page-locked buffers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

namespace fastserve::offload {

/// Makes a device current on this thread and restores the one before it.
class CudaDeviceScope {
 public:
  explicit CudaDeviceScope(int device);
  ~CudaDeviceScope();
  CudaDeviceScope(const CudaDeviceScope&) = delete;
  CudaDeviceScope& operator=(const CudaDeviceScope&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

/// A stream that does not wait for the legacy default stream.
class CudaStream {
 public:
  CudaStream();
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Page-locked host bytes, of any size; 0 holds none.
class CudaHostBuffer {
 public:
  explicit CudaHostBuffer(std::size_t num_bytes);
  ~CudaHostBuffer();
  CudaHostBuffer(const CudaHostBuffer&) = delete;
  CudaHostBuffer& operator=(const CudaHostBuffer&) = delete;

  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

/// Events that are handed out, used once and given back, so that no event is recorded again while something may still
/// wait for its last recording (rule R6). A thread that waits for one sleeps. Thread-safe; owns all it ever made.
class CudaEventPool {
 public:
  explicit CudaEventPool(bool timing) : timing_(timing) {}
  ~CudaEventPool();
  CudaEventPool(const CudaEventPool&) = delete;
  CudaEventPool& operator=(const CudaEventPool&) = delete;

  cudaEvent_t take();
  /// Nothing waits for it any more.
  void give_back(cudaEvent_t event);

 private:
  const bool timing_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> all_;
  std::vector<cudaEvent_t> free_;
};

/// An event of a pool, given back at the end of the scope.
class PooledEvent {
 public:
  explicit PooledEvent(CudaEventPool& pool) : pool_(&pool), event_(pool.take()) {}
  PooledEvent(CudaEventPool& pool, cudaEvent_t taken) : pool_(&pool), event_(taken) {}
  PooledEvent(PooledEvent&& other) noexcept : pool_(other.pool_), event_(std::exchange(other.event_, nullptr)) {}
  PooledEvent& operator=(PooledEvent&&) = delete;
  ~PooledEvent() {
    if (event_ != nullptr) pool_->give_back(event_);
  }

  cudaEvent_t get() const { return event_; }
  /// Leave the event to the caller.
  cudaEvent_t release() { return std::exchange(event_, nullptr); }

 private:
  CudaEventPool* pool_;
  cudaEvent_t event_;
};

}  // namespace fastserve::offload
