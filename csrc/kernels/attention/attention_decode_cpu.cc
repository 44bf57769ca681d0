// One query token per row: bound by reading the cache, so each page is read once for all query heads of its KV head.
// A unit of work is (row, KV head, up to kAttentionMaxHeadsPerPass query heads[, split]). Scores: keys are
// transposed, then lanes = tokens. Values: lanes = dimensions. Memory is kept busy by prefetching, with every line that
// is read, one that comes some KiB later: prefetching more at once fills the miss buffers and stalls the arithmetic.

#include "kernels/attention/attention_tile.h"
#include "kernels/parallel.h"

namespace fastserve::kernels::FS_ISA {
namespace {

constexpr int kTile = kAttentionTileTokens;
constexpr int kKeyFloats = 4096;    // keys transposed at a time: a third of the first-level cache
constexpr int kAheadBytes = 16384;  // how far ahead of their use lines are prefetched, of one KV head
constexpr int kMaxHeads = kAttentionMaxHeadsPerPass;
constexpr int kMicroVecs = kLanes == 16 ? 4 : 2;  // vectors in registers beside up to 4 heads

/// The heads of one unit of work.
struct HeadGroup {
  std::int64_t kv_head, first, count;  // query heads [first, first + count)
};

HeadGroup head_group(const AttentionParams& p, std::int64_t unit) {
  const std::int64_t per_kv_head = p.num_q_heads / p.num_kv_heads;
  const std::int64_t passes = ceil_div(per_kv_head, kMaxHeads);
  const std::int64_t kv_head = unit / passes;
  const std::int64_t begin = unit % passes * kMaxHeads;
  return {kv_head, kv_head * per_kv_head + begin, min_of(per_kv_head - begin, kMaxHeads)};
}

std::int64_t units_per_row(const AttentionParams& p) {
  return p.num_kv_heads * ceil_div(p.num_q_heads / p.num_kv_heads, kMaxHeads);
}

/// Online softmax of each head: maximum, sum, weighted values [heads][head_dim].
struct Softmax {
  float* max;
  float* sum;
  float* values;
};

FS_INLINE Softmax softmax_at(float* floats, std::int64_t heads) { return {floats, floats + heads, floats + 2 * heads}; }

/// Buffers of one thread; about 180 KiB of stack.
struct Scratch {
  alignas(64) float keys[kAttentionMaxHeadDim * kTile];  // [head_dim][kTile]
  alignas(64) float q[kMaxHeads * kAttentionMaxHeadDim];
  alignas(64) float scores[kMaxHeads * kTile];
  alignas(64) float split[kMaxHeads * (kAttentionMaxHeadDim + 2)];
  alignas(64) float total[kMaxHeads * (kAttentionMaxHeadDim + 2)];
  float alpha[kMaxHeads];
};

template <typename T>
void load_queries(const AttentionParams& p, std::int64_t row, const HeadGroup& heads, float* q) {
  const T* token = static_cast<const T*>(p.q) + p.query_start[row] * p.q_token_stride;
  for (std::int64_t h = 0; h < heads.count; ++h) {
    const T* source = token + (heads.first + h) * p.q_head_stride;
    for (int d = 0; d < p.head_dim; d += kLanes) {
      store_some(q + h * p.head_dim + d, load_some(source + d, p.head_dim - d) * set1(p.scale), p.head_dim - d);
    }
  }
}

/// What one KV head of a row reads, in this order: keys of a tile, values of the tile, keys of the next tile.
template <typename T>
struct TileStream {
  PagedRows<T> keys;
  PagedRows<T> values;
  std::int64_t num_tokens;
  std::int64_t ahead;  // tokens

