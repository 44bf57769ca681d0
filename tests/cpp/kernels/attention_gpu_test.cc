// The bodies of the GPU attention kernels, run by an emulator of warps and compared with attention in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "attention_batch.h"
#include "gpu_emulator.h"
#include "kernels/attention_decode_gpu.h"
#include "kernels/attention_naive_gpu.h"
#include "kernels/attention_prefill_gpu.h"

namespace fastserve::kernels {
namespace {

template <DType kType, int kHeadDim>
void decode(Batch& batch, int num_ctas, GpuEmulator::Order order = {}) {
  using Kernel = AttentionDecode<EmulatedMachine, kType, kHeadDim>;
  const AttentionLaunch launch = batch.launch(kDecodeMaxSplits);
  GpuEmulator::run(num_ctas, kDecodeThreads, Kernel::kSharedBytes, order, [&] { Kernel::run(launch); });
  batch.expect_tickets_are_back();
}

template <DType kType, int kHeadDim>
void prefill(Batch& batch, const Shape& shape, GpuEmulator::Order order = {}) {
  using Kernel = AttentionPrefill<EmulatedMachine, kType, kHeadDim>;
  const AttentionLaunch launch = batch.launch(1);
  const int group = shape.num_q_heads / shape.num_kv_heads;
  const int tiles = batch.num_tokens() * group / kPrefillRows + batch.num_rows();
  GpuEmulator::run(tiles * shape.num_kv_heads, 32 * prefill_warps(kHeadDim), Kernel::kSharedBytes, order,
                   [&] { Kernel::run(launch); });
}

template <DType kType>
void naive(Batch& batch, const Shape& shape) {
  const AttentionLaunch launch = batch.launch(1);
  const int warps = batch.num_tokens() * shape.num_q_heads;
  GpuEmulator::run((warps + 3) / 4, kNaiveThreads, 16, {},
                   [&] { AttentionNaive<EmulatedMachine, kType>::run(launch); });
}

template <int kHeadDim>
void expect_banks_apart() {
  using Layout = TileLayout<kHeadDim>;
  for (int chunk = 0; chunk < Layout::kChunks; ++chunk) {
    unsigned banks = 0;
    for (int row = 0; row < 8; ++row) banks |= 1u << (Layout::offset(row, chunk) / 16 % 8);
    EXPECT_EQ(banks, 0xffu) << kHeadDim << ' ' << chunk;
  }
  EXPECT_GE(Layout::offset(1, 0), Layout::offset(0, Layout::kChunks - 1) + 16);
}

TEST(AttentionTileLayout, EightRowsOfAChunkLieInDifferentBanks) {
  expect_banks_apart<64>();
  expect_banks_apart<80>();
  expect_banks_apart<96>();
  expect_banks_apart<128>();
  expect_banks_apart<256>();
}

TEST(AttentionSchedule, SplitsFollowFromTheLengthAndAreBounded) {
  for (int length = 0; length < 300'000; length += length < 2000 ? 1 : 97) {
    const DecodeRow row = decode_row(length);
    EXPECT_LE(row.num_splits(), kDecodeMaxSplits);
    EXPECT_LE(row.num_splits(), decode_max_splits(length));
    EXPECT_LE(decode_max_splits(length), decode_max_splits(length + 97));
    EXPECT_GE(row.tiles * kDecodeTileTokens, length);
  }
}

TEST(AttentionSchedule, EveryItemIsTakenByOneThreadBlock) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::vector<int> lengths(1 + random() % 40);
    for (int& length : lengths) length = static_cast<int>(random() % (round % 3 == 0 ? 20'000 : 400)) - 20;
    const int units = 1 + static_cast<int>(random() % 9);
    const int num_ctas = 1 + static_cast<int>(random() % 300);
    const int num_rows = static_cast<int>(lengths.size());
    const auto length_of = [&](int row) { return lengths[static_cast<std::size_t>(row)]; };
    std::vector<std::int64_t> row_start{0};
    for (const int length : lengths) {
      row_start.push_back(row_start.back() + std::int64_t{decode_row_tiles(length)} * units);
    }
    DecodeItem expected;
    expected.shape = decode_row(lengths[0]);
    for (int cta = 0; cta < num_ctas; ++cta) {
      const std::int64_t begin = row_start.back() * cta / num_ctas;
      const std::int64_t end = row_start.back() * (cta + 1) / num_ctas;
      if (begin == end) continue;
      const auto row = std::ranges::upper_bound(row_start, begin) - row_start.begin() - 1;
      for (auto item = first_decode_item(begin, static_cast<int>(row), row_start[static_cast<std::size_t>(row)],
                                         num_rows, units, length_of);
           item.start < end; item.next(num_rows, units, length_of)) {
        ASSERT_EQ(item.row, expected.row);
        ASSERT_EQ(item.unit, expected.unit);
        ASSERT_EQ(item.split, expected.split);
        ASSERT_EQ(item.start, expected.start);
        ASSERT_LT(item.first_tile(), item.end_tile());
        expected.next(num_rows, units, length_of);
      }
    }
    EXPECT_EQ(expected.row, num_rows);
    EXPECT_EQ(expected.start, row_start.back());
  }
}

TEST(AttentionNaiveGpu, MatchesAttentionInDouble) {
  for (const int block_size : {8, 16}) {
    const Shape shape{DType::kFloat32, 40, 6, 2, block_size};
    Batch batch(shape, {1, 33, 0, 20}, {1, 7, 1, 20});
    naive<DType::kFloat32>(batch, shape);
    batch.expect_attention();
  }
  const Shape shape{DType::kBFloat16, 256, 2, 2, 32};
  Batch batch(shape, {40}, {3});
  naive<DType::kBFloat16>(batch, shape);
  batch.expect_attention();
}

TEST(AttentionDecodeGpu, LengthsAroundTilesAndSplitsMatchAttentionInDouble) {
  const Shape shape{DType::kBFloat16, 64, 4, 2, 16};
  const std::vector<int> lengths{1, 15, 16, 17, 63, 64, 65, 0, 127, 128, 129, 130, 200, 257, -3};
  Batch batch(shape, lengths, std::vector<int>(lengths.size(), 1));
  decode<DType::kBFloat16, 64>(batch, 7);
  batch.expect_attention();
}

template <DType kType, int kHeadDim>
void expect_decode(int num_q_heads, int num_kv_heads, int block_size) {
  const Shape shape{kType, kHeadDim, num_q_heads, num_kv_heads, block_size};
  Batch batch(shape, {90, 150, 3}, {1, 1, 1});
  decode<kType, kHeadDim>(batch, 3);
  batch.expect_attention();
}

TEST(AttentionDecodeGpu, EveryHeadSizeAndGroupMatchesAttentionInDouble) {
  expect_decode<DType::kFloat16, 64>(1, 1, 16);
  expect_decode<DType::kFloat16, 80>(7, 1, 16);
  expect_decode<DType::kBFloat16, 96>(16, 2, 32);
  expect_decode<DType::kFloat16, 128>(16, 1, 16);
  expect_decode<DType::kBFloat16, 128>(20, 1, 16);  // two passes over the heads of one KV head
  expect_decode<DType::kBFloat16, 256>(9, 1, 32);
}

TEST(AttentionDecodeGpu, ManySplitsAndOverlongItemsMatchAttentionInDouble) {
  const Shape shape{DType::kBFloat16, 64, 2, 1, 16};
  Batch batch(shape, {1100, 700}, {1, 1});
  decode<DType::kBFloat16, 64>(batch, 5);
  batch.expect_attention();
}

TEST(AttentionDecodeGpu, ARowHasTheSameBitsInEveryBatchGridAndOrder) {
  const Shape shape{DType::kBFloat16, 64, 4, 1, 16};
  Batch alone(shape, {333}, {1}, 5);
  decode<DType::kBFloat16, 64>(alone, 1);
  for (const int num_ctas : {2, 3, 9}) {
    Batch many(shape, {70, 333, 500, 2}, {1, 1, 1, 1}, 6);
    many.copy_row(alone, 1, 0);
    decode<DType::kBFloat16, 64>(many, num_ctas, {num_ctas % 2 == 1, num_ctas != 3});
    EXPECT_EQ(many.result(1), alone.result());
  }
}

template <DType kType, int kHeadDim>
void expect_prefill(int num_q_heads, int num_kv_heads, int block_size) {
  const Shape shape{kType, kHeadDim, num_q_heads, num_kv_heads, block_size};
  Batch batch(shape, {70, 33, 9}, {70, 5, 1});
  prefill<kType, kHeadDim>(batch, shape);
  batch.expect_attention();
}

TEST(AttentionPrefillGpu, EveryHeadSizeAndGroupMatchesAttentionInDouble) {
  expect_prefill<DType::kFloat16, 64>(3, 3, 16);
  expect_prefill<DType::kBFloat16, 80>(2, 1, 16);
  expect_prefill<DType::kFloat16, 96>(3, 1, 32);
  expect_prefill<DType::kBFloat16, 128>(4, 1, 16);
  expect_prefill<DType::kFloat16, 256>(2, 1, 32);
}

TEST(AttentionPrefillGpu, RowsOfManyLengthsMatchAttentionInDouble) {
  const Shape shape{DType::kBFloat16, 64, 2, 1, 16};
  std::vector<int> lengths{200, 64, 0, 1, 130, 65}, queries{130, 64, 2, 1, 3, 0};
  for (int i = 0; i < 40; ++i) {  // more rows than lanes
    lengths.push_back(i % 5 + 1);
    queries.push_back(i % 3 == 0 ? 0 : 1);
  }
  Batch batch(shape, lengths, queries);
  prefill<DType::kBFloat16, 64>(batch, shape, {true, true});
  batch.expect_attention();
}

TEST(AttentionPrefillGpu, ATokenHasTheSameBitsHoweverThePromptIsCut) {
  const Shape shape{DType::kBFloat16, 128, 3, 1, 16};
  Batch whole(shape, {100}, {100}, 3);
  prefill<DType::kBFloat16, 128>(whole, shape);
  Batch part(shape, {20, 100}, {1, 37}, 4);
  part.copy_row(whole, 1, 0);
  prefill<DType::kBFloat16, 128>(part, shape);
  const auto all = whole.result();
  const auto tail = part.result(1);
  EXPECT_TRUE(std::equal(tail.begin(), tail.end(), all.end() - static_cast<std::ptrdiff_t>(tail.size())));
}

}  // namespace
}  // namespace fastserve::kernels
