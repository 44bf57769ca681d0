#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fastserve::collective {

/// Memory that several processes map. It has no name: the kernel frees it with the last of them, however they end.
class SharedSegment {
 public:
  /// New memory, zero-filled; pages take room when they are first written. Throws DeviceError when it cannot be had.
  explicit SharedSegment(std::size_t num_bytes);
  /// The memory behind a descriptor that another process made; the descriptor stays the caller's.
  static SharedSegment attach(int fd);

  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&&) = delete;
  ~SharedSegment();

  std::byte* data() const { return data_; }
  std::size_t num_bytes() const { return num_bytes_; }
  int fd() const { return fd_; }

 private:
  SharedSegment(int fd, std::size_t num_bytes);

  int fd_;
  std::size_t num_bytes_;
  std::byte* data_ = nullptr;
};

/// Sleep while `word` is `seen`; false when `deadline_s` of `monotonic_s` has passed. May return early.
bool sleep_while(const std::atomic<std::uint32_t>& word, std::uint32_t seen, double deadline_s);

/// Wake all who sleep on `word`, in every process.
void wake_all(const std::atomic<std::uint32_t>& word);

/// Seconds of the monotonic clock, which all processes of a machine share.
double monotonic_s();

}  // namespace fastserve::collective
