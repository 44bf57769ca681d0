#include "kernels/dense/linear_sums.h"
#include "kernels/parallel.h"

// One work item is a block of rows times a few panels; its pieces are (panel, block of inputs). The rows are converted
// to fp32 in a scratch on the stack, one block of inputs at a time, and a register tile of a group of rows x kTileWidth
// outputs runs over every piece, while the next piece is prefetched. Between two blocks of inputs a tile rests in fp32
// in a second scratch, which changes no bit. Within a segment an output is one fused multiply-add per input, in order:
// neither the tile, nor the block, nor the thread shows in the result.
namespace fastserve::kernels::FS_ISA {
namespace {

#if defined(FS_ISA_avx512)
constexpr int kMaxRows = 12;  // 12 x 2 accumulators and 2 weight vectors in 32 registers, inputs broadcast from memory
#elif defined(FS_ISA_avx2)
constexpr int kMaxRows = 6;  // 6 x 2 accumulators, 2 weight vectors and an input in 16 registers
#else
constexpr int kMaxRows = 4;
#endif
constexpr int kTileVecs = 2;
constexpr int kTileWidth = kTileVecs * Vec::kLanes;
constexpr int kTilesPerPanel = kPanelWidth / kTileWidth;
constexpr int kMaxGroups = 4;  // groups of rows in a row block: the reuse of a piece while it is in the L2 cache
constexpr int kBlockRows = kMaxGroups * kMaxRows;
constexpr int kInputBlock = 768;
constexpr int kInputStride = kInputBlock + 16;  // off the powers of two: the rows of a tile use different cache sets
constexpr int kItemPanels = 4;
constexpr std::uintptr_t kCacheLine = 64;

struct Scratch {
  alignas(64) float x[kBlockRows][kInputStride];
  alignas(64) float sums[kItemPanels][kMaxSumDepth][kBlockRows][kPanelWidth];
};

/// What to prefetch during one pass over a piece: two cache lines at next, next + step, ... Addresses, not pointers:
/// they may lie behind the weights, where a prefetch does nothing.
struct Prefetch {
  std::uintptr_t next;
  std::uintptr_t step_bytes;
};

/// The weights of `Weights::kInputs` neighbouring inputs for a tile's outputs.
template <typename T>
struct Weights {
  static constexpr int kInputs = 1;
  Vec at[1][kTileVecs];

  FS_INLINE explicit Weights(const T* panel) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) at[0][v] = load(panel + v * Vec::kLanes);
  }
};

template <>
struct Weights<BFloat16> {
  static constexpr int kInputs = 2;
  Vec at[2][kTileVecs];

  FS_INLINE explicit Weights(const BFloat16* panel) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) {
      const BFloat16* pairs = panel + v * 2 * Vec::kLanes;
#if defined(FS_ISA_avx512)
      const __m512i bits = _mm512_loadu_si512(pairs);
      at[0][v] = {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))};
      at[1][v] = {_mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
#elif defined(FS_ISA_avx2)
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
      at[0][v] = {_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16))};
      at[1][v] = {_mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
#else
      for (int i = 0; i < 2; ++i) {
        at[i][v] = {Lanes{to_float(pairs[i]), to_float(pairs[2 + i]), to_float(pairs[4 + i]), to_float(pairs[6 + i])}};
      }
#endif
    }
  }
};

/// Where the sums of a tile come from and go to; rows are kPanelWidth apart.
struct TileSums {
  float* at;
  bool start;    // at zero, whatever is there
  float* below;  // of the sums before on the stack, to which the tile is added in place of being kept; null: it is kept
};

/// sums[kRows][kTileWidth] += x[kRows][inputs] * panel[inputs][kTileWidth]; rows of the panel are kPanelWidth apart.
/// `inputs` is a multiple of Weights<T>::kInputs.
template <int kRows, typename T>
__attribute__((noinline)) void run_tile(TileSums sums, const float* x, const T* panel, std::int64_t inputs,
                                        Prefetch prefetch) {
  Vec tile[kRows][kTileVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) {
      tile[r][v] = sums.start ? set1(0.0f) : load(sums.at + r * kPanelWidth + v * Vec::kLanes);
    }
  }
