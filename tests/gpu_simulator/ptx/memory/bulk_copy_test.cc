#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <vector>

#include "ptx/error.h"
#include "ptx/memory/tensor_map.h"
#include "ptx/testing/hand_built.h"

namespace ptx {
namespace {

constexpr Mask kOne = 1;
constexpr std::uint64_t kBarrier = 16;

class BulkCopy : public testing::Test {
 protected:
  struct alignas(64) Opaque {
    std::array<std::byte, 128> bytes{};
  };

  void SetUp() override { built.run("mbarrier.init.shared::cta.b64", {at_address(kBarrier), immediate(1)}, 0, kOne); }
  void expect(std::int64_t bytes) {
    built.run("mbarrier.arrive.expect_tx.shared::cta.b64", {sink(), at_address(kBarrier), immediate(bytes)}, 0, kOne);
  }
  bool arrived() {
    built.run("mbarrier.try_wait.parity.shared::cta.b64", {in_register(0, 1), at_address(kBarrier), immediate(0)}, 0,
              kOne);
    return built.get(0) != 0;
  }
  void copy(const Opaque& map, std::uint64_t to, const std::vector<std::int64_t>& at) {
    Operand source = at_address(reinterpret_cast<std::uint64_t>(&map));
    for (const std::int64_t coordinate : at) source.elements.push_back(immediate(coordinate));
    built.run("cp.async.bulk.tensor." + std::to_string(at.size()) +
                  "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes",
              {at_address(to), source, at_address(kBarrier)}, 0, kOne);
  }

