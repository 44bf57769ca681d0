#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "collective/shared_segment.h"

namespace fastserve::collective {

struct ExchangeHeader;
struct Mailbox;

/// Memory through which the ranks of one machine exchange tensors; see SharedExchange.
class ExchangeMemory {
 public:
  /// Throws InvalidArgumentError unless num_ranks is from 1 to 64.
  explicit ExchangeMemory(std::int32_t num_ranks);
  /// The memory that another process made; the descriptor stays the caller's.
  static ExchangeMemory attach(int fd);

  std::int32_t num_ranks() const;
  int fd() const { return segment_.fd(); }
  ExchangeHeader& header() const;
  std::byte* area(std::uint32_t parity, std::int32_t rank) const;
  Mailbox& mailbox(std::int32_t from, std::int32_t to) const;

 private:
  explicit ExchangeMemory(SharedSegment segment);

  SharedSegment segment_;
};

/// One rank's end. All ranks make the same collective calls in the same order. One thread.
///
/// A call goes in pieces through an area per rank: each rank writes its own, all meet, each reads the others'. Areas are
/// there twice and used in turn, so that ranks meet once per piece. Waiting is sleeping on a futex.
class SharedExchange {
 public:
  /// timeout_s: the longest wait for another rank.
  SharedExchange(int fd, std::int32_t rank, double timeout_s);

  std::int32_t rank() const { return rank_; }
  std::int32_t num_ranks() const { return memory_.num_ranks(); }

  /// Replace `values` by the sum over the ranks, added as a binary tree ((0 + 1) + (2 + 3)) + ..., on all ranks.
  /// Throws DeviceError after timeout_s, InternalError when ranks make different calls.
  void all_reduce(std::span<float> values);

  /// Fill `out` [num_ranks * mine.size()] with the bytes of every rank. Throws as `all_reduce`.
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> out);

  /// Hand bytes to another rank, which receives as many; what fits into 1 MiB does not wait for it. Throws DeviceError
  /// after timeout_s.
  void send(std::span<const std::byte> bytes, std::int32_t to);
  void recv(std::span<std::byte> bytes, std::int32_t from);

 private:
  std::uint32_t meet(std::uint32_t call, std::size_t num_bytes);
  std::string missing(std::uint32_t meeting) const;

  ExchangeMemory memory_;
  std::int32_t rank_;
  double timeout_s_;
  std::uint32_t num_meetings_ = 0;
  std::vector<float> sums_;
};

}  // namespace fastserve::collective
