#pragma once

#include <cstdint>

#include "kernels/attention/attention_schedule.h"
#include "kernels/attention/attention_warp.cuh"

// Paged decode on a GPU: one query token per row, so the cost is reading the cache once. See attention_schedule.h for
// who does what.
//
// Thread block: 4 warps. A tile is 64 tokens; each warp loads, with asynchronous copies kStages deep, and works on its
// own 16 of them, so warps meet only at the end of an item. The query heads of a unit are the 16 rows of an mma. Shared
// memory: the ring of tiles, [warp][stage][K|V][16 tokens]; one fp32 [16][head_dim + 8] in which the warps add up their
// values; maxima and sums [4][16]; in all 72 to 111 KiB, 149 for head_dim 256. The thread block that finishes the last
// split of a unit of a row merges all of them from the left, so the result does not depend on who was last.

namespace fastserve::kernels {

template <DType kType, int kHeadDim>
class AttentionDecode {
  using Layout = TileLayout<kHeadDim>;
  static constexpr int kStages = kHeadDim <= 64 ? 4 : kHeadDim <= 128 ? 3 : 2;
  static constexpr int kTileBytes = kDecodeWarpTokens * Layout::kRowBytes;  // keys or values of a warp
  static constexpr int kRingBytes = kDecodeWarps * kStages * 2 * kTileBytes;
  static constexpr int kMergeStride = kHeadDim + 8;  // keeps eight rows in different banks
  static constexpr int kMergeBytes = kDecodeUnitHeads * kMergeStride * 4;
  static constexpr int kStateBytes = kDecodeWarps * kDecodeUnitHeads * 4;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kKeptSteps = kHeadDim <= 128 ? kSteps : 1;  // longer queries are read again for every tile
  static_assert(kMergeStride >= kDecodeMaxSplits, "the weights of all splits lie in the same memory");

 public:
  static constexpr int kSharedBytes = kRingBytes + kMergeBytes + 2 * kStateBytes + 32;

  static FS_DEVICE void run(const AttentionLaunch& launch) { AttentionDecode(launch).work(); }

 private:
  /// Up to 16 query heads of one KV head.
  struct Unit {
    int kv_head, first, count;
  };

  /// The stretch of items of this thread block.
  struct Share {
    DecodeItem first;
    std::int64_t end;
  };

  /// Copies the tiles of all items of the thread block one after another, ahead of their use.
  struct Loader {
    DecodeItem item;
    int tile = 0;
    int end_tile = 0;
    int ids_tile = 0;  // lane l knows the block of this warp's part of the tile ids_tile + l
    int ids = 0;
  };

  FS_DEVICE explicit AttentionDecode(const AttentionLaunch& launch)
      : launch_(launch),
        p_(launch.params),
        num_rows_(static_cast<int>(p_.row_end - p_.row_begin)),
        group_(p_.num_q_heads / p_.num_kv_heads),
        passes_((group_ + kDecodeUnitHeads - 1) / kDecodeUnitHeads),
        num_units_(p_.num_kv_heads * passes_),
        lane_(gpu::thread() % 32),
        warp_(gpu::thread() / 32),
        merge_(reinterpret_cast<float*>(gpu::shared() + kRingBytes)),
        max_(merge_ + kMergeBytes / 4),
        sum_(max_ + kStateBytes / 4),
        note_(reinterpret_cast<int*>(sum_ + kStateBytes / 4)) {}

  FS_DEVICE auto lengths() const {
    return [this](int row) { return row_length(launch_, row); };
  }

  FS_DEVICE Unit unit_of(const DecodeItem& item) const {
    const int kv_head = item.unit / passes_;
    const int begin = item.unit % passes_ * kDecodeUnitHeads;
    const int left = group_ - begin;
    return {kv_head, kv_head * group_ + begin, left < kDecodeUnitHeads ? left : kDecodeUnitHeads};
  }