  /// The page to prefetch beside the keys of token `t` of a tile of `count` tokens; `otherwise` when there is none.
  FS_INLINE const T* after_keys(std::int64_t tile, std::int64_t count, std::int64_t t, const T* otherwise) const {
    const std::int64_t from = t / kPageTokens * kPageTokens + ahead;
    if (from < count) return keys.at(tile + from);
    const std::int64_t beyond = from - ceil_div(count, kPageTokens) * kPageTokens;
    return beyond < count ? values.at(tile + beyond) : otherwise;
  }
  /// The same beside the values.
  FS_INLINE const T* after_values(std::int64_t tile, std::int64_t count, std::int64_t t, const T* otherwise) const {
    const std::int64_t from = t + ahead;
    if (from < count) return values.at(tile + from);
    return from >= kTile && tile + from < num_tokens ? keys.at(tile + from) : otherwise;
  }
};

template <typename T>
FS_INLINE TileStream<T> tile_stream(const AttentionParams& p, std::int64_t row, std::int64_t kv_head,
                                    std::int64_t end) {
  const std::int64_t token_bytes = p.head_dim * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t ahead = kAheadBytes / token_bytes / (2 * kPageTokens) * (2 * kPageTokens);
  return {paged_rows<T>(p, row, kv_head, false), paged_rows<T>(p, row, kv_head, true), end,
          max_of(2 * kPageTokens, min_of(ahead, kTile))};
}

/// kt[j][lane] = K[lane][j] for kWidth dimensions; lanes from 8 on come from the page `high`. Prefetches as many bytes
/// from `next` on as it reads.
template <int kWidth, typename T>
FS_INLINE void transpose_square(const T* low, const T* high, const T* next, int head_dim, float* kt) {
  Vec square[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    __builtin_prefetch(next + i * kWidth);
    square[i] = load_some((i < kPageTokens ? low : high) + std::int64_t{i % kPageTokens} * head_dim, kWidth);
  }
  transpose(square);
  for (int j = 0; j < kWidth; ++j) store(kt + j * kTile, square[j]);
}

/// Transpose the keys of the tokens [begin, end) of a tile of `count`: kt[d][token - begin], undefined past `end`.
template <typename T>
void transpose_keys(const TileStream<T>& stream, std::int64_t tile, std::int64_t count, std::int64_t begin,
                    std::int64_t end, float* kt) {
  const int head_dim = stream.keys.head_dim;
  const std::int64_t page = std::int64_t{kPageTokens} * head_dim;
  for (std::int64_t t = begin; t < end; t += kLanes, kt += kLanes) {
    // Past the last page any readable address does: those lanes are thrown away.
    const T* low = stream.keys.at(tile + t);
    const T* high = t + kPageTokens < count ? stream.keys.at(tile + t + kPageTokens) : low;
    const T* next_low = stream.after_keys(tile, count, t, low);
    const T* next_high = stream.after_keys(tile, count, t + kPageTokens, high);
    // Prefetched in the order of addresses, not of use, for the sake of the hardware's own prefetcher.
    const auto next_at = [&](int d) {
      const std::int64_t offset = std::int64_t{d} * kLanes;
      return offset < page ? next_low + offset : next_high + (offset - page);
    };
    int d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) {
      transpose_square<kLanes>(low + d, high + d, next_at(d), head_dim, kt + d * kTile);
    }
    if constexpr (kLanes > kPageTokens) {
      if (d < head_dim) transpose_square<8>(low + d, high + d, next_at(d), head_dim, kt + d * kTile);
    }
  }
}

/// scores[h][token] = q[h] . kt[..][token] for kHeads heads and kVecs vectors of tokens.
template <int kHeads, int kVecs>
FS_INLINE void score_columns(const float* kt, int head_dim, const float* q, float* scores) {
  Vec sums[kHeads][kVecs];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) sums[h][v] = set1(0.0f);
  }
  for (int d = 0; d < head_dim; ++d) {
    Vec key[kVecs];
    for (int v = 0; v < kVecs; ++v) key[v] = load(kt + d * kTile + v * kLanes);
    for (int h = 0; h < kHeads; ++h) {
      for (int v = 0; v < kVecs; ++v) sums[h][v] = fma(set1(q[h * head_dim + d]), key[v], sums[h][v]);
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) store(scores + h * kTile + v * kLanes, sums[h][v]);
  }
}

template <int kHeads>
FS_INLINE void score_heads(const float* kt, std::int64_t count, int head_dim, const float* q, float* scores) {
  std::int64_t t = 0;
  for (; t + kMicroVecs * kLanes <= count; t += kMicroVecs * kLanes) {
    score_columns<kHeads, kMicroVecs>(kt + t, head_dim, q, scores + t);
  }
  for (; t < count; t += kLanes) score_columns<kHeads, 1>(kt + t, head_dim, q, scores + t);
}

