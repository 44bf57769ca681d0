#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ptx/error.h"
#include "ptx/matrix/wgmma_layouts.h"
#include "ptx/memory/tensor_map.h"
#include "ptx/testing/hand_built.h"

namespace ptx {
namespace {

constexpr int kA = 200;  // registers: A's, the descriptors, scale-d; the accumulators begin at 0
constexpr int kDescriptorA = 210;
constexpr int kDescriptorB = 211;
constexpr int kScaleD = 212;
constexpr std::uint64_t kTileA = 8192;
constexpr std::uint64_t kTileB = 65536;

class Wgmma : public testing::TestWithParam<Layout> {
 protected:
  static constexpr int kWarps = 4;
  Wgmma() : built(kWarps, 200 * 1024) {}

  void put(const Layout& layout, std::uint64_t tile, int rows, bool bfloat, const Elements& element) {
    for (int row = 0; row < rows; ++row) {
      for (int depth = 0; depth < layout.depth; ++depth) {
        built.poke(layout.address(tile, row, depth), encode(element(row, depth), bfloat));
      }
    }
  }
  // The fragments of figure 148: those of mma.m16n8k16, 16 rows for each warp.
  void put_in_registers(int depth_from, bool bfloat) {
    for (int warp = 0; warp < kWarps; ++warp) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 8; i += 2) {
          const int row = 16 * warp + lane / 4 + (i % 4 < 2 ? 0 : 8);
          const int depth = depth_from + lane % 4 * 2 + (i < 4 ? 0 : 8);
          built.set_lane(
              kA + i / 2, lane,
              encode(element_a(row, depth), bfloat) | std::uint32_t{encode(element_a(row, depth + 1), bfloat)} << 16,
              warp);
        }
      }
    }
  }
  Instruction product(int columns, bool bfloat, bool shared_a, bool a_mn, bool b_mn, std::int64_t scale_a = 1) {
    const std::string type = bfloat ? ".bf16.bf16" : ".f16.f16";
    std::vector<Operand> operands = {registers_from(0, columns / 2),
                                     shared_a ? in_register(kDescriptorA, 64) : registers_from(kA, 4),
                                     in_register(kDescriptorB, 64),
                                     in_register(kScaleD, 1),
                                     immediate(scale_a),
                                     immediate(1)};
    if (shared_a) operands.push_back(immediate(a_mn));
    operands.push_back(immediate(b_mn));
    return instruction("wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) + "k16.f32" + type, operands);
  }
  void run_all(const Instruction& built_instruction) {
    for (int warp = 0; warp < kWarps; ++warp) built.run(built_instruction, warp);
  }
  void run_all(const std::string& name, std::vector<Operand> operands) {
    run_all(instruction(name, std::move(operands)));
  }
  void set_all(int index, std::uint64_t value) {
    for (int warp = 0; warp < kWarps; ++warp) built.set(index, value, warp);
  }
  // Figure 149: accumulator i of a lane.
  void expect_accumulators(int columns, const std::function<double(int row, int column)>& expected) {
    for (int warp = 0; warp < kWarps; ++warp) {
      for (int i = 0; i < columns / 2; ++i) {
        for (int lane = 0; lane < 32; ++lane) {
          const int row = 16 * warp + lane / 4 + (i % 4 < 2 ? 0 : 8);
          const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
          const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(built.get(i, lane, warp)));
          ASSERT_EQ(value, expected(row, column)) << "row " << row << " column " << column;
        }
      }
    }
  }
  static double sum(int row, int column, int depth_from, int depth_to) {
    double total = 0;
    for (int k = depth_from; k < depth_to; ++k) total += element_a(row, k) * element_b(column, k);
    return total;
  }

  HandBuiltCta built;
};

TEST_P(Wgmma, ReadsBInEveryLayoutAndAdvancesInDepth) {
  const Layout& layout = GetParam();
  for (const int columns : {8, 24, 64, 80, 96, 128, 256}) {
    for (const bool bfloat : {true, false}) {
      put(layout, kTileB, columns, bfloat, element_b);
      set_all(kScaleD, 0);
      for (int depth = 0; depth + 16 <= layout.depth; depth += 16) {
        put_in_registers(depth, bfloat);
        set_all(kDescriptorB, layout.descriptor(kTileB + layout.advance() * static_cast<unsigned>(depth / 16)));
        run_all(product(columns, bfloat, false, false, layout.mn_major));
        set_all(kScaleD, 1);
      }
      expect_accumulators(columns, [&](int row, int column) { return sum(row, column, 0, layout.depth); });
    }
  }
}

