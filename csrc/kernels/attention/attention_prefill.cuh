#pragma once

#include <cstdint>

#include "kernels/attention/attention_warp.cuh"

// Paged causal attention of many query tokens on a GPU.
//
// The query heads of a KV head are packed: query (token i, head h of the group) is packed row i * group + h of its
// batch row, and a thread block takes 128 packed rows of one KV head. It walks the KV tokens in tiles of 32 or 64,
// counted from position 0, so that a query gives the same bits wherever a prompt is cut into chunks. Thread blocks are
// numbered from the end of the last row, where the work of a tile is largest; those beyond the last tile just return.
//
// Thread mapping: 4 warps of 32 packed rows, or 8 of 16 where the accumulators would not fit the registers. Shared
// memory: queries [128][head_dim], keys [tile][head_dim], values [tile][head_dim]; 36 to 52 KiB, 132 for head_dim 256.
// Keys of the next tile arrive while the values of this one are multiplied, its values while its scores are computed.

namespace fastserve::kernels {

inline constexpr int kPrefillRows = 128;

/// Warps of a thread block.
FS_HOST_DEVICE constexpr int prefill_warps(int head_dim) { return head_dim > 128 ? 8 : 4; }

/// KV tokens of a tile: fewer where the registers would not hold the scores of more.
FS_HOST_DEVICE constexpr int prefill_tile_tokens(int head_dim) { return head_dim == 128 ? 32 : 64; }

template <DType kType, int kHeadDim>
class AttentionPrefill {
  using Layout = TileLayout<kHeadDim>;
  static constexpr int kTileTokens = prefill_tile_tokens(kHeadDim);
  static constexpr int kThreads = 32 * prefill_warps(kHeadDim);
  static constexpr int kWarpRows = kPrefillRows / prefill_warps(kHeadDim);
  static constexpr int kRowTiles = kWarpRows / 16;                           // of 16 rows, of a warp
  static constexpr int kWarpTokens = kTileTokens / prefill_warps(kHeadDim);  // that a warp loads
  static constexpr int kScoreTiles = kTileTokens / 8;
  static constexpr int kParts = kTileTokens / 16;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kQueryBytes = kPrefillRows * Layout::kRowBytes;
  static constexpr int kTileBytes = kTileTokens * Layout::kRowBytes;

 public:
  static constexpr int kSharedBytes = kQueryBytes + 2 * kTileBytes;

  static FS_DEVICE void run(const AttentionLaunch& launch) {
    AttentionPrefill kernel(launch);
    if (kernel.find_work()) kernel.work();
  }

 private:
  FS_DEVICE explicit AttentionPrefill(const AttentionLaunch& launch)
      : launch_(launch),
        p_(launch.params),
        group_(p_.num_q_heads / p_.num_kv_heads),
        kv_head_(gpu::cta() % p_.num_kv_heads),
        lane_(gpu::thread() % 32),
        warp_(gpu::thread() / 32) {}

  FS_DEVICE int tiles_of(int row) const {
    const std::int64_t packed = static_cast<std::int64_t>(p_.query_start[row + 1] - p_.query_start[row]) * group_;
    return static_cast<int>((packed + kPrefillRows - 1) / kPrefillRows);
  }

  /// Find the row and the tile of this thread block, counting tiles from the end; false beyond the first one. The same
  /// in every warp.
  FS_DEVICE bool find_work() {
    int wanted = gpu::cta() / p_.num_kv_heads;  // tiles that come after ours
    for (int last = static_cast<int>(p_.row_end) - 1; last >= p_.row_begin; last -= 32) {
      const int row = last - lane_;
      const int tiles = row >= p_.row_begin ? tiles_of(row) : 0;
      int up_to = tiles;
      FS_UNROLL
      for (int distance = 1; distance < 32; distance *= 2) {
        const int before = gpu::shfl_up(up_to, distance);
        if (lane_ >= distance) up_to += before;
      }
      int found = wanted >= up_to - tiles && wanted < up_to ? lane_ : -1;
      FS_UNROLL
      for (int mask = 16; mask > 0; mask /= 2) {
        const int other = gpu::shfl_xor(found, mask);
        found = found > other ? found : other;
      }
      if (found >= 0) {
        open(last - found, gpu::shfl(up_to, found) - 1 - wanted);
        return true;
      }
      wanted -= gpu::shfl(up_to, 31);
    }
    return false;
  }

  FS_DEVICE void open(int row, int tile) {
    row_ = row;
    first_block_ = p_.block_start[row];
    first_packed_ = tile * kPrefillRows;
    const int seq_len = row_length(launch_, row - static_cast<int>(p_.row_begin));
    first_visible_ = seq_len - num_packed() / group_ + 1;
    const int beyond = first_packed_ + kPrefillRows < num_packed() ? first_packed_ + kPrefillRows : num_packed();
    const int end = visible(beyond - 1);
    num_tokens_ = end > 0 ? end : 0;
    seen_by_all_ = visible(first_packed_);
  }