/// Scores of `count` tokens; those up to the next multiple of kLanes are undefined.
void score_tokens(const float* kt, std::int64_t count, int head_dim, const float* q, std::int64_t heads,
                  float* scores) {
  std::int64_t h = 0;
  for (; h + 4 <= heads; h += 4) score_heads<4>(kt, count, head_dim, q + h * head_dim, scores + h * kTile);
  q += h * head_dim;
  scores += h * kTile;
  if (heads - h == 3) score_heads<3>(kt, count, head_dim, q, scores);
  if (heads - h == 2) score_heads<2>(kt, count, head_dim, q, scores);
  if (heads - h == 1) score_heads<1>(kt, count, head_dim, q, scores);
}

/// Scores of the tokens from `count` on become -inf, so that their weights are exactly 0.
void hide_scores_past(std::int64_t count, std::int64_t heads, float* scores) {
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t t = count; t < ceil_div(count, kLanes) * kLanes; ++t) scores[h * kTile + t] = kMinusInf;
  }
}

/// Turn scores into weights exp(score - maximum), update maximum and sum; alpha[h] is the factor for what came before.
void weigh_tile(std::int64_t count, std::int64_t heads, float* scores, const Softmax& softmax, float* alpha) {
  for (std::int64_t h = 0; h < heads; ++h) {
    float* row = scores + h * kTile;
    Vec highest = set1(kMinusInf);
    for (std::int64_t t = 0; t < count; t += kLanes) highest = max(load(row + t), highest);
    const float tile_max = reduce_max(highest);
    const float maximum = tile_max > softmax.max[h] ? tile_max : softmax.max[h];
    alpha[h] = exp_scalar(softmax.max[h] - maximum);
    softmax.max[h] = maximum;
    Vec sum = set1(0.0f);
    for (std::int64_t t = 0; t < count; t += kLanes) {
      const Vec weight = exp(load(row + t) - set1(maximum));
      store(row + t, weight);
      sum = sum + weight;
    }
    softmax.sum[h] = softmax.sum[h] * alpha[h] + reduce_sum(sum);
  }
}

/// Where the values of a tile lie, kPageTokens tokens at a time, and what to prefetch beside each.
template <typename T>
struct TilePages {
  const T* here[kTile / kPageTokens];
  const T* next[kTile / kPageTokens];
};

template <typename T>
TilePages<T> value_pages(const TileStream<T>& stream, std::int64_t tile, std::int64_t count) {
  TilePages<T> pages;
  for (std::int64_t t = 0; t < count; t += kPageTokens) {
    const T* here = stream.values.at(tile + t);
    pages.here[t / kPageTokens] = here;
    pages.next[t / kPageTokens] = stream.after_values(tile, count, t, here);
  }
  return pages;
}

/// values[h][d ..] = values[h][d ..] * alpha[h] + weights[h] . V[.., d ..] for kHeads heads and kVecs vectors from
/// dimension d on.
template <int kHeads, int kVecs, bool kHalf, typename T>
FS_INLINE void add_values(const TilePages<T>& pages, std::int64_t count, int d, int head_dim, const float* weights,
                          const float* alpha, float* values) {
  Vec sums[kHeads][kVecs];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) {
      const float* p = values + std::int64_t{h} * head_dim + d + v * kLanes;
      sums[h][v] = (kHalf ? load_half(p) : load(p)) * set1(alpha[h]);
    }
  }
  const auto add_token = [&](const T* row, const float* weight) __attribute__((always_inline)) {
    Vec value[kVecs];
    for (int v = 0; v < kVecs; ++v) value[v] = kHalf ? load_half(row + v * kLanes) : load(row + v * kLanes);
    for (int h = 0; h < kHeads; ++h) {
      for (int v = 0; v < kVecs; ++v) sums[h][v] = fma(set1(weight[h * kTile]), value[v], sums[h][v]);
    }
  };
  std::int64_t t = 0;
  for (; t + kPageTokens <= count; t += kPageTokens) {
    const T* row = pages.here[t / kPageTokens] + d;
    const T* next = pages.next[t / kPageTokens] + d;
    for (int j = 0; j < kPageTokens; ++j) {
      for (int v = 0; v < kVecs; ++v) __builtin_prefetch(next + std::int64_t{j} * head_dim + v * kLanes, 0, 2);
      add_token(row + std::int64_t{j} * head_dim, weights + t + j);
    }
  }
  for (std::int64_t j = 0; t + j < count; ++j) {
    add_token(pages.here[t / kPageTokens] + d + j * head_dim, weights + t + j);
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) {
      float* p = values + std::int64_t{h} * head_dim + d + v * kLanes;
      if (kHalf) {
        store_half(p, sums[h][v]);
      } else {
        store(p, sums[h][v]);
      }
    }
  }
}

