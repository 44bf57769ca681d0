// Many query tokens per row: bound by arithmetic. A unit of work is (row, KV head, tile of queries), where the queries
// of a KV head are its (token, query head) pairs, token by token. Lanes = queries in every step: scores and values are
// small matrix products with K and V broadcast as they lie in the pages, and the softmax is vertical. 16-bit tiles of K
// and V are widened once per tile. Stack per thread: about 300 KiB.

#include "kernels/attention/attention_tile.h"
#include "kernels/parallel.h"

namespace fastserve::kernels::FS_ISA {
namespace {

constexpr int kTile = kAttentionTileTokens;
#if defined(FS_ISA_avx512)
constexpr int kMaxVecs = 3;    // vectors of queries in a tile
constexpr int kMicroRows = 8;  // tokens (scores) or dimensions (values) in registers: 8 x 3 sums of 32 registers
#else
constexpr int kMaxVecs = 3;
constexpr int kMicroRows = 4;  // 4 x 3 sums of 16 registers
#endif
constexpr int kMaxQueries = kMaxVecs * kLanes;

/// A tile of queries and their online softmax; matrices are [head_dim][kVecs * kLanes].
struct Scratch {
  alignas(64) float q[kAttentionMaxHeadDim * kMaxQueries];
  alignas(64) float values[kAttentionMaxHeadDim * kMaxQueries];
  alignas(64) float total_values[kAttentionMaxHeadDim * kMaxQueries];  // of the splits before the current one
  alignas(64) float scores[kTile * kMaxQueries];
  alignas(64) float max[kMaxQueries];
  alignas(64) float sum[kMaxQueries];
  alignas(64) float total_max[kMaxQueries];
  alignas(64) float total_sum[kMaxQueries];
  alignas(64) float position[kMaxQueries];  // last KV position a query sees, relative to the current tile
  alignas(64) float alpha[kMaxQueries];
  alignas(64) float keys[kTile * kAttentionMaxHeadDim];  // widened tiles
  alignas(64) float tile_values[kTile * kAttentionMaxHeadDim];
};

/// Which queries a unit of work has: (token, head) pairs [first, first + count) of a KV head of a row.
struct QueryTile {
  std::int64_t row, kv_head, first, count;
  std::int64_t heads;           // query heads per KV head
  std::int64_t first_position;  // last KV position seen by the row's first query token
  std::int64_t position(std::int64_t query) const { return first_position + (first + query) / heads; }
};

/// Where K or V of a tile lies, kPageTokens tokens at a time, as fp32.
struct TileRows {
  const float* pages[kTile / kPageTokens];
};

FS_INLINE TileRows tile_rows(const PagedRows<float>& source, std::int64_t tile, std::int64_t count, float*) {
  TileRows rows;
  for (std::int64_t t = 0; t < count; t += kPageTokens) rows.pages[t / kPageTokens] = source.at(tile + t);
  return rows;
}

template <typename T>
FS_INLINE TileRows tile_rows(const PagedRows<T>& source, std::int64_t tile, std::int64_t count, float* widened) {
  TileRows rows;
  const std::int64_t page_size = std::int64_t{kPageTokens} * source.head_dim;  // a multiple of kLanes
  for (std::int64_t t = 0; t < count; t += kPageTokens) {
    const T* from = source.at(tile + t);
    float* to = widened + t * source.head_dim;
    for (std::int64_t i = 0; i < page_size; i += kLanes) store(to + i, load(from + i));
    rows.pages[t / kPageTokens] = to;
  }
  return rows;
}

template <int kVecs, typename T>
FS_NOINLINE void load_queries(const AttentionParams& p, const QueryTile& tile, float* q) {
  const T* base = static_cast<const T*>(p.q) + p.query_start[tile.row] * p.q_token_stride;
  for (int v = 0; v < kVecs; ++v) {
    const T* rows[kLanes];
    for (int i = 0; i < kLanes; ++i) {  // lanes without a query repeat the last one
      const std::int64_t query = tile.first + min_of(v * kLanes + i, tile.count - 1);
      const std::int64_t head = tile.kv_head * tile.heads + query % tile.heads;
      rows[i] = base + query / tile.heads * p.q_token_stride + head * p.q_head_stride;
    }
    for (int d = 0; d < p.head_dim; d += kLanes) {
      Vec square[kLanes];
      for (int i = 0; i < kLanes; ++i) square[i] = load_some(rows[i] + d, p.head_dim - d) * set1(p.scale);
      transpose(square);
      const std::int64_t width = min_of(kLanes, p.head_dim - d);
      for (int j = 0; j < width; ++j) store(q + (d + j) * kVecs * kLanes + v * kLanes, square[j]);
    }
  }
}

/// scores[t][query] = K[t] . q[query] for the tokens [0, count) rounded up to kMicroRows.
template <int kVecs>
FS_NOINLINE void score_tile(const TileRows& keys, std::int64_t count, int head_dim, const float* q, float* scores) {
  constexpr int kWidth = kVecs * kLanes;
  for (std::int64_t t = 0; t < count; t += kMicroRows) {
    const float* k = keys.pages[t / kPageTokens] + t % kPageTokens * head_dim;
    Vec sums[kMicroRows][kVecs];
    for (int i = 0; i < kMicroRows; ++i) {
      for (int v = 0; v < kVecs; ++v) sums[i][v] = set1(0.0f);
    }
    for (int d = 0; d < head_dim; ++d) {
      Vec query[kVecs];
      for (int v = 0; v < kVecs; ++v) query[v] = load(q + d * kWidth + v * kLanes);
      for (int i = 0; i < kMicroRows; ++i) {
        const Vec key = set1(k[i * head_dim + d]);
        for (int v = 0; v < kVecs; ++v) sums[i][v] = fma(query[v], key, sums[i][v]);
      }
    }
    for (int i = 0; i < kMicroRows; ++i) {
      for (int v = 0; v < kVecs; ++v) store(scores + (t + i) * kWidth + v * kLanes, sums[i][v]);
    }
  }
}

/// Turn one vector of queries' scores into weights. Tokens from `num_full` on are not seen by every query.
template <int kVecs>
FS_NOINLINE void weigh_column(std::int64_t count, std::int64_t num_full, int v, Scratch& s) {
  constexpr int kWidth = kVecs * kLanes;
  float* column = s.scores + v * kLanes;
  const Vec position = load(s.position + v * kLanes);
  const Vec earlier_max = load(s.max + v * kLanes);
  Vec maximum = earlier_max;
  for (std::int64_t t = 0; t < num_full; ++t) maximum = max(load(column + t * kWidth), maximum);
  for (std::int64_t t = num_full; t < count; ++t) {
    const Vec score = load(column + t * kWidth);
    maximum = max(select_le(set1(static_cast<float>(t)), position, score, set1(kMinusInf)), maximum);
  }
  const Vec alpha = exp(earlier_max - maximum);  // 1, to the bit, for a query that sees nothing of this tile
  for (std::int64_t t = 0; t < num_full; ++t) store(column + t * kWidth, exp(load(column + t * kWidth) - maximum));
  for (std::int64_t t = num_full; t < count; ++t) {
    const Vec weight = exp(load(column + t * kWidth) - maximum);
    store(column + t * kWidth, select_le(set1(static_cast<float>(t)), position, weight, set1(0.0f)));
  }
  const std::int64_t padded = ceil_div(count, kLanes) * kLanes;
  for (std::int64_t t = count; t < padded; ++t) store(column + t * kWidth, set1(0.0f));
  // The order of decode: kLanes partial sums over the tokens, then halves.
  Vec sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = set1(0.0f);
  for (std::int64_t t = 0; t < padded; t += kLanes) {
    for (int i = 0; i < kLanes; ++i) sums[i] = sums[i] + load(column + (t + i) * kWidth);
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] = sums[i] + sums[i + half];
  }
  store(s.sum + v * kLanes, load(s.sum + v * kLanes) * alpha + sums[0]);
  store(s.max + v * kLanes, maximum);
  store(s.alpha + v * kLanes, alpha);
}

/// values[d][query] = values[d][query] * alpha[query] + V[.., d] . weights[.., query].
template <int kVecs>
FS_NOINLINE void add_tile(const TileRows& tile_values, std::int64_t count, std::int64_t num_full, int head_dim,
                          Scratch& s) {
  constexpr int kWidth = kVecs * kLanes;
  Vec position[kVecs];
  for (int v = 0; v < kVecs; ++v) position[v] = load(s.position + v * kLanes);
  for (int d = 0; d < head_dim; d += kMicroRows) {
    Vec sums[kMicroRows][kVecs];
    for (int v = 0; v < kVecs; ++v) {
      const Vec alpha = load(s.alpha + v * kLanes);
      for (int i = 0; i < kMicroRows; ++i) sums[i][v] = load(s.values + (d + i) * kWidth + v * kLanes) * alpha;
    }
    for (std::int64_t t = 0; t < num_full;) {
      const float* value = tile_values.pages[t / kPageTokens] + d;
      const std::int64_t page_end = min_of(t + kPageTokens, num_full);
      for (; t < page_end; ++t, value += head_dim) {
        Vec weight[kVecs];
        for (int v = 0; v < kVecs; ++v) weight[v] = load(s.scores + t * kWidth + v * kLanes);
        for (int i = 0; i < kMicroRows; ++i) {
          const Vec x = set1(value[i]);
          for (int v = 0; v < kVecs; ++v) sums[i][v] = fma(weight[v], x, sums[i][v]);
        }
      }
    }
    for (std::int64_t t = num_full; t < count; ++t) {  // a value that a query does not see may be NaN: no 0 * value
      const float* value = tile_values.pages[t / kPageTokens] + t % kPageTokens * head_dim + d;
      for (int v = 0; v < kVecs; ++v) {
        const Vec weight = load(s.scores + t * kWidth + v * kLanes);
        for (int i = 0; i < kMicroRows; ++i) {
          const Vec sum = fma(weight, set1(value[i]), sums[i][v]);
          sums[i][v] = select_le(set1(static_cast<float>(t)), position[v], sum, sums[i][v]);
        }
      }
    }
    for (int i = 0; i < kMicroRows; ++i) {
      for (int v = 0; v < kVecs; ++v) store(s.values + (d + i) * kWidth + v * kLanes, sums[i][v]);
    }
  }
}

template <int kVecs>
FS_NOINLINE void start_softmax(int head_dim, Scratch& s) {
  for (int i = 0; i < kVecs * kLanes; ++i) {
    s.max[i] = kMinusInf;
    s.sum[i] = 0.0f;
  }
  for (int i = 0; i < head_dim * kVecs * kLanes; ++i) s.values[i] = 0.0f;
}

/// Merge the softmax of the split that starts at `split` into the total, for the queries that see any of it.
template <int kVecs>
FS_NOINLINE void merge_split(const QueryTile& tile, std::int64_t split, int head_dim, Scratch& s) {
  constexpr int kWidth = kVecs * kLanes;
  if (split == 0) {
    __builtin_memcpy(s.total_max, s.max, sizeof(float) * kWidth);
    __builtin_memcpy(s.total_sum, s.sum, sizeof(float) * kWidth);
    __builtin_memcpy(s.total_values, s.values, sizeof(float) * static_cast<std::size_t>(kWidth * head_dim));
    return;
  }
  for (int v = 0; v < kVecs; ++v) {
    float visible[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      visible[i] = tile.position(min_of(v * kLanes + i, tile.count - 1)) >= split ? 0.0f : -1.0f;
    }
    const Vec seen = load(visible);
    const auto keep_unseen = [&](float* p, Vec merged) { store(p, select_le(set1(0.0f), seen, merged, load(p))); };
    const MergeWeights weights = merge_weights(load(s.total_max + v * kLanes), load(s.max + v * kLanes));
    const Vec sum = load(s.total_sum + v * kLanes) * weights.earlier + load(s.sum + v * kLanes) * weights.later;
    keep_unseen(s.total_sum + v * kLanes, sum);
    keep_unseen(s.total_max + v * kLanes, weights.maximum);
    for (int d = 0; d < head_dim; ++d) {
      float* total = s.total_values + d * kWidth + v * kLanes;
      const Vec added = load(s.values + d * kWidth + v * kLanes) * weights.later;
      keep_unseen(total, load(total) * weights.earlier + added);
    }
  }
}

template <int kVecs, typename T>
FS_NOINLINE void write_out(const AttentionParams& p, const QueryTile& tile, const Scratch& s) {
  constexpr int kWidth = kVecs * kLanes;
  T* base = static_cast<T*>(p.out) + p.query_start[tile.row] * p.out_token_stride;
  for (int v = 0; v < kVecs; ++v) {
    const Vec inverse = set1(1.0f) / load(s.total_sum + v * kLanes);
    for (int d = 0; d < p.head_dim; d += kLanes) {
      const std::int64_t width = min_of(kLanes, p.head_dim - d);
      Vec square[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        square[j] = j < width ? load(s.total_values + (d + j) * kWidth + v * kLanes) * inverse : set1(0.0f);
      }
      transpose(square);
      for (int i = 0; i < kLanes && v * kLanes + i < tile.count; ++i) {
        const std::int64_t query = tile.first + v * kLanes + i;
        const std::int64_t head = tile.kv_head * tile.heads + query % tile.heads;
        store_some(base + query / tile.heads * p.out_token_stride + head * p.out_head_stride + d, square[i], width);
      }
    }
  }
}

template <int kVecs, typename T>
FS_NOINLINE void attend_tile(const AttentionParams& p, const QueryTile& tile, Scratch& s) {
  const auto keys = paged_rows<T>(p, tile.row, tile.kv_head, false);
  const auto values = paged_rows<T>(p, tile.row, tile.kv_head, true);
  const std::int64_t lowest = tile.position(0);  // every query sees the positions up to here
  const std::int64_t highest = tile.position(tile.count - 1);
  load_queries<kVecs, T>(p, tile, s.q);
  for (std::int64_t split = 0; split <= highest; split += kAttentionSplitTokens) {
    start_softmax<kVecs>(p.head_dim, s);
    const std::int64_t end = min_of(split + kAttentionSplitTokens, highest + 1);
    for (std::int64_t begin = split; begin < end; begin += kTile) {
      const std::int64_t count = min_of(end - begin, kTile);
      const std::int64_t num_full = max_of(0, min_of(count, lowest + 1 - begin));
      for (int i = 0; i < kVecs * kLanes; ++i) {
        const std::int64_t seen = tile.position(min_of(i, tile.count - 1)) - begin;
        s.position[i] = static_cast<float>(max_of(-1, min_of(seen, kTile)));
      }
      score_tile<kVecs>(tile_rows(keys, begin, count, s.keys), count, p.head_dim, s.q, s.scores);
      for (int v = 0; v < kVecs; ++v) weigh_column<kVecs>(count, num_full, v, s);
      add_tile<kVecs>(tile_rows(values, begin, count, s.tile_values), count, num_full, p.head_dim, s);
    }
    merge_split<kVecs>(tile, split, p.head_dim, s);
  }
  write_out<kVecs, T>(p, tile, s);
}

std::int64_t num_query_tiles(const AttentionParams& p, std::int64_t row) {
  const std::int64_t queries =
      std::int64_t{p.query_start[row + 1] - p.query_start[row]} * (p.num_q_heads / p.num_kv_heads);
  return ceil_div(queries, kMaxQueries);
}

/// Unit `unit`: rows in order, in each row the last tile, which sees most, first, and its KV heads next to each other.
QueryTile query_tile(const AttentionParams& p, std::int64_t unit) {
  std::int64_t row = p.row_begin;
  for (; unit >= num_query_tiles(p, row) * p.num_kv_heads; ++row) unit -= num_query_tiles(p, row) * p.num_kv_heads;
  const std::int64_t heads = p.num_q_heads / p.num_kv_heads;
  const std::int64_t num_tokens = p.query_start[row + 1] - p.query_start[row];
  const std::int64_t first = (num_query_tiles(p, row) - 1 - unit / p.num_kv_heads) * kMaxQueries;
  const std::int64_t count = min_of(kMaxQueries, num_tokens * heads - first);
  return {row, unit % p.num_kv_heads, first, count, heads, p.seq_lens[row] - num_tokens};
}

template <typename T>
void attend_tiles(void* context, std::int64_t begin, std::int64_t end) {
  const auto& p = *static_cast<const AttentionParams*>(context);
  Scratch scratch;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const QueryTile tile = query_tile(p, unit);
    if (tile.count <= kLanes) {
      attend_tile<1, T>(p, tile, scratch);
    } else if (tile.count <= 2 * kLanes) {
      attend_tile<2, T>(p, tile, scratch);
    } else {
      attend_tile<3, T>(p, tile, scratch);
    }
  }
}

template <typename T>
void run(const AttentionParams& params, ThreadPool& pool) {
  std::int64_t units = 0;
  for (std::int64_t row = params.row_begin; row < params.row_end; ++row) {
    units += num_query_tiles(params, row) * params.num_kv_heads;
  }
  parallel_run(pool, units, 1, attend_tiles<T>, const_cast<AttentionParams*>(&params));
}

}  // namespace

void attention_prefill(const AttentionParams& params, ThreadPool& pool) {
  switch (params.dtype) {
    case DType::kBFloat16: return run<BFloat16>(params, pool);
    case DType::kFloat16: return run<Float16>(params, pool);
    default: return run<float>(params, pool);
  }
}

}  // namespace fastserve::kernels::FS_ISA