  FS_DEVICE void work() {
    const Share share = plan();
    Loader loader;
    loader.item = share.first;
    open(loader, share.end);
    for (int slot = 0; slot < kStages - 1; ++slot) load_tile(loader, share.end, slot);

    int slot = 0;
    for (DecodeItem item = share.first; item.start < share.end; item.next(num_rows_, num_units_, lengths())) {
      const Unit unit = unit_of(item);
      const std::uint16_t* const queries = queries_of(item.row, unit);
      std::uint32_t q[kKeptSteps][4];
      FS_UNROLL
      for (int step = 0; step < kKeptSteps; ++step) load_query(queries, unit.count, step, q[step]);
      RunningSoftmax softmax;
      float values[2 * kSteps][4] = {};
      for (int tile = item.first_tile(); tile < item.end_tile(); ++tile) {
        gpu::sync_warp();  // all lanes are done with the slot that is loaded next
        load_tile(loader, share.end, slot == 0 ? kStages - 1 : slot - 1);
        gpu::wait<kStages - 1>();
        gpu::sync_warp();
        const int token = tile * kDecodeTileTokens + warp_ * kDecodeWarpTokens;
        if (token < item.shape.seq_len) {
          attend_tile(slot, item.shape.seq_len - token, queries, unit.count, q, softmax, values);
        }
        slot = slot + 1 == kStages ? 0 : slot + 1;
      }
      merge_warps(unit.count, softmax, values);
      if (item.shape.num_splits() == 1) {
        write_result(item.row, unit);
      } else {
        write_partial(item, unit);
        if (is_last_split(item)) combine(item, unit);
      }
    }
  }

  /// Add up the tiles of all rows and find this thread block's share.
  FS_DEVICE Share plan() {
    const int per_thread = (num_rows_ + kDecodeThreads - 1) / kDecodeThreads;
    const int begin_row = gpu::thread() * per_thread;
    const int end_row = begin_row + per_thread < num_rows_ ? begin_row + per_thread : num_rows_;
    int tiles = 0;
    for (int row = begin_row; row < end_row; ++row) tiles += decode_row_tiles(row_length(launch_, row));
    int up_to = tiles;
    FS_UNROLL
    for (int distance = 1; distance < 32; distance *= 2) {
      const int before = gpu::shfl_up(up_to, distance);
      if (lane_ >= distance) up_to += before;
    }
    if (lane_ == 31) note_[warp_] = up_to;
    gpu::sync();
    int before = up_to - tiles;
    int total = 0;
    FS_UNROLL
    for (int warp = 0; warp < kDecodeWarps; ++warp) {
      if (warp < warp_) before += note_[warp];
      total += note_[warp];
    }
    const std::int64_t all = static_cast<std::int64_t>(total) * num_units_;
    const std::int64_t begin = all * gpu::cta() / gpu::num_ctas();
    const std::int64_t end = all * (gpu::cta() + 1) / gpu::num_ctas();
    for (int row = begin_row; row < end_row; ++row) {
      const int up_to_row = before + decode_row_tiles(row_length(launch_, row));
      if (begin >= static_cast<std::int64_t>(before) * num_units_ &&
          begin < static_cast<std::int64_t>(up_to_row) * num_units_) {
        note_[4] = row;
        note_[5] = before;
      }
      before = up_to_row;
    }
    gpu::sync();
    return {first_decode_item(begin, note_[4], static_cast<std::int64_t>(note_[5]) * num_units_, num_rows_, num_units_,
                              lengths()),
            end};
  }

  FS_DEVICE char* tile_at(int slot, int kind) const {
    return gpu::shared() + ((warp_ * kStages + slot) * 2 + kind) * kTileBytes;
  }

  FS_DEVICE void open(Loader& loader, std::int64_t end) const {
    if (loader.item.start >= end) return;
    loader.tile = loader.item.first_tile();
    loader.end_tile = loader.item.end_tile();
    fetch_ids(loader);
  }

  FS_DEVICE void fetch_ids(Loader& loader) const {
    const std::int64_t token =
        static_cast<std::int64_t>(loader.tile + lane_) * kDecodeTileTokens + warp_ * kDecodeWarpTokens;
    const std::int32_t* blocks = p_.block_ids + p_.block_start[p_.row_begin + loader.item.row];
    loader.ids_tile = loader.tile;
    const bool wanted = loader.tile + lane_ < loader.end_tile && token < loader.item.shape.seq_len;
    loader.ids = wanted ? blocks[token >> launch_.block_shift] : 0;
  }

