#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

#include "ptx/arithmetic/arithmetic.h"
#include "ptx/arithmetic/float_formats.h"
#include "ptx/form.h"

namespace ptx {
namespace {

// Integers to integers: the low bits, or the nearest value that the type has.
template <bool kSat, typename To, typename From>
Extended<To> integer_to_integer(From value) {
  if constexpr (kSat) {
    using Limits = std::numeric_limits<To>;
    if (std::cmp_less(value, Limits::min())) return {Limits::min()};
    if (std::cmp_greater(value, Limits::max())) return {Limits::max()};
  }
  return {static_cast<To>(value)};
}

// An integer as a double, rounded to odd.
template <typename From>
double odd_double(From value) {
  const bool negative = value < 0;
  std::uint64_t rest = static_cast<std::uint64_t>(value);
  if (negative) rest = 0 - rest;
  if ((rest & 0x7ff) != 0 && rest >> 53 != 0) rest = (rest & ~std::uint64_t{0x7ff}) | 0x800;
  const double result = static_cast<double>(rest);
  return negative ? -result : result;
}

template <Rounding kRounding, typename To, typename From>
To integer_to_float(From value) {
  if constexpr (kIsHalf<To>) {
    return narrowed<To>(odd_double(value), kRounding);
  } else {
    return static_cast<To>(value);
  }
}

template <Rounding kRounding, typename T>
T to_integral(T value) {
  switch (kRounding) {
    case Rounding::kNearest: return std::nearbyint(value);
    case Rounding::kZero: return std::trunc(value);
    case Rounding::kDown: return std::floor(value);
    case Rounding::kUp: return std::ceil(value);
  }
}

// Out of range: the nearest value that the type has. NaN: 0, but of f64 or to 64 bits only the highest bit is set.
template <Rounding kRounding, bool kFtz, typename To, typename From>
Extended<To> float_to_integer(From value) {
  using Limits = std::numeric_limits<To>;
  const double number = to_integral<kRounding>(static_cast<double>(widen(flushed<kFtz>(value))));
  if (std::isnan(number)) {
    if (!std::is_same_v<From, double> && sizeof(To) < 8) return {0};
    return {static_cast<To>(std::uint64_t{1} << (8 * sizeof(To) - 1))};
  }
  if (number <= static_cast<double>(Limits::min())) return {Limits::min()};
  if (number >= static_cast<double>(Limits::max())) return {Limits::max()};
  return {static_cast<To>(number)};
}

template <bool kSat, bool kFtz, typename To>
To finished(To value) {
  if constexpr (kSat && kIsHalf<To>) {
    value = narrowed<To>(saturated(widen(value)), Rounding::kNearest);
  } else if constexpr (kSat) {
    value = static_cast<To>(saturated(value));
  }
  return flushed < kFtz && std::is_same_v < To, float >> (canonical(value));
}

// .ftz is about f32, as source and as destination.
template <Rounding kRounding, bool kSat, bool kFtz, typename To, typename From>
To float_to_float(From from) {
  const auto value = widen(flushed < kFtz && std::is_same_v < From, float >> (from));
  if constexpr (!kIsHalf<To>) {
    return finished<kSat, kFtz>(static_cast<To>(value));
  } else if constexpr (kRounding == Rounding::kNearest && !std::is_same_v<From, double>) {
    return finished<kSat, kFtz>(nearest<To>(value));
  } else {
    return finished<kSat, kFtz>(narrowed<To>(value, kRounding));
  }
}

// cvt.rni and its like between floats.
template <Rounding kRounding, bool kSat, bool kFtz, typename T>
T float_to_integral(T from) {
  const auto value = to_integral<kRounding>(widen(flushed < kFtz && std::is_same_v < T, float >> (from)));
  if constexpr (kIsHalf<T>) {
    return finished<kSat, kFtz>(nearest<T>(value));
  } else {
    return finished<kSat, kFtz>(value);
  }
}

// cvt.rn.f16x2.f32 d, a, b: a goes to the upper half.
template <Rounding kRounding, bool kFtz, typename To>
Pair<To> pack(float a, float b) {
  return {float_to_float<kRounding, false, kFtz, To>(b), float_to_float<kRounding, false, kFtz, To>(a)};
}

template <typename F>
Handler with_float(Type type, F&& f) {
  if (type.kind == Type::Kind::kBFloat) return f(BF16{});
  return type.bits == 16 ? f(F16{}) : type.bits == 32 ? f(float{}) : f(double{});
}

bool is_float(Type type) { return type.kind == Type::Kind::kFloat || type.kind == Type::Kind::kBFloat; }

Handler between_integers(Form& form, Type to, Type from) {
  return with_flag(form.take("sat"), [&](auto sat) {
    return with_integer<true>(to, [&](auto destination) {
      return with_integer<true>(from, [&](auto source) {
        return form.lanewise<&integer_to_integer<sat(), decltype(destination), decltype(source)>>();
      });
    });
  });
}

Handler from_integer(Form& form, Type to, Type from) {
  return with_rounding(form.take_rounding(), [&](auto direction) {
    return with_float(to, [&](auto destination) {
      using To = decltype(destination);
      return with_integer<true>(from, [&](auto source) {
        using From = decltype(source);
        constexpr bool kIsExact = sizeof(From) < 4 && !kIsHalf<To>;
        constexpr Rounding kRounding = kIsExact ? Rounding::kNearest : direction();
        constexpr auto kFunction = &integer_to_float<kRounding, To, From>;
        return form.lanewise<kFunction, kIsHalf<To> ? Rounding::kNearest : kRounding>();
      });
    });
  });
}

// rni, rzi, rmi, rpi; -1: none
int take_integral(Form& form) { return form.take_one({"rni", "rzi", "rmi", "rpi"}); }

Handler to_integer(Form& form, Type to, Type from) {
  const int integral = take_integral(form);
  if (integral < 0) form.refuse();
  form.take("sat");  // they always do
  return with_flag(form.take("ftz"), [&](auto ftz) {
    return with_rounding(static_cast<Rounding>(integral), [&](auto direction) {
      return with_integer<true>(to, [&](auto destination) {
        return with_float(from, [&](auto source) {
          using From = decltype(source);
          constexpr bool kCanTell = direction() == Rounding::kDown || direction() == Rounding::kUp;
          constexpr bool kFtz = ftz() && kCanTell && std::is_same_v<From, float>;
          return form.lanewise<&float_to_integer<direction(), kFtz, decltype(destination), From>>();
        });
      });
    });
  });
}

Handler between_floats(Form& form, Type to, Type from) {
  const int integral = take_integral(form);
  if (integral >= 0 && (to.bits != from.bits || to.kind != from.kind)) form.refuse();
  const Rounding rounding = integral >= 0 ? static_cast<Rounding>(integral) : form.take_rounding();
  const bool flushes = form.take("ftz");
  return with_flag(form.take("sat"), [&](auto sat) {
    return with_flag(flushes, [&](auto ftz) {
      return with_rounding(rounding, [&](auto direction) {
        return with_float(to, [&](auto destination) {
          using To = decltype(destination);
          if (integral >= 0) return form.lanewise<&float_to_integral<direction(), sat(), ftz(), To>>();
          return with_float(from, [&](auto source) {
            using From = decltype(source);
            constexpr bool kIsExact = sizeof(From) < sizeof(To) || std::is_same_v<From, To>;
            constexpr Rounding kRounding = kIsExact ? Rounding::kNearest : direction();
            constexpr bool kFtz = ftz() && (std::is_same_v<From, float> || std::is_same_v<To, float>);
            constexpr auto kFunction = &float_to_float<kRounding, sat(), kFtz, To, From>;
            return form.lanewise<kFunction, kIsHalf<To> ? Rounding::kNearest : kRounding>();
          });
        });
      });
    });
  });
}

Handler to_pair(Form& form, Type half) {
  const Type from = form.take_type();
  if (from.kind != Type::Kind::kFloat || from.bits != 32) form.refuse();
  const Rounding rounding = form.take_rounding();
  return with_flag(form.take("ftz"), [&](auto ftz) {
    return with_rounding(rounding, [&](auto direction) {
      return half.kind == Type::Kind::kBFloat ? form.lanewise<&pack<direction(), ftz(), BF16>>()
                                              : form.lanewise<&pack<direction(), ftz(), F16>>();
    });
  });
}

}  // namespace

Handler convert_handler(const Instruction& instruction) {
  if (instruction.op != "cvt") return nullptr;
  Form form(instruction);
  if (form.take("f16x2")) return to_pair(form, {Type::Kind::kFloat, 16});
  if (form.take("bf16x2")) return to_pair(form, {Type::Kind::kBFloat, 16});
  const Type from = form.take_type(), to = form.take_type();
  if (is_float(to)) return form.with(is_float(from) ? between_floats(form, to, from) : from_integer(form, to, from), 2);
  return form.with(is_float(from) ? to_integer(form, to, from) : between_integers(form, to, from), 2);
}

}  // namespace ptx
