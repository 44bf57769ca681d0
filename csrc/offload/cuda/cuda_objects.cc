#include "offload/cuda/cuda_objects.h"

#include "base/cuda_check.h"

namespace fastserve::offload {

// Destructors ignore errors: what they free goes with the process anyway, and a broken device fails every call.

CudaDeviceScope::CudaDeviceScope(int device) {
  FS_CUDA(cudaGetDevice(&previous_));
  if (previous_ == device) return;
  FS_CUDA(cudaSetDevice(device));
  changed_ = true;
}

CudaDeviceScope::~CudaDeviceScope() {
  if (changed_) (void)cudaSetDevice(previous_);
}

CudaStream::CudaStream() { FS_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }

CudaStream::~CudaStream() { (void)cudaStreamDestroy(stream_); }

CudaHostBuffer::CudaHostBuffer(std::size_t num_bytes) {
  if (num_bytes == 0) return;
  void* data = nullptr;
  FS_CUDA(cudaHostAlloc(&data, num_bytes, cudaHostAllocPortable));
  data_ = static_cast<std::byte*>(data);
}

CudaHostBuffer::~CudaHostBuffer() {
  if (data_ != nullptr) (void)cudaFreeHost(data_);
}

CudaEventPool::~CudaEventPool() {
  for (const cudaEvent_t event : all_) (void)cudaEventDestroy(event);
}

cudaEvent_t CudaEventPool::take() {
  std::lock_guard lock(mutex_);
  if (free_.empty()) {
    const unsigned flags = cudaEventBlockingSync | (timing_ ? 0u : cudaEventDisableTiming);
    cudaEvent_t event = nullptr;
    all_.reserve(all_.size() + 1);
    FS_CUDA(cudaEventCreateWithFlags(&event, flags));
    all_.push_back(event);
    free_.reserve(all_.size());  // so that give_back cannot fail
    return event;
  }
  const cudaEvent_t event = free_.back();
  free_.pop_back();
  return event;
}

void CudaEventPool::give_back(cudaEvent_t event) {
  std::lock_guard lock(mutex_);
  free_.push_back(event);
}

}  // namespace fastserve::offload