  /// Start the copy of this warp's part of the next tile, as one group; an empty one after the last tile.
  FS_DEVICE void load_tile(Loader& loader, std::int64_t end, int slot) const {
    if (loader.item.start < end) {
      const int token = loader.tile * kDecodeTileTokens + warp_ * kDecodeWarpTokens;
      const int visible = loader.item.shape.seq_len - token;
      const int block_id = gpu::shfl(loader.ids, loader.tile - loader.ids_tile);
      if (visible > 0) {
        const std::uint16_t* keys = keys_at(p_, block_id, loader.item.unit / passes_, token);
        const std::uint16_t* values = keys + values_after_keys(p_);
        copy_tokens<kHeadDim, kDecodeWarpTokens>(tile_at(slot, 0), keys, visible);
        copy_tokens<kHeadDim, kDecodeWarpTokens>(tile_at(slot, 1), values, visible);
      }
      if (++loader.tile == loader.end_tile) {
        loader.item.next(num_rows_, num_units_, lengths());
        open(loader, end);
      } else if (loader.tile == loader.ids_tile + 32) {
        fetch_ids(loader);
      }
    }
    gpu::commit();
  }

  /// Where the first query head of the unit lies.
  FS_DEVICE const std::uint16_t* queries_of(int row, const Unit& unit) const {
    return static_cast<const std::uint16_t*>(p_.q) + p_.query_start[p_.row_begin + row] * p_.q_token_stride +
           unit.first * p_.q_head_stride;
  }

  /// 16 elements of the heads of the unit as the left operand of an mma; missing heads are zeros.
  FS_DEVICE void load_query(const std::uint16_t* queries, int count, int step, std::uint32_t (&q)[4]) const {
    const int lane = gpu::fresh_lane();
    FS_UNROLL
    for (int part = 0; part < 4; ++part) {
      const int head = lane / 4 + part % 2 * 8;
      const int d = step * 16 + part / 2 * 8 + lane % 4 * 2;
      q[part] = head < count ? *reinterpret_cast<const std::uint32_t*>(queries + head * p_.q_head_stride + d) : 0;
    }
  }

