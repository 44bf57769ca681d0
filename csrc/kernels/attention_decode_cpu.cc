// One query token per row: bound by reading the cache, so each page is read once for all query heads of its KV head.
// A unit of work is (row, KV head, up to kAttentionMaxHeadsPerPass query heads[, split]). Scores: a tile of K is
// transposed, then lanes = tokens. Values: lanes = dimensions. The pages of the next tile are prefetched meanwhile.

#include "kernels/attention_tile.h"
#include "kernels/parallel.h"

namespace fastserve::kernels::FS_ISA {
namespace {

constexpr int kTile = kAttentionTileTokens;
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
  alignas(64) float keys[kAttentionMaxHeadDim * kTile];
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

/// kt[d + j][lane] = K[lane][d + j] for kWidth dimensions; lanes from 8 on come from the page `high`. Each line read also
/// prefetches the same line of the next tile, of K and of V.
template <int kWidth, typename T>
FS_INLINE void transpose_square(const T* low, const T* high, const T* next_low, const T* next_high, std::int64_t values_offset,
                                int head_dim, float* kt) {
  Vec square[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const std::int64_t offset = std::int64_t{i % kPageTokens} * head_dim;
    const T* next = (i < kPageTokens ? next_low : next_high) + offset;
    __builtin_prefetch(next, 0, 3);
    __builtin_prefetch(next + values_offset, 0, 3);
    square[i] = load_some(i < kPageTokens ? low + offset : high + offset, kWidth);
  }
  transpose(square);
  for (int j = 0; j < kWidth; ++j) store(kt + j * kTile, square[j]);
}

/// Transpose the keys of the tokens [tile, tile + count): kt[d][token], undefined past count.
template <typename T>
void transpose_tile(const PagedRows<T>& keys, std::int64_t tile, std::int64_t count, std::int64_t num_tokens,
                    std::int64_t values_offset, float* kt) {
  const int head_dim = keys.head_dim;
  for (std::int64_t t = 0; t < count; t += kLanes) {
    // Past the last page any readable address does: those lanes are thrown away.
    const std::int64_t token = tile + t;
    const T* low = keys.at(token);
    const T* high = t + kPageTokens < count ? keys.at(token + kPageTokens) : low;
    const T* next_low = token + kTile < num_tokens ? keys.at(token + kTile) : low;
    const T* next_high = token + kTile + kPageTokens < num_tokens ? keys.at(token + kTile + kPageTokens) : low;
    int d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) {
      transpose_square<kLanes>(low + d, high + d, next_low + d, next_high + d, values_offset, head_dim, kt + d * kTile + t);
    }
    if constexpr (kLanes > kPageTokens) {
      if (d == head_dim) continue;
      transpose_square<8>(low + d, high + d, next_low + d, next_high + d, values_offset, head_dim, kt + d * kTile + t);
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
void score_tile(const float* kt, std::int64_t count, int head_dim, const float* q, std::int64_t heads, float* scores) {
  std::int64_t h = 0;
  for (; h + 4 <= heads; h += 4) score_heads<4>(kt, count, head_dim, q + h * head_dim, scores + h * kTile);
  q += h * head_dim;
  scores += h * kTile;
  if (heads - h == 3) score_heads<3>(kt, count, head_dim, q, scores);
  if (heads - h == 2) score_heads<2>(kt, count, head_dim, q, scores);
  if (heads - h == 1) score_heads<1>(kt, count, head_dim, q, scores);
}

/// Turn scores into weights exp(score - maximum), update maximum and sum; alpha[h] is the factor for what came before.
void weigh_tile(std::int64_t count, std::int64_t heads, float* scores, const Softmax& softmax, float* alpha) {
  const Vec last = set1(static_cast<float>(count - 1));
  float lane_ids[kLanes];
  for (int i = 0; i < kLanes; ++i) lane_ids[i] = static_cast<float>(i);
  const Vec iota = load(lane_ids);
  for (std::int64_t h = 0; h < heads; ++h) {
    float* row = scores + h * kTile;
    Vec highest = set1(kMinusInf);
    for (std::int64_t t = 0; t < count; t += kLanes) {
      const Vec kept = select_le(iota + set1(static_cast<float>(t)), last, load(row + t), set1(kMinusInf));
      store(row + t, kept);
      highest = max(kept, highest);
    }
    const float tile_max = reduce_max(highest);
    const float maximum = tile_max > softmax.max[h] ? tile_max : softmax.max[h];
    alpha[h] = exp_scalar(softmax.max[h] - maximum);
    softmax.max[h] = maximum;
    Vec sum = set1(0.0f);
    for (std::int64_t t = 0; t < count; t += kLanes) {
      const Vec weight =
          select_le(iota + set1(static_cast<float>(t)), last, exp(load(row + t) - set1(maximum)), set1(0.0f));
      store(row + t, weight);
      sum = sum + weight;
    }
    softmax.sum[h] = softmax.sum[h] * alpha[h] + reduce_sum(sum);
  }
}

/// values[h][d ..] = values[h][d ..] * alpha[h] + weights[h] . V[.., d ..] for kHeads heads and kVecs vectors of d.
template <int kHeads, int kVecs, bool kHalf, typename T>
FS_INLINE void add_values(const T* const* pages, std::int64_t count, int head_dim, const float* weights, const float* alpha,
                          float* values) {
  Vec sums[kHeads][kVecs];
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) {
      const float* p = values + std::int64_t{h} * head_dim + v * kLanes;
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
    const T* row = pages[t / kPageTokens];
    for (int j = 0; j < kPageTokens; ++j) add_token(row + std::int64_t{j} * head_dim, weights + t + j);
  }
  for (std::int64_t j = 0; t + j < count; ++j) add_token(pages[t / kPageTokens] + j * head_dim, weights + t + j);
  for (int h = 0; h < kHeads; ++h) {
    for (int v = 0; v < kVecs; ++v) {
      float* p = values + std::int64_t{h} * head_dim + v * kLanes;
      if (kHalf) {
        store_half(p, sums[h][v]);
      } else {
        store(p, sums[h][v]);
      }
    }
  }
}

template <int kHeads, typename T>
FS_INLINE void add_values_of_heads(const T* const* pages, std::int64_t count, int head_dim, const float* weights,
                                   const float* alpha, float* values) {
  const T* here[kTile / kPageTokens];
  int d = 0;
  const auto shift_pages = [&] {
    for (std::int64_t i = 0; i < ceil_div(count, kPageTokens); ++i) here[i] = pages[i] + d;
  };
  for (; d + kMicroVecs * kLanes <= head_dim; d += kMicroVecs * kLanes) {
    shift_pages();
    add_values<kHeads, kMicroVecs, false>(here, count, head_dim, weights, alpha, values + d);
  }
  for (; d + kLanes <= head_dim; d += kLanes) {
    shift_pages();
    add_values<kHeads, 1, false>(here, count, head_dim, weights, alpha, values + d);
  }
  if (d < head_dim) {
    shift_pages();
    add_values<kHeads, 1, true>(here, count, head_dim, weights, alpha, values + d);
  }
}

template <typename T>
void add_tile(const PagedRows<T>& v, std::int64_t tile, std::int64_t count, std::int64_t heads, const float* weights,
              const float* alpha, float* values) {
  const T* pages[kTile / kPageTokens];
  for (std::int64_t t = 0; t < count; t += kPageTokens) pages[t / kPageTokens] = v.at(tile + t);
  std::int64_t h = 0;
  for (; h + 4 <= heads; h += 4) {
    add_values_of_heads<4>(pages, count, v.head_dim, weights + h * kTile, alpha + h, values + h * v.head_dim);
  }
  weights += h * kTile;
  alpha += h;
  values += h * v.head_dim;
  if (heads - h == 3) add_values_of_heads<3>(pages, count, v.head_dim, weights, alpha, values);
  if (heads - h == 2) add_values_of_heads<2>(pages, count, v.head_dim, weights, alpha, values);
  if (heads - h == 1) add_values_of_heads<1>(pages, count, v.head_dim, weights, alpha, values);
}

/// Softmax-weighted values of the KV tokens [begin, end) of one row, within one split.
template <typename T>
void attend_split(const AttentionParams& p, std::int64_t row, const HeadGroup& heads, std::int64_t begin, std::int64_t end,
                  Scratch& scratch, const Softmax& softmax) {
  const auto keys = paged_rows<T>(p, row, heads.kv_head, false);
  const auto values = paged_rows<T>(p, row, heads.kv_head, true);
  for (std::int64_t h = 0; h < heads.count; ++h) {
    softmax.max[h] = kMinusInf;
    softmax.sum[h] = 0.0f;
  }
  for (std::int64_t i = 0; i < heads.count * p.head_dim; ++i) softmax.values[i] = 0.0f;
  for (std::int64_t tile = begin; tile < end; tile += kTile) {
    const std::int64_t count = min_of(end - tile, kTile);
    transpose_tile(keys, tile, count, end, values.base - keys.base, scratch.keys);
    score_tile(scratch.keys, count, p.head_dim, scratch.q, heads.count, scratch.scores);
    weigh_tile(count, heads.count, scratch.scores, softmax, scratch.alpha);
    add_tile(values, tile, count, heads.count, scratch.scores, scratch.alpha, softmax.values);
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
    case DType::kBFloat16:
      return run<BFloat16>(params, pool);
    case DType::kFloat16:
      return run<Float16>(params, pool);
    default:
      return run<float>(params, pool);
  }
}

}  // namespace fastserve::kernels::FS_ISA