template <int kHeads, typename T>
FS_INLINE void add_values_of_heads(const TilePages<T>& pages, std::int64_t count, int head_dim, const float* weights,
                                   const float* alpha, float* values) {
  int d = 0;
  for (; d + kMicroVecs * kLanes <= head_dim; d += kMicroVecs * kLanes) {
    add_values<kHeads, kMicroVecs, false>(pages, count, d, head_dim, weights, alpha, values);
  }
  for (; d + kLanes <= head_dim; d += kLanes) {
    add_values<kHeads, 1, false>(pages, count, d, head_dim, weights, alpha, values);
  }
  if (d < head_dim) add_values<kHeads, 1, true>(pages, count, d, head_dim, weights, alpha, values);
}

template <typename T>
void add_tile(const TileStream<T>& stream, std::int64_t tile, std::int64_t count, std::int64_t heads,
              const float* weights, const float* alpha, float* values) {
  const TilePages<T> pages = value_pages(stream, tile, count);
  const int head_dim = stream.values.head_dim;
  std::int64_t h = 0;
  for (; h + 4 <= heads; h += 4) {
    add_values_of_heads<4>(pages, count, head_dim, weights + h * kTile, alpha + h, values + h * head_dim);
  }
  weights += h * kTile;
  alpha += h;
  values += h * head_dim;
  if (heads - h == 3) add_values_of_heads<3>(pages, count, head_dim, weights, alpha, values);
  if (heads - h == 2) add_values_of_heads<2>(pages, count, head_dim, weights, alpha, values);
  if (heads - h == 1) add_values_of_heads<1>(pages, count, head_dim, weights, alpha, values);
}

/// Softmax-weighted values of the KV tokens [begin, end) of one row, within one split.
template <typename T>
void attend_split(const AttentionParams& p, std::int64_t row, const HeadGroup& heads, std::int64_t begin,
                  std::int64_t end, Scratch& scratch, const Softmax& softmax) {
  const auto stream = tile_stream<T>(p, row, heads.kv_head, end);
  const std::int64_t chunk = min_of(kTile, max_of(1, kKeyFloats / p.head_dim / kLanes) * kLanes);
  for (std::int64_t h = 0; h < heads.count; ++h) {
    softmax.max[h] = kMinusInf;
    softmax.sum[h] = 0.0f;
  }
  for (std::int64_t i = 0; i < heads.count * p.head_dim; ++i) softmax.values[i] = 0.0f;
  for (std::int64_t tile = begin; tile < end; tile += kTile) {
    const std::int64_t count = min_of(end - tile, kTile);
    for (std::int64_t t = 0; t < count; t += chunk) {
      transpose_keys(stream, tile, count, t, min_of(count, t + chunk), scratch.keys);
      score_tokens(scratch.keys, min_of(count - t, chunk), p.head_dim, scratch.q, heads.count, scratch.scores + t);
    }
    hide_scores_past(count, heads.count, scratch.scores);
    weigh_tile(count, heads.count, scratch.scores, softmax, scratch.alpha);
    add_tile(stream, tile, count, heads.count, scratch.scores, scratch.alpha, softmax.values);
  }
}

/// Merge a later split into the total of the ones before it.
void merge(const Softmax& total, const Softmax& later, std::int64_t heads, int head_dim) {
  for (std::int64_t h = 0; h < heads; ++h) {
    const MergeWeights weights = merge_weights(set1(total.max[h]), set1(later.max[h]));
    float earlier_weight[kLanes], later_weight[kLanes], maximum[kLanes];
    store(earlier_weight, weights.earlier);
    store(later_weight, weights.later);
    store(maximum, weights.maximum);
    total.max[h] = maximum[0];
    total.sum[h] = total.sum[h] * earlier_weight[0] + later.sum[h] * later_weight[0];
    for (int d = 0; d < head_dim; d += kLanes) {
      float* sum = total.values + h * head_dim + d;
      const Vec added = load_some(later.values + h * head_dim + d, head_dim - d) * weights.later;
      store_some(sum, load_some(sum, head_dim - d) * weights.earlier + added, head_dim - d);
    }
  }
}

