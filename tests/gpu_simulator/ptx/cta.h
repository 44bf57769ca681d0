#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <span>
#include <vector>

#include "ptx/parser/module.h"
#include "ptx/warp.h"

namespace ptx {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

/// A thread block: shared memory, named barriers, copies under way.
///
/// Addresses. Generic and global addresses are host addresses; those of shared memory count from 0, and their generic
/// form is `shared_base() + address`; parameter memory the same with parameters().
class Cta {
 public:
  Cta(const Kernel& kernel, Dim3 grid, Dim3 block, Dim3 index, std::size_t dynamic_shared_bytes,
      std::span<const std::byte> parameters, std::mt19937_64& random);
  Cta(const Cta&) = delete;  // its warps refer to it
  Cta& operator=(const Cta&) = delete;

  Dim3 grid, block, index;

  std::vector<Warp>& warps() { return warps_; }
  std::uint64_t shared_base() const { return reinterpret_cast<std::uint64_t>(shared_.data()); }
  const std::byte* parameters() const { return parameters_.data(); }  // from an address that is a multiple of 128
  std::mt19937_64& random() { return random_; }

  /// Host pointer of `num_bytes` at an address of shared memory. Error when they are not all inside, or not aligned to
  /// `alignment`. Fresh shared memory is full of 0xff: NaN in every float type.
  std::byte* shared(std::uint64_t address, std::size_t num_bytes, std::size_t alignment);
  /// Whether a generic address lies in this CTA's shared memory.
  bool is_shared(std::uint64_t generic) const { return generic - shared_base() < shared_.size(); }

  // The generic proxy (ld, st) and the asynchronous one (wgmma, bulk copies) see each other's shared memory only after
  // fence.proxy.async: bytes written by a warp's stores are marked until that warp fences.
  // Kernels without the asynchronous proxy do not pay for that.
  void stored(const Warp& warp, std::uint64_t address, std::size_t num_bytes) {
    if (!unfenced_.empty()) mark_unfenced(warp.index(), address, num_bytes);
  }
  void proxy_fence(const Warp& warp);
  /// Error when some of the bytes were stored and not fenced; for operands of wgmma and sources of bulk copies.
  void require_fenced(std::uint64_t address, std::size_t num_bytes) const;

  /// A copy by the bulk engine: it happens at any later time (scheduler's choice), at the latest when nothing else can go on.
  void post(std::function<void()> copy) { posted_.push_back(std::move(copy)); }
  /// Let one of the copies posted happen, by chance; false when there is none.
  bool deliver();
  bool has_posted() const { return !posted_.empty(); }

  // Barrier `id` of bar/barrier: arrivals of whole warps. `sync` true: the warp waits. Returns true when the warp may go
  // on (an arrival that need not wait, or the phase it has arrived in is complete). Called again by a waiting warp, it
  // does not count twice. `num_threads` 0: all warps that have not ended.
  bool barrier(int id, int num_threads, const Warp& warp, bool sync);

  // mbarrier objects live in shared memory at their address; what PTX leaves opaque is kept here.
  struct MBarrier {
    std::int64_t expected = 0;       // arrivals of a phase
    std::int64_t pending = 0;        // still missing in this one
    std::int64_t pending_bytes = 0;  // transactions: expected minus arrived
    std::uint64_t phase = 0;         // completed phases
    bool observed = true;            // a wait has seen the end of the phase before: only then may threads arrive
  };
  std::map<std::uint64_t, MBarrier>& mbarriers() { return mbarriers_; }

  bool ended() const;
  /// Something happened that waiting warps may wait for.
  std::uint64_t changes() const { return changes_; }
  void changed() { ++changes_; }

 private:
  struct Barrier {
    int arrived = 0;                  // warps, in this phase
    std::uint64_t phase = 0;          // completed phases
    int num_threads = 0;              // as the first warp of this phase said
    std::uint32_t arrived_warps = 0;  // bit i: warp i
  };
  struct Range {
    std::uint64_t begin = ~std::uint64_t{0}, end = 0;
  };
  void mark_unfenced(int warp, std::uint64_t address, std::size_t num_bytes);
  void complete(Barrier& barrier);
  int live_warps() const;

  std::vector<std::byte> storage_;
  std::span<std::byte> shared_;          // of it, from an address that is a multiple of 1024
  std::span<std::byte> parameters_;      // of it, the same
  std::vector<std::uint16_t> unfenced_;  // by byte: 1 + warp that stored it; empty when no check needs it
  std::vector<Range> unfenced_of_;       // by warp: all its unfenced bytes are in here
  std::vector<Warp> warps_;
  std::vector<std::function<void()>> posted_;
  std::array<Barrier, 16> barriers_;
  std::vector<std::uint64_t> waits_for_;  // by warp: 1 + phase of the barrier that it waits at; 0: it does not
  std::map<std::uint64_t, MBarrier> mbarriers_;
  std::uint64_t changes_ = 0;
  std::mt19937_64& random_;
};

}  // namespace ptx
