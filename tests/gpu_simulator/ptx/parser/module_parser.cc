#include "ptx/parser/module_parser.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ptx/error.h"
#include "ptx/parser/kernel_parser.h"

namespace ptx {

void ModuleParser::parse() {
  while (!cursor_.at_end()) {
    cursor_.expect('.');
    directive();
  }
}

void ModuleParser::directive() {
  bool is_extern = false;
  std::string_view name = cursor_.word();
  while (name == "visible" || name == "extern" || name == "weak" || name == "common") {
    is_extern |= name == "extern";
    cursor_.expect('.');
    name = cursor_.word();
  }
  if (name == "version" || name == "target" || name == "address_size" || name == "file" || name == "loc") {
    cursor_.skip_line();
  } else if (name == "pragma") {
    cursor_.skip_past(';');
  } else if (name == "section") {  // .section .debug_info { ... }
    cursor_.expect('.');
    cursor_.word();
    cursor_.skip_braces();
  } else if (name == "entry") {
    entry();
  } else if (name == "func") {
    function(is_extern);
  } else if (name == "shared") {
    shared_variable(is_extern);
  } else if (name == "global" || name == "const") {
    global_variable(is_extern);
  } else {
    fail("PTX line ", cursor_.line(), ": the directive .", name, " is not implemented");
  }
}

void ModuleParser::entry() {
  Kernel kernel = KernelParser(cursor_, scope_, shared_bytes_).parse();
  std::string name = kernel.name;
  kernels.emplace(std::move(name), std::move(kernel));
}

// Declarations of functions outside are harmless: calls are refused where they are.
void ModuleParser::function(bool is_extern) {
  if (!is_extern) fail("PTX line ", cursor_.line(), ": device functions (.func) are not implemented");
  cursor_.skip_past(';');
}

void ModuleParser::shared_variable(bool is_extern) {
  const Declaration declared = read_declaration(cursor_);
  cursor_.expect(';');
  if (is_extern) {
    scope_.variables[declared.name] = {Space::kDynamicShared, kUnplaced};
    return;
  }
  const std::size_t address = round_up(shared_bytes_, declared.alignment);
  shared_bytes_ = address + declared.num_bytes;
  scope_.variables[declared.name] = {Space::kShared, address};
}

void ModuleParser::global_variable(bool is_extern) {
  const Declaration declared = read_declaration(cursor_);
  if (is_extern) fail("PTX line ", cursor_.line(), ": the variable ", declared.name, " is defined in another module");
  if (declared.num_bytes == 0) cursor_.unexpected("the size of a variable before");
  std::vector<std::byte>& storage = variables.emplace_back(declared.num_bytes + declared.alignment);
  const auto first = round_up(reinterpret_cast<std::uintptr_t>(storage.data()), declared.alignment);
  std::byte* const begin = storage.data() + (first - reinterpret_cast<std::uintptr_t>(storage.data()));
  scope_.variables[declared.name] = {Space::kGlobal, reinterpret_cast<std::uint64_t>(begin)};
  if (cursor_.accept('=')) initialise(begin, declared);
  cursor_.expect(';');
}

// One value, or values between (possibly nested) braces; what is missing stays 0.
void ModuleParser::initialise(std::byte* begin, const Declaration& declared) {
  const std::byte* const end = begin + declared.num_bytes;
  int depth = 0;
  do {
    while (cursor_.accept('{')) ++depth;
    if (begin == end) cursor_.unexpected("no more values: the variable is full");
    const std::uint64_t value = initial_value(declared.element_bytes);
    std::memcpy(begin, &value, std::min<std::size_t>(declared.element_bytes, sizeof(value)));
    begin += declared.element_bytes;
    while (depth > 0 && cursor_.accept('}')) --depth;
  } while (depth > 0 && cursor_.accept(','));
  if (depth > 0) cursor_.unexpected("}");
}

// A number, the address of a variable, or generic(variable).
std::uint64_t ModuleParser::initial_value(std::size_t element_bytes) {
  const char next = cursor_.peek();
  if (next == '-' || (next >= '0' && next <= '9')) {
    const Literal literal = cursor_.number();
    if (literal.kind != Literal::Kind::kDecimal || element_bytes == 8) return literal.bits;
    double wide = 0;
    std::memcpy(&wide, &literal.bits, sizeof(wide));
    const auto narrow = static_cast<float>(wide);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &narrow, sizeof(narrow));
    return bits;
  }
  std::string_view name = cursor_.word();
  const bool is_generic = name == "generic" && cursor_.accept('(');
  if (is_generic) name = cursor_.word();
  const auto found = scope_.variables.find(name);
  if (found == scope_.variables.end()) fail("PTX line ", cursor_.line(), ": there is no variable ", name);
  std::uint64_t value = found->second.address;
  if (cursor_.accept('+')) value += static_cast<std::uint64_t>(cursor_.integer());
  if (is_generic) cursor_.expect(')');
  return value;
}

}  // namespace ptx