TEST_P(Wgmma, ReadsAInEveryLayoutEachWarpItsOwnRows) {
  const Layout& layout = GetParam();
  const Layout& b = layouts().front();
  put(layout, kTileA, 64, true, element_a);
  put(b, kTileB, 16, true, element_b);
  set_all(kScaleD, 0);
  for (int depth = 0; depth + 16 <= layout.depth; depth += 16) {
    set_all(kDescriptorA, layout.descriptor(kTileA + layout.advance() * static_cast<unsigned>(depth / 16)));
    set_all(kDescriptorB, b.descriptor(kTileB + b.advance() * static_cast<unsigned>(depth / 16)));
    run_all(product(16, true, true, layout.mn_major, false));
    set_all(kScaleD, 1);
  }
  expect_accumulators(16, [&](int row, int column) { return sum(row, column, 0, layout.depth); });
}

INSTANTIATE_TEST_SUITE_P(Layouts, Wgmma, testing::ValuesIn(layouts()),
                         [](const auto& layout) { return std::string(layout.param.name); });

class WgmmaRules : public Wgmma {
 protected:
  const Layout& layout = layouts().front();
  void SetUp() override {
    put(layout, kTileA, 64, true, element_a);
    put(layout, kTileB, 64, true, element_b);
    set_all(kDescriptorA, layout.descriptor(kTileA));
    set_all(kDescriptorB, layout.descriptor(kTileB));
    set_all(kScaleD, 0);
  }
};

TEST_F(WgmmaRules, ScalesOfMinusOneNegate) {
  set_all(kScaleD, 0);
  run_all(product(8, true, true, false, false, -1));
  expect_accumulators(8, [&](int row, int column) { return 0 - sum(row, column, 0, 16); });
}

TEST_F(WgmmaRules, AccumulatorsAreIgnoredWhenScaleDIsFalse) {
  set_all(0, 0x7fc00000);
  run_all(product(8, true, true, false, false));
  expect_accumulators(8, [&](int row, int column) { return sum(row, column, 0, 16); });
}

TEST_F(WgmmaRules, APatternMayStartElsewhereByTheBaseOffset) {
  // The tile as before, but moved on by three lines of 128 bytes with its pattern.
  for (int row = 0; row < 8; ++row) {
    for (int depth = 0; depth < 64; ++depth) {
      built.poke(layout.address(kTileB, row, depth) + 384 + 4096, encode(element_b(row, depth), true));
    }
  }
  set_all(kDescriptorB, layout.descriptor(kTileB + 384 + 4096) | 3ULL << 49);
  run_all(product(8, true, true, false, false));
  expect_accumulators(8, [&](int row, int column) { return sum(row, column, 0, 16); });
}

TEST_F(WgmmaRules, OperandsMustNotChangeBeforeTheGroupIsWaitedFor) {
  const Instruction one = product(8, true, true, false, false);
  for (const std::uint64_t place : {kTileA, kTileB}) {
    built.run(one);
    built.run("wgmma.commit_group.sync.aligned", {});
    built.run(one);
    built.run("wgmma.commit_group.sync.aligned", {});
    built.run("wgmma.wait_group.sync.aligned", {immediate(1)});
    built.poke<std::uint16_t>(place, 0x4123);
    EXPECT_NO_THROW(built.run("wgmma.wait_group.sync.aligned", {immediate(1)}));
    EXPECT_THROW(built.run("wgmma.wait_group.sync.aligned", {immediate(0)}), Error);
    built.warp().products() = {};
  }
}

TEST_F(WgmmaRules, OperandsMayChangeBehindTheWaitAndElsewhere) {
  built.run(product(8, true, true, false, false));
  built.run("wgmma.commit_group.sync.aligned", {});
  built.poke<std::uint16_t>(kTileB + 1024, 0x4123);      // the rows behind
  built.poke<std::uint16_t>(kTileA + 16 * 128, 0x4123);  // those of another warp
  built.poke<std::uint16_t>(layout.address(kTileB, 0, 16), 0x4123);
  built.run("wgmma.wait_group.sync.aligned", {immediate(0)});
  built.poke<std::uint16_t>(kTileB, 0x4123);
  EXPECT_NO_THROW(built.run("wgmma.wait_group.sync.aligned", {immediate(0)}));
}

TEST_F(WgmmaRules, OperandsMustBeFenced) {
  const Instruction one = product(8, true, true, false, false);
  built.cta().stored(built.warp(2), layout.address(kTileB, 3, 9), 2);
  EXPECT_THROW(built.run(one), Error);
  built.run("fence.proxy.async.shared::cta", {}, 1);
  EXPECT_THROW(built.run(one), Error);  // another warp's fence
  built.run("fence.proxy.async.shared::cta", {}, 2);
  EXPECT_NO_THROW(built.run(one));
}

