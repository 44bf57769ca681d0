#include "ptx/form.h"

#include <algorithm>
#include <string>

#include "ptx/error.h"

namespace ptx {

Form::Form(const Instruction& instruction)
    : instruction_(instruction), rest_(instruction.modifiers.begin(), instruction.modifiers.end()) {}

bool Form::take(std::string_view modifier) {
  const auto found = std::find(rest_.begin(), rest_.end(), modifier);
  if (found == rest_.end()) return false;
  rest_.erase(found);
  return true;
}

int Form::take_one(std::initializer_list<std::string_view> modifiers) {
  int index = 0;
  for (const std::string_view modifier : modifiers) {
    if (take(modifier)) return index;
    ++index;
  }
  return -1;
}

Type Form::take_type() {
  const Type type = rest_.empty() ? Type{} : type_of(rest_.back());
  if (type.bits == 0) refuse();
  rest_.pop_back();
  return type;
}

Rounding Form::take_rounding() {
  switch (take_one({"rz", "rm", "rp", "rn"})) {
    case 0: return Rounding::kZero;
    case 1: return Rounding::kDown;
    case 2: return Rounding::kUp;
    default: return Rounding::kNearest;
  }
}

Handler Form::with(Handler handler, std::size_t operands) const {
  if (handler == nullptr || !rest_.empty() || instruction_.operands.size() != operands) refuse();
  return handler;
}

void Form::refuse() const {
  std::string name = instruction_.op;
  for (const std::string& modifier : instruction_.modifiers) name += "." + modifier;
  fail("line ", instruction_.line, ": ", name, " with ", instruction_.operands.size(),
       " operands is not a form that the machine implements");
}

}  // namespace ptx
