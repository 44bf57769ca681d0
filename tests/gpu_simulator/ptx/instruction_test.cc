#include "ptx/instruction.h"

#include <gtest/gtest.h>

namespace ptx {
namespace {

TEST(TypeOf, KnowsTheTypesAndNothingElse) {
  EXPECT_EQ(type_of("f32").kind, Type::Kind::kFloat);
  EXPECT_EQ(type_of("bf16").kind, Type::Kind::kBFloat);
  EXPECT_EQ(type_of("s64").kind, Type::Kind::kSigned);
  EXPECT_EQ(type_of("b8").kind, Type::Kind::kUnsigned);
  EXPECT_EQ(type_of("u64").bits, 64);
  EXPECT_EQ(type_of("b128").bits, 128);
  EXPECT_EQ(type_of("pred").bits, 1);
  for (const char* other : {"sync", "ftz", "b", "f16x2", "s33", "bulk", "", "u", "v4"}) {
    EXPECT_EQ(type_of(other).bits, 0) << other;
  }
}

TEST(Instruction, FindsItsModifiers) {
  Instruction instruction;
  instruction.op = "ld";
  instruction.modifiers = {"shared::cta", "u32"};
  EXPECT_TRUE(instruction.has("shared::cta"));
  EXPECT_FALSE(instruction.has("shared"));
  EXPECT_EQ(instruction.name(), "ld.shared::cta.u32");
}

}  // namespace
}  // namespace ptx
