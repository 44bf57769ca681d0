// The operands of KernelParser.
#include <array>
#include <cstring>
#include <utility>

#include "ptx/error.h"
#include "ptx/parser/kernel_parser.h"

namespace ptx {
namespace {

using enum SpecialRegister;
constexpr std::array<std::pair<std::string_view, SpecialRegister>, 14> kSpecialNames{{
    {"%tid", kTidX},
    {"%ntid", kNtidX},
    {"%ctaid", kCtaidX},
    {"%nctaid", kNctaidX},
    {"%laneid", kLaneid},
    {"%warpid", kWarpid},
    {"%nwarpid", kNwarpid},
    {"%globaltimer", kGlobaltimer},
    {"%clock64", kClock64},
    {"%lanemask_eq", kLanemaskEq},
    {"%lanemask_lt", kLanemaskLt},
    {"%lanemask_le", kLanemaskLe},
    {"%lanemask_gt", kLanemaskGt},
    {"%lanemask_ge", kLanemaskGe},
}};
constexpr std::size_t kNumSpecialVectors = 4;  // of three elements each: the first ones of kSpecialNames

}  // namespace

int KernelParser::find_register(std::string_view name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const int found = scope->find_register(name); found >= 0) return found;
  }
  return -1;
}

Operand KernelParser::of_register(int reg) const {
  Operand result;
  result.kind = Operand::Kind::kRegister;
  result.reg = reg;
  result.width = widths_[static_cast<std::size_t>(reg)];
  return result;
}

const Variable* KernelParser::find_variable(std::string_view name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto found = scope->variables.find(name); found != scope->variables.end()) return &found->second;
  }
  const auto found = module_scope_.variables.find(name);
  return found == module_scope_.variables.end() ? nullptr : &found->second;
}

Operand KernelParser::operand(bool is_branch) {
  const char next = cursor_.peek();
  if (next == '{') return vector();
  if (next == '[') return address();
  if (next == '-' || (next >= '0' && next <= '9')) return immediate();
  const bool inverted = cursor_.accept('!');
  Operand result = named(cursor_.word(), is_branch);
  if (inverted && result.kind != Operand::Kind::kRegister) cursor_.unexpected("a predicate between ! and");
  result.inverted = inverted;
  return result;
}

Operand KernelParser::immediate() {
  const Literal literal = cursor_.number();
  Operand result;
  result.value = literal.bits;
  if (literal.kind == Literal::Kind::kDecimal && decimal_is_float32_) {
    double wide = 0;
    std::memcpy(&wide, &literal.bits, sizeof(wide));
    const auto narrow = static_cast<float>(wide);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &narrow, sizeof(narrow));
    result.value = bits;
  }
  return result;
}

Operand KernelParser::vector() {
  Operand result;
  result.kind = Operand::Kind::kVector;
  cursor_.expect('{');
  do {
    result.elements.push_back(operand(false));
  } while (cursor_.accept(','));
  cursor_.expect('}');
  return result;
}

// [reg], [reg+4], [reg+-4], [variable+4], [4], [map, {x, y}]
Operand KernelParser::address() {
  Operand result;
  result.kind = Operand::Kind::kAddress;
  cursor_.expect('[');
  Operand base = operand(false);
  if (base.kind == Operand::Kind::kRegister) {
    result.reg = base.reg;
    result.width = base.width;
  } else if (base.kind == Operand::Kind::kImmediate) {
    result.value = base.value;
  } else {
    cursor_.unexpected("a register, a variable or a number between [ and");
  }
  if (cursor_.accept('+')) {
    result.value += static_cast<std::uint64_t>(cursor_.integer());
  } else if (cursor_.peek() == '-') {
    result.value += static_cast<std::uint64_t>(cursor_.integer());
  }
  if (cursor_.accept(',')) {
    Operand coordinates = operand(false);
    if (coordinates.kind != Operand::Kind::kVector) cursor_.unexpected("{coordinates} before");
    result.elements = std::move(coordinates.elements);
  }
  cursor_.expect(']');
  return result;
}

Operand KernelParser::named(std::string_view name, bool is_branch) {
  if (name.empty()) cursor_.unexpected("an operand");
  Operand result;
  if (name == "_") {
    result.kind = Operand::Kind::kSink;
    return result;
  }
  if (is_branch) {
    result.kind = Operand::Kind::kLabel;
    scopes_.back().label_uses.push_back({name, kernel_.code.size(), 0});
    return result;
  }
  if (const int reg = find_register(name); reg >= 0) return of_register(reg);
  if (const Variable* const variable = find_variable(name); variable != nullptr) {
    result.value = variable->address;
    uses_dynamic_shared_ |= variable->space == Space::kDynamicShared;
    if (cursor_.accept('+')) result.value += static_cast<std::uint64_t>(cursor_.integer());
    return result;
  }
  if (name == "WARP_SZ") {
    result.value = kWarpSize;
    return result;
  }
  for (std::size_t i = 0; i < kSpecialNames.size(); ++i) {
    if (name != kSpecialNames[i].first) continue;
    result.kind = Operand::Kind::kSpecial;
    result.value = static_cast<std::uint64_t>(kSpecialNames[i].second);
    if (i >= kNumSpecialVectors) return result;
    const std::string_view element = cursor_.modifier();
    const std::size_t index = element.size() == 1 ? std::string_view("xyz").find(element[0]) : std::string_view::npos;
    if (index == std::string_view::npos) cursor_.unexpected(".x, .y or .z before");
    result.value += index;
    return result;
  }
  fail("PTX line ", cursor_.line(), ": the name ", name, " is not known");
}

}  // namespace ptx
