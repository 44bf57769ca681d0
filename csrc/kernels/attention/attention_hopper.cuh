#pragma once

#include <cstdint>

#include "kernels/attention/attention_hopper_layout.h"
#include "kernels/attention/attention_hopper_order.cuh"
#include "kernels/attention/attention_warp.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/hopper.h"

// Paged causal attention of many query tokens on a Hopper GPU: copies by the copy engine, products by warpgroups.
//
// Packed rows and tiles of KV tokens, counted from position 0, are those of attention_prefill.cuh, so that a query
// gives the same bits wherever a prompt is cut into chunks; tiles are walked from the last one to the first, as tiles
// that a row does not see change nothing in it. There is a thread block per processor; it takes tiles of queries
// (attention_hopper_schedule.h) until none is left, counted in the first of the counters.
//
// Thread mapping: 3 warpgroups. One warp of the first fetches: queries, and page by page keys and values into two
// rings. The other two have 64 packed rows each. They issue the scores of the next tile and the values of this one
// together, and compute the weights of the next while the values are multiplied; and they take turns in issuing, so
// that one computes weights while the other keeps the tensor cores busy. Shared memory: HopperLayout, 161 to 201 KiB.

namespace fastserve::kernels {

inline constexpr int kHopperThreads = 384;

template <DType kType, int kHeadDim>
class AttentionHopper {
  using Layout = HopperLayout<kHeadDim>;
  using TensorMap = gpu::TensorMap;
  static constexpr int kTileTokens = Layout::kTileTokens;
  static constexpr int kScoreTiles = kTileTokens / 8;
  static constexpr int kValueTiles = kHeadDim / 8;
  static constexpr int kParts = kTileTokens / 16;
  static constexpr int kEnd = -1;  // queries of the item after the last one

  /// A tile of queries, as the fetching warp describes it to the others.
  struct alignas(16) Item {
    int first_token;  // of q
    int num_queries;
    int visible;  // KV tokens that the first query sees; may be below 1
    int kv_head;

    FS_DEVICE int num_tokens() const {  // that the last query sees
      const int end = visible + num_queries - 1;
      return end > 0 ? end : 0;
    }
    FS_DEVICE int num_tiles() const { return (num_tokens() + kTileTokens - 1) / kTileTokens; }
  };

  /// Barriers of a ring: a slot is full of bytes, or free because every warp that read it has said so.
  template <int kStages>
  struct Ring {
    std::uint64_t full[kStages];
    std::uint64_t free[kStages];
  };
  struct Control {
    Item items[Layout::kQueryStages];
    Ring<Layout::kQueryStages> queries;
    Ring<Layout::kStages> keys;
    Ring<Layout::kStages> values;
  };

 public:
  static constexpr int kSharedBytes = 1024 + Layout::kBytes + static_cast<int>(sizeof(Control));
  static_assert(kSharedBytes <= 232448);  // of a thread block

  static FS_DEVICE void run(const AttentionLaunch& launch, const TensorMap& queries, const TensorMap& pages) {
    AttentionHopper kernel(launch, queries, pages);
    kernel.prepare();
    if (gpu::thread() < 128) {
      gpu::give_registers<56>();
      if (gpu::thread() < 32) kernel.fetch();
    } else {
      gpu::take_registers<224>();
      kernel.compute();
    }
  }

 private:
  FS_DEVICE AttentionHopper(const AttentionLaunch& launch, const TensorMap& queries, const TensorMap& pages)
      : launch_(launch),
        p_(launch.params),
        query_map_(queries),
        page_map_(pages),
        group_(p_.num_q_heads / p_.num_kv_heads) {
    const std::uint32_t address = gpu::shared_address(gpu::shared());
    base_ = gpu::shared() + (0u - address) % 1024u;  // a multiple of the period of the copy engine's swizzle
  }

