// The body of the Hopper prefill kernel, run by an emulator of its instructions and compared with attention in double.
// hopper_emulator_test.cc shows that the emulator notices mistakes.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "attention_hopper_run.h"

namespace fastserve::kernels {
namespace {

/// One kind of heads and pages, with tails, prefixes, several tiles and more items than thread blocks.
template <DType kType, int kHeadDim>
void expect_hopper(int num_q_heads, int num_kv_heads, int block_size, GpuEmulator::Order order = {}) {
  const Shape shape{kType, kHeadDim, num_q_heads, num_kv_heads, block_size};
  Batch batch(shape, {70, 33, 9, 300}, {70, 5, 1, 20});
  hopper<kType, kHeadDim>(batch, 3, order);
  batch.expect_attention();
}

TEST(AttentionHopper, EveryHeadSizeAndGroupMatchesAttentionInDouble) {
  expect_hopper<DType::kFloat16, 64>(3, 3, 16);
  expect_hopper<DType::kBFloat16, 80>(2, 1, 16, {true, true});
  expect_hopper<DType::kFloat16, 96>(3, 1, 32);
  expect_hopper<DType::kBFloat16, 128>(4, 1, 16, {false, true});
  expect_hopper<DType::kFloat16, 256>(2, 1, 32);
}

TEST(AttentionHopper, GroupsThatLeaveRowsOfATileUnusedMatchAttentionInDouble) {
  const Shape shape{DType::kBFloat16, 64, 33, 1, 16};
  Batch batch(shape, {130, 4}, {5, 4});
  hopper<DType::kBFloat16, 64>(batch, 2);
  batch.expect_attention();
}

TEST(AttentionHopper, RowsOfManyLengthsMatchAttentionInDouble) {
  const Shape shape{DType::kBFloat16, 64, 2, 1, 16};
  std::vector<int> lengths{200, 128, 0, 1, 130, 65}, queries{130, 64, 2, 1, 3, 0};
  for (int i = 0; i < 40; ++i) {  // more rows than lanes
    lengths.push_back(i % 5 + 1);
    queries.push_back(i % 3 == 0 ? 0 : 1);
  }
  Batch batch(shape, lengths, queries);
  hopper<DType::kBFloat16, 64>(batch, 5, {true, true});
  batch.expect_attention();
}

TEST(AttentionHopper, MoreTilesThanTheRingsHoldMatchAttentionInDouble) {
  const Shape shape{DType::kFloat16, 128, 1, 1, 16};
  Batch batch(shape, {800, 129}, {3, 129});
  for (const bool last_thread_first : {false, true}) {
    hopper<DType::kFloat16, 128>(batch, 1, {false, last_thread_first});
    batch.expect_attention();
  }
}

TEST(AttentionHopper, ATokenHasTheSameBitsHoweverThePromptIsCut) {
  const Shape shape{DType::kBFloat16, 128, 3, 1, 16};
  Batch whole(shape, {150}, {150}, 3);
  hopper<DType::kBFloat16, 128>(whole, 2);
  const auto all = whole.result();
  for (const int queries : {1, 37}) {
    Batch part(shape, {20, 150, 31}, {1, queries, 2}, 4);
    part.copy_row(whole, 1, 0);
    hopper<DType::kBFloat16, 128>(part, 2);
    const auto tail = part.result(1);
    EXPECT_TRUE(std::equal(tail.begin(), tail.end(), all.end() - static_cast<std::ptrdiff_t>(tail.size()))) << queries;
  }
}

TEST(AttentionHopper, ARowHasTheSameBitsInEveryBatchGridAndOrder) {
  const Shape shape{DType::kBFloat16, 64, 4, 2, 16};
  Batch alone(shape, {333}, {40}, 5);
  hopper<DType::kBFloat16, 64>(alone, 1);
  for (const int num_ctas : {1, 3, 9}) {
    Batch many(shape, {70, 333, 500, 2}, {1, 40, 2, 0}, 6);
    many.copy_row(alone, 1, 0);
    hopper<DType::kBFloat16, 64>(many, num_ctas, {num_ctas % 2 == 1, num_ctas != 3});
    EXPECT_EQ(many.result(1), alone.result());
  }
}

TEST(AttentionHopper, SharedMemoryFitsAHopperGpu) {
  EXPECT_LE((AttentionHopper<EmulatedHopper, DType::kBFloat16, 64>::kSharedBytes), 232448);
  EXPECT_LE((AttentionHopper<EmulatedHopper, DType::kBFloat16, 80>::kSharedBytes), 232448);
  EXPECT_LE((AttentionHopper<EmulatedHopper, DType::kBFloat16, 96>::kSharedBytes), 232448);
  EXPECT_LE((AttentionHopper<EmulatedHopper, DType::kBFloat16, 128>::kSharedBytes), 232448);
  EXPECT_LE((AttentionHopper<EmulatedHopper, DType::kBFloat16, 256>::kSharedBytes), 232448);
}

/// The tiles that find() gives for the numbers 0, step, 2 step, ... until there are none.
std::vector<HopperTile> tiles_in_order(const AttentionLaunch& launch, int first, int step) {
  std::vector<HopperTile> tiles;
  GpuEmulator::run(1, 32, 16, {}, [&] {
    HopperOrder<EmulatedHopper> order(launch);
    for (int number = first;; number += step) {
      const HopperTile tile = order.find(number);
      if (tile.row < 0) break;
      if (EmulatedHopper::thread() == 0) tiles.push_back(tile);
    }
  });
  return tiles;
}

TEST(AttentionHopperSchedule, EveryTileComesOnceAndLongOnesFirst) {
  std::mt19937 random(3);
  for (int round = 0; round < 8; ++round) {
    const int group = 1 + static_cast<int>(random() % 40);
    const int tile_queries = hopper_tile_queries(group);
    std::vector<std::int32_t> lengths(1 + random() % 70), starts{0};
    for (std::int32_t& length : lengths) {
      length = static_cast<int>(random() % (round % 2 == 0 ? 700 : 90));
      starts.push_back(starts.back() + static_cast<int>(random() % static_cast<unsigned>(length + 1)));
    }
    AttentionLaunch launch;
    launch.params.query_start = starts.data();
    launch.params.seq_lens = lengths.data();
    launch.params.row_end = static_cast<std::int64_t>(lengths.size());
    launch.params.num_q_heads = group;
    launch.params.num_kv_heads = 1;
    launch.max_seq_len = 1 << 20;
    const int longest = *std::ranges::max_element(lengths);
    std::set<std::pair<int, int>> expected;
    for (std::size_t row = 0; row < lengths.size(); ++row) {
      const int queries = starts[row + 1] - starts[row];
      for (int tile = 0; tile * tile_queries < queries; ++tile) expected.insert({static_cast<int>(row), tile});
    }
    const auto tiles = tiles_in_order(launch, 0, 1);
    ASSERT_EQ(tiles.size(), expected.size());
    int before = longest;
    for (const HopperTile& tile : tiles) {
      EXPECT_EQ(expected.erase({tile.row, tile.tile}), 1u);
      const int end = std::min((tile.tile + 1) * tile_queries, tile.shape.num_queries);
      EXPECT_LE(tile.shape.lead + end, before + longest / kHopperLevels + 1);
      before = std::min(before, tile.shape.lead + end);
    }
    const auto some = tiles_in_order(launch, 5, 7);
    for (std::size_t i = 0; i < some.size(); ++i) {
      EXPECT_EQ(some[i].row, tiles[5 + 7 * i].row);
      EXPECT_EQ(some[i].tile, tiles[5 + 7 * i].tile);
    }
  }
}

}  // namespace
}  // namespace fastserve::kernels
