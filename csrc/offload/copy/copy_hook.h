#pragma once

#include "offload/transfer.h"

namespace fastserve::offload {

/// What an engine calls around its copies when it was given one; tests make links slow and copies fail with it.
/// Every method may be called from any thread.
class CopyHook {
 public:
  virtual ~CopyHook() = default;

  /// On the copy thread, before the copy of a transfer begins; what it throws fails the transfer.
  virtual void before_copy(Direction direction) = 0;
  /// After a copy failed: whether the device is lost, and not this copy alone.
  virtual bool device_is_lost() const = 0;
  /// The engine closes: every call of before_copy, also one in progress, returns at once.
  virtual void close() = 0;
};

}  // namespace fastserve::offload
