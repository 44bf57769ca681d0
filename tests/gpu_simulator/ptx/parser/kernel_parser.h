#pragma once

#include <deque>
#include <string_view>
#include <utility>
#include <vector>

#include "ptx/parser/module.h"
#include "ptx/parser/scope.h"
#include "ptx/parser/text_cursor.h"

namespace ptx {

/// Reads one .entry: parameters, performance directives, body.
class KernelParser {
 public:
  /// `module_scope`: the variables outside kernels; those in shared memory take the first `shared_bytes` of it.
  KernelParser(TextCursor& cursor, const Scope& module_scope, std::size_t shared_bytes);

  /// From behind `.entry`.
  Kernel parse();

 private:
  void parameters();
  void performance_directives();
  void body();
  void statement();
  void directive();
  void registers();
  void variable(Space space);
  void instruction();
  void close_scope();
  void choose_handler(Instruction& instruction);

  Operand operand(bool is_branch);
  Operand address();
  Operand vector();
  Operand named(std::string_view name, bool is_branch);
  Operand immediate();
  int find_register(std::string_view name) const;  // < 0: none
  Operand of_register(int reg) const;
  const Variable* find_variable(std::string_view name) const;

  TextCursor& cursor_;
  const Scope& module_scope_;
  std::deque<Scope> scopes_;  // of the kernel, the innermost last
  Kernel kernel_;
  std::vector<int> widths_;                  // of the registers, in bits
  bool decimal_is_float32_ = false;          // of the instruction being read
  bool uses_dynamic_shared_ = false;         // the same
  std::vector<std::size_t> dynamic_shared_;  // instructions with addresses from the beginning of `extern .shared`
};

}  // namespace ptx
