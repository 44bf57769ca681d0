#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace fastserve {

/// Root of every error the core raises; the Python classes in fastserve.errors mirror this tree.
class FastServeError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A caller broke a documented contract: the message states the rule, the value and the remedy.
class InvalidArgumentError : public FastServeError {
 public:
  using FastServeError::FastServeError;
};

/// A device (GPU, copy engine, pinned memory) failed.
class DeviceError : public FastServeError {
 public:
  using FastServeError::FastServeError;
};

/// An internal invariant does not hold: a bug in FastServe.
class InternalError : public FastServeError {
 public:
  using FastServeError::FastServeError;
};

namespace detail {
template <typename Error, typename... Parts>
[[noreturn]] void raise(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}
}  // namespace detail

}  // namespace fastserve

/// Contract of a caller: FS_REQUIRE(n > 0, "num_blocks must be positive, got ", n).
#define FS_REQUIRE(condition, ...)                                                \
  do {                                                                            \
    if (!(condition)) [[unlikely]]                                                \
      ::fastserve::detail::raise<::fastserve::InvalidArgumentError>(__VA_ARGS__); \
  } while (false)

/// Invariant of our own: FS_CHECK(refs > 0, "block ", id, " has no owner").
#define FS_CHECK(condition, ...)                                                                          \
  do {                                                                                                    \
    if (!(condition)) [[unlikely]]                                                                        \
      ::fastserve::detail::raise<::fastserve::InternalError>(__FILE__, ":", __LINE__, ": ", __VA_ARGS__); \
  } while (false)
