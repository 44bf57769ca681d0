#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "ptx/cta.h"
#include "ptx/error.h"
#include "ptx/instruction.h"

namespace ptx {

/// Address in shared memory of what an instruction's operand names: it counts from 0 where the instruction says
/// .shared, else it is generic; then Error when it lies outside shared memory.
inline std::uint64_t shared_address(Cta& cta, std::uint64_t address, bool generic) {
  if (!generic) return address & 0xffffffffU;
  if (!cta.is_shared(address)) fail("generic address ", address, " where one of shared memory is needed");
  return address - cta.shared_base();
}
/// Whether an instruction names no state space, so that its addresses are generic.
bool addresses_are_generic(const Instruction& instruction);

/// The live mbarrier object at an address of shared memory; Error when there is none.
Cta::MBarrier& live_mbarrier(Cta& cta, std::uint64_t address);
/// expect-tx and complete-tx operations, of `bytes`; the latter may end the phase.
void expect_transactions(Cta::MBarrier& barrier, std::int64_t bytes);
void complete_transactions(Cta& cta, std::uint64_t address, std::int64_t bytes);

/// Throw Error: the form of the instruction is not implemented, or wrong.
[[noreturn]] void refuse(const Instruction& instruction, const char* why);
/// Refuses every modifier but these.
void require_known(const Instruction& instruction, std::initializer_list<std::string_view> modifiers);

Handler mbarrier_handler(const Instruction& instruction);   // mbarrier.*
Handler bulk_copy_handler(const Instruction& instruction);  // cp.async.bulk*, prefetch.tensormap

}  // namespace ptx