  FS_DEVICE char* queries(int slot) const { return base_ + slot * Layout::kQueryBytes; }
  FS_DEVICE char* keys(int slot) const {
    return base_ + Layout::kQueryStages * Layout::kQueryBytes + slot * Layout::kTileBytes;
  }
  FS_DEVICE char* values(int slot) const { return keys(Layout::kStages + slot); }
  FS_DEVICE Control& control() const { return *reinterpret_cast<Control*>(base_ + Layout::kBytes); }

  template <int kStages>
  static FS_DEVICE void init(Ring<kStages>& ring) {
    for (int slot = 0; slot < kStages; ++slot) {
      gpu::barrier_init(&ring.full[slot], 1);
      gpu::barrier_init(&ring.free[slot], 8);  // warps
    }
  }

  FS_DEVICE void prepare() const {
    if (gpu::thread() == 0) {
      gpu::prefetch(query_map_);
      gpu::prefetch(page_map_);
      init(control().queries);
      init(control().keys);
      init(control().values);
      gpu::barriers_ready();
    }
    gpu::sync();
  }

  // ---- the fetching warp

  struct Work {
    Item item;
    int first_block;
  };

  FS_DEVICE void fetch() {
    int drawn = draw_tile();
    HopperOrder order(launch_);
    Work work = find(order, gpu::cta());
    RingPlace<Layout::kQueryStages> at;
    RingPlace<Layout::kStages> tiles;
    while (work.item.num_queries != kEnd) {
      fetch_queries(work.item, at);
      work = fetch_tiles(work, tiles, order, drawn);
      at.next();
    }
    gpu::barrier_wait(&control().queries.free[at.slot], at.parity ^ 1);
    if (gpu::fresh_lane() != 0) return;
    control().items[at.slot].num_queries = kEnd;
    gpu::barrier_arrive(&control().queries.full[at.slot]);
    gpu::fence();  // this thread block draws no more tiles
    if (gpu::fetch_add(&launch_.counters[1], 1) + 1 == static_cast<std::uint32_t>(gpu::num_ctas())) {
      launch_.counters[0] = 0;
      launch_.counters[1] = 0;
    }
  }

  /// The number of the next tile, valid in the first lane. It is drawn long before it is used, as it comes from far away.
  FS_DEVICE int draw_tile() const {
    return gpu::fresh_lane() == 0 ? static_cast<int>(gpu::fetch_add(&launch_.counters[0], 1)) : 0;
  }

  FS_DEVICE Work next(HopperOrder& order, int& drawn) const {
    const int number = gpu::num_ctas() + gpu::shfl(drawn, 0);
    drawn = draw_tile();
    return find(order, number);
  }

  FS_DEVICE Work find(HopperOrder& order, int drawn) const {
    const int number = drawn / p_.num_kv_heads;
    const HopperTile found = order.find(number);
    if (found.row < 0) return {{0, kEnd, 0, 0}, 0};
    const int tile_queries = hopper_tile_queries(group_);
    const int first = found.tile * tile_queries;
    const int left = found.shape.num_queries - first;
    return {{p_.query_start[found.row] + first, left < tile_queries ? left : tile_queries, found.shape.lead + first + 1,
             drawn - number * p_.num_kv_heads},
            p_.block_start[found.row]};
  }

  FS_DEVICE void fetch_queries(const Item& item, RingPlace<Layout::kQueryStages> at) const {
    gpu::barrier_wait(&control().queries.free[at.slot], at.parity ^ 1);
    if (gpu::fresh_lane() == 0) {
      control().items[at.slot] = item;
      std::uint64_t* const full = &control().queries.full[at.slot];
      gpu::barrier_expect(full, hopper_tile_queries(group_) * group_ * Layout::kRowBytes);
      for (int panel = 0; panel < Layout::kPanels; ++panel) {
        gpu::copy_box(queries(at.slot) + panel * Layout::kQueryPanelBytes, query_map_,
                      {0, 0, item.first_token, panel, item.kv_head}, full);
      }
    }
    gpu::sync_warp();
  }

