#include "ptx/memory/memory.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "ptx/error.h"
#include "ptx/form.h"
#include "ptx/memory/addresses.h"

namespace ptx {
namespace {

// What the register holds of an element: signed ones fill it with their sign.
template <typename T>
std::uint64_t extended(T value, std::uint64_t mask) {
  if constexpr (std::is_signed_v<T>) return static_cast<std::uint64_t>(static_cast<std::int64_t>(value)) & mask;
  return to_bits(value);
}

template <typename T, std::size_t kCount, StateSpace kSpace>
Outcome load(const Instruction& instruction, Warp& warp, Mask active) {
  const Operand& to = instruction.operands[0];
  const Addresses addresses(warp, instruction.operands[1]);
  std::array<std::uint64_t*, kCount> registers;
  std::array<std::uint64_t, kCount> masks;
  for (std::size_t i = 0; i < kCount; ++i) {
    const Operand& element = to.kind == Operand::Kind::kVector ? to.elements[i] : to;
    const bool is_sink = element.kind == Operand::Kind::kSink;
    registers[i] = is_sink ? nullptr : warp.registers(element.reg).data();
    masks[i] = low_bits(element.width > 0 ? element.width : 64);
  }
  for_lanes(active, [&](std::size_t lane) {
    std::array<T, kCount> values;
    std::memcpy(&values, place<kSpace>(warp, lane, addresses[lane], sizeof(values)).bytes, sizeof(values));
    for (std::size_t i = 0; i < kCount; ++i) {
      if (registers[i] != nullptr) registers[i][lane] = extended(values[i], masks[i]);
    }
  });
  return Outcome::kDone;
}

template <typename T, std::size_t kCount, StateSpace kSpace>
Outcome store(const Instruction& instruction, Warp& warp, Mask active) {
  const Operand& from = instruction.operands[1];
  const Addresses addresses(warp, instruction.operands[0]);
  std::array<std::array<T, kCount>, kWarpSize> values;
  for (std::size_t i = 0; i < kCount; ++i) {
    const Source source(warp, from.kind == Operand::Kind::kVector ? from.elements[i] : from);
    for_lanes(active, [&](std::size_t lane) { values[lane][i] = from_bits<T>(source[lane]); });
  }
  for_lanes(active, [&](std::size_t lane) {
    const Place at = place<kSpace>(warp, lane, addresses[lane], sizeof(values[lane]));
    std::memcpy(at.bytes, &values[lane], sizeof(values[lane]));
    stored(warp, at, sizeof(values[lane]));
  });
  return Outcome::kDone;
}

template <typename F>
Handler with_count(std::size_t count, F&& f) {
  switch (count) {
    case 1: return f(std::integral_constant<std::size_t, 1>{});
    case 2: return f(std::integral_constant<std::size_t, 2>{});
    case 4: return f(std::integral_constant<std::size_t, 4>{});
    case 8: return f(std::integral_constant<std::size_t, 8>{});
    default: return nullptr;
  }
}

Handler load_or_store(const Instruction& instruction, bool loads) {
  Form form(instruction);
  Type type = form.take_type();
  if (type.kind == Type::Kind::kFloat || !loads) type.kind = Type::Kind::kUnsigned;
  const std::size_t operands = take_hints(form) ? 3 : 2;
  const StateSpace space = take_space(form);
  form.take("unified");
  const int vector = form.take_one({"v2", "v4", "v8"});
  const std::size_t count = vector < 0 ? 1 : std::size_t{2} << vector;
  if (form.operands() != operands) form.refuse();
  const Operand& data = instruction.operands[loads ? 0 : 1];
  if ((data.kind == Operand::Kind::kVector ? data.elements.size() : 1) != count) form.refuse();
  if (!loads && space == StateSpace::kParam) form.refuse();
  const Handler handler = with_count(count, [&](auto num) {
    return with_space(space, [&](auto where) {
      return with_integer<true>(type, [&](auto zero) -> Handler {
        using T = decltype(zero);
        if (loads) return &load<T, num(), where()>;
        if constexpr (std::is_unsigned_v<T>) return &store<T, num(), where()>;
        return nullptr;
      });
    });
  });
  return form.with(handler, operands);
}

// cvta.space d, a: to generic; cvta.to.space: from it.
template <StateSpace kSpace, bool kToGeneric>
Outcome convert_address(const Instruction& instruction, Warp& warp, Mask active) {
  const Source source(warp, instruction.operands[1]);
  Destination destination(warp, instruction.operands[0]);
  for_lanes(active, [&](std::size_t lane) {
    const std::byte* memory = nullptr;  // of the others the addresses are the same
    if constexpr (kSpace == StateSpace::kParam) memory = warp.cta().parameters();
    if constexpr (kSpace == StateSpace::kLocal) memory = warp.local(static_cast<int>(lane));
    std::uint64_t base = reinterpret_cast<std::uint64_t>(memory);
    if constexpr (kSpace == StateSpace::kShared) base = warp.cta().shared_base();
    destination[lane] = kToGeneric ? source[lane] + base : source[lane] - base;
  });
  return Outcome::kDone;
}

Handler address_conversion(const Instruction& instruction) {
  Form form(instruction);
  const Type type = form.take_type();
  const bool from_generic = form.take("to");
  const StateSpace space = take_space(form);
  if (type.bits != 64 || space == StateSpace::kGeneric) form.refuse();
  return form.with(with_space(space,
                              [&](auto where) -> Handler {
                                if (from_generic) return &convert_address<where(), false>;
                                return &convert_address<where(), true>;
                              }),
                   2);
}

// isspacep.space p, a
template <StateSpace kSpace>
Outcome is_in_space(const Instruction& instruction, Warp& warp, Mask active) {
  const Source source(warp, instruction.operands[1]);
  Destination destination(warp, instruction.operands[0]);
  for_lanes(active, [&](std::size_t lane) {
    const std::uint64_t address = source[lane];
    const auto lies_in = [&](const std::byte* memory, std::size_t num_bytes) {
      const auto begin = reinterpret_cast<std::uint64_t>(memory);
      return address >= begin && address - begin < num_bytes;
    };
    const bool shared = warp.cta().is_shared(address);
    const bool local = lies_in(warp.local(static_cast<int>(lane)), warp.kernel().local_bytes);
    const bool parameter = lies_in(warp.cta().parameters(), warp.kernel().parameter_bytes);
    destination[lane] = kSpace == StateSpace::kShared  ? shared
                        : kSpace == StateSpace::kLocal ? local
                        : kSpace == StateSpace::kParam ? parameter
                                                       : !shared && !local && !parameter;
  });
  return Outcome::kDone;
}

Handler space_query(const Instruction& instruction) {
  Form form(instruction);
  const StateSpace space = take_space(form);
  if (space == StateSpace::kGeneric) form.refuse();
  return form.with(with_space(space, [&](auto where) -> Handler { return &is_in_space<where()>; }), 2);
}

Outcome nothing(const Instruction&, Warp&, Mask) { return Outcome::kDone; }

// Memory is in order here: what a fence asks for holds anyway.
Handler fence(const Instruction& instruction) {
  Form form(instruction);
  if (instruction.op == "membar") {
    if (form.take_one({"cta", "gl", "sys"}) < 0) form.refuse();
    return form.with(&nothing, 0);
  }
  for (const std::string& modifier : instruction.modifiers) {
    if (modifier == "mbarrier_init" || modifier.starts_with("proxy")) return nullptr;  // of asynchronous copies
  }
  form.take_one({"sc", "acq_rel", "acquire", "release"});
  form.take_one({"cta", "cluster", "gpu", "sys"});
  return form.with(&nothing, 0);
}

}  // namespace

Handler memory_handler(const Instruction& instruction) {
  const std::string_view op = instruction.op;
  if (op == "ld" || op == "ldu") return load_or_store(instruction, true);
  if (op == "st") return load_or_store(instruction, false);
  if (op == "atom" || op == "red") return atomic_handler(instruction);
  if (op == "cvta") return address_conversion(instruction);
  if (op == "isspacep") return space_query(instruction);
  if (op == "membar" || op == "fence") return fence(instruction);
  if (op == "prefetch" || op == "prefetchu" || op == "discard" || op == "applypriority") {
    const bool of_tensor_map = !instruction.modifiers.empty() && instruction.modifiers.back() == "tensormap";
    return of_tensor_map ? nullptr : &nothing;
  }
  return nullptr;
}

}  // namespace ptx
