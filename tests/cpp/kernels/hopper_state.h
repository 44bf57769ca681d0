#pragma once

// What hopper_emulator.h keeps of a thread block: barriers, products under way, stores that not everybody sees.

#include <array>
#include <bitset>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/dtype.h"
#include "kernels/simt.h"

namespace fastserve::kernels {

/// What a thread block has on a Hopper GPU besides.
class HopperState {
 public:
  static constexpr std::uint32_t kSharedBase = 0x410;  // shared memory is promised to be aligned to 16 bytes only
  struct Chunk {
    std::uint32_t address;
    Word4 bytes;
  };

  /// A matrix operand in shared memory: [rows][16], row by row, as it was when its product was issued.
  struct Matrix {
    std::vector<float> values;
    std::vector<Chunk> chunks;
  };

  struct Product {
    DType dtype = DType::kBFloat16;
    int columns = 0;
    bool add = true;
    std::shared_ptr<const Matrix> left;   // [64][16]; null: in registers
    std::shared_ptr<const Matrix> right;  // [columns][16]
    std::array<float*, 128> sums{};
    std::array<const std::uint32_t*, 128> weights{};
    std::array<std::array<std::uint32_t, 4>, 128> weights_then{};
  };
  using Group = std::vector<std::shared_ptr<Product>>;

  /// Accumulators of one thread between the first product that uses them and the wait that names them.
  struct Pending {
    std::size_t size = 0;
    int products = 0;  // issued and not yet computed
    std::vector<float> values;
  };
  struct Thread {
    std::map<const void*, std::vector<std::uint32_t>> fenced;  // registers, as the last fence found them
    std::map<float*, Pending> pending;
  };
  struct Warp {
    Group open;
    std::deque<Group> groups;
  };
  struct Barrier {
    int arrivals = 0;
    int missing = 0;
    std::int64_t bytes = 0;  // announced and not yet here
    std::uint32_t parity = 0;
  };
  struct Named {
    int expected = 0;
    std::bitset<1024> arrived;
    std::uint64_t round = 0;
  };
  struct Store {
    int thread;
    bool fenced = false;
  };

  explicit HopperState(int num_threads)
      : threads(static_cast<std::size_t>(num_threads)), warps(static_cast<std::size_t>(num_threads / 32)),
        registers(static_cast<std::size_t>(num_threads / 128), 65536 / num_threads / 8 * 8) {}

  const char* check_at_end() const {
    for (const Warp& warp : warps) {
      if (!warp.open.empty() || !warp.groups.empty()) return "a warp ended before its products had";
    }
    for (const Named& barrier : named) {
      if (barrier.arrived.any()) return "an arrival at a named barrier was never waited for";
    }
    for (const auto& [address, barrier] : barriers) {
      if (barrier.bytes != 0) return "announced bytes never came";
    }
    int all = 0;
    for (const int count : registers) all += 128 * count;
    return all > 65536 ? "the warpgroups took more registers than there are" : nullptr;
  }

  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<int> registers;  // of a thread, by warpgroup
  std::map<const void*, Barrier> barriers;
  std::array<Named, 16> named;
  std::map<std::uint32_t, Store> stores;  // chunks of shared memory that the copy engine and wgmma cannot see yet
  bool barriers_ready = false;
};

}  // namespace fastserve::kernels
