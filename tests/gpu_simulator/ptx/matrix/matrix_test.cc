#include "ptx/matrix/matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "ptx/error.h"
#include "ptx/testing/hand_built.h"

namespace ptx {
namespace {

TEST(Halves, AreExact) {
  EXPECT_EQ(from_f16(0x3c00), 1.0F);
  EXPECT_EQ(from_f16(0xc000), -2.0F);
  EXPECT_EQ(from_f16(0x7bff), 65504.0F);
  EXPECT_EQ(from_f16(0x0001), std::ldexp(1.0F, -24));
  EXPECT_EQ(from_f16(0x83ff), -std::ldexp(1023.0F, -24));
  EXPECT_EQ(from_f16(0x0400), std::ldexp(1.0F, -14));
  EXPECT_EQ(from_f16(0x7c00), INFINITY);
  EXPECT_EQ(from_f16(0xfc00), -INFINITY);
  EXPECT_TRUE(std::isnan(from_f16(0x7e00)));
  EXPECT_TRUE(std::signbit(from_f16(0x8000)));
  EXPECT_EQ(from_bf16(0xbfc0), -1.5F);
}

// Small integers and halves, in either 16-bit type.
std::uint32_t encode(int value, bool bfloat) {
  const auto number = static_cast<float>(value);
  const auto bits = std::bit_cast<std::uint32_t>(number);
  if (bfloat) return bits >> 16;
  if (value == 0) return 0;
  return (bits >> 16 & 0x8000U) | ((bits >> 23 & 0xffU) - 112) << 10 | (bits >> 13 & 0x3ffU);
}

void check_mma(const std::string& name, bool bfloat, int depth) {
  HandBuiltCta built(1, 1024);
  std::mt19937 random(7);
  int a[16][16];
  int b[16][8];
  int c[16][8];
  const auto draw = [&] { return static_cast<int>(random() % 17) - 8; };
  for (auto& row : a)
    for (int& element : row) element = draw();
  for (auto& row : b)
    for (int& element : row) element = draw();
  for (auto& row : c)
    for (int& element : row) element = draw();
  // The formulas of the manual, 9.7.14.5.7 and .8, element by element: a_i, b_i and c_i of a lane.
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane >> 2;
    const int thread = lane % 4;
    for (int i = 0; i < depth / 2; i += 2) {
      const int row = i % 4 < 2 ? group : group + 8;
      const int col = thread * 2 + (i < 4 ? 0 : 8);
      built.set_lane(i / 2, lane, encode(a[row][col], bfloat) | encode(a[row][col + 1], bfloat) << 16);
    }
    for (int i = 0; i < depth / 4; i += 2) {
      const int row = thread * 2 + (i < 2 ? 0 : 8);
      built.set_lane(10 + i / 2, lane, encode(b[row][group], bfloat) | encode(b[row + 1][group], bfloat) << 16);
    }
    for (int i = 0; i < 4; ++i) {
      const auto value = static_cast<float>(c[i < 2 ? group : group + 8][thread * 2 + (i & 1)]);
      built.set_lane(20 + i, lane, std::bit_cast<std::uint32_t>(value));
    }
  }
  built.run(name, {registers_from(30, 4), registers_from(0, depth / 4), registers_from(10, depth / 8),
                   registers_from(20, 4)});
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = (lane >> 2) + (i < 2 ? 0 : 8);
      const int col = lane % 4 * 2 + (i & 1);
      int expected = c[row][col];
      for (int k = 0; k < depth; ++k) expected += a[row][k] * b[k][col];
      EXPECT_EQ(std::bit_cast<float>(static_cast<std::uint32_t>(built.get(30 + i, lane))),
                static_cast<float>(expected));
    }
  }
}

TEST(Mma, MultipliesTheFragmentsOfTheManual) {
  check_mma("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", false, 16);
  check_mma("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", true, 16);
  check_mma("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", false, 8);
  check_mma("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", true, 8);
}

TEST(Mma, TakesTheWholeWarp) {
  HandBuiltCta built(1, 1024);
  const Instruction mma =
      instruction("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
                  {registers_from(0, 4), registers_from(4, 4), registers_from(8, 2), registers_from(0, 4)});
  EXPECT_NO_THROW(built.run(mma));
  EXPECT_THROW(built.run(mma, 0, 0x7fffffff), Error);
}