  /// Fetch keys and values of all tiles of the work, and find the next one as soon as the rings are full.
  FS_DEVICE Work fetch_tiles(const Work& work, RingPlace<Layout::kStages>& at, HopperOrder& order, int& drawn) const {
    Work following{};
    int until_full = Layout::kStages;
    int tile = work.item.num_tiles() - 1;
    int block = block_of(work, tile);
    for (;; --tile) {
      if (tile >= 0) {
        const int following_block = block_of(work, tile - 1);
        fetch_pages(control().keys, keys(at.slot), at, work.item.kv_head, block);
        fetch_pages(control().values, values(at.slot), at, p_.num_kv_heads + work.item.kv_head, block);
        block = following_block;
        at.next();
      }
      if (--until_full == 0 || (tile <= 0 && until_full > 0)) following = next(order, drawn);
      if (tile <= 0) return following;
    }
  }

  FS_DEVICE int tile_pages() const { return kTileTokens >> launch_.block_shift; }

  /// This lane's block of a tile: one outside the cache, so zeros, for tokens that no query sees.
  FS_DEVICE int block_of(const Work& work, int tile) const {
    const int page = tile * tile_pages() + gpu::fresh_lane();
    const bool wanted =
        tile >= 0 && gpu::fresh_lane() < tile_pages() && page << launch_.block_shift < work.item.num_tokens();
    return wanted ? p_.block_ids[work.first_block + page] : static_cast<int>(launch_.num_blocks);
  }

  /// Fetch the keys (head: the KV head) or the values (num_kv_heads more) of a tile, a page per lane.
  FS_DEVICE void fetch_pages(Ring<Layout::kStages>& ring, char* target, RingPlace<Layout::kStages> at, int head,
                             int block) const {
    gpu::barrier_wait(&ring.free[at.slot], at.parity ^ 1);
    const int lane = gpu::fresh_lane();
    if (lane == 0) gpu::barrier_expect(&ring.full[at.slot], Layout::kTileBytes);
    gpu::sync_warp();
    if (lane < tile_pages()) {
      gpu::copy_box(target + lane * (p_.block_size * Layout::kRowBytes), page_map_,
                    {0, 0, 0, head * (p_.block_size / 8), block}, &ring.full[at.slot]);
    }
  }

  // ---- the computing warpgroups

  /// Where a computing warp is in the rings. Keys run one tile ahead of the values.
  struct Places {
    RingPlace<Layout::kQueryStages> queries;
    RingPlace<Layout::kStages> keys;
    RingPlace<Layout::kStages> values;
  };
  using Scores = float[kScoreTiles][4];
  using Sums = float[kValueTiles][4];
  using Weights = std::uint32_t[kParts][4];

  static FS_DEVICE int team() { return gpu::thread() / 128 - 1; }
  static FS_DEVICE void wait_for_turn() { gpu::named_sync(1 + team(), 256); }
  static FS_DEVICE void pass_turn() { gpu::named_arrive(2 - team(), 256); }

  FS_DEVICE void compute() const {
    Places at;
    if (team() == 1) pass_turn();
    for (;;) {
      gpu::barrier_wait(&control().queries.full[at.queries.slot], at.queries.parity);
      const Item item = control().items[at.queries.slot];
      if (item.num_queries == kEnd) break;
      attend(item, at);
      at.queries.next();
    }
    if (team() == 0) wait_for_turn();  // so that every arrival has been waited for
  }

  static FS_DEVICE void release(std::uint64_t* free) {
    gpu::sync_warp();
    if (gpu::fresh_lane() == 0) gpu::barrier_arrive(free);
  }

  FS_DEVICE void attend(const Item& item, Places& at) const {
    HopperSoftmax softmax;
    Sums sums = {};
    const int last = item.num_tiles() - 1;
    if (last >= 0) {
      Weights weights;
      {
        Scores scores;
        float factor[2];
        gpu::barrier_wait(&control().keys.full[at.keys.slot], at.keys.parity);
        wait_for_turn();
        score(at, scores);
        pass_turn();
        gpu::wgmma_wait<0>(scores);
        finish_scores(item, last, at, scores);
        softmax.update(scores, p_.scale * kLog2E, factor);
        round_weights(scores, weights);
      }
      gpu::barrier_wait(&control().values.full[at.values.slot], at.values.parity);
      clear_tail(item, last, values(at.values.slot));
      for (int tile = last - 1; tile >= 0; --tile) step(item, tile, at, softmax, sums, weights);
      gpu::barrier_wait(&control().values.full[at.values.slot], at.values.parity);
      add_values(at, weights, sums);
      gpu::wgmma_wait<0>(sums, weights);
      finish_values(at);
    } else {
      release(&control().queries.free[at.queries.slot]);
    }
    softmax.finish();
    write(item, softmax, sums);
  }

