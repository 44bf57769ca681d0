#include "collective/shared_segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cmath>
#include <cstring>
#include <ctime>

#include "base/error.h"

namespace fastserve::collective {
namespace {

constexpr double kLongestSleepS = 3600.0;

[[noreturn]] void fail(const char* what, std::size_t num_bytes) {
  detail::raise<DeviceError>("shared memory of ", num_bytes, " bytes cannot be ", what, " (", std::strerror(errno),
                             "); free memory or raise the container's limit");
}

}  // namespace

SharedSegment::SharedSegment(std::size_t num_bytes)
    : SharedSegment(::memfd_create("fastserve", MFD_CLOEXEC), num_bytes) {}

SharedSegment SharedSegment::attach(int fd) {
  struct stat status{};
  FS_REQUIRE(::fstat(fd, &status) == 0, "the descriptor of shared memory must be open, got ", fd);
  return {::fcntl(fd, F_DUPFD_CLOEXEC, 0), static_cast<std::size_t>(status.st_size)};
}

SharedSegment::SharedSegment(int fd, std::size_t num_bytes) : fd_(fd), num_bytes_(num_bytes) {
  if (fd_ < 0) fail("made", num_bytes);
  struct stat status{};
  const bool is_new = ::fstat(fd_, &status) == 0 && status.st_size == 0;
  if (is_new && ::ftruncate(fd_, static_cast<off_t>(num_bytes)) != 0) {
    ::close(fd_);
    fail("sized", num_bytes);
  }
  void* const mapped = ::mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (mapped == MAP_FAILED) {
    ::close(fd_);
    fail("mapped", num_bytes);
  }
  data_ = static_cast<std::byte*>(mapped);
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : fd_(other.fd_), num_bytes_(other.num_bytes_), data_(other.data_) {
  other.fd_ = -1;
  other.data_ = nullptr;
}

SharedSegment::~SharedSegment() {
  if (data_) ::munmap(data_, num_bytes_);
  if (fd_ >= 0) ::close(fd_);
}

bool sleep_while(const std::atomic<std::uint32_t>& word, std::uint32_t seen, double deadline_s) {
  const double left_s = std::fmin(deadline_s - monotonic_s(), kLongestSleepS);
  if (left_s <= 0.0) return word.load(std::memory_order_acquire) != seen;
  timespec timeout{};
  timeout.tv_sec = static_cast<time_t>(left_s);
  timeout.tv_nsec = static_cast<long>((left_s - static_cast<double>(timeout.tv_sec)) * 1e9);
  ::syscall(SYS_futex, &word, FUTEX_WAIT, seen, &timeout, nullptr, 0);
  return true;
}

void wake_all(const std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

double monotonic_s() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace fastserve::collective
