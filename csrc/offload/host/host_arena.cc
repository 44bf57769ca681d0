#include "offload/host/host_arena.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "base/error.h"
#include "offload/host/host_memory.h"
#include "offload/host/page_lock.h"

namespace fastserve::offload {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kLeastBytesPerThread = std::size_t{32} << 20;  // below it a thread costs more than it saves
constexpr unsigned kMostThreads = 16;
constexpr std::int64_t kShareKeptPageable = 16;  // one part in so many of the available memory is never page-locked

std::size_t round_up(std::size_t value, std::size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

double gib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

[[noreturn]] void refuse(std::int64_t asked_bytes, std::int64_t available_bytes, const char* reason) {
  detail::raise<DeviceError>("the host KV arena asks for ", gib(asked_bytes), " GiB but ", gib(available_bytes),
                             " GiB are available (", reason,
                             "); ask for fewer host blocks, free memory or raise the container's memory limit");
}

/// Memory is there, but the kernel does not let this process have the addresses.
[[noreturn]] void refuse_mapping(std::int64_t asked_bytes, int error) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    detail::raise<DeviceError>("the host KV arena asks for ", gib(asked_bytes),
                               " GiB, more than is left of this process's limit on address space, ",
                               gib(static_cast<std::int64_t>(limit.rlim_cur)),
                               " GiB in all (ulimit -v); ask for fewer host blocks or raise the limit");
  }
  detail::raise<DeviceError>("the host KV arena asks for ", gib(asked_bytes), " GiB, which the kernel does not map (",
                             std::strerror(error),
                             "); ask for fewer host blocks, or let it commit more memory (vm.overcommit_memory)");
}

}  // namespace

HostArena::HostArena(std::int64_t num_blocks, std::int64_t block_bytes, const HostArenaOptions& options)
    : num_blocks_(num_blocks), block_bytes_(block_bytes) {
  FS_REQUIRE(num_blocks >= 1, "a host arena needs at least 1 block, got num_blocks = ", num_blocks);
  FS_REQUIRE(block_bytes >= 1, "block_bytes must be at least 1, got ", block_bytes);
  FS_REQUIRE(block_bytes <= (std::int64_t{1} << 62) / num_blocks, "a host arena of ", num_blocks, " blocks of ",
             block_bytes, " bytes passes 2^62 bytes; ask for less");
  FS_REQUIRE(options.num_threads >= 0, "num_threads must not be negative, got ", options.num_threads);
  if (options.pin) require_page_locking();
  const std::int64_t available = available_host_bytes();
  if (num_bytes() > available) refuse(num_bytes(), available, "memory of this machine and its cgroup");
  // Locked pages can neither be swapped out nor reclaimed: the rest of the machine needs some memory as well.
  if (options.pin && num_bytes() > available - available / kShareKeptPageable) {
    refuse(num_bytes(), available - available / kShareKeptPageable, "what may be page-locked of this machine's memory");
  }
  map();
  try {
    if (options.pin) prefer_node_of_gpu(data_, mapped_bytes_, options.device);
    if (options.pin || options.prefault) touch_pages(options.num_threads);
    if (options.pin) pin();
  } catch (...) {  // a thread could not be started, or the pages could not be locked
    release();
    throw;
  }
}

HostArena::~HostArena() { release(); }

void HostArena::release() {
  for (std::size_t at = 0; at < pinned_bytes_; at += kPinnedRangeBytes) unlock_pages(data_ + at);
  ::munmap(data_, mapped_bytes_);
}

void HostArena::pin() {
  while (pinned_bytes_ < mapped_bytes_) {
    const std::size_t num_bytes = std::min<std::size_t>(kPinnedRangeBytes, mapped_bytes_ - pinned_bytes_);
    lock_pages(data_ + pinned_bytes_, num_bytes);
    pinned_bytes_ += num_bytes;
  }
}

/// Map more than needed and give back what stands before the first 2 MiB boundary and after the end.
void HostArena::map() {
  mapped_bytes_ = round_up(static_cast<std::size_t>(num_bytes()), kPageBytes);
  const std::size_t with_slack = mapped_bytes_ + kHugePageBytes;
  void* mapping = ::mmap(nullptr, with_slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) refuse_mapping(num_bytes(), errno);
  auto* const begin = static_cast<std::byte*>(mapping);
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  const std::size_t lead = round_up(address, kHugePageBytes) - address;
  data_ = begin + lead;
  if (lead > 0) ::munmap(begin, lead);
  if (lead < kHugePageBytes) ::munmap(data_ + mapped_bytes_, kHugePageBytes - lead);
  advises_huge_pages_ = ::madvise(data_, mapped_bytes_, MADV_HUGEPAGE) == 0;
}

void HostArena::touch_pages(int num_threads) {
  const std::size_t wanted = num_threads > 0 ? static_cast<std::size_t>(num_threads)
                                             : std::clamp(std::thread::hardware_concurrency(), 1u, kMostThreads);
  const std::size_t count = std::clamp<std::size_t>(mapped_bytes_ / kLeastBytesPerThread, 1, wanted);
  const std::size_t share = round_up(mapped_bytes_ / count + 1, kHugePageBytes);
  const auto touch = [this](std::size_t begin, std::size_t end) {
    for (std::size_t at = begin; at < std::min(end, mapped_bytes_); at += kPageBytes) {
      static_cast<volatile std::byte*>(data_)[at] = std::byte{0};
    }
  };
  std::vector<std::jthread> threads;
  for (std::size_t i = 1; i < count; ++i) threads.emplace_back(touch, i * share, (i + 1) * share);
  touch(0, share);
}

TensorView HostArena::view() const {
  TensorView view;
  view.data = data_;
  view.dtype = DType::kUInt8;
  view.ndim = 2;
  view.shape = {num_blocks_, block_bytes_};
  view.strides = {block_bytes_, 1};
  return view;
}

}  // namespace fastserve::offload
