#include "ptx/parser/scope.h"

#include <charconv>

namespace ptx {

int Scope::find_register(std::string_view name) const {
  if (!registers_.empty()) {
    if (const auto found = registers_.find(name); found != registers_.end()) return found->second;
  }
  const std::size_t stem = name.find_last_not_of("0123456789") + 1;
  int number = -1;
  std::from_chars(name.data() + stem, name.data() + name.size(), number);
  if (number < 0) return -1;
  for (const Family& family : families_) {
    if (number < family.count && name.substr(0, stem) == family.name) return family.first + number;
  }
  return -1;
}

}  // namespace ptx