TEST(Mma, OtherShapesAndTypesAreRefused) {
  const std::vector<Operand> operands = {registers_from(0, 4), registers_from(4, 4), registers_from(8, 2),
                                         registers_from(0, 4)};
  EXPECT_THROW(instruction("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", operands), Error);
  EXPECT_THROW(instruction("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", operands), Error);
  EXPECT_THROW(instruction("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", operands), Error);
}

class Ldmatrix : public testing::Test {
 protected:
  // Row r of matrix i starts at 1024 + 64 * r + 1040 * i and holds 100 * i + 10 * r + column.
  Ldmatrix() : built(1, 8192) {
    for (int lane = 0; lane < 32; ++lane) {
      const std::uint64_t address = row_address(lane);
      built.set_lane(8, lane, address);
      for (int column = 0; column < 8; ++column) {
        built.poke(address + 2U * static_cast<unsigned>(column),
                   static_cast<std::uint16_t>(value(lane / 8, lane % 8, column)));
      }
    }
  }
  static std::uint64_t row_address(int lane) {
    return 1024U + 64U * static_cast<unsigned>(lane % 8) + 1040U * static_cast<unsigned>(lane / 8);
  }
  static std::uint64_t value(int matrix, int row, int column) {
    return static_cast<std::uint64_t>(100 * matrix + 10 * row + column);
  }
  HandBuiltCta built;
};

TEST_F(Ldmatrix, GivesEachLaneTwoNeighboursOfARow) {
  built.run("ldmatrix.sync.aligned.m8n8.x4.shared.b16", {registers_from(0, 4), at_register(8)});
  for (int i = 0; i < 4; ++i) {
    for (int lane = 0; lane < 32; ++lane) {
      const int column = 2 * (lane % 4);
      EXPECT_EQ(built.get(i, lane), value(i, lane / 4, column) | value(i, lane / 4, column + 1) << 16);
    }
  }
}

TEST_F(Ldmatrix, TransposedGivesTwoNeighboursOfAColumn) {
  built.run("ldmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16", {registers_from(0, 2), at_register(8)});
  for (int i = 0; i < 2; ++i) {
    for (int lane = 0; lane < 32; ++lane) {
      const int row = 2 * (lane % 4);
      EXPECT_EQ(built.get(i, lane), value(i, row, lane / 4) | value(i, row + 1, lane / 4) << 16);
    }
  }
}

TEST_F(Ldmatrix, StmatrixIsItsInverse) {
  for (const std::string trans : {"", ".trans"}) {
    built.run("ldmatrix.sync.aligned.m8n8.x4" + trans + ".shared.b16", {registers_from(0, 4), at_register(8)});
    for (int lane = 0; lane < 32; ++lane) built.set_lane(9, lane, 6144 + 16U * static_cast<unsigned>(lane));
    built.run("stmatrix.sync.aligned.m8n8.x4" + trans + ".shared.b16", {at_register(9), registers_from(0, 4)});
    for (int lane = 0; lane < 32; ++lane) {
      for (unsigned column = 0; column < 8; ++column) {
        EXPECT_EQ(built.peek<std::uint16_t>(6144 + 16U * static_cast<unsigned>(lane) + 2 * column),
                  value(lane / 8, lane % 8, static_cast<int>(column)));
      }
    }
  }
  EXPECT_THROW(built.cta().require_fenced(6144, 16), Error);
}

TEST_F(Ldmatrix, RowsAreAlignedAndOnlyThoseOfItsMatricesAreRead) {
  const Instruction one =
      instruction("ldmatrix.sync.aligned.m8n8.x1.shared.b16", {registers_from(0, 1), at_register(8)});
  built.set_lane(8, 20, 3);
  EXPECT_NO_THROW(built.run(one));
  built.set_lane(8, 7, 1032);
  EXPECT_THROW(built.run(one), Error);
}

TEST(Setmaxnreg, KeepsItsRules) {
  HandBuiltCta built(4, 1024);
  EXPECT_EQ(built.run("setmaxnreg.inc.sync.aligned.u32", {immediate(224)}), Outcome::kDone);
  EXPECT_THROW(built.run("setmaxnreg.dec.sync.aligned.u32", {immediate(56)}, 0, 1), Error);
  EXPECT_THROW(instruction("setmaxnreg.dec.sync.aligned.u32", {immediate(60)}), Error);
  EXPECT_THROW(instruction("setmaxnreg.dec.sync.aligned.u32", {immediate(16)}), Error);
}

}  // namespace
}  // namespace ptx
