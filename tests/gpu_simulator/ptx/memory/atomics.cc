#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "ptx/arithmetic/float_formats.h"
#include "ptx/form.h"
#include "ptx/memory/addresses.h"
#include "ptx/memory/memory.h"

namespace ptx {
namespace {

// What a memory cell becomes: of its value, the operand, and of cas a second operand.
template <typename T>
T add(T old, T value, T) {
  return static_cast<T>(static_cast<std::uint64_t>(old) + static_cast<std::uint64_t>(value));
}
template <typename T>
T exchange(T, T value, T) {
  return value;
}
template <typename T>
T compare_and_swap(T old, T expected, T value) {
  return old == expected ? value : old;
}
template <typename T>
T both(T old, T value, T) {
  return old & value;
}
template <typename T>
T either(T old, T value, T) {
  return old | value;
}
template <typename T>
T different(T old, T value, T) {
  return old ^ value;
}
template <typename T>
T least(T old, T value, T) {
  return std::min(old, value);
}
template <typename T>
T greatest(T old, T value, T) {
  return std::max(old, value);
}
std::uint32_t increment(std::uint32_t old, std::uint32_t limit, std::uint32_t) { return old >= limit ? 0 : old + 1; }
std::uint32_t decrement(std::uint32_t old, std::uint32_t limit, std::uint32_t) {
  return old == 0 || old > limit ? limit : old - 1;
}
template <typename T>
T add_floats(T old, T value, T) {
  return canonical(old + value);
}
template <typename T>
Pair<T> add_pairs(Pair<T> old, Pair<T> value, Pair<T>) {
  const auto sum = [](T a, T b) { return narrowed<T>(odd_sum(widen(a), widen(b)), Rounding::kNearest); };
  return {sum(old.low, value.low), sum(old.high, value.high)};
}

// Of f32 in global memory denormals are zeros.
float add_global(float old, float value, float) { return flushed<true>(flushed<true>(old) + flushed<true>(value)); }

// Lanes go one after the other, so nothing comes between reading and writing.
template <typename T, T (*kFunction)(T, T, T), StateSpace kSpace, bool kReturns>
Outcome update(const Instruction& instruction, Warp& warp, Mask active) {
  constexpr std::size_t kFirst = kReturns ? 1 : 0;
  const Addresses addresses(warp, instruction.operands[kFirst]);
  const Source value(warp, instruction.operands[kFirst + 1]);
  const Source second(warp, instruction.operands[std::min(kFirst + 2, instruction.operands.size() - 1)]);
  Lanes before;
  for_lanes(active, [&](std::size_t lane) {
    const Place at = place<kSpace>(warp, lane, addresses[lane], sizeof(T));
    T old;
    std::memcpy(&old, at.bytes, sizeof(T));
    const T operand = from_bits<T>(value[lane]), other = from_bits<T>(second[lane]);
    T result = kFunction(old, operand, other);
    if constexpr (std::is_same_v<T, float>) {
      if (!at.is_shared) result = canonical(add_global(old, operand, other));
    }
    std::memcpy(at.bytes, &result, sizeof(T));
    stored(warp, at, sizeof(T));
    before[lane] = to_bits(old);
  });
  if constexpr (kReturns) {
    Destination destination(warp, instruction.operands[0]);
    for_lanes(active, [&](std::size_t lane) { destination[lane] = before[lane]; });
  }
  return Outcome::kDone;
}

template <typename T, T (*kFunction)(T, T, T)>
Handler with(StateSpace space, bool returns) {
  return with_space(space, [&](auto where) -> Handler {
    if constexpr (where() == StateSpace::kParam || where() == StateSpace::kLocal) {
      return nullptr;
    } else {
      if (returns) return &update<T, kFunction, where(), true>;
      return &update<T, kFunction, where(), false>;
    }
  });
}

template <typename T>
Handler of_integers(std::string_view op, StateSpace space, bool returns) {
  if (op == "add") return with<T, &add<T>>(space, returns);
  if (op == "min") return with<T, &least<T>>(space, returns);
  if (op == "max") return with<T, &greatest<T>>(space, returns);
  if constexpr (std::is_unsigned_v<T>) {
    if (op == "and") return with<T, &both<T>>(space, returns);
    if (op == "or") return with<T, &either<T>>(space, returns);
    if (op == "xor") return with<T, &different<T>>(space, returns);
    if (op == "exch") return with<T, &exchange<T>>(space, returns);
    if (op == "cas") return with<T, &compare_and_swap<T>>(space, returns);
  }
  if constexpr (std::is_same_v<T, std::uint32_t>) {
    if (op == "inc") return with<T, &increment>(space, returns);
    if (op == "dec") return with<T, &decrement>(space, returns);
  }
  return nullptr;
}

}  // namespace

Handler atomic_handler(const Instruction& instruction) {
  constexpr std::string_view kOps[] = {"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"};
  Form form(instruction);
  const bool returns = instruction.op == "atom";
  const int pairs = form.take_one({"f16x2", "bf16x2"});
  const Type type = pairs < 0 ? form.take_type() : Type{};
  const std::size_t hint = take_hints(form) ? 1 : 0;
  const StateSpace space = take_space(form);
  std::string_view op;
  for (const std::string_view candidate : kOps) {
    if (op.empty() && form.take(candidate)) op = candidate;
  }
  const std::size_t operands = (returns ? 2 : 1) + (op == "cas" ? 2 : 1) + hint;
  Handler handler = nullptr;
  if (op == "add" && pairs == 0) {
    handler = with<Pair<F16>, &add_pairs<F16>>(space, returns);
  } else if (op == "add" && pairs == 1) {
    handler = with<Pair<BF16>, &add_pairs<BF16>>(space, returns);
  } else if (type.kind == Type::Kind::kFloat && op == "add" && type.bits >= 32) {
    handler = type.bits == 32 ? with<float, &add_floats<float>>(space, returns)
                              : with<double, &add_floats<double>>(space, returns);
  } else if (type.bits == 16 && op == "cas") {
    handler = with<std::uint16_t, &compare_and_swap<std::uint16_t>>(space, returns);
  } else if (type.bits >= 32) {
    handler = with_integer<false>(type, [&](auto zero) -> Handler {
      if constexpr (sizeof(zero) < 4)
        return nullptr;
      else
        return of_integers<decltype(zero)>(op, space, returns);
    });
  }
  return form.with(handler, operands);
}

}  // namespace ptx
