#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/instruction.h"

namespace ptx {

struct Parameter {
  std::size_t offset = 0;  // in the kernel's parameter memory, aligned as PTX says
  std::size_t num_bytes = 0;
};

/// One .entry.
struct Kernel {
  std::string name;
  std::vector<Parameter> parameters;
  std::size_t parameter_bytes = 0;
  int num_registers = 0;          // of all classes together: operands hold indices into one file
  std::size_t shared_bytes = 0;   // static; `extern .shared` arrays begin behind them, aligned to 1024 bytes
  std::size_t local_bytes = 0;    // per thread (.local, __local_depot)
  int max_threads = 0;            // .maxntid, 0: not said
  bool uses_async_proxy = false;  // wgmma, bulk copies: then stores and proxy fences are followed
  std::vector<Instruction> code;  // handlers are set
};

/// The kernels of a PTX text. Registers, labels and braces with names of their own scope are resolved; addresses of
/// .shared, .local, .param and .global/.const variables are immediates (of the two latter: host addresses).
class Module {
 public:
  /// Throws Error naming the line for anything it does not understand.
  static Module parse(std::string_view text);

  const Kernel& kernel(const std::string& name) const;  // Error when there is none
  const std::map<std::string, Kernel>& kernels() const { return kernels_; }

 private:
  std::map<std::string, Kernel> kernels_;
  std::vector<std::vector<std::byte>> variables_;  // .global and .const
};

}  // namespace ptx