  /// The scores and weights of `tile`, while the values of the tile after it are added.
  FS_DEVICE void step(const Item& item, int tile, Places& at, HopperSoftmax& softmax, Sums& sums,
                      Weights& weights) const {
    Scores scores;
    float factor[2];
    gpu::barrier_wait(&control().keys.full[at.keys.slot], at.keys.parity);
    wait_for_turn();
    score(at, scores);
    gpu::barrier_wait(&control().values.full[at.values.slot], at.values.parity);
    add_values(at, weights, sums);
    pass_turn();
    gpu::wgmma_wait<1>(scores);
    finish_scores(item, tile, at, scores);
    softmax.update(scores, p_.scale * kLog2E, factor);
    // The compiler would do all of this after the wait; for large heads it would need too many registers not to.
    if constexpr (kHeadDim <= 128) gpu::settle(softmax.sum[0] + softmax.sum[1]);
    gpu::wgmma_wait<0>(sums, weights);
    finish_values(at);
    round_weights(scores, weights);
    if (gpu::all(factor[0] == 1.0f && factor[1] == 1.0f)) return;  // as mostly in long rows: no maximum grew
    FS_UNROLL
    for (int n = 0; n < kValueTiles; ++n) {
      FS_UNROLL
      for (int i = 0; i < 4; ++i) sums[n][i] *= factor[i / 2];
    }
  }

  /// Issue scores = queries x keys.
  FS_DEVICE void score(const Places& at, Scores& scores) const {
    const std::uint32_t q = gpu::shared_address(queries(at.queries.slot)) + team() * (64 * Layout::kSwizzleBytes);
    const std::uint32_t k = gpu::shared_address(keys(at.keys.slot));
    gpu::wgmma_fence(scores);
    FS_UNROLL
    for (int step = 0; step < kHeadDim / 16; ++step) {
      const int panel = step * 32 / Layout::kSwizzleBytes;
      const int within = step * 32 % Layout::kSwizzleBytes;
      const std::uint64_t a = wgmma_descriptor(q + panel * Layout::kQueryPanelBytes + within, Layout::kAtomBytes, 16,
                                               Layout::kSwizzleBytes);
      const std::uint64_t b =
          wgmma_descriptor(k + panel * Layout::kAtomBytes + within, Layout::kGroupBytes, 16, Layout::kSwizzleBytes);
      gpu::wgmma<kType>(scores, a, b, step > 0);
    }
    gpu::wgmma_commit();
  }

  /// Issue sums += weights x values.
  FS_DEVICE void add_values(const Places& at, Weights& weights, Sums& sums) const {
    const std::uint32_t v = gpu::shared_address(values(at.values.slot));
    gpu::wgmma_fence(sums, weights);
    FS_UNROLL
    for (int part = 0; part < kParts; ++part) {
      gpu::wgmma<kType>(sums, weights[part],
                        wgmma_descriptor(v + part * 2 * Layout::kGroupBytes, Layout::kGroupBytes, Layout::kAtomBytes,
                                         Layout::kSwizzleBytes));
    }
    gpu::wgmma_commit();
  }

