#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

#include "base/cuda_check.h"

namespace fastserve::smoke {

/// Memory of the device, of which nothing has been written.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t num_bytes) : num_bytes_(num_bytes) { FS_CUDA(cudaMalloc(&data_, num_bytes)); }
  ~DeviceMemory() { (void)cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t num_bytes() const { return num_bytes_; }

  // Both have ended when they return: streams that do not wait for the default stream come next.
  void fill(int byte) {
    FS_CUDA(cudaMemset(data_, byte, num_bytes_));
    FS_CUDA(cudaDeviceSynchronize());
  }
  void write(const void* source, std::size_t num_bytes, std::size_t at = 0) {
    FS_CUDA(cudaMemcpy(data() + at, source, num_bytes, cudaMemcpyHostToDevice));
    FS_CUDA(cudaDeviceSynchronize());
  }
  void read(void* target, std::size_t num_bytes, std::size_t at = 0) const {
    FS_CUDA(cudaMemcpy(target, data() + at, num_bytes, cudaMemcpyDeviceToHost));
  }

 private:
  void* data_ = nullptr;
  std::size_t num_bytes_;
};

/// A stream that does not wait for the legacy default stream.
class Stream {
 public:
  Stream() { FS_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { (void)cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  void wait() const { FS_CUDA(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace fastserve::smoke
