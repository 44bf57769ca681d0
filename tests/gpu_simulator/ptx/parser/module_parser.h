#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/parser/declaration.h"
#include "ptx/parser/module.h"
#include "ptx/parser/scope.h"
#include "ptx/parser/text_cursor.h"

namespace ptx {

/// Reads a PTX file: directives, variables outside kernels, kernels.
class ModuleParser {
 public:
  explicit ModuleParser(std::string_view text) : cursor_(text) {}

  void parse();

  std::map<std::string, Kernel> kernels;
  std::vector<std::vector<std::byte>> variables;  // of .global and .const; their addresses stay when it is moved

 private:
  void directive();
  void entry();
  void function(bool is_extern);
  void shared_variable(bool is_extern);
  void global_variable(bool is_extern);
  void initialise(std::byte* begin, const Declaration& declared);
  std::uint64_t initial_value(std::size_t element_bytes);

  TextCursor cursor_;
  Scope scope_;
  std::size_t shared_bytes_ = 0;
};

}  // namespace ptx
