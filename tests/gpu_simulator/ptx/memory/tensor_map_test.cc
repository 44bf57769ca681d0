#include "ptx/memory/tensor_map.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "ptx/error.h"

namespace ptx {
namespace {

// Arguments of cuTensorMapEncodeTiled: [100][200][64] of 16 bits in boxes of [4][8][64], swizzled over 128 bytes.
struct Arguments {
  int data_type = 9;
  std::uint32_t rank = 3;
  std::uint64_t address = 0x10000;
  std::array<std::uint64_t, 5> sizes{64, 200, 100, 7, 7};
  std::array<std::uint64_t, 4> strides{128, 25600, 2560000, 17920000};
  std::array<std::uint32_t, 5> box{64, 8, 4, 1, 1};
  std::array<std::uint32_t, 5> steps{1, 1, 1, 1, 1};
  int interleave = 0;
  int swizzle = 3;
  int promotion = 3;
  int fill = 0;
};

int encode(const Arguments& a, void* map) {
  return encode_tensor_map(map, a.data_type, a.rank, reinterpret_cast<void*>(a.address), a.sizes.data(),
                           a.strides.data(), a.box.data(), a.steps.data(), a.interleave, a.swizzle, a.promotion,
                           a.fill);
}

struct alignas(64) Opaque {
  std::array<std::byte, 128> bytes{};
};

bool accepts(const std::function<void(Arguments&)>& change) {
  Arguments arguments;
  change(arguments);
  Opaque map;
  const int result = encode(arguments, &map);
  EXPECT_TRUE(result == 0 || result == 1);
  return result == 0;
}

TEST(TensorMap, KeepsItsArgumentsInItsOpaqueBytes) {
  Opaque map;
  ASSERT_EQ(encode({}, &map), 0);
  const TensorMap read = read_tensor_map(reinterpret_cast<std::uint64_t>(&map));
  EXPECT_EQ(read.address, 0x10000U);
  EXPECT_EQ(read.rank, 3);
  EXPECT_EQ(read.sizes[1], 200U);
  EXPECT_EQ(read.strides[1], 25600U);
  EXPECT_EQ(read.box[2], 4);
  EXPECT_EQ(read.box_bytes(), 4U * 8 * 128);
  EXPECT_EQ(swizzle_span(read.swizzle), 128U);
}

TEST(TensorMap, OtherBytesAreNone) {
  Opaque map;
  EXPECT_THROW(read_tensor_map(reinterpret_cast<std::uint64_t>(&map)), Error);
  EXPECT_THROW(read_tensor_map(reinterpret_cast<std::uint64_t>(&map) + 16), Error);
}

TEST(TensorMap, RanksAreOneToFiveAndThreeWhereInterleaved) {
  EXPECT_FALSE(accepts([](Arguments& a) { a.rank = 0; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.rank = 1; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.rank = 5; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.rank = 6; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.interleave = 1; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.interleave = 1, a.rank = 2; }));
}

TEST(TensorMap, AddressesAndStridesAreMultiplesOfSixteen) {
  EXPECT_FALSE(accepts([](Arguments& a) { a.address += 8; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.address += 16; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.strides[1] += 8; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.strides[1] = (1ULL << 40) - 16; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.strides[1] = 1ULL << 40; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.strides[2] = 8; }));  // of a fourth dimension, which is none
  EXPECT_FALSE(accepts([](Arguments& a) { a.interleave = 2, a.swizzle = 1, a.address += 16; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.interleave = 2, a.swizzle = 1, a.strides[0] += 16; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.interleave = 2, a.swizzle = 1; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.interleave = 2; }));
}

TEST(TensorMap, SizesBoxesAndStepsHaveTheirRanges) {
  EXPECT_FALSE(accepts([](Arguments& a) { a.sizes[2] = 0; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.sizes[2] = 1ULL << 32; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.sizes[2] = (1ULL << 32) + 1; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.box[1] = 0; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.box[1] = 256; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.box[1] = 257; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.steps[1] = 0; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.steps[1] = 8; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.steps[1] = 9; }));
}

TEST(TensorMap, LinesOfABoxAreMultiplesOfSixteenBytesWithinTheSwizzling) {
  EXPECT_FALSE(accepts([](Arguments& a) { a.box[0] = 60; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.box[0] = 72; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.box[0] = 72, a.swizzle = 0; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.swizzle = 2; }));
  EXPECT_TRUE(accepts([](Arguments& a) { a.swizzle = 2, a.box[0] = 32; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.swizzle = 1, a.box[0] = 32; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.swizzle = 4; }));
}

TEST(TensorMap, OnlyFloatsAreFilledWithNan) {
  EXPECT_TRUE(accepts([](Arguments& a) { a.fill = 1; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.fill = 1, a.data_type = 1; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.data_type = 13; }));
  EXPECT_FALSE(accepts([](Arguments& a) { a.promotion = 4; }));
}

TEST(TensorMap, LiesAtAMultipleOf64) {
  alignas(64) std::array<std::byte, 256> bytes;
  EXPECT_EQ(encode({}, bytes.data() + 32), 1);
  EXPECT_EQ(encode({}, nullptr), 1);
}

}  // namespace
}  // namespace ptx
