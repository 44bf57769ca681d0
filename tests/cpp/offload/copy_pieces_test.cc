#include "offload/copy/copy_pieces.h"

#include <gtest/gtest.h>

#include <array>

namespace fastserve::offload {
namespace {

constexpr PieceLimits kLimits{.max_piece_bytes = 100, .host_boundary_bytes = 256};

TEST(CopyPieces, ARunThatFitsIsOnePiece) {
  const std::array runs{CopyRun{2, 5, 3}};
  const std::vector<CopyPiece> expected{{20, 50, 30}};
  EXPECT_EQ(cut_runs(Direction::kDeviceToHost, runs, 10, kLimits), expected);
}

TEST(CopyPieces, AnUploadHasItsSourceOnTheHost) {
  const std::array runs{CopyRun{2, 5, 3}};
  const std::vector<CopyPiece> expected{{50, 20, 30}};
  EXPECT_EQ(cut_runs(Direction::kHostToDevice, runs, 10, kLimits), expected);
}

TEST(CopyPieces, ALongRunIsCutAtTheLargestPiece) {
  const std::array runs{CopyRun{0, 0, 25}};
  const std::vector<CopyPiece> expected{{0, 0, 100}, {100, 100, 100}, {200, 200, 50}};
  EXPECT_EQ(cut_runs(Direction::kDeviceToHost, runs, 10, kLimits), expected);
}

TEST(CopyPieces, NoPieceCrossesABoundaryOfTheHostArena) {
  const std::array runs{CopyRun{0, 24, 5}};  // host bytes 240 up to 290
  const std::vector<CopyPiece> expected{{0, 240, 16}, {16, 256, 34}};
  EXPECT_EQ(cut_runs(Direction::kDeviceToHost, runs, 10, kLimits), expected);
}

TEST(CopyPieces, OffsetsPassFourGibibytes) {
  const std::array runs{CopyRun{5000, 6000, 1}};
  const PieceLimits limits{.max_piece_bytes = 16 << 20, .host_boundary_bytes = 1 << 30};
  const auto pieces = cut_runs(Direction::kDeviceToHost, runs, 2 << 20, limits);
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].device_offset, 5000 * (std::int64_t{2} << 20));
  EXPECT_EQ(pieces[0].host_offset, 6000 * (std::int64_t{2} << 20));
}

TEST(CopyPieces, AGroupStaysWithinBytesAndPieces) {
  const std::vector<CopyPiece> pieces{{0, 0, 60}, {0, 0, 30}, {0, 0, 20}, {0, 0, 1}};
  EXPECT_EQ(group_length(pieces, 100, 10), 2u);
  EXPECT_EQ(group_length(pieces, 1000, 3), 3u);
  EXPECT_EQ(group_length(pieces, 10, 10), 1u);  // one piece always goes
  EXPECT_EQ(group_length({}, 10, 10), 0u);
}

}  // namespace
}  // namespace fastserve::offload
