#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "ptx/arithmetic/arithmetic.h"
#include "ptx/arithmetic/float_formats.h"
#include "ptx/form.h"

namespace ptx {
namespace {

enum class Function { kReciprocal, kRoot, kReciprocalRoot, kExp2, kLog2, kSin, kCos, kTanh };

template <Function kFunctionOf>
double value_of(double x) {
  switch (kFunctionOf) {
    case Function::kReciprocal: return 1 / x;
    case Function::kRoot: return std::sqrt(x);
    case Function::kReciprocalRoot: return 1 / std::sqrt(x);
    case Function::kExp2: return std::exp2(x);
    case Function::kLog2: return std::log2(x);
    case Function::kSin: return std::sin(x);
    case Function::kCos: return std::cos(x);
    case Function::kTanh: return std::tanh(x);
  }
}

// .approx: as near as the type comes, which every error bound of the manual allows.
template <Function kFunctionOf, bool kFtz>
float approximate(float a) {
  return flushed<kFtz>(canonical(static_cast<float>(value_of<kFunctionOf>(static_cast<double>(flushed<kFtz>(a))))));
}

// Of the upper 32 bits of an f64 the upper 32 bits of the result; the lower ones are ignored, and zero.
template <Function kFunctionOf>
double coarse(double a) {
  constexpr std::uint64_t kUpper = ~low_bits(32);
  const double upper = flushed<true>(std::bit_cast<double>(std::bit_cast<std::uint64_t>(a) & kUpper));
  if (std::isnan(a)) return std::bit_cast<double>(std::uint64_t{0x7fffffff00000000});
  const double result = flushed<true>(value_of<kFunctionOf>(upper));
  return std::bit_cast<double>(std::bit_cast<std::uint64_t>(result) & kUpper);
}

template <Function kFunctionOf, bool kFtz, typename T>
T exact(T a) {
  a = flushed<kFtz>(a);
  if constexpr (kFunctionOf == Function::kRoot) {
    return flushed<kFtz>(canonical(std::sqrt(a)));
  } else {
    return flushed<kFtz>(canonical(T{1} / a));
  }
}

template <Function kFunctionOf>
Handler approximation(Form& form, Type type) {
  if (type.kind != Type::Kind::kFloat) form.refuse();
  const bool flushes = form.take("ftz");
  if constexpr (kFunctionOf == Function::kReciprocal || kFunctionOf == Function::kReciprocalRoot) {
    if (type.bits == 64) {
      if (!flushes && kFunctionOf == Function::kReciprocal) form.refuse();
      return form.lanewise<&coarse<kFunctionOf>>();
    }
  }
  if (type.bits != 32) form.refuse();
  return with_flag(flushes, [&](auto ftz) { return form.lanewise<&approximate<kFunctionOf, ftz()>>(); });
}

template <Function kFunctionOf>
Handler exact_or_approximate(Form& form, Type type) {
  if (form.take("approx")) return approximation<kFunctionOf>(form, type);
  if (type.kind != Type::Kind::kFloat || type.bits < 32) form.refuse();
  const bool flushes = form.take("ftz");
  if (flushes && type.bits == 64) form.refuse();
  return with_rounding(form.take_rounding(), [&](auto direction) {
    if (type.bits == 64) return form.lanewise<&exact<kFunctionOf, false, double>, direction()>();
    return with_flag(flushes,
                     [&](auto ftz) { return form.lanewise<&exact<kFunctionOf, ftz(), float>, direction()>(); });
  });
}

}  // namespace

Handler transcendental_handler(const Instruction& instruction) {
  const std::string_view op = instruction.op;
  constexpr std::string_view kOps[] = {"rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"};
  const auto* found = std::find(std::begin(kOps), std::end(kOps), op);
  if (found == std::end(kOps)) return nullptr;
  Form form(instruction);
  const Type type = form.take_type();
  const auto function = static_cast<Function>(found - std::begin(kOps));
  if (function == Function::kReciprocal) return exact_or_approximate<Function::kReciprocal>(form, type);
  if (function == Function::kRoot) return exact_or_approximate<Function::kRoot>(form, type);
  if (!form.take("approx")) form.refuse();
  switch (function) {
    case Function::kReciprocalRoot: return approximation<Function::kReciprocalRoot>(form, type);
    case Function::kExp2: return approximation<Function::kExp2>(form, type);
    case Function::kLog2: return approximation<Function::kLog2>(form, type);
    case Function::kSin: return approximation<Function::kSin>(form, type);
    case Function::kCos: return approximation<Function::kCos>(form, type);
    default: return approximation<Function::kTanh>(form, type);
  }
}

}  // namespace ptx
