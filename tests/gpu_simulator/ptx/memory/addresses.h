#pragma once

#include <cstddef>
#include <cstdint>

#include "ptx/cta.h"
#include "ptx/form.h"
#include "ptx/operands.h"
#include "ptx/warp.h"

namespace ptx {

/// State spaces as instructions name them; generic: none named.
enum class StateSpace { kGeneric, kGlobal, kShared, kLocal, kParam };

/// Takes the space of a memory instruction; that of constants is global here.
StateSpace take_space(Form& form);
/// Takes what says nothing about a value: caches, memory order and its scope, prefetches. Whether one of them,
/// .L2::cache_hint, brings an operand.
bool take_hints(Form& form);

/// Calls `f` with the space as a constant.
template <typename F>
Handler with_space(StateSpace space, F&& f) {
  switch (space) {
    case StateSpace::kGeneric: return f(std::integral_constant<StateSpace, StateSpace::kGeneric>{});
    case StateSpace::kGlobal: return f(std::integral_constant<StateSpace, StateSpace::kGlobal>{});
    case StateSpace::kShared: return f(std::integral_constant<StateSpace, StateSpace::kShared>{});
    case StateSpace::kLocal: return f(std::integral_constant<StateSpace, StateSpace::kLocal>{});
    case StateSpace::kParam: return f(std::integral_constant<StateSpace, StateSpace::kParam>{});
  }
  return nullptr;
}

/// The addresses [register + offset] of an operand in the lanes; they wrap at the register's width.
class Addresses {
 public:
  Addresses(Warp& warp, const Operand& operand)
      : lanes_(operand.reg >= 0 ? warp.registers(operand.reg).data() : nullptr),
        offset_(operand.value),
        mask_(lanes_ != nullptr && operand.width == 32 ? low_bits(32) : ~std::uint64_t{0}) {}

  std::uint64_t operator[](std::size_t lane) const {
    return ((lanes_ != nullptr ? lanes_[lane] : 0) + offset_) & mask_;
  }

 private:
  const std::uint64_t* lanes_;
  std::uint64_t offset_;
  std::uint64_t mask_;
};

/// Where an access lies on the host; of one to shared memory also its address there.
struct Place {
  std::byte* bytes;
  bool is_shared = false;
  std::uint64_t shared_address = 0;
};

/// Error: an access to global memory that is not aligned, or near null.
[[noreturn]] void refuse_global(std::uint64_t address, std::size_t num_bytes);
/// Of local and of parameter memory. Error: out of range or not aligned to the access.
std::byte* local_bytes(Warp& warp, std::size_t lane, std::uint64_t address, std::size_t num_bytes);
std::byte* parameter_bytes(Warp& warp, std::uint64_t address, std::size_t num_bytes);

/// The place of an access of `num_bytes`, a power of two, aligned to as much. Errors as above and of Cta::shared.
template <StateSpace kSpace>
Place place(Warp& warp, std::size_t lane, std::uint64_t address, std::size_t num_bytes) {
  constexpr std::uint64_t kNearNull = 65536;
  Cta& cta = warp.cta();
  const bool is_aligned = (address & (num_bytes - 1)) == 0;
  if constexpr (kSpace == StateSpace::kShared) {
    const std::uint64_t generic = cta.shared_base() + address;
    const bool is_good = is_aligned && cta.is_shared(generic + num_bytes - 1);
    return {is_good ? reinterpret_cast<std::byte*>(generic) : cta.shared(address, num_bytes, num_bytes), true, address};
  }
  if constexpr (kSpace == StateSpace::kLocal) return {local_bytes(warp, lane, address, num_bytes)};
  if constexpr (kSpace == StateSpace::kParam) return {parameter_bytes(warp, address, num_bytes)};
  if constexpr (kSpace == StateSpace::kGeneric) {
    if (cta.is_shared(address)) return place<StateSpace::kShared>(warp, lane, address - cta.shared_base(), num_bytes);
  }
  if (!is_aligned || address < kNearNull) refuse_global(address, num_bytes);
  return {reinterpret_cast<std::byte*>(address)};
}

/// Tells the CTA of a store to shared memory.
inline void stored(Warp& warp, const Place& at, std::size_t num_bytes) {
  if (!at.is_shared) return;
  warp.cta().stored(warp, at.shared_address, num_bytes);
  warp.cta().changed();
}

}  // namespace ptx
