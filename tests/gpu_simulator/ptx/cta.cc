#include "ptx/cta.h"

#include <algorithm>
#include <utility>

#include "ptx/error.h"
#include "ptx/parser/declaration.h"

namespace ptx {
namespace {

constexpr std::size_t kAlignment = 1024;  // of shared memory: what the widest swizzle of bulk copies repeats after

}  // namespace

Cta::Cta(const Kernel& kernel, Dim3 grid_size, Dim3 block_size, Dim3 cta_index, std::size_t dynamic_shared_bytes,
         std::span<const std::byte> parameters, std::mt19937_64& random)
    : grid(grid_size), block(block_size), index(cta_index), random_(random) {
  const std::size_t static_bytes = kernel.shared_bytes;
  const std::size_t shared_bytes =
      dynamic_shared_bytes == 0 ? static_bytes : round_up(static_bytes, kAlignment) + dynamic_shared_bytes;
  const std::size_t parameters_at = round_up(shared_bytes, kAlignment);
  storage_.assign(kAlignment + parameters_at + parameters.size(), std::byte{0xff});
  const auto begin = reinterpret_cast<std::uintptr_t>(storage_.data());
  std::byte* const aligned = storage_.data() + (round_up(begin, kAlignment) - begin);
  shared_ = {aligned, shared_bytes};
  parameters_ = {aligned + parameters_at, parameters.size()};
  std::copy(parameters.begin(), parameters.end(), parameters_.begin());

  const auto num_threads = static_cast<int>(block.x * block.y * block.z);
  const int num_warps = (num_threads + kWarpSize - 1) / kWarpSize;
  warps_.reserve(static_cast<std::size_t>(num_warps));
  for (int warp = 0; warp < num_warps; ++warp) {
    warps_.emplace_back(*this, kernel, warp, num_threads - warp * kWarpSize);
  }
  waits_for_.resize(warps_.size());
  if (kernel.uses_async_proxy) {
    unfenced_.resize(shared_bytes);
    unfenced_of_.resize(warps_.size());
  }
}

std::byte* Cta::shared(std::uint64_t address, std::size_t num_bytes, std::size_t alignment) {
  if (address > shared_.size() || num_bytes > shared_.size() - address) {
    fail("access to ", num_bytes, " bytes of shared memory at ", address, ", which has ", shared_.size());
  }
  if (address % alignment != 0) {
    fail("access to ", num_bytes, " bytes of shared memory at ", address, ", which is not a multiple of ", alignment);
  }
  return shared_.data() + address;
}

void Cta::mark_unfenced(int warp, std::uint64_t address, std::size_t num_bytes) {
  if (address > shared_.size() || num_bytes > shared_.size() - address) return;  // shared() says so
  const auto first = unfenced_.begin() + static_cast<std::ptrdiff_t>(address);
  std::fill_n(first, num_bytes, static_cast<std::uint16_t>(1 + warp));
  Range& range = unfenced_of_[static_cast<std::size_t>(warp)];
  range.begin = std::min(range.begin, address);
  range.end = std::max(range.end, address + num_bytes);
}

void Cta::proxy_fence(const Warp& warp) {
  if (unfenced_.empty()) return;
  Range& range = unfenced_of_[static_cast<std::size_t>(warp.index())];
  const auto mark = static_cast<std::uint16_t>(1 + warp.index());
  for (std::uint64_t address = range.begin; address < range.end; ++address) {
    if (unfenced_[address] == mark) unfenced_[address] = 0;
  }
  range = {};
}

void Cta::require_fenced(std::uint64_t address, std::size_t num_bytes) const {
  for (std::uint64_t i = address; i < std::min<std::uint64_t>(address + num_bytes, unfenced_.size()); ++i) {
    if (unfenced_[i] == 0) continue;
    fail("the asynchronous proxy reads byte ", i, " of shared memory, which warp ", unfenced_[i] - 1,
         " has stored without a fence.proxy.async behind");
  }
}

bool Cta::deliver() {
  if (posted_.empty()) return false;
  std::swap(posted_[random_() % posted_.size()], posted_.back());
  const std::function<void()> copy = std::move(posted_.back());
  posted_.pop_back();
  copy();
  changed();
  return true;
}

int Cta::live_warps() const {
  return static_cast<int>(
      std::count_if(warps_.begin(), warps_.end(), [](const Warp& warp) { return warp.live() != 0; }));
}

bool Cta::ended() const { return live_warps() == 0; }

void Cta::complete(Barrier& barrier) {
  const int expected = barrier.num_threads == 0 ? live_warps() : barrier.num_threads / kWarpSize;
  if (barrier.arrived < expected) return;
  barrier = {.phase = barrier.phase + 1};
  changed();
}

bool Cta::barrier(int id, int num_threads, const Warp& warp, bool sync) {
  if (id < 0 || id >= static_cast<int>(barriers_.size())) fail("barrier ", id, ": there are ", barriers_.size());
  if (num_threads < 0 || num_threads % kWarpSize != 0) {
    fail("barrier ", id, " of ", num_threads, " threads: they must be whole warps");
  }
  if (num_threads == static_cast<int>(warps_.size()) * kWarpSize) num_threads = 0;
  Barrier& barrier = barriers_[static_cast<std::size_t>(id)];
  std::uint64_t& waits_for = waits_for_[static_cast<std::size_t>(warp.index())];
  if (waits_for == 0) {
    const std::uint32_t self = 1U << warp.index();
    if (barrier.arrived == 0) {
      barrier.num_threads = num_threads;
    } else if (barrier.num_threads != num_threads) {
      fail("barrier ", id, " of ", num_threads, " threads, where others have come for ", barrier.num_threads,
           " (0: all)");
    }
    if ((barrier.arrived_warps & self) != 0) fail("the warp arrives twice in one phase of barrier ", id);
    barrier.arrived_warps |= self;
    ++barrier.arrived;
    waits_for = 1 + barrier.phase;
  }
  const std::uint64_t phase = waits_for - 1;
  if (barrier.phase == phase) complete(barrier);
  const bool may_go_on = !sync || barrier.phase != phase;
  if (may_go_on) waits_for = 0;
  return may_go_on;
}

}  // namespace ptx