template <typename T>
void write_out(const AttentionParams& p, std::int64_t row, const HeadGroup& heads, const Softmax& softmax) {
  T* token = static_cast<T*>(p.out) + p.query_start[row] * p.out_token_stride;
  for (std::int64_t h = 0; h < heads.count; ++h) {
    const Vec inverse = set1(1.0f / softmax.sum[h]);
    T* destination = token + (heads.first + h) * p.out_head_stride;
    for (int d = 0; d < p.head_dim; d += kLanes) {
      const Vec value = load_some(softmax.values + h * p.head_dim + d, p.head_dim - d);
      store_some(destination + d, value * inverse, p.head_dim - d);
    }
  }
}

template <typename T>
void attend_rows(void* context, std::int64_t begin, std::int64_t end) {
  const auto& p = *static_cast<const AttentionParams*>(context);
  Scratch scratch;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const std::int64_t row = p.row_begin + unit / units_per_row(p);
    const HeadGroup heads = head_group(p, unit % units_per_row(p));
    const std::int64_t length = p.seq_lens[row];
    load_queries<T>(p, row, heads, scratch.q);
    const Softmax total = softmax_at(scratch.total, heads.count);
    attend_split<T>(p, row, heads, 0, min_of(length, kAttentionSplitTokens), scratch, total);
    for (std::int64_t first = kAttentionSplitTokens; first < length; first += kAttentionSplitTokens) {
      const Softmax later = softmax_at(scratch.split, heads.count);
      attend_split<T>(p, row, heads, first, min_of(length, first + kAttentionSplitTokens), scratch, later);
      merge(total, later, heads.count, p.head_dim);
    }
    write_out<T>(p, row, heads, total);
  }
}

/// Where a split keeps its unfinished softmax: units are numbered [split of row][unit of row].
FS_INLINE Softmax partial_at(const AttentionParams& p, std::int64_t split, std::int64_t unit, std::int64_t heads) {
  const std::int64_t room = min_of(p.num_q_heads / p.num_kv_heads, kMaxHeads) * (p.head_dim + 2);
  return softmax_at(p.partials + (split * units_per_row(p) + unit) * room, heads);
}

template <typename T>
void attend_splits(void* context, std::int64_t begin, std::int64_t end) {
  const auto& p = *static_cast<const AttentionParams*>(context);
  Scratch scratch;
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t split = item / units_per_row(p);
    const std::int64_t unit = item % units_per_row(p);
    std::int64_t r = 0;
    while (p.split_start[r + 1] <= split) ++r;
    const std::int64_t row = p.row_begin + r;
    const HeadGroup heads = head_group(p, unit);
    const std::int64_t first = (split - p.split_start[r]) * kAttentionSplitTokens;
    load_queries<T>(p, row, heads, scratch.q);
    attend_split<T>(p, row, heads, first, min_of(p.seq_lens[row], first + kAttentionSplitTokens), scratch,
                    partial_at(p, split, unit, heads.count));
  }
}

template <typename T>
void merge_splits(void* context, std::int64_t begin, std::int64_t end) {
  const auto& p = *static_cast<const AttentionParams*>(context);
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t r = item / units_per_row(p);
    const std::int64_t unit = item % units_per_row(p);
    const HeadGroup heads = head_group(p, unit);
    const Softmax total = partial_at(p, p.split_start[r], unit, heads.count);
    for (std::int64_t split = p.split_start[r] + 1; split < p.split_start[r + 1]; ++split) {
      merge(total, partial_at(p, split, unit, heads.count), heads.count, p.head_dim);
    }
    write_out<T>(p, p.row_begin + r, heads, total);
  }
}

template <typename T>
void run(const AttentionParams& params, ThreadPool& pool) {
  auto* context = const_cast<AttentionParams*>(&params);
  const std::int64_t num_rows = params.row_end - params.row_begin;
  if (params.partials == nullptr) {
    parallel_run(pool, num_rows * units_per_row(params), 1, attend_rows<T>, context);
    return;
  }
  parallel_run(pool, params.split_start[num_rows] * units_per_row(params), 1, attend_splits<T>, context);
  parallel_run(pool, num_rows * units_per_row(params), 1, merge_splits<T>, context);
}

}  // namespace

void attention_decode(const AttentionParams& params, ThreadPool& pool) {
  switch (params.dtype) {
    case DType::kBFloat16: return run<BFloat16>(params, pool);
    case DType::kFloat16: return run<Float16>(params, pool);
    default: return run<float>(params, pool);
  }
}

}  // namespace fastserve::kernels::FS_ISA
