#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "ptx/arithmetic/arithmetic.h"
#include "ptx/form.h"

namespace ptx {
namespace {

template <typename T>
constexpr unsigned kBits = 8 * sizeof(T);

template <typename T>
T both(T a, T b) {
  return static_cast<T>(a & b);
}
template <typename T>
T either(T a, T b) {
  return static_cast<T>(a | b);
}
template <typename T>
T different(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <typename T>
T inverse(T a) {
  if constexpr (std::is_same_v<T, bool>) {
    return !a;
  } else {
    return static_cast<T>(~a);
  }
}
template <typename T>
T is_zero(T a) {
  return a == 0;
}

// Counts past the width shift everything out.
template <typename T>
T shift_left(T a, std::uint32_t count) {
  return count >= kBits<T> ? T{0} : static_cast<T>(static_cast<std::uint64_t>(a) << count);
}
template <typename T>
T shift_right(T a, std::uint32_t count) {
  if (count >= kBits<T>) return a < 0 ? static_cast<T>(-1) : T{0};
  return static_cast<T>(a >> count);
}

template <bool kLeft, bool kWrap>
std::uint32_t funnel(std::uint32_t low, std::uint32_t high, std::uint32_t count) {
  const std::uint32_t by = kWrap ? count & 31 : std::min<std::uint32_t>(count, 32);
  const std::uint64_t joined = std::uint64_t{high} << 32 | low;
  return static_cast<std::uint32_t>(kLeft ? (joined << by) >> 32 : joined >> by);
}

template <typename T>
std::uint32_t count_ones(T a) {
  return static_cast<std::uint32_t>(std::popcount(a));
}
template <typename T>
std::uint32_t leading_zeros(T a) {
  return static_cast<std::uint32_t>(std::countl_zero(a));
}

// Position of the highest bit that is not the sign, ~0 when there is none; as the count that shifts it to the top.
template <typename T, bool kShiftAmount>
std::uint32_t find_bit(T a) {
  using U = std::make_unsigned_t<T>;
  const U bits = static_cast<U>(a < 0 ? ~a : a);
  if (bits == 0) return ~std::uint32_t{0};
  const unsigned zeros = static_cast<unsigned>(std::countl_zero(bits));
  return kShiftAmount ? zeros : kBits<T> - 1 - zeros;
}

template <typename T>
T reverse(T a) {
  T reversed = 0;
  for (unsigned bit = 0; bit < kBits<T>; ++bit) reversed |= ((a >> bit) & T{1}) << (kBits<T> - 1 - bit);
  return reversed;
}

template <typename T>
T extract_field(T a, std::uint32_t position, std::uint32_t length) {
  const unsigned from = position & 0xff, count = length & 0xff, top = kBits<T> - 1;
  bool sign = false;
  if (std::is_signed_v<T> && count != 0) sign = (a >> std::min(from + count - 1, top)) & 1;
  std::uint64_t field = 0;
  for (unsigned bit = 0; bit <= top; ++bit) {
    const bool is_set = bit < count && from + bit <= top ? (a >> (from + bit)) & 1 : sign;
    field |= static_cast<std::uint64_t>(is_set) << bit;
  }
  return static_cast<T>(field);
}

template <typename T>
T insert_field(T a, T into, std::uint32_t position, std::uint32_t length) {
  const unsigned from = position & 0xff, count = length & 0xff;
  for (unsigned bit = 0; bit < count && from + bit < kBits<T>; ++bit) {
    const T mask = T{1} << (from + bit);
    into = (a >> bit) & 1 ? into | mask : into & ~mask;
  }
  return into;
}

// Each nibble of the selector picks a byte of {b, a}, or with its highest bit that byte's sign eight times.
std::uint32_t permute(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  std::uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const std::uint32_t pick = selector >> (4 * i);
    std::uint32_t byte = static_cast<std::uint32_t>(bytes >> (8 * (pick & 7))) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

// Bit (a, b, c) of the table is the result where the sources have these bits.
std::uint32_t look_up(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t table) {
  std::uint32_t result = 0;
  for (unsigned i = 0; i < 8; ++i) {
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}

Handler logic(Form& form, Type type, std::string_view op) {
  if (type.bits == 8) return nullptr;
  return with_width(type, [&](auto zero) -> Handler {
    using T = decltype(zero);
    if (op == "and") return form.lanewise<&both<T>>();
    if (op == "or") return form.lanewise<&either<T>>();
    if (op == "xor") return form.lanewise<&different<T>>();
    if (op == "not") return form.lanewise<&inverse<T>>();
    if constexpr (!std::is_same_v<T, bool>) return form.lanewise<&is_zero<T>>();
    form.refuse();
  });
}

Handler funnel_shift(Form& form) {
  const int direction = form.take_one({"l", "r"}), mode = form.take_one({"wrap", "clamp"});
  if (direction < 0 || mode < 0) form.refuse();
  return with_flag(direction == 0, [&](auto left) {
    return with_flag(mode == 0, [&](auto wrap) { return form.lanewise<&funnel<left(), wrap()>>(); });
  });
}

Handler of_integers(Form& form, Type type, std::string_view op) {
  const bool shift_amount = op == "bfind" && form.take("shiftamt");
  return with_integer<false>(type, [&](auto zero) -> Handler {
    using T = decltype(zero);
    if (op == "shr") return form.lanewise<&shift_right<T>>();
    if constexpr (sizeof(T) >= 4) {
      if (op == "bfe") return form.lanewise<&extract_field<T>>();
      if (op == "bfind") {
        return shift_amount ? form.lanewise<&find_bit<T, true>>() : form.lanewise<&find_bit<T, false>>();
      }
    }
    if constexpr (std::is_unsigned_v<T>) {
      if (op == "shl") return form.lanewise<&shift_left<T>>();
      if constexpr (sizeof(T) >= 4) {
        if (op == "popc") return form.lanewise<&count_ones<T>>();
        if (op == "clz") return form.lanewise<&leading_zeros<T>>();
        if (op == "brev") return form.lanewise<&reverse<T>>();
        if (op == "bfi") return form.lanewise<&insert_field<T>>();
      }
    }
    form.refuse();
  });
}

}  // namespace

Handler bits_handler(const Instruction& instruction) {
  const std::string_view op = instruction.op;
  const auto is_one_of = [&](std::initializer_list<std::string_view> ops) {
    return std::find(ops.begin(), ops.end(), op) != ops.end();
  };
  const bool is_logic = is_one_of({"and", "or", "xor", "not", "cnot"});
  const bool is_word = is_one_of({"prmt", "lop3", "shf"});
  if (!is_logic && !is_word && !is_one_of({"shl", "shr", "bfe", "bfi", "bfind", "brev", "popc", "clz"})) return nullptr;
  Form form(instruction);
  const Type type = form.take_type();
  if (is_logic) return form.with(logic(form, type, op), form.operands());
  if (!is_word) return form.with(of_integers(form, type, op), form.operands());
  if (type.bits != 32) form.refuse();
  if (op == "prmt") return form.lanewise<&permute>();
  if (op == "lop3") return form.lanewise<&look_up>();
  return funnel_shift(form);
}

}  // namespace ptx
