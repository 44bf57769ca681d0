#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/machine.h"
#include "ptx/parser/module.h"

namespace ptx {

/// The PTX of a kernel `k(out)` around a body, which finds %p<9>, %h<9> (16 bits), %r<20>, %d<20> (64 bits), %f<9>,
/// and in %d0 the address of out's word for the thread (of the whole grid's x), in %r0 %tid.x.
inline std::string small_kernel(std::string_view body, std::string_view module_variables = "") {
  return std::string(".version 8.0\n.target sm_90a\n.address_size 64\n") + std::string(module_variables) +
         "\n.visible .entry k(.param .u64 k_out)\n{\n.reg .pred %p<9>;\n.reg .b16 %h<9>;\n.reg .b32 %r<20>;\n"
         ".reg .b64 %d<20>;\n.reg .f32 %f<9>;\nld.param.u64 %d0, [k_out];\nmov.u32 %r0, %tid.x;\n"
         "mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %ntid.x;\nmad.lo.s32 %r1, %r1, %r2, %r0;\n"
         "mul.wide.u32 %d1, %r1, 4;\nadd.s64 %d0, %d0, %d1;\n" +
         std::string(body) + "\nret;\n}\n";
}

struct SmallLaunch {
  unsigned num_threads = 32;
  unsigned num_ctas = 1;
  std::size_t dynamic_shared_bytes = 0;
  Machine::Options options{};
};

/// Runs it; out has a word per thread, 0 at first.
inline std::vector<std::uint32_t> run_small_kernel(const std::string& text, const SmallLaunch& launch = {}) {
  const Module module = Module::parse(text);
  std::vector<std::uint32_t> out(launch.num_threads * launch.num_ctas);
  std::uint32_t* pointer = out.data();
  void* const arguments[] = {&pointer};
  Machine(launch.options)
      .launch(module.kernel("k"), {launch.num_ctas, 1, 1}, {launch.num_threads, 1, 1}, launch.dynamic_shared_bytes,
              arguments);
  return out;
}

/// The text of the Error that it throws; empty when it does not.
inline std::string error_of_small_kernel(const std::string& text, const SmallLaunch& launch = {}) {
  try {
    run_small_kernel(text, launch);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace ptx