#pragma GCC unroll 2
  for (std::int64_t k = 0; k < inputs; k += Weights<T>::kInputs) {
    const Weights<T> weights(panel + k * kPanelWidth);
#pragma GCC unroll 2
    for (int i = 0; i < Weights<T>::kInputs; ++i) {
      __builtin_prefetch(reinterpret_cast<const void*>(prefetch.next), 0, 2);
      __builtin_prefetch(reinterpret_cast<const void*>(prefetch.next + kCacheLine), 0, 2);
      prefetch.next += prefetch.step_bytes;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec input = set1(x[r * kInputStride + k + i]);
#pragma GCC unroll 2
        for (int v = 0; v < kTileVecs; ++v) tile[r][v] = fma(input, weights.at[i][v], tile[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) {
      const std::int64_t at = r * kPanelWidth + v * Vec::kLanes;
      if (sums.below == nullptr) {
        store(sums.at + at, tile[r][v]);
      } else {
        store(sums.below + at, load(sums.below + at) + tile[r][v]);
      }
    }
  }
}

/// run_tile with the number of rows chosen at run time.
template <int kRows, typename T>
void run_rows(std::int64_t rows, TileSums sums, const float* x, const T* panel, std::int64_t inputs,
              Prefetch prefetch) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      run_tile<kRows>(sums, x, panel, inputs, prefetch);
    } else {
      run_rows<kRows - 1>(rows, sums, x, panel, inputs, prefetch);
    }
  }
}

/// One piece for all rows of the block, prefetching a piece of the same size at `next_piece` during the first two
/// passes. `sums` is that of the first tile.
template <typename T>
void run_piece(const Scratch& scratch, TileSums sums, std::int64_t rows, const T* piece, std::int64_t inputs,
               std::uintptr_t next_piece) {
  const std::int64_t groups = ceil_div(rows, kMaxRows);
  const auto prefetching = static_cast<std::uintptr_t>(min_of(groups * kTilesPerPanel, 2));  // passes
  const std::uintptr_t step_bytes = kPanelWidth * sizeof(T) / prefetching;
  std::uintptr_t pass = 0;
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t row = rows * g / groups;
    const std::int64_t group_rows = rows * (g + 1) / groups - row;
    for (int column = 0; column < kPanelWidth; column += kTileWidth, ++pass) {
      Prefetch prefetch{next_piece + pass * step_bytes * static_cast<std::uintptr_t>(inputs), step_bytes};
      if (pass >= prefetching) prefetch = {reinterpret_cast<std::uintptr_t>(scratch.x), 0};  // there already
      const std::int64_t at = row * kPanelWidth + column;
      const TileSums tile{sums.at + at, sums.start, sums.below == nullptr ? nullptr : sums.below + at};
      run_rows<kMaxRows>(group_rows, tile, scratch.x[row], piece + column * Weights<T>::kInputs, inputs, prefetch);
    }
  }
}

/// Convert `rows` rows of `inputs` elements to fp32 rows kInputStride apart, with a zero behind where that is odd.
template <typename T>
void load_inputs(float* out, const T* x, std::int64_t x_stride, std::int64_t rows, std::int64_t inputs) {
  const std::int64_t whole = inputs / Vec::kLanes * Vec::kLanes;
  for (std::int64_t r = 0; r < rows; ++r, x += x_stride, out += kInputStride) {
    for (std::int64_t k = 0; k < whole; k += Vec::kLanes) store(out + k, load(x + k));
    for (std::int64_t k = whole; k < inputs; ++k) out[k] = to_float(x[k]);
    if (inputs % 2 != 0) out[inputs] = 0.0f;
  }
}

struct Plan {
  const LinearParams* params;
  std::int64_t num_panels;
  std::int64_t items_per_block;
  std::int64_t panel_inputs;  // of a packed panel
  std::int64_t next_item;     // how far away the next item of a thread probably is
};

/// The piece that follows panel `i` of an item at input `k`: the next panel, the next inputs, or the next item.
template <typename T>
std::uintptr_t piece_after(const Plan& plan, const T* weight, int i, int panels, std::int64_t k, std::int64_t inputs) {
  std::int64_t offset = (i + 1) * plan.panel_inputs + k;  // in rows of a panel
  if (i + 1 == panels) {
    offset = k + inputs < plan.params->in_features ? k + inputs : plan.next_item * kItemPanels * plan.panel_inputs;
  }
  return reinterpret_cast<std::uintptr_t>(weight) + static_cast<std::uintptr_t>(offset * kPanelWidth) * sizeof(T);
}

