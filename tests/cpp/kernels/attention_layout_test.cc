// What GPU attention lays out in shared memory, and how it deals out its work.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/attention/attention_hopper_layout.h"
#include "kernels/attention/attention_schedule.h"
#include "kernels/attention/attention_tile_layout.h"

namespace fastserve::kernels {
namespace {

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

/// As a thread block walks through them: from the highest level down, and the last tile of a row first within a level.
TEST(AttentionHopperSchedule, TilesOfALevelSeeMoreThanItsBoundAndEachIsOfOneLevel) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    const int tile_queries = hopper_tile_queries(1 + static_cast<int>(random() % 40));
    const int length = static_cast<int>(random() % 700);
    const int longest = length + static_cast<int>(random() % 300);
    HopperRow row{.num_queries = static_cast<int>(random() % static_cast<unsigned>(length + 1))};
    row.lead = length - row.num_queries;
    int above = 0;
    for (int level = kHopperLevels - 1; level >= 0; --level) {
      const int bound = hopper_level_bound(level, longest);
      const int tiles = row.tiles_beyond(bound, tile_queries);
      EXPECT_GE(tiles, above);
      for (int tile = row.num_tiles(tile_queries) - tiles; tile < row.num_tiles(tile_queries) - above; ++tile) {
        EXPECT_GT(row.lead + std::min((tile + 1) * tile_queries, row.num_queries), bound);
      }
      above = tiles;
    }
    EXPECT_EQ(above, row.num_tiles(tile_queries));
  }
}

}  // namespace
}  // namespace fastserve::kernels
