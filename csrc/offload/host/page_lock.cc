#include "offload/host/page_lock.h"

#include "base/error.h"

#ifdef FASTSERVE_WITH_CUDA
#include <cuda_runtime_api.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <string>

#include "base/cuda_check.h"
#endif

namespace fastserve::offload {

#ifdef FASTSERVE_WITH_CUDA

namespace {

constexpr int kMpolPreferred = 1;  // linux/mempolicy.h: use the node while it has memory, then any
constexpr int kMostNodes = 1024;
constexpr int kBitsPerWord = 8 * sizeof(unsigned long);

/// The memory node next to a GPU; -1 when the system does not say.
int node_of_gpu(int device) {
  std::array<char, 32> bus_id{};
  if (cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), device) != cudaSuccess) {
    (void)cudaGetLastError();
    return -1;
  }
  std::string name(bus_id.data());
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::ifstream file("/sys/bus/pci/devices/" + name + "/numa_node");
  int node = -1;
  return file >> node ? node : -1;
}

}  // namespace

void require_page_locking() {
  int count = 0;
  FS_CUDA(cudaGetDeviceCount(&count));
}

void prefer_node_of_gpu(std::byte* begin, std::size_t num_bytes, int device) {
  const int node = node_of_gpu(device);
  if (node < 0 || node >= kMostNodes) return;
  std::array<unsigned long, kMostNodes / kBitsPerWord> nodes{};
  nodes[static_cast<std::size_t>(node / kBitsPerWord)] = 1ul << (node % kBitsPerWord);
#ifdef SYS_mbind
  constexpr unsigned long kNumBits = kMostNodes;
  (void)::syscall(SYS_mbind, begin, num_bytes, kMpolPreferred, nodes.data(), kNumBits, 0u);
#endif
}

void lock_pages(std::byte* begin, std::size_t num_bytes) {
  const cudaError_t status = cudaHostRegister(begin, num_bytes, cudaHostRegisterPortable | cudaHostRegisterMapped);
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  detail::raise<DeviceError>(__FILE__, ":", __LINE__, ": the driver does not page-lock ", num_bytes >> 20,
                             " MiB of host memory (", cudaGetErrorName(status), ", ", cudaGetErrorString(status),
                             "); ask for fewer host blocks, raise the container's memory limit and its limit of locked"
                             " memory, or use memory that is not page-locked, which is much slower");
}

void unlock_pages(std::byte* begin) { (void)cudaHostUnregister(begin); }

#else

void require_page_locking() {
  detail::raise<InvalidArgumentError>("this build has no CUDA: a host arena cannot be page-locked; leave pin off");
}

void prefer_node_of_gpu(std::byte*, std::size_t, int) {}
void lock_pages(std::byte*, std::size_t) { require_page_locking(); }
void unlock_pages(std::byte*) {}

#endif

}  // namespace fastserve::offload
