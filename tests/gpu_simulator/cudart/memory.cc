// Memory of the simulated device: memory of the host that ends, but for alignment, at a page that faults.

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "cudart/runtime.h"

namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kAlignment = 256;

struct Region {
  void* begin;
  std::size_t num_bytes;
};

struct Regions {
  std::mutex mutex;
  std::unordered_map<void*, Region> by_data;
};

Regions& regions() {
  static Regions instance;
  return instance;
}

std::size_t rounded_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** data, std::size_t num_bytes) {
  if (const cudaError_t status = cudart::status_of("cudaMalloc"); status != cudaSuccess) return status;
  const std::size_t data_bytes = rounded_up(num_bytes, kAlignment);
  const std::size_t region_bytes = rounded_up(data_bytes, kPageBytes) + kPageBytes;
  void* const begin = mmap(nullptr, region_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::byte* const end = static_cast<std::byte*>(begin) + region_bytes - kPageBytes;
  mprotect(end, kPageBytes, PROT_NONE);
  *data = end - data_bytes;
  std::lock_guard lock(regions().mutex);
  regions().by_data[*data] = {begin, region_bytes};
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  std::lock_guard lock(regions().mutex);
  const auto found = regions().by_data.find(data);
  if (found == regions().by_data.end()) return cudaErrorInvalidValue;
  munmap(found->second.begin, found->second.num_bytes);
  regions().by_data.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* target, const void* source, std::size_t num_bytes, cudaMemcpyKind) {
  std::memcpy(target, source, num_bytes);
  return cudart::status_of("cudaMemcpy");
}

cudaError_t cudaMemset(void* target, int byte, std::size_t num_bytes) {
  std::memset(target, byte, num_bytes);
  return cudart::status_of("cudaMemset");
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  *total_bytes = std::size_t{80} << 30;
  *free_bytes = *total_bytes / 2;
  return cudart::status_of("cudaMemGetInfo");
}

/// Streams have been waited for by those who gave them work.
cudaError_t cudaDeviceSynchronize() { return cudart::status_of("cudaDeviceSynchronize"); }

}  // extern "C"
