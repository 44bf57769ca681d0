#include "ptx/parser/module.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "ptx/error.h"
#include "ptx/testing/small_kernel.h"

namespace ptx {
namespace {

const Instruction& instruction_at(const Kernel& kernel, int line) {
  const auto found = std::find_if(kernel.code.begin(), kernel.code.end(),
                                  [line](const Instruction& instruction) { return instruction.line == line; });
  EXPECT_NE(found, kernel.code.end()) << line;
  return *found;
}

std::string parse_error(const std::string& text) {
  try {
    Module::parse(text);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(Module, LaysOutParametersAsTheirAlignmentAsks) {
  const Module module = Module::parse(
      ".visible .entry k(\n.param .u32 a,\n.param .u64 .ptr .global .align 16 b,\n.param .align 64 .b8 c[128],\n"
      ".param .u8 d,\n.param .f32 e)\n.maxntid 128, 2, 1\n.minnctapersm 1\n{\nret;\n}\n");
  const Kernel& kernel = module.kernel("k");
  ASSERT_EQ(kernel.parameters.size(), 5U);
  EXPECT_EQ(kernel.parameters[1].offset, 8U);
  EXPECT_EQ(kernel.parameters[2].offset, 64U);
  EXPECT_EQ(kernel.parameters[2].num_bytes, 128U);
  EXPECT_EQ(kernel.parameters[3].offset, 192U);
  EXPECT_EQ(kernel.parameters[4].offset, 196U);
  EXPECT_EQ(kernel.parameter_bytes, 200U);
  EXPECT_EQ(kernel.max_threads, 256);
  EXPECT_THROW(module.kernel("l"), Error);
}

TEST(Module, PlacesSharedAndLocalVariables) {
  const Module module = Module::parse(
      ".extern .shared .align 16 .b8 dynamic[];\n.entry k()\n{\n.local .align 8 .b8 depot[20];\n"
      ".reg .b32 %r<4>;\n.reg .b64 %d<2>;\nmov.u32 %r0, dynamic;\n"
      "st.shared.u32 [dynamic+8], %r0;\nld.shared.u32 %r1, [%r0+-8];\n.shared .align 4 .b8 first[5];\n"
      ".shared .u32 second[2];\nmov.u32 %r2, second;\nmov.u64 %d0, depot;\nret;\n}\n");
  const Kernel& kernel = module.kernel("k");
  EXPECT_EQ(kernel.shared_bytes, 16U);
  EXPECT_EQ(kernel.local_bytes, 32U);
  EXPECT_EQ(instruction_at(kernel, 7).operands[1].value, 1024U);  // behind the static ones, aligned
  const Operand& address = instruction_at(kernel, 8).operands[0];
  EXPECT_EQ(address.kind, Operand::Kind::kAddress);
  EXPECT_LT(address.reg, 0);
  EXPECT_EQ(address.value, 1032U);
  const Operand& relative = instruction_at(kernel, 9).operands[1];
  EXPECT_EQ(relative.reg, instruction_at(kernel, 7).operands[0].reg);
  EXPECT_EQ(static_cast<std::int64_t>(relative.value), -8);
  EXPECT_EQ(instruction_at(kernel, 12).operands[1].value, 8U);
  EXPECT_EQ(instruction_at(kernel, 13).operands[1].value, 0U);
}

TEST(Module, InitialisesVariablesOutsideKernels) {
  const std::string variables =
      ".const .align 4 .b8 bytes[6] = {1, 2, 0xff};\n.global .f32 scale = 0f40000000;\n"
      ".global .align 8 .u32 table[2][2] = {{7, 8}, {9, -1}};\n.global .u64 where = generic(table);\n";
  const auto read = [&](const std::string& body) { return run_small_kernel(small_kernel(body, variables)).front(); };
  EXPECT_EQ(read("ld.const.u32 %r3, [bytes];\nst.global.u32 [%d0], %r3;"), 0xff0201U);
  EXPECT_EQ(read("ld.global.u32 %r3, [scale];\nst.global.u32 [%d0], %r3;"), 0x40000000U);
  EXPECT_EQ(read("ld.global.u64 %d2, [where];\nld.u32 %r3, [%d2+8];\nst.global.u32 [%d0], %r3;"), 9U);
  EXPECT_NE(parse_error(".global .u32 a[1] = {1, 2};\n"), "");
}

TEST(Module, KeepsNamesWithinTheirBraces) {
  // Both blocks have a register `value` and a label `again` of their own; the loop in the first one runs three times.
  const std::string body = R"(mov.u32 %r3, 0;
    { .reg .u32 value; .reg .pred more; mov.u32 value, 0;
    again: add.u32 value, value, 1; setp.lt.u32 more, value, 3; @more bra again;
    add.u32 %r3, %r3, value; }
    { .reg .u32 value; mov.u32 value, 10; bra again; mov.u32 value, 99;
    again: add.u32 %r3, %r3, value; }
    st.global.u32 [%d0], %r3;)";
  EXPECT_EQ(run_small_kernel(small_kernel(body)).front(), 13U);
}

TEST(Module, ReadsEveryKindOfOperand) {
  const Module module = Module::parse(
      ".entry k()\n{\n.reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %d<3>; .reg .f64 %f<2>;\n"
      "shfl.sync.bfly.b32 %r1|%p1, %r2, 0x10, 31, -1;\n"
      "@!%p1 mov.b64 %d1, {%r1, %r2};\n"
      "mov.u32 %r3, %ctaid.z;\n"
      "add.f64 %f1, %f0, 0dBFF0000000000000;\n"
      "vote.sync.all.pred %p2, !%p1, 0xffffffff;\n"
      "mov.u32 %r4, WARP_SZ;\n"
      "st.global.u32 [%d1], 7U;\n}\n");
  const Kernel& kernel = module.kernel("k");
  const Instruction& shuffle = instruction_at(kernel, 4);
  ASSERT_EQ(shuffle.operands.size(), 6U);
  EXPECT_EQ(shuffle.operands[0].width, 32);
  EXPECT_EQ(shuffle.operands[1].width, 1);
  EXPECT_EQ(shuffle.operands[3].value, 16U);
  EXPECT_EQ(shuffle.operands[5].value, ~std::uint64_t{0});
  const Instruction& pack = instruction_at(kernel, 5);
  EXPECT_EQ(pack.guard, shuffle.operands[1].reg);
  EXPECT_TRUE(pack.guard_inverted);
  EXPECT_EQ(pack.operands[1].kind, Operand::Kind::kVector);
  EXPECT_EQ(pack.operands[1].elements.size(), 2U);
  EXPECT_EQ(instruction_at(kernel, 6).operands[1].value, static_cast<std::uint64_t>(SpecialRegister::kCtaidZ));
  EXPECT_EQ(instruction_at(kernel, 7).operands[2].value, 0xBFF0000000000000U);
  EXPECT_TRUE(instruction_at(kernel, 8).operands[1].inverted);
  EXPECT_EQ(instruction_at(kernel, 9).operands[1].value, 32U);
  EXPECT_EQ(instruction_at(kernel, 10).operands[1].value, 7U);
  EXPECT_EQ(kernel.code.back().op, "ret");
}

TEST(Module, SaysWhereItDoesNotUnderstand) {
  EXPECT_NE(parse_error(small_kernel("frobnicate.u32 %r1, %r2;")).find("frobnicate.u32 is not implemented"),
            std::string::npos);
  EXPECT_NE(parse_error(small_kernel("mov.u32 %r1, %r77;")).find("%r77 is not known"), std::string::npos);
  EXPECT_NE(parse_error(small_kernel("bra nowhere;")).find("no label nowhere"), std::string::npos);
  EXPECT_NE(parse_error(small_kernel("{ inner: } bra inner;")).find("no label inner"), std::string::npos);
  EXPECT_NE(parse_error(small_kernel("a: a: ret;")).find("twice"), std::string::npos);
  EXPECT_NE(parse_error(".func f()\n{\nret;\n}\n").find("device functions"), std::string::npos);
  EXPECT_NE(parse_error(".entry k()\n{\n ret;").find("line 3"), std::string::npos);
  EXPECT_NE(parse_error(small_kernel("call f, (%r1);")), "");
}

}  // namespace
}  // namespace ptx