  /// The scores are here: free what they were made of, and hide the tokens that come after a query.
  FS_DEVICE void finish_scores(const Item& item, int tile, Places& at, Scores& scores) const {
    release(&control().keys.free[at.keys.slot]);
    at.keys.next();
    if (tile == 0) release(&control().queries.free[at.queries.slot]);
    if ((tile + 1) * kTileTokens <= item.visible) return;
    const int lane = gpu::fresh_lane();
    FS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int seen = item.visible + packed_row(half) / group_ - tile * kTileTokens - lane % 4 * 2;
      FS_UNROLL
      for (int n = 0; n < kScoreTiles; ++n) {
        FS_UNROLL
        for (int i = 0; i < 2; ++i) {
          if (n * 8 + i >= seen) scores[n][2 * half + i] = minus_infinity();
        }
      }
    }
  }

  FS_DEVICE void finish_values(Places& at) const {
    release(&control().values.free[at.values.slot]);
    at.values.next();
  }

  /// Clear the values, behind the last token, of its page: no token has written them, they could be NaN, and 0 * NaN is
  /// NaN. Whole pages beyond it arrived as zeros. The warpgroups share the work and wait for each other: a store of one
  /// must not meet a product of the other, even where both would leave zeros.
  FS_DEVICE void clear_tail(const Item& item, int tile, char* values) const {
    const int first = item.num_tokens() - tile * kTileTokens;
    const int end = (first + p_.block_size - 1) & -p_.block_size;
    if (first == end) return;
    for (int i = gpu::thread() - 128; i < (end - first) * Layout::kPanels; i += 256) {
      const int row = first + i / Layout::kPanels;
      char* const panel = values + Layout::tile_offset(row, i % Layout::kPanels);
      FS_UNROLL
      for (int chunk = 0; chunk < Layout::kSwizzleBytes / 16; ++chunk) {
        gpu::store16(panel + chunk * 16, {0, 0, 0, 0});
      }
    }
    gpu::proxy_fence();
    gpu::named_sync(3, 256);
  }

  /// The weights of each 16 tokens as the left operand of a product.
  static FS_DEVICE void round_weights(const Scores& scores, Weights& weights) {
    FS_UNROLL
    for (int part = 0; part < kParts; ++part) {
      FS_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float (&pair)[4] = scores[2 * part + i / 2];
        weights[part][i] = gpu::pack<kType>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
      }
    }
  }

  /// This lane's first or second packed row of the tile.
  static FS_DEVICE int packed_row(int half) { return gpu::thread() / 32 * 16 - 64 + half * 8 + gpu::fresh_lane() / 4; }

  /// Write the results, 8 bytes at a time: two neighbouring lanes swap halves of two neighbouring chunks.
  FS_DEVICE void write(const Item& item, const HopperSoftmax& softmax, const Sums& sums) const {
    const int lane = gpu::fresh_lane();
    const bool odd = lane % 2 != 0;
    FS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float inverse = softmax.sum[half] == 0.0f ? 0.0f : 1.0f / softmax.sum[half];
      const int row = packed_row(half);
      const int query = row / group_;
      const std::int64_t head = item.kv_head * group_ + row - query * group_;
      const bool wanted = query < item.num_queries;
      auto* out = static_cast<std::uint16_t*>(p_.out);
      if (wanted) out += (item.first_token + query) * p_.out_token_stride + head * p_.out_head_stride;
      FS_UNROLL
      for (int n = 0; n < kValueTiles; n += 2) {
        std::uint32_t words[2];
        FS_UNROLL
        for (int i = 0; i < 2; ++i) {
          const float (&pair)[4] = sums[n + i];
          words[i] = gpu::pack<kType>(pair[2 * half] * inverse, pair[2 * half + 1] * inverse);
        }
        const std::uint32_t other = gpu::shfl_xor(odd ? words[0] : words[1], 1);
        const Word2 result = odd ? Word2{other, words[1]} : Word2{words[0], other};
        if (wanted) *reinterpret_cast<Word2*>(out + (n + lane % 2) * 8 + lane % 4 / 2 * 4) = result;
      }
    }
  }

  const AttentionLaunch& launch_;
  const AttentionParams& p_;
  const TensorMap& query_map_;
  const TensorMap& page_map_;
  const int group_;  // query heads of a KV head
  char* base_;       // of shared memory, aligned to 1024 bytes
};

}  // namespace fastserve::kernels