  FS_DEVICE void attend_tile(int slot, int visible, const std::uint16_t* queries, int num_heads,
                             const std::uint32_t (&q)[kKeptSteps][4], RunningSoftmax& softmax,
                             float (&values)[2 * kSteps][4]) const {
    const char* const key_tile = tile_at(slot, 0);
    const char* const value_tile = tile_at(slot, 1);
    const int lane = gpu::fresh_lane();
    const int key_start = Layout::offset(key_row(lane), key_chunk(lane));
    const int value_start = Layout::offset(value_row(lane), value_chunk(lane));
    float scores[2][4] = {};
    const auto score = [&](int step, const std::uint32_t (&query)[4]) {
      std::uint32_t keys[4];
      gpu::ldmatrix(keys, key_tile + key_start + step * 32);
      gpu::mma<kType>(scores[0], query, keys[0], keys[1]);
      gpu::mma<kType>(scores[1], query, keys[2], keys[3]);
    };
    if constexpr (kKeptSteps == kSteps) {
      FS_UNROLL
      for (int step = 0; step < kSteps; ++step) score(step, q[step]);
    } else {
      FS_UNROLL_BY_4
      for (int step = 0; step < kSteps; ++step) {
        std::uint32_t fetched[4];
        load_query(queries, num_heads, step, fetched);
        score(step, fetched);
      }
    }
    const float scale = p_.scale * kLog2E;
    FS_UNROLL
    for (int n = 0; n < 2; ++n) {
      FS_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int token = n * 8 + lane_ % 4 * 2 + i % 2;
        scores[n][i] = token < visible ? scores[n][i] * scale : minus_infinity();
      }
    }
    float factor[2];
    softmax.update(scores, factor);
    FS_UNROLL
    for (int n = 0; n < 2 * kSteps; ++n) {
      FS_UNROLL
      for (int i = 0; i < 4; ++i) values[n][i] *= factor[i / 2];
    }
    const std::uint32_t weights[4] = {
        gpu::pack<kType>(scores[0][0], scores[0][1]),
        gpu::pack<kType>(scores[0][2], scores[0][3]),
        gpu::pack<kType>(scores[1][0], scores[1][1]),
        gpu::pack<kType>(scores[1][2], scores[1][3]),
    };
    FS_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      std::uint32_t columns[4];
      gpu::ldmatrix_transposed(columns, value_tile + value_start + step * 32);
      gpu::mma<kType>(values[2 * step], weights, columns[0], columns[1]);
      gpu::mma<kType>(values[2 * step + 1], weights, columns[2], columns[3]);
    }
  }

  /// Bring the four warps to one maximum and add their values in merge_, warp by warp; max_ and sum_ keep their states.
  FS_DEVICE void merge_warps(int count, RunningSoftmax& softmax, float (&values)[2 * kSteps][4]) {
    softmax.finish();
    if (lane_ % 4 == 0) {
      FS_UNROLL
      for (int half = 0; half < 2; ++half) {
        max_[warp_ * kDecodeUnitHeads + lane_ / 4 + half * 8] = softmax.max[half];
      }
    }
    gpu::sync();
    FS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float factor = rescale(softmax.max[half], common_max(lane_ / 4 + half * 8));
      if (lane_ % 4 == 0) sum_[warp_ * kDecodeUnitHeads + lane_ / 4 + half * 8] = softmax.sum[half] * factor;
      FS_UNROLL
      for (int n = 0; n < 2 * kSteps; ++n) {
        values[n][2 * half] *= factor;
        values[n][2 * half + 1] *= factor;
      }
    }
    for (int warp = 0; warp < kDecodeWarps; ++warp) {
      if (warp == warp_) add_to_merge(count, warp == 0, values);
      gpu::sync();
    }
  }

  FS_DEVICE void add_to_merge(int count, bool first, const float (&values)[2 * kSteps][4]) const {
    FS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int head = lane_ / 4 + half * 8;
      if (head >= count) continue;
      float* row = merge_ + head * kMergeStride + lane_ % 4 * 2;
      FS_UNROLL
      for (int n = 0; n < 2 * kSteps; ++n) {
        auto* pair = reinterpret_cast<Float2*>(row + n * 8);
        const Float2 before = first ? Float2{0.0f, 0.0f} : *pair;
        *pair = Float2{before.x + values[n][2 * half], before.y + values[n][2 * half + 1]};
      }
    }
  }

  FS_DEVICE float common_max(int head) const {
    float highest = minus_infinity();
    FS_UNROLL
    for (int warp = 0; warp < kDecodeWarps; ++warp) highest = fmaxf(highest, max_[warp * kDecodeUnitHeads + head]);
    return highest;
  }

  FS_DEVICE float common_sum(int head) const {
    float sum = 0.0f;
    FS_UNROLL
    for (int warp = 0; warp < kDecodeWarps; ++warp) sum += sum_[warp * kDecodeUnitHeads + head];
    return sum;
  }

  FS_DEVICE std::uint16_t* output(int row, int head) const {
    return static_cast<std::uint16_t*>(p_.out) + p_.query_start[p_.row_begin + row] * p_.out_token_stride +
           head * p_.out_head_stride;
  }

  /// Of a row of one split; zeros for an empty one.
  FS_DEVICE void write_result(int row, const Unit& unit) const {
    for (int i = gpu::thread(); i < unit.count * Layout::kChunks; i += kDecodeThreads) {
      const int head = i / Layout::kChunks;
      const int d = i % Layout::kChunks * 8;
      const float sum = common_sum(head);
      const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
      const float* values = merge_ + head * kMergeStride + d;
      Word4 packed;
      packed.x = gpu::pack<kType>(values[0] * inverse, values[1] * inverse);
      packed.y = gpu::pack<kType>(values[2] * inverse, values[3] * inverse);
      packed.z = gpu::pack<kType>(values[4] * inverse, values[5] * inverse);
      packed.w = gpu::pack<kType>(values[6] * inverse, values[7] * inverse);
      *reinterpret_cast<Word4*>(output(row, unit.first + head) + d) = packed;
    }
  }

  /// Index of a split among all of its launch.
  FS_DEVICE std::int64_t partial_index(int row, int head, int split) const {
    return (static_cast<std::int64_t>(row) * p_.num_q_heads + head) * launch_.max_splits + split;
  }

  FS_DEVICE void write_partial(const DecodeItem& item, const Unit& unit) const {
    for (int i = gpu::thread(); i < unit.count * (kHeadDim / 4); i += kDecodeThreads) {
      const int head = i / (kHeadDim / 4);
      const int d = i % (kHeadDim / 4) * 4;
      const std::int64_t index = partial_index(item.row, unit.first + head, item.split);
      *reinterpret_cast<Float4*>(launch_.partial_values + index * kHeadDim + d) =
          *reinterpret_cast<const Float4*>(merge_ + head * kMergeStride + d);
      if (d == 0) {
        *reinterpret_cast<Float2*>(launch_.partial_state + index * 2) = Float2{common_max(head), common_sum(head)};
      }
    }
  }

  /// Hand in a split; true in all threads of the thread block that handed in the last one.
  FS_DEVICE bool is_last_split(const DecodeItem& item) {
    std::uint32_t* counter = launch_.counters + static_cast<std::int64_t>(item.row) * num_units_ + item.unit;
    gpu::sync();
    if (gpu::thread() == 0) {
      const auto last = static_cast<std::uint32_t>(item.shape.num_splits() - 1);
      gpu::fence();  // what all threads wrote before the barrier comes before the count
      const bool is_last = gpu::fetch_add(counter, 1) == last;
      gpu::fence();               // and what others wrote before theirs comes before what we read below
      if (is_last) *counter = 0;  // as the next launch wants it
      note_[6] = is_last ? 1 : 0;
    }
    gpu::sync();
    return note_[6] != 0;
  }

  /// Merge all splits of a unit of a row in their order.
  FS_DEVICE void combine(const DecodeItem& item, const Unit& unit) const {
    const int splits = item.shape.num_splits();
    for (int head = warp_; head < unit.count; head += kDecodeWarps) {
      const float* state = launch_.partial_state + partial_index(item.row, unit.first + head, 0) * 2;
      const float max = lane_ < splits ? gpu::load_fresh(state + lane_ * 2) : minus_infinity();
      float highest = max;
      FS_UNROLL
      for (int mask = 16; mask > 0; mask /= 2) highest = fmaxf(highest, gpu::shfl_xor(highest, mask));
      const float factor = rescale(max, highest);
      float sum = lane_ < splits ? gpu::load_fresh(state + lane_ * 2 + 1) * factor : 0.0f;
      FS_UNROLL
      for (int mask = 16; mask > 0; mask /= 2) sum += gpu::shfl_xor(sum, mask);
      merge_[head * kMergeStride + lane_] = sum == 0.0f ? 0.0f : factor / sum;
    }
    gpu::sync();
    for (int i = gpu::thread(); i < unit.count * (kHeadDim / 2); i += kDecodeThreads) {
      const int head = i / (kHeadDim / 2);
      const int d = i % (kHeadDim / 2) * 2;
      const float* part = launch_.partial_values + partial_index(item.row, unit.first + head, 0) * kHeadDim + d;
      float low = 0.0f;
      float high = 0.0f;
      FS_UNROLL_BY_8
      for (int split = 0; split < splits; ++split) {
        const float weight = merge_[head * kMergeStride + split];
        low += weight * gpu::load_fresh(part + split * kHeadDim);
        high += weight * gpu::load_fresh(part + split * kHeadDim + 1);
      }
      *reinterpret_cast<std::uint32_t*>(output(item.row, unit.first + head) + d) = gpu::pack<kType>(low, high);
    }
  }

  const AttentionLaunch& launch_;
  const AttentionParams& p_;
  const int num_rows_;
  const int group_;      // query heads of a KV head
  const int passes_;     // units of a KV head
  const int num_units_;  // of a row
  const int lane_;
  const int warp_;
  float* const merge_;  // [16][kMergeStride]
  float* const max_;    // [warp][16]
  float* const sum_;    // [warp][16]
  int* const note_;     // [8]: what one thread tells the others
};

}  // namespace fastserve::kernels