TEST_F(WgmmaRules, MisuseIsAnError) {
  const Instruction one = product(8, true, true, false, false);
  EXPECT_THROW(built.run(one, 0, 0xffff), Error);
  built.set(kDescriptorB, layout.descriptor(200 * 1024));
  EXPECT_THROW(built.run(one), Error);
  built.set(kDescriptorB, layout.descriptor(kTileB));
  built.set_lane(kDescriptorB, 5, layout.descriptor(kTileB + 1024));
  EXPECT_THROW(built.run(one), Error);
  HandBuiltCta small(3, 1024);
  EXPECT_THROW(small.run(one), Error);
  EXPECT_THROW(small.run("wgmma.fence.sync.aligned", {}), Error);
}

TEST_F(WgmmaRules, OtherFormsAreRefused) {
  const std::vector<Operand> operands = {registers_from(0, 4), registers_from(kA, 4), in_register(kDescriptorB, 64),
                                         immediate(1),         immediate(1),          immediate(1),
                                         immediate(0)};
  const auto refused = [](const std::string& name, std::vector<Operand> with) {
    EXPECT_THROW(instruction(name, std::move(with)), Error) << name;
  };
  EXPECT_NO_THROW(instruction("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16", operands));
  refused("wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16", operands);
  refused("wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32", operands);
  refused("wgmma.mma_async.sync.aligned.m64n8k16.f16.f16.f16", operands);
  std::vector<Operand> scaled = operands;
  scaled[4] = immediate(2);
  refused("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16", scaled);
}

// Boxes of [lines][64] of a bf16 tensor, swizzled over 128 bytes by the bulk engine, are operands as they lie.
class WgmmaOfBoxes : public Wgmma {
 protected:
  struct alignas(64) Opaque {
    std::array<std::byte, 128> bytes{};
  };
  void load(std::uint64_t to, int lines, const Elements& element) {
    auto& tensor = tensors.emplace_back(static_cast<std::size_t>(lines) * 64 + 8);
    const std::size_t first = (16 - reinterpret_cast<std::uint64_t>(tensor.data()) % 16) % 16 / 2;
    for (int line = 0; line < lines; ++line) {
      for (int i = 0; i < 64; ++i)
        tensor[first + static_cast<std::size_t>(line * 64 + i)] = encode(element(line, i), true);
    }
    const std::uint64_t sizes[] = {64, static_cast<std::uint64_t>(lines)};
    const std::uint64_t strides[] = {128};
    const std::uint32_t box[] = {64, static_cast<std::uint32_t>(lines)};
    const std::uint32_t steps[] = {1, 1};
    Opaque map;
    ASSERT_EQ(encode_tensor_map(&map, 9, 2, &tensor[first], sizes, strides, box, steps, 0, 3, 0, 0), 0);
    Operand source = at_address(reinterpret_cast<std::uint64_t>(&map));
    source.elements = {immediate(0), immediate(0)};
    built.run("mbarrier.init.shared::cta.b64", {at_address(0), immediate(1)}, 0, 1);
    built.run("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes",
              {at_address(to), source, at_address(0)}, 0, 1);
    built.deliver_all();
    built.run("mbarrier.inval.shared::cta.b64", {at_address(0)}, 0, 1);
  }
  std::vector<std::vector<std::uint16_t>> tensors;
};

TEST_F(WgmmaOfBoxes, AsAAndBAlongTheDepth) {
  load(kTileA, 64, element_a);
  load(kTileB, 80, element_b);
  const Layout& layout = layouts().front();
  set_all(kScaleD, 0);
  for (unsigned depth = 0; depth < 64; depth += 16) {
    set_all(kDescriptorA, layout.descriptor(kTileA + depth * 2));
    set_all(kDescriptorB, layout.descriptor(kTileB + depth * 2));
    run_all(product(80, true, true, false, false));
    set_all(kScaleD, 1);
  }
  expect_accumulators(80, [](int row, int column) { return sum(row, column, 0, 64); });
}

TEST_F(WgmmaOfBoxes, AsBAcrossTheDepth) {
  // Lines are depths (keys, of V), two boxes side by side make 128 columns.
  constexpr std::uint64_t kBoxBytes = 32 * 128;
  for (int half = 0; half < 2; ++half) {
    load(kTileB + static_cast<unsigned>(half) * kBoxBytes, 32,
         [&](int depth, int column) { return element_b(64 * half + column, depth); });
  }
  const Layout layout{"", 1, 128, true, kBoxBytes, 1024, 32};
  set_all(kScaleD, 0);
  for (unsigned depth = 0; depth < 32; depth += 16) {
    put_in_registers(static_cast<int>(depth), true);
    set_all(kDescriptorB, layout.descriptor(kTileB + depth * 128));
    run_all(product(128, true, false, false, true));
    set_all(kScaleD, 1);
  }
  expect_accumulators(128, [](int row, int column) { return sum(row, column, 0, 32); });
}

}  // namespace
}  // namespace ptx