  /// Packed rows of the batch row.
  FS_DEVICE int num_packed() const { return (p_.query_start[row_ + 1] - p_.query_start[row_]) * group_; }

  /// KV tokens that packed row `packed` of this batch row sees.
  FS_DEVICE int visible(int packed) const { return first_visible_ + packed / group_; }

  FS_DEVICE char* queries() const { return gpu::shared(); }
  FS_DEVICE char* keys() const { return gpu::shared() + kQueryBytes; }
  FS_DEVICE char* values() const { return gpu::shared() + kQueryBytes + kTileBytes; }

  FS_DEVICE void work() {
    const int num_tiles = (num_tokens_ + kTileTokens - 1) / kTileTokens;
    fetch_block(0);
    load_queries();
    load_keys(0, num_tiles);
    gpu::commit();

    RunningSoftmax softmax[kRowTiles];
    float sums[kRowTiles][2 * kSteps][4] = {};
    for (int tile = 0; tile < num_tiles; ++tile) {
      gpu::wait<0>();
      gpu::sync();  // the keys are here, and no thread still reads the values of the tile before
      load_values(tile);
      gpu::commit();
      fetch_block(tile + 1);
      float scores[kRowTiles][kScoreTiles][4] = {};
      score(scores);
      if ((tile + 1) * kTileTokens > seen_by_all_) hide(tile * kTileTokens, scores);
      FS_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        float factor[2];
        softmax[m].update(scores[m], factor);
        if (gpu::all(factor[0] == 1.0f && factor[1] == 1.0f)) continue;  // as mostly in long rows: no maximum grew
        FS_UNROLL
        for (int n = 0; n < 2 * kSteps; ++n) {
          FS_UNROLL
          for (int i = 0; i < 4; ++i) sums[m][n][i] *= factor[i / 2];
        }
      }
      std::uint32_t weights[kRowTiles][kParts][4];
      round_weights(scores, weights);
      gpu::wait<0>();
      gpu::sync();  // the values are here, and no thread still reads the keys
      load_keys(tile + 1, num_tiles);
      gpu::commit();
      add_values(weights, sums);
    }
    gpu::wait<0>();
    gpu::sync();  // the queries are here even when there was no tile; their memory takes the results
    FS_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      softmax[m].finish();
      put_results(m, softmax[m], sums[m]);
    }
    gpu::sync_warp();
    write_results();
  }

  /// The block of this warp's tokens of a tile, well before it is needed.
  FS_DEVICE void fetch_block(int tile) {
    const int token = tile * kTileTokens + warp_ * kWarpTokens;
    block_id_ = token < num_tokens_ ? p_.block_ids[first_block_ + (token >> launch_.block_shift)] : 0;
  }

  FS_DEVICE void load_queries() const {
    const int num_packed = this->num_packed();
    FS_UNROLL
    for (int i = 0; i < kPrefillRows * Layout::kChunks / kThreads; ++i) {
      const int row = (gpu::thread() + kThreads * i) / Layout::kChunks;
      const int chunk = (gpu::thread() + kThreads * i) % Layout::kChunks;
      const int packed = first_packed_ + row;
      const bool wanted = packed < num_packed;
      const auto* query = static_cast<const std::uint16_t*>(p_.q);
      if (wanted) query += query_offset(packed, p_.q_token_stride, p_.q_head_stride) + chunk * 8;
      gpu::copy16(queries() + Layout::offset(row, chunk), query, wanted);
    }
  }

  FS_DEVICE std::int64_t query_offset(int packed, std::int64_t token_stride, std::int64_t head_stride) const {
    const int token = packed / group_;
    const int head = kv_head_ * group_ + packed - token * group_;
    return (p_.query_start[row_] + token) * token_stride + head * head_stride;
  }

  FS_DEVICE void load_keys(int tile, int num_tiles) const {
    if (tile < num_tiles) load_tile(keys(), tile, 0);
  }
  FS_DEVICE void load_values(int tile) const { load_tile(values(), tile, values_after_keys(p_)); }

  /// Each warp copies its own tokens, which lie in one block; tokens that no query of the tile sees become zeros.
  FS_DEVICE void load_tile(char* target, int tile, int offset) const {
    const int row = warp_ * kWarpTokens;
    const int token = tile * kTileTokens + row;
    copy_tokens<kHeadDim, kWarpTokens>(target + Layout::offset(row, 0),
                                       keys_at(p_, block_id_, kv_head_, token) + offset, num_tokens_ - token);
  }

  FS_DEVICE void score(float (&scores)[kRowTiles][kScoreTiles][4]) const {
    const int lane = gpu::fresh_lane();
    const int query_start = Layout::offset(warp_ * kWarpRows + value_row(lane), value_chunk(lane));
    const int key_start = Layout::offset(key_row(lane), key_chunk(lane));
    FS_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      std::uint32_t q[kRowTiles][4];
      FS_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        gpu::ldmatrix(q[m], queries() + m * 16 * Layout::kRowBytes + query_start + step * 32);
      }
      FS_UNROLL
      for (int n = 0; n < kScoreTiles; n += 2) {
        std::uint32_t k[4];
        gpu::ldmatrix(k, keys() + n * 8 * Layout::kRowBytes + key_start + step * 32);
        FS_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          gpu::mma<kType>(scores[m][n], q[m], k[0], k[1]);
          gpu::mma<kType>(scores[m][n + 1], q[m], k[2], k[3]);
        }
      }
    }
    const float scale = p_.scale * kLog2E;
    FS_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      FS_UNROLL
      for (int n = 0; n < kScoreTiles; ++n) {
        FS_UNROLL
        for (int i = 0; i < 4; ++i) scores[m][n][i] *= scale;
      }
    }
  }

  /// Hide the tokens, from `first` on, that come after a query.
  FS_DEVICE void hide(int first, float (&scores)[kRowTiles][kScoreTiles][4]) const {
    const int lane = gpu::fresh_lane();
    FS_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      FS_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int seen = visible(first_packed_ + warp_ * kWarpRows + m * 16 + half * 8 + lane / 4) - first;
        FS_UNROLL
        for (int n = 0; n < kScoreTiles; ++n) {
          FS_UNROLL
          for (int i = 0; i < 2; ++i) {
            if (n * 8 + lane % 4 * 2 + i >= seen) scores[m][n][2 * half + i] = minus_infinity();
          }
        }
      }
    }
  }

  /// The weights of each 16 tokens as the left operand of an mma.
  static FS_DEVICE void round_weights(const float (&scores)[kRowTiles][kScoreTiles][4],
                                      std::uint32_t (&weights)[kRowTiles][kParts][4]) {
    FS_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      FS_UNROLL
      for (int part = 0; part < kParts; ++part) {
        FS_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float (&pair)[4] = scores[m][2 * part + i / 2];
          weights[m][part][i] = gpu::pack<kType>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
        }
      }
    }
  }

  /// sums += weights x values.
  FS_DEVICE void add_values(const std::uint32_t (&weights)[kRowTiles][kParts][4],
                            float (&sums)[kRowTiles][2 * kSteps][4]) const {
    const int lane = gpu::fresh_lane();
    const int value_start = Layout::offset(value_row(lane), value_chunk(lane));
    FS_UNROLL
    for (int part = 0; part < kParts; ++part) {
      FS_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        std::uint32_t v[4];
        gpu::ldmatrix_transposed(v, values() + part * 16 * Layout::kRowBytes + value_start + step * 32);
        FS_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          gpu::mma<kType>(sums[m][2 * step], weights[m][part], v[0], v[1]);
          gpu::mma<kType>(sums[m][2 * step + 1], weights[m][part], v[2], v[3]);
        }
      }
    }
  }

  /// Rounded results of 16 rows of this warp, where its queries were.
  FS_DEVICE void put_results(int m, const RunningSoftmax& softmax, const float (&sums)[2 * kSteps][4]) const {
    FS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float inverse = softmax.sum[half] == 0.0f ? 0.0f : 1.0f / softmax.sum[half];
      const int row = warp_ * kWarpRows + m * 16 + half * 8 + lane_ / 4;
      FS_UNROLL
      for (int n = 0; n < 2 * kSteps; ++n) {
        *reinterpret_cast<std::uint32_t*>(queries() + Layout::offset(row, n) + lane_ % 4 * 4) =
            gpu::pack<kType>(sums[n][2 * half] * inverse, sums[n][2 * half + 1] * inverse);
      }
    }
  }

  FS_DEVICE void write_results() const {
    const int num_packed = this->num_packed();
    for (int i = lane_; i < kWarpRows * Layout::kChunks; i += 32) {
      const int row = warp_ * kWarpRows + i / Layout::kChunks;
      const int chunk = i % Layout::kChunks;
      if (first_packed_ + row >= num_packed) continue;
      auto* out = static_cast<std::uint16_t*>(p_.out) +
                  query_offset(first_packed_ + row, p_.out_token_stride, p_.out_head_stride);
      *reinterpret_cast<Word4*>(out + chunk * 8) =
          *reinterpret_cast<const Word4*>(queries() + Layout::offset(row, chunk));
    }
  }

  const AttentionLaunch& launch_;
  const AttentionParams& p_;
  const int group_;  // query heads of a KV head
  const int kv_head_;
  const int lane_;
  const int warp_;

  int row_ = 0;            // of the batch
  int first_block_ = 0;    // of the batch row, in block_ids
  int first_packed_ = 0;   // packed row of the batch row with which this thread block begins
  int first_visible_ = 0;  // KV tokens that the first query of the batch row sees; may be below 1
  int seen_by_all_ = 0;    // KV tokens that every query of this thread block sees
  int num_tokens_ = 0;     // KV tokens that any query of this thread block sees
  int block_id_ = 0;       // of this warp's tokens: of the values that are loaded next, then of the keys
};

}  // namespace fastserve::kernels
