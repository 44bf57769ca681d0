#pragma once

#include <cstdint>

#include "kernels/simt.h"

// Who does which part of paged decode on a GPU. The KV tokens of a row are cut into splits whose size depends on the
// length of the row alone, so that a row gives the same bits in every batch. A unit is up to 16 query heads of one KV
// head; an item is a split of a unit of a row. Items are ordered by row, unit, split; each thread block takes those
// that begin in its equal share of all tiles. All of it is computed from seq_lens on the device.

namespace fastserve::kernels {

inline constexpr int kDecodeWarps = 4;
inline constexpr int kDecodeThreads = 32 * kDecodeWarps;
inline constexpr int kDecodeWarpTokens = 16;  // of a tile: a block or a part of one
inline constexpr int kDecodeTileTokens = kDecodeWarps * kDecodeWarpTokens;
inline constexpr int kDecodeMaxSplits = 32;  // the lanes of a warp, which weighs them against each other
inline constexpr int kDecodeUnitHeads = 16;  // rows of a tensor-core tile

/// Tiles of a row; an empty one counts as one, so that it has an item that writes its zeros.
FS_HOST_DEVICE constexpr int decode_row_tiles(int seq_len) {
  return seq_len <= 0 ? 1 : (seq_len - 1) / kDecodeTileTokens + 1;
}

/// Tiles of a split: short ones where the time to the first token counts, never more than kDecodeMaxSplits of them.
FS_HOST_DEVICE constexpr int decode_split_tiles(int seq_len) {
  if (seq_len <= 1024) return 2;
  int tiles = 4;
  while (static_cast<std::int64_t>(tiles) * kDecodeTileTokens * kDecodeMaxSplits < seq_len) tiles *= 2;
  return tiles;
}

/// Splits that a row of at most max_seq_len tokens may have.
FS_HOST_DEVICE constexpr int decode_max_splits(int max_seq_len) {
  const int tiles = decode_row_tiles(max_seq_len);
  if (max_seq_len <= 1024) return (tiles + 1) / 2;
  const int splits = (tiles + 3) / 4;
  return splits < 8 ? 8 : splits > kDecodeMaxSplits ? kDecodeMaxSplits : splits;
}

struct DecodeRow {
  int seq_len = 0;
  int tiles = 1;
  int split_tiles = 2;

  FS_HOST_DEVICE constexpr int num_splits() const { return (tiles + split_tiles - 1) / split_tiles; }
};

FS_HOST_DEVICE constexpr DecodeRow decode_row(int seq_len) {
  return {seq_len, decode_row_tiles(seq_len), decode_split_tiles(seq_len)};
}

/// Items one after another, from one on; `start` counts the tiles of all items before it.
struct DecodeItem {
  int row = 0;
  int unit = 0;
  int split = 0;
  DecodeRow shape;
  std::int64_t start = 0;

  FS_HOST_DEVICE constexpr int first_tile() const { return split * shape.split_tiles; }
  FS_HOST_DEVICE constexpr int end_tile() const {
    const int end = first_tile() + shape.split_tiles;
    return end < shape.tiles ? end : shape.tiles;
  }

  /// Go on; `lengths(row)` gives the length of a row. After the last row, `start` is the number of all tiles.
  template <typename Lengths>
  FS_DEVICE void next(int num_rows, int num_units, const Lengths& lengths) {
    start += end_tile() - first_tile();
    if (++split < shape.num_splits()) return;
    split = 0;
    if (++unit < num_units) return;
    unit = 0;
    if (++row < num_rows) shape = decode_row(lengths(row));
  }
};

/// The first item that begins at tile `begin` or after it; `begin` lies in `row`, before which there are `row_start`.
template <typename Lengths>
FS_DEVICE DecodeItem first_decode_item(std::int64_t begin, int row, std::int64_t row_start, int num_rows, int num_units,
                                       const Lengths& lengths) {
  DecodeItem item;
  item.row = row;
  item.shape = decode_row(lengths(row));
  const std::int64_t within = begin - row_start;
  item.unit = static_cast<int>(within / item.shape.tiles);
  item.split = static_cast<int>(within % item.shape.tiles) / item.shape.split_tiles;
  item.start = row_start + static_cast<std::int64_t>(item.unit) * item.shape.tiles + item.first_tile();
  if (item.start < begin) item.next(num_rows, num_units, lengths);
  return item;
}

}  // namespace fastserve::kernels