/// The inputs [begin, end) of a segment for all panels of an item, in blocks as equal as may be.
template <typename T>
void run_segment(const Plan& plan, Scratch& scratch, int segment, std::int64_t begin, std::int64_t end,
                 std::int64_t rows, const T* x, const T* weight, int panels) {
  const int depth = sum_depth(segment);
  const std::int64_t blocks = max_of(ceil_div(end - begin, kInputBlock), 1);
  const std::int64_t block = ceil_div(ceil_div(end - begin, blocks), 16) * 16;
  const bool is_right = (segment & 1) != 0;  // half of a pair: its last block is added to the left half at once
  for (int i = 0; i < panels && begin == end && !is_right; ++i) {
    __builtin_memset(scratch.sums[i][depth], 0, static_cast<std::size_t>(rows) * sizeof(scratch.sums[i][depth][0]));
  }
  for (std::int64_t k = begin; k < end; k += block) {
    const std::int64_t inputs = min_of(block, end - k);
    load_inputs(scratch.x[0], x + k, plan.params->x_stride, rows, inputs);
    for (int i = 0; i < panels; ++i) {
      const bool adds = is_right && k + block >= end;
      const TileSums sums{scratch.sums[i][depth][0], k == begin, adds ? scratch.sums[i][depth - 1][0] : nullptr};
      run_piece(scratch, sums, rows, weight + (i * plan.panel_inputs + k) * kPanelWidth,
                ceil_div(inputs, Weights<T>::kInputs) * Weights<T>::kInputs,
                piece_after(plan, weight, i, panels, k, inputs));
    }
  }
  for (int i = 0; i < panels && is_right; ++i) {
    merge_sums(scratch.sums[i][0][0], kBlockRows * kPanelWidth, rows, segment >> 1, depth - 1);
  }
}

template <typename T, typename Out>
void run_item(const Plan& plan, std::int64_t row, std::int64_t rows, std::int64_t panel) {
  const LinearParams& p = *plan.params;
  const int panels = static_cast<int>(min_of(kItemPanels, plan.num_panels - panel));
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  const T* weight = static_cast<const T*>(p.weight) + panel * plan.panel_inputs * kPanelWidth;
  Scratch scratch;
  for (int segment = 0; segment < p.num_segments; ++segment) {
    run_segment(plan, scratch, segment, segment_begin(p, segment), segment_begin(p, segment + 1), rows, x, weight,
                panels);
  }
  for (int i = 0; i < panels; ++i) {
    const std::int64_t n = (panel + i) * kPanelWidth;
    const T* bias = p.bias == nullptr ? nullptr : static_cast<const T*>(p.bias) + n;
    for (std::int64_t r = 0; r < rows; ++r) {
      finish_row(static_cast<Out*>(p.out) + (row + r) * p.out_stride + n, scratch.sums[i][0][r], bias,
                 min_of(kPanelWidth, p.out_features - n));
    }
  }
}

template <typename T, typename Out>
void run_items(void* context, std::int64_t begin, std::int64_t end) {
  const Plan& plan = *static_cast<const Plan*>(context);
  const std::int64_t tokens = plan.params->num_tokens;
  const std::int64_t blocks = ceil_div(tokens, kBlockRows);
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t block = item / plan.items_per_block;
    const std::int64_t row = tokens * block / blocks;
    run_item<T, Out>(plan, row, tokens * (block + 1) / blocks - row, item % plan.items_per_block * kItemPanels);
  }
}

template <typename T>
ParallelTask task_of(const LinearParams& params) {
  return params.out_dtype == DType::kFloat32 ? run_items<T, float> : run_items<T, T>;
}

}  // namespace

void linear(const LinearParams& params, ThreadPool& pool) {
  const std::int64_t num_panels = ceil_div(params.out_features, kPanelWidth);
  Plan plan{
      .params = &params,
      .num_panels = num_panels,
      .items_per_block = ceil_div(num_panels, kItemPanels),
      .panel_inputs = packed_inputs(params.dtype, params.in_features),
      .next_item = num_threads(pool),
  };
  ParallelTask task = task_of<float>(params);
  if (params.dtype == DType::kBFloat16) task = task_of<BFloat16>(params);
  if (params.dtype == DType::kFloat16) task = task_of<Float16>(params);
  parallel_run(pool, ceil_div(params.num_tokens, kBlockRows) * plan.items_per_block, 1, task, &plan);
}

}  // namespace fastserve::kernels::FS_ISA
