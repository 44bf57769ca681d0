#include <array>
#include <cstdint>

#include "ptx/arithmetic/arithmetic.h"
#include "ptx/form.h"

namespace ptx {
namespace {

template <typename T>
T same(T a) {
  return a;
}

// An immediate predicate is true when it is not 0.
Outcome move_predicate(const Instruction& instruction, Warp& warp, Mask active) {
  const Operand& operand = instruction.operands[1];
  const Source source(warp, operand);
  const bool is_immediate = operand.kind == Operand::Kind::kImmediate;
  Destination destination(warp, instruction.operands[0]);
  for_lanes(active, [&](std::size_t lane) {
    destination[lane] = is_immediate ? std::uint64_t{source[lane] != 0} : source[lane] & 1;
  });
  return Outcome::kDone;
}

// mov.b64 d, {a, b}: the first element is the lowest.
template <int kCount, int kBits>
Outcome pack(const Instruction& instruction, Warp& warp, Mask active) {
  Lanes packed{};
  for (std::size_t i = 0; i < kCount; ++i) {
    const Source element(warp, instruction.operands[1].elements[i]);
    for_lanes(active, [&](std::size_t lane) { packed[lane] |= (element[lane] & low_bits(kBits)) << (i * kBits); });
  }
  Destination destination(warp, instruction.operands[0]);
  for_lanes(active, [&](std::size_t lane) { destination[lane] = packed[lane]; });
  return Outcome::kDone;
}

// mov.b64 {a, b}, d
template <int kCount, int kBits>
Outcome unpack(const Instruction& instruction, Warp& warp, Mask active) {
  const Source source(warp, instruction.operands[1]);
  Lanes packed{};
  for_lanes(active, [&](std::size_t lane) { packed[lane] = source[lane]; });
  for (std::size_t i = 0; i < kCount; ++i) {
    Destination element(warp, instruction.operands[0].elements[i]);
    for_lanes(active, [&](std::size_t lane) { element[lane] = packed[lane] >> (i * kBits) & low_bits(kBits); });
  }
  return Outcome::kDone;
}

Handler of_vector(Form& form, Type type, std::size_t count, bool packs) {
  const auto either = [&](Handler packing, Handler unpacking) { return form.with(packs ? packing : unpacking, 2); };
  if (count == 2 && type.bits == 16) return either(&pack<2, 8>, &unpack<2, 8>);
  if (count == 2 && type.bits == 32) return either(&pack<2, 16>, &unpack<2, 16>);
  if (count == 2 && type.bits == 64) return either(&pack<2, 32>, &unpack<2, 32>);
  if (count == 4 && type.bits == 32) return either(&pack<4, 8>, &unpack<4, 8>);
  if (count == 4 && type.bits == 64) return either(&pack<4, 16>, &unpack<4, 16>);
  form.refuse();
}

}  // namespace

Handler move_handler(const Instruction& instruction) {
  if (instruction.op != "mov") return nullptr;
  Form form(instruction);
  const Type type = form.take_type();
  if (form.operands() != 2) form.refuse();
  const Operand& to = instruction.operands[0];
  const Operand& from = instruction.operands[1];
  if (to.kind == Operand::Kind::kVector) return of_vector(form, type, to.elements.size(), false);
  if (from.kind == Operand::Kind::kVector) return of_vector(form, type, from.elements.size(), true);
  if (from.kind == Operand::Kind::kLabel) form.refuse();
  if (type.bits == 1) return form.with(&move_predicate, 2);
  return with_width(type, [&](auto zero) { return form.lanewise<&same<decltype(zero)>>(); });
}

}  // namespace ptx
