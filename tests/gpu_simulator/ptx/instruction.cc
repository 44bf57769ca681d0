#include "ptx/instruction.h"

#include <algorithm>
#include <charconv>

namespace ptx {

bool Instruction::has(std::string_view modifier) const {
  return std::find(modifiers.begin(), modifiers.end(), modifier) != modifiers.end();
}

std::string Instruction::name() const {
  std::string text = op;
  for (const std::string& modifier : modifiers) text += "." + modifier;
  return text;
}

Type type_of(std::string_view modifier) {
  if (modifier == "pred") return {Type::Kind::kUnsigned, 1};
  Type::Kind kind = Type::Kind::kUnsigned;
  if (modifier.starts_with("bf")) {
    kind = Type::Kind::kBFloat;
    modifier.remove_prefix(2);
  } else if (modifier.starts_with('f') || modifier.starts_with('s')) {
    kind = modifier[0] == 'f' ? Type::Kind::kFloat : Type::Kind::kSigned;
    modifier.remove_prefix(1);
  } else if (modifier.starts_with('u') || modifier.starts_with('b')) {
    modifier.remove_prefix(1);
  } else {
    return {};
  }
  int bits = 0;
  const auto [end, error] = std::from_chars(modifier.data(), modifier.data() + modifier.size(), bits);
  if (error != std::errc() || end != modifier.data() + modifier.size()) return {};
  const bool known =
      bits == 16 || bits == 32 || bits == 64 || bits == 128 || (bits == 8 && kind != Type::Kind::kBFloat);
  return known ? Type{kind, bits} : Type{};
}

}  // namespace ptx
