#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "ptx/arithmetic/arithmetic.h"
#include "ptx/arithmetic/float_formats.h"
#include "ptx/form.h"

namespace ptx {
namespace {

enum class Op { kAdd, kSubtract, kMultiply, kFma, kDivide };

// The operations on float and double, in the rounding that the host has.
template <typename T>
T plain(std::integral_constant<Op, Op::kAdd>, T a, T b) {
  return a + b;
}
template <typename T>
T plain(std::integral_constant<Op, Op::kSubtract>, T a, T b) {
  return a - b;
}
template <typename T>
T plain(std::integral_constant<Op, Op::kMultiply>, T a, T b) {
  return a * b;
}
template <typename T>
T plain(std::integral_constant<Op, Op::kDivide>, T a, T b) {
  return a / b;
}
template <typename T>
T plain(std::integral_constant<Op, Op::kFma>, T a, T b, T c) {
  return std::fma(a, b, c);
}

// The same of 16-bit formats, widened, in double and rounded to odd.
inline double widened(std::integral_constant<Op, Op::kAdd>, double a, double b) { return odd_sum(a, b); }
inline double widened(std::integral_constant<Op, Op::kSubtract>, double a, double b) { return odd_sum(a, -b); }
inline double widened(std::integral_constant<Op, Op::kMultiply>, double a, double b) { return a * b; }
inline double widened(std::integral_constant<Op, Op::kFma>, double a, double b, double c) { return odd_sum(a * b, c); }

template <bool kFtz, bool kSat, typename T>
T finished(T result) {
  if constexpr (kSat) {
    if constexpr (kIsHalf<T>) {
      result = narrowed<T>(saturated(widen(result)), Rounding::kNearest);
    } else {
      result = static_cast<T>(saturated(result));
    }
  }
  return flushed<kFtz>(canonical(result));
}

template <Op kOp, bool kNearest, bool kFtz, bool kSat, typename T, typename... Same>
T compute(T a, Same... others) {
  constexpr std::integral_constant<Op, kOp> op;
  if constexpr (kIsHalf<T>) {
    const double result = widened(op, widen(flushed<kFtz>(a)), widen(flushed<kFtz>(others))...);
    return finished<kFtz, kSat>(narrowed<T>(result, Rounding::kNearest));
  } else if constexpr (kOp == Op::kFma && kNearest && std::is_same_v<T, float>) {
    return finished<kFtz, kSat>(fma_nearest(flushed<kFtz>(a), flushed<kFtz>(others)...));
  } else {
    return finished<kFtz, kSat>(plain(op, flushed<kFtz>(a), flushed<kFtz>(others)...));
  }
}

template <auto kFunction>
struct OnPairs;
template <typename T, typename... Same, T (*kFunction)(T, Same...)>
struct OnPairs<kFunction> {
  static Pair<T> apply(Pair<T> a, Pair<Same>... others) {
    return {kFunction(a.low, others.low...), kFunction(a.high, others.high...)};
  }
};

// A function of values of type T, of pairs of them when `packed`.
template <typename T, auto kFunction, Rounding kRounding = Rounding::kNearest>
Handler of(Form& form, bool packed) {
  if constexpr (kIsHalf<T>) {
    if (packed) return form.lanewise<&OnPairs<kFunction>::apply>();
  }
  return form.lanewise<kFunction, kRounding>();
}

struct FloatType {
  Type type;
  bool packed = false;
};

template <typename F>
Handler with_float(FloatType type, F&& f) {
  if (type.type.kind == Type::Kind::kBFloat) return type.type.bits == 16 ? f(BF16{}) : nullptr;
  if (type.type.kind != Type::Kind::kFloat) return nullptr;
  switch (type.type.bits) {
    case 16: return f(F16{});
    case 32: return f(float{});
    case 64: return f(double{});
    default: return nullptr;
  }
}

template <Op kOp>
Handler arithmetic(Form& form, FloatType type) {
  const Rounding rounding = form.take_rounding();
  const bool flushes = form.take("ftz"), saturates = form.take("sat");
  return with_float(type, [&](auto zero) {
    using T = decltype(zero);
    return with_rounding(rounding, [&](auto direction) {
      return with_flag(flushes, [&](auto ftz) {
        return with_flag(saturates, [&](auto sat) -> Handler {
          constexpr bool kNearest = direction() == Rounding::kNearest;
          if constexpr ((kIsHalf<T> && (!kNearest || kOp == Op::kDivide)) ||
                        (std::is_same_v<T, double> && (ftz() || sat()))) {
            form.refuse();
          } else if constexpr (kOp == Op::kFma) {
            return of<T, &compute<kOp, kNearest, ftz(), sat(), T, T, T>, direction()>(form, type.packed);
          } else {
            return of<T, &compute<kOp, kNearest, ftz(), sat(), T, T>, direction()>(form, type.packed);
          }
        });
      });
    });
  });
}

// div.approx promises nothing where the reciprocal of b is denormal but this.
template <bool kFtz, bool kFull>
float divide_approximately(float a, float b) {
  a = flushed<kFtz>(a), b = flushed<kFtz>(b);
  if (!kFull && std::fabs(b) > 0x1p126f && std::isfinite(b)) return canonical(std::isfinite(a) ? 0 * (a / b) : NAN);
  return flushed<kFtz>(canonical(a / b));
}

Handler approximate_division(Form& form, FloatType type, bool full) {
  if (type.type.kind != Type::Kind::kFloat || type.type.bits != 32) form.refuse();
  return with_flag(form.take("ftz"), [&](auto ftz) {
    return with_flag(full, [&](auto is_full) { return form.lanewise<&divide_approximately<ftz(), is_full()>>(); });
  });
}

// The one that is not NaN (of kNan: NaN when one is); of zeros -0 is the smaller.
template <bool kMax, bool kFtz, bool kNan, typename T>
T chosen(T a, T b) {
  a = flushed<kFtz>(a), b = flushed<kFtz>(b);
  if (is_nan(a)) return canonical(kNan ? a : b);
  if (is_nan(b)) return canonical(kNan ? b : a);
  const auto x = widen(a), y = widen(b);
  const bool a_is_less = x < y || (x == y && std::signbit(x));
  return a_is_less != kMax ? a : b;
}

template <bool kFtz, typename T>
T negative(T a) {
  return flushed<kFtz>(std::bit_cast<T>(static_cast<BitsOf<T>>(std::bit_cast<BitsOf<T>>(a) ^ kSignOf<T>)));
}
template <bool kFtz, typename T>
T magnitude(T a) {
  return flushed<kFtz>(std::bit_cast<T>(static_cast<BitsOf<T>>(std::bit_cast<BitsOf<T>>(a) & ~kSignOf<T>)));
}
// The sign of a, the rest of b.
template <typename T>
T copy_sign(T a, T b) {
  return std::copysign(b, a);
}

Handler choice(Form& form, FloatType type, bool is_max) {
  const bool flushes = form.take("ftz"), keeps_nan = form.take("NaN");
  return with_float(type, [&](auto zero) {
    using T = decltype(zero);
    return with_flag(is_max, [&](auto max) {
      return with_flag(flushes, [&](auto ftz) {
        return with_flag(keeps_nan,
                         [&](auto nan) { return of<T, &chosen<max(), ftz(), nan(), T>>(form, type.packed); });
      });
    });
  });
}

Handler sign(Form& form, FloatType type, bool negates) {
  const bool flushes = form.take("ftz");
  return with_float(type, [&](auto zero) {
    using T = decltype(zero);
    return with_flag(flushes, [&](auto ftz) {
      return negates ? of<T, &negative<ftz(), T>>(form, type.packed) : of<T, &magnitude<ftz(), T>>(form, type.packed);
    });
  });
}

// Takes the type where it is one of floats; bits 0 where not.
FloatType take_float(Form& form, const Instruction& instruction) {
  if (form.take("f16x2")) return {{Type::Kind::kFloat, 16}, true};
  if (form.take("bf16x2")) return {{Type::Kind::kBFloat, 16}, true};
  const Type type = instruction.modifiers.empty() ? Type{} : type_of(instruction.modifiers.back());
  if (type.kind != Type::Kind::kFloat && type.kind != Type::Kind::kBFloat) return {};
  return {form.take_type()};
}

}  // namespace

Handler floating_handler(const Instruction& instruction) {
  Form form(instruction);
  const FloatType type = take_float(form, instruction);
  if (type.type.bits == 0) return nullptr;
  const auto& op = instruction.op;
  const auto implemented = [&](Handler handler) { return form.with(handler, form.operands()); };
  if (op == "add") return implemented(arithmetic<Op::kAdd>(form, type));
  if (op == "sub") return implemented(arithmetic<Op::kSubtract>(form, type));
  if (op == "mul") return implemented(arithmetic<Op::kMultiply>(form, type));
  if (op == "fma" || op == "mad") return implemented(arithmetic<Op::kFma>(form, type));
  if (op == "div") {
    const int approximate = form.take_one({"approx", "full"});
    if (approximate >= 0) return approximate_division(form, type, approximate == 1);
    return implemented(arithmetic<Op::kDivide>(form, type));
  }
  if (op == "min" || op == "max") return implemented(choice(form, type, op == "max"));
  if (op == "neg" || op == "abs") return implemented(sign(form, type, op == "neg"));
  if (op == "copysign") {
    if (type.packed || type.type.bits < 32) form.refuse();
    return type.type.bits == 32 ? form.lanewise<&copy_sign<float>>() : form.lanewise<&copy_sign<double>>();
  }
  return nullptr;
}

}  // namespace ptx
