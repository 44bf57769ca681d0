#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/cuda_check.h"
#include "device.h"
#include "device_memory.h"
#include "probe_kernels.h"

namespace fastserve::smoke {
namespace {

constexpr std::size_t kPieces = 64;
constexpr std::size_t kPieceBytes = 4096;
constexpr std::size_t kBytes = kPieces * kPieceBytes;

/// Page-locked memory of the host: allocated as such, or made so afterwards, as the arena of the offload engine is.
class HostMemory {
 public:
  explicit HostMemory(bool registered) : registered_(registered) {
    if (!registered) {
      FS_CUDA(cudaHostAlloc(&data_, kBytes, cudaHostAllocPortable | cudaHostAllocMapped));
      return;
    }
    data_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FS_CHECK(data_ != MAP_FAILED, "no memory");
    FS_CUDA(cudaHostRegister(data_, kBytes, cudaHostRegisterPortable | cudaHostRegisterMapped));
  }
  ~HostMemory() {
    if (!registered_) {
      (void)cudaFreeHost(data_);
      return;
    }
    (void)cudaHostUnregister(data_);
    munmap(data_, kBytes);
  }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  /// Where the device sees it.
  void* on_device() const {
    cudaPointerAttributes attributes{};
    FS_CUDA(cudaPointerGetAttributes(&attributes, data_));
    return attributes.devicePointer;
  }

 private:
  bool registered_;
  void* data_ = nullptr;
};

void copy_batch(std::byte* target, const std::byte* source, cudaStream_t stream) {
  std::array<void*, kPieces> targets;
  std::array<const void*, kPieces> sources;
  std::array<std::size_t, kPieces> sizes;
  for (std::size_t i = 0; i < kPieces; ++i) {  // pieces change places
    targets[i] = target + (kPieces - 1 - i) * kPieceBytes;
    sources[i] = source + i * kPieceBytes;
    sizes[i] = kPieceBytes;
  }
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
  std::size_t first = 0;
  FS_CUDA(cudaMemcpyBatchAsync(targets.data(), sources.data(), sizes.data(), kPieces, &attributes, &first, 1, stream));
}

bool is_reversed(const std::byte* target, const std::byte* source) {
  for (std::size_t i = 0; i < kPieces; ++i) {
    if (std::memcmp(target + (kPieces - 1 - i) * kPieceBytes, source + i * kPieceBytes, kPieceBytes) != 0) return false;
  }
  return true;
}

}  // namespace

Outcome write_to_host() {
  constexpr int kCount = static_cast<int>(kBytes / 4) - 3;
  Outcome outcome;
  const Stream stream;
  cudaEvent_t written;
  FS_CUDA(cudaEventCreateWithFlags(&written, cudaEventDisableTiming));
  for (const bool registered : {false, true}) {
    const HostMemory memory(registered);
    std::memset(memory.data(), 0xff, kBytes);
    launch_numbers(static_cast<std::int32_t*>(memory.on_device()), kCount, 7, stream.get());
    FS_CUDA(cudaEventRecord(written, stream.get()));
    FS_CUDA(cudaEventSynchronize(written));
    const auto* numbers = reinterpret_cast<const volatile std::int32_t*>(memory.data());
    int wrong = 0;
    for (int i = 0; i < kCount; ++i) wrong += numbers[i] != 3 * i + 7;
    for (int i = kCount; i < kCount + 3; ++i) wrong += numbers[i] != -1;
    const std::string name = registered ? "registered" : "allocated";
    outcome.facts.add(name + "_wrong", wrong);
    outcome.facts.add(name + "_at_its_host_address", memory.on_device() == memory.data());
    if (wrong > 0) outcome.word = "differs";
  }
  FS_CUDA(cudaEventDestroy(written));
  return outcome;
}

Outcome copy_in_batches() {
  Outcome outcome;
  const Stream stream;
  DeviceMemory memory(kBytes);
  for (const bool registered : {false, true}) {
    const HostMemory source(registered), target(registered);
    for (std::size_t i = 0; i < kBytes; ++i) source.data()[i] = static_cast<std::byte>(i * 31 + i / 251);
    std::memset(target.data(), 0, kBytes);
    copy_batch(memory.data(), source.data(), stream.get());
    stream.wait();
    std::vector<std::byte> moved(kBytes);
    memory.read(moved.data(), kBytes);
    copy_batch(target.data(), memory.data(), stream.get());
    stream.wait();
    const bool right = is_reversed(moved.data(), source.data()) && is_reversed(target.data(), moved.data());
    outcome.facts.add(registered ? "registered" : "allocated", right ? "right both ways" : "wrong bytes");
    if (!right) outcome.word = "differs";
  }
  return outcome;
}

}  // namespace fastserve::smoke