  HandBuiltCta built;
};

// A tensor [lines][columns] of 16 bits that are their own index, from `first` on.
struct Matrix {
  Matrix(std::size_t lines, std::size_t columns) : elements(lines * columns + 8) {
    first = (16 - reinterpret_cast<std::uint64_t>(elements.data()) % 16) % 16 / 2;
    for (std::size_t i = 0; i < lines * columns; ++i) elements[first + i] = static_cast<std::uint16_t>(i);
  }
  std::vector<std::uint16_t> elements;
  std::size_t first;
};

TEST_F(BulkCopy, SwizzlesAsTheTablesOfTheManualSay) {
  // PTX ISA 9.0, 5.5.7: lines of 128 bytes in shared memory, by which chunk of 16 bytes of the unswizzled line is
  // there.
  const int table[8][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}, {2, 3, 0, 1, 6, 7, 4, 5},
                           {3, 2, 1, 0, 7, 6, 5, 4}, {4, 5, 6, 7, 0, 1, 2, 3}, {5, 4, 7, 6, 1, 0, 3, 2},
                           {6, 7, 4, 5, 2, 3, 0, 1}, {7, 6, 5, 4, 3, 2, 1, 0}};
  for (const int swizzle : {0, 1, 2, 3}) {
    const std::uint32_t columns = swizzle == 0 ? 64 : 8U << swizzle;
    const std::uint32_t lines = 2048 / (columns * 2);
    const Matrix matrix(lines, columns);
    const std::uint64_t sizes[] = {columns, lines};
    const std::uint64_t strides[] = {columns * 2};
    const std::uint32_t box[] = {columns, lines};
    const std::uint32_t steps[] = {1, 1};
    Opaque map;
    ASSERT_EQ(encode_tensor_map(&map, 1, 2, const_cast<std::uint16_t*>(&matrix.elements[matrix.first]), sizes, strides,
                                box, steps, 0, swizzle, 0, 0),
              0);
    for (const std::uint64_t to : {4096U, 8192U + 384U}) {  // the second inside of the pattern
      copy(map, to, {0, 0});
      built.deliver_all();
      const int period = 1 << swizzle;
      for (std::uint64_t line = 0; line < 16; ++line) {
        const std::uint64_t row = (to / 128 + line) % static_cast<std::uint64_t>(period);
        for (std::uint64_t chunk = 0; chunk < 8; ++chunk) {
          const auto from = line * 64 + static_cast<std::uint64_t>(table[row][chunk]) * 8;
          EXPECT_EQ(built.peek<std::uint16_t>(to + line * 128 + chunk * 16), from)
              << swizzle << " " << to << " " << line;
        }
      }
    }
  }
}

TEST_F(BulkCopy, ABoxOfFiveDimensionsHasZerosOutOfBounds) {
  const std::array<std::int64_t, 5> sizes = {20, 5, 4, 3, 3};
  const std::array<std::int64_t, 5> box = {8, 3, 2, 2, 2};
  alignas(16) static std::array<std::uint16_t, 3 * 3 * 4 * 5 * 24> elements;
  for (std::size_t i = 0; i < elements.size(); ++i) elements[i] = static_cast<std::uint16_t>(i + 1);
  const std::uint64_t bytes[] = {48, 48 * 5, 48 * 5 * 4, 48 * 5 * 4 * 3};
  std::uint64_t map_sizes[5];
  std::uint32_t map_box[5];
  const std::uint32_t steps[] = {1, 1, 1, 1, 1};
  for (std::size_t d = 0; d < 5; ++d) {
    map_sizes[d] = static_cast<std::uint64_t>(sizes[d]);
    map_box[d] = static_cast<std::uint32_t>(box[d]);
  }
  Opaque map;
  ASSERT_EQ(encode_tensor_map(&map, 6, 5, elements.data(), map_sizes, bytes, map_box, steps, 0, 0, 0, 0), 0);
  const std::array<std::int64_t, 5> at = {-3, 3, -1, 2, 0};
  expect(8 * 3 * 2 * 2 * 2 * 2);
  copy(map, 1024, {at.begin(), at.end()});
  EXPECT_FALSE(arrived());
  EXPECT_EQ(built.peek<std::uint16_t>(1024), 0xffff);
  built.deliver_all();
  EXPECT_TRUE(arrived());
  std::uint64_t address = 1024;
  std::array<std::int64_t, 5> i{};
  for (i[4] = 0; i[4] < box[4]; ++i[4])
    for (i[3] = 0; i[3] < box[3]; ++i[3])
      for (i[2] = 0; i[2] < box[2]; ++i[2])
        for (i[1] = 0; i[1] < box[1]; ++i[1])
          for (i[0] = 0; i[0] < box[0]; ++i[0], address += 2) {
            bool inside = true;
            std::int64_t index = 0;
            const std::array<std::int64_t, 5> pitch = {1, 24, 24 * 5, 24 * 5 * 4, 24 * 5 * 4 * 3};
            for (std::size_t d = 0; d < 5; ++d) {
              const std::int64_t coordinate = at[d] + i[d];
              inside = inside && coordinate >= 0 && coordinate < sizes[d];
              index += coordinate * pitch[d];
            }
            ASSERT_EQ(built.peek<std::uint16_t>(address), inside ? index + 1 : 0) << address;
          }
}

TEST_F(BulkCopy, StepsTakeEveryOtherElement) {
  const Matrix matrix(16, 8);
  const std::uint64_t sizes[] = {8, 16};
  const std::uint64_t strides[] = {16};
  const std::uint32_t box[] = {8, 7};
  const std::uint32_t steps[] = {1, 2};
  Opaque map;
  ASSERT_EQ(encode_tensor_map(&map, 1, 2, const_cast<std::uint16_t*>(&matrix.elements[matrix.first]), sizes, strides,
                              box, steps, 0, 0, 0, 0),
            0);
  expect(4 * 16);
  copy(map, 1024, {0, 1});
  built.deliver_all();
  EXPECT_TRUE(arrived());
  for (std::uint64_t line = 0; line < 4; ++line)
    EXPECT_EQ(built.peek<std::uint16_t>(1024 + 16 * line), 8 * (1 + 2 * line));
}

TEST_F(BulkCopy, MisuseIsAnError) {
  const Matrix matrix(8, 64);
  const std::uint64_t sizes[] = {64, 8};
  const std::uint64_t strides[] = {128};
  const std::uint32_t box[] = {64, 8};
  const std::uint32_t narrow[] = {32, 8};
  const std::uint32_t steps[] = {1, 1};
  auto* const elements = const_cast<std::uint16_t*>(&matrix.elements[matrix.first]);
  Opaque map;
  ASSERT_EQ(encode_tensor_map(&map, 1, 2, elements, sizes, strides, box, steps, 0, 3, 0, 0), 0);
  EXPECT_THROW(copy(map, 1024 + 64, {0, 0}), Error);         // alignment
  EXPECT_THROW(copy(map, 128 * 1024 - 896, {0, 0}), Error);  // behind the end
  EXPECT_THROW(copy(map, 1024, {0, 0, 0}), Error);           // rank
  EXPECT_THROW(copy(map, 0, {0, 0}), Error);                 // over the mbarrier
  EXPECT_THROW(copy(Opaque{}, 1024, {0, 0}), Error);         // no map
  built.cta().stored(built.warp(), 1030, 2);
  EXPECT_THROW(copy(map, 1024, {0, 0}), Error);  // stores of the other proxy
  built.run("fence.proxy.async", {});
  EXPECT_NO_THROW(copy(map, 1024, {0, 0}));
  ASSERT_EQ(encode_tensor_map(&map, 1, 2, elements, sizes, strides, narrow, steps, 0, 3, 0, 0), 0);
  EXPECT_THROW(copy(map, 1024, {0, 0}), Error);  // lines shorter than the pattern
  EXPECT_THROW(instruction("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group", {sink(), sink()}), Error);
}

TEST_F(BulkCopy, BytesArriveAndCount) {
  const Matrix matrix(4, 64);
  const auto source = reinterpret_cast<std::uint64_t>(&matrix.elements[matrix.first]);
  const std::string name = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
  expect(64);
  built.run(name, {at_address(1024), at_address(source), immediate(64), at_address(kBarrier)}, 0, kOne);
  EXPECT_EQ(built.peek<std::uint16_t>(1024), 0xffff);
  built.deliver_all();
  EXPECT_TRUE(arrived());
  EXPECT_EQ(built.peek<std::uint16_t>(1024 + 62), 31);
  EXPECT_THROW(built.run(name, {at_address(1024), at_address(source), immediate(24), at_address(kBarrier)}, 0, kOne),
               Error);
  EXPECT_THROW(built.run(name, {at_address(1024), at_address(source), immediate(64), at_address(512)}, 0, kOne), Error);
}

TEST_F(BulkCopy, PrefetchingNoTensorMapIsAnError) {
  const Opaque map;
  EXPECT_THROW(built.run("prefetch.tensormap", {at_address(reinterpret_cast<std::uint64_t>(&map))}, 0, kOne), Error);
}

}  // namespace
}  // namespace ptx
