#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "ptx/machine.h"
#include "ptx/operands.h"
#include "ptx/parser/module.h"

namespace ptx {

/// Runs a warp in which lane i has the i-th of some values in %rd1, %rd2 and %rd3 (also their low bits in %r1-3, %rs1-3
/// and %f1-3, all in %fd1-3, and the lowest as %p1-3) and returns what `body` leaves in %rd0 of every lane.
class LanesTest : public testing::Test {
 protected:
  using Values = std::vector<std::uint64_t>;

  static std::string kernel_text(const std::string& body) {
    std::string text = R"(.version 9.0
.target sm_90a
.address_size 64
.visible .entry lanes(.param .u64 lanes_param_0)
{
  .reg .pred %p<8>;
  .reg .b16 %rs<8>;
  .reg .b32 %r<9>;
  .reg .f32 %f<8>;
  .reg .b64 %rd<9>;
  .reg .f64 %fd<8>;
  .shared .align 16 .b8 scratch[1024];
  .local .align 16 .b8 depot[64];
  ld.param.u64 %rd7, [lanes_param_0];
  mov.u32 %r7, %tid.x;
  mad.wide.u32 %rd7, %r7, 32, %rd7;
)";
    for (const char* i : {"1", "2", "3"}) {
      const std::string n = i;
      text += "  ld.global.u64 %rd" + n + ", [%rd7+" + std::to_string(8 * (n[0] - '0')) + "];\n";
      text += "  mov.b64 %fd" + n + ", %rd" + n + ";\n  cvt.u32.u64 %r" + n + ", %rd" + n + ";\n  mov.b32 %f" + n +
              ", %r" + n + ";\n  cvt.u16.u64 %rs" + n + ", %rd" + n + ";\n";
      text += "  and.b32 %r6, %r" + n + ", 1;\n  setp.ne.u32 %p" + n + ", %r6, 0;\n";
    }
    return text + "  mov.u64 %rd0, 0;\n" + body + "\n  st.global.u64 [%rd7], %rd0;\n  ret;\n}\n";
  }

  /// `columns`: values of %rd1, %rd2, %rd3, as many of each; more than 32 take several warps.
  static Values run(const std::string& body, std::vector<Values> columns) {
    const Module module = Module::parse(kernel_text(body));
    const std::size_t num_rows = columns.empty() ? 1 : columns[0].size();
    std::vector<std::array<std::uint64_t, 4>> rows(num_rows);
    for (std::size_t column = 0; column < columns.size(); ++column) {
      for (std::size_t row = 0; row < num_rows; ++row) rows[row][column + 1] = columns[column].at(row);
    }
    for (std::size_t first = 0; first < num_rows; first += 1024) {
      void* pointer = rows.data() + first;
      void* const arguments[] = {&pointer};
      const auto num_threads = static_cast<unsigned>(std::min<std::size_t>(1024, num_rows - first));
      Machine(Machine::Options{}).launch(module.kernel("lanes"), {1, 1, 1}, {num_threads, 1, 1}, 0, arguments);
    }
    Values results;
    for (const auto& row : rows) results.push_back(row[0]);
    return results;
  }
  static std::uint64_t run_one(const std::string& body, std::uint64_t a = 0, std::uint64_t b = 0, std::uint64_t c = 0) {
    return run(body, {{a}, {b}, {c}})[0];
  }

  // One instruction `op d, a...` of registers of a class: "add.s32" of "r" gives %r0 = %r1 + %r2.
  static std::string body_of(const std::string& op, const std::string& result,
                             std::initializer_list<std::string> from) {
    std::string text = op + " %" + result + "0";
    int index = 0;
    for (const std::string& name : from) text += ", %" + name + std::to_string(++index);
    text += ";\n";
    if (result == "r") return text + "cvt.u64.u32 %rd0, %r0;";
    if (result == "f") return text + "mov.b32 %r0, %f0;\ncvt.u64.u32 %rd0, %r0;";
    if (result == "rs") return text + "cvt.u64.u16 %rd0, %rs0;";
    if (result == "fd") return text + "mov.b64 %rd0, %fd0;";
    if (result == "p") return text + "selp.u64 %rd0, 1, 0, %p0;";
    return text;
  }

  template <typename T>
  static std::uint64_t bits(T value) {
    return to_bits(value);
  }
};

}  // namespace ptx
