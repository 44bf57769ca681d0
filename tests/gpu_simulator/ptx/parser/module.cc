#include "ptx/parser/module.h"

#include "ptx/error.h"
#include "ptx/parser/module_parser.h"

namespace ptx {

Module Module::parse(std::string_view text) {
  ModuleParser parser(text);
  parser.parse();
  Module module;
  module.kernels_ = std::move(parser.kernels);
  module.variables_ = std::move(parser.variables);
  return module;
}

const Kernel& Module::kernel(const std::string& name) const {
  const auto found = kernels_.find(name);
  if (found == kernels_.end()) fail("the module has no kernel ", name);
  return found->second;
}

}  // namespace ptx
