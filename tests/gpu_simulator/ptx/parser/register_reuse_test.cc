#include "ptx/parser/register_reuse.h"

#include <gtest/gtest.h>

#include <string>

#include "ptx/testing/small_kernel.h"

namespace ptx {
namespace {

int num_registers(const std::string& body) { return Module::parse(small_kernel(body)).kernel("k").num_registers; }

TEST(ReuseRegisters, GivesDeadRegistersAway) {
  std::string chain = "mov.u32 %r3, 1;\n";
  for (int i = 4; i < 20; ++i) {
    chain += "add.u32 %r" + std::to_string(i) + ", %r" + std::to_string(i - 1) + ", 1;\n";
  }
  chain += "st.global.u32 [%d0], %r19;";
  EXPECT_LT(num_registers(chain), 8);
  EXPECT_EQ(run_small_kernel(small_kernel(chain)).front(), 17U);
}

TEST(ReuseRegisters, KeepsWhatALoopCarries) {
  // %r3 is last read before %r5 is first written, but the next turn reads it again.
  const std::string body = R"(mov.u32 %r3, 5; mov.u32 %r4, 0;
    again: add.u32 %r4, %r4, %r3;
    mul.lo.u32 %r5, %r4, 3; xor.b32 %r6, %r5, %r4;
    setp.lt.u32 %p1, %r4, 20; @%p1 bra again;
    st.global.u32 [%d0], %r4;)";
  EXPECT_EQ(run_small_kernel(small_kernel(body)).front(), 20U);
}

TEST(ReuseRegisters, KeepsWhatAGuardedWriteMayLeave) {
  // %r3 keeps its 7 where the guard holds the write back, though nothing else reads it in between.
  const std::string body = R"(mov.u32 %r3, 7;
    mov.u32 %r4, 1; add.u32 %r5, %r4, 2; st.global.u32 [%d0], %r5;
    setp.eq.u32 %p1, %r0, 0; @%p1 mov.u32 %r3, 9;
    st.global.u32 [%d0], %r3;)";
  const auto out = run_small_kernel(small_kernel(body));
  EXPECT_EQ(out[0], 9U);
  EXPECT_EQ(out[1], 7U);
}

TEST(ReuseRegisters, NeverPutsAResultOverASourceOfTheSameInstruction) {
  // The first result is written before the second half of %d2 is read.
  const std::string body = R"(mov.u64 %d2, 0x200000001; mov.b64 {%r3, %r4}, %d2;
    shl.b32 %r4, %r4, 4; or.b32 %r3, %r3, %r4; st.global.u32 [%d0], %r3;)";
  const Module module = Module::parse(small_kernel(body));
  for (const Instruction& instruction : module.kernel("k").code) {
    if (instruction.op != "mov" || instruction.operands[0].kind != Operand::Kind::kVector) continue;
    for (const Operand& element : instruction.operands[0].elements) {
      EXPECT_NE(element.reg, instruction.operands[1].reg);
    }
  }
  EXPECT_EQ(run_small_kernel(small_kernel(body)).front(), 0x21U);
}

}  // namespace
}  // namespace ptx
