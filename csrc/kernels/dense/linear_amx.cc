#include <immintrin.h>

#include "kernels/dense/linear_sums.h"
#include "kernels/parallel.h"

// The product in bf16 on the matrix units of Intel server processors: tiles of 16 rows x 32 inputs times 32 inputs x 16
// outputs, summed in fp32. One work item is a block of rows times some panels; its pieces are (panel, block of inputs).
// The rows are copied, one block of inputs at a time, into tiles that lie one after the other, rows and inputs that are
// not there as zeros; two tiles of rows x two of outputs rest in registers over a piece. Between two blocks of inputs
// sums rest in fp32, which changes no bit. An output is one tile product per 32 inputs, in order, within a segment.
namespace fastserve::kernels::FS_ISA {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileInputs = 32;
constexpr int kTileElements = kTileRows * kTileInputs;
static_assert(kTileInputs == kLinearInputUnit);
constexpr int kRowTiles = 8;  // of a row block: the reuse of a piece while it is in the L2 cache
constexpr int kBlockRows = kRowTiles * kTileRows;
constexpr int kBlockSteps = 32;  // tiles of inputs in a block of inputs
constexpr int kMostPanels = 8;   // of an item
constexpr std::int64_t kAheadBytes = 6144;

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

struct Scratch {
  alignas(64) BFloat16 x[kRowTiles][kBlockSteps][kTileElements];
  alignas(64) float sums[kMostPanels][kMaxSumDepth][kBlockRows][kPanelWidth];
};

struct Plan {
  const LinearParams* params;
  std::int64_t num_panels;
  std::int64_t panels_per_item;
  std::int64_t items_per_block;
  std::int64_t panel_inputs;  // of a packed panel
};

/// sums[16 kTiles][32] += x[16 kTiles][32 steps] * piece[32 steps][32], from zero where `start`. With kPrefetch the lines
/// kAheadBytes after those in use are fetched as well.
template <int kTiles, bool kPrefetch>
FS_NOINLINE void run_tiles(float* sums, bool start, const BFloat16* x, const BFloat16* piece, std::int64_t steps) {
  constexpr int kStride = kPanelWidth * 4;
  constexpr int kRowTile = kTileRows * kPanelWidth;
  if (start) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kStride);
    _tile_loadd(1, sums + 16, kStride);
    if constexpr (kTiles == 2) {
      _tile_loadd(2, sums + kRowTile, kStride);
      _tile_loadd(3, sums + kRowTile + 16, kStride);
    }
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    if constexpr (kPrefetch) {
      const auto* ahead = reinterpret_cast<const char*>(piece) + kAheadBytes;
#pragma GCC unroll 32
      for (int line = 0; line < 32; ++line) __builtin_prefetch(ahead + line * 64, 0, 2);
    }
    _tile_loadd(6, piece, kStride);
    _tile_loadd(7, piece + 32, kStride);
    _tile_loadd(4, x, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kTiles == 2) {
      _tile_loadd(5, x + kBlockSteps * kTileElements, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    x += kTileElements;
    piece += kTileInputs * kPanelWidth;
  }
  _tile_stored(0, sums, kStride);
  _tile_stored(1, sums + 16, kStride);
  if constexpr (kTiles == 2) {
    _tile_stored(2, sums + kRowTile, kStride);
    _tile_stored(3, sums + kRowTile + 16, kStride);
  }
}

template <bool kPrefetch>
void run_row_tiles(float* sums, bool start, const BFloat16* x, const BFloat16* piece, std::int64_t steps, int tiles) {
  if (tiles == 2) {
    run_tiles<2, kPrefetch>(sums, start, x, piece, steps);
  } else {
    run_tiles<1, kPrefetch>(sums, start, x, piece, steps);
  }
}

/// Copy the inputs [begin, begin + inputs) of `rows` rows into tiles; zeros where a tile has no row or no input.
void load_inputs(Scratch& scratch, const BFloat16* x, std::int64_t x_stride, std::int64_t rows, std::int64_t inputs) {
  const std::int64_t steps = ceil_div(inputs, kTileInputs);
  const std::int64_t whole = inputs / kTileInputs;
  const auto tail = static_cast<__mmask32>((1ull << inputs % kTileInputs) - 1);
  for (std::int64_t r = 0; r < ceil_div(rows, kTileRows) * kTileRows; ++r) {
    BFloat16* out = scratch.x[r / kTileRows][0] + r % kTileRows * kTileInputs;
    const BFloat16* row = x + r * x_stride;
    for (std::int64_t step = 0; step < steps; ++step, out += kTileElements) {
      __m512i values = _mm512_setzero_si512();
      if (r < rows) {
        values = step < whole ? _mm512_loadu_si512(row + step * kTileInputs)
                              : _mm512_maskz_loadu_epi16(tail, row + step * kTileInputs);
      }
      _mm512_store_si512(out, values);
    }
  }
}

void run_segment(const Plan& plan, Scratch& scratch, int segment, std::int64_t rows, const BFloat16* x,
                 const BFloat16* weight, int panels) {
  const int depth = sum_depth(segment);
  const std::int64_t begin = segment_begin(*plan.params, segment);
  const std::int64_t end = segment_begin(*plan.params, segment + 1);
  const int row_tiles = static_cast<int>(ceil_div(rows, kTileRows));
  for (int i = 0; i < panels && begin == end; ++i) {
    __builtin_memset(scratch.sums[i][depth], 0, static_cast<std::size_t>(rows) * kPanelWidth * sizeof(float));
  }
  for (std::int64_t k = begin; k < end; k += kBlockSteps * kTileInputs) {
    const std::int64_t inputs = min_of(kBlockSteps * kTileInputs, end - k);
    const std::int64_t steps = ceil_div(inputs, kTileInputs);
    load_inputs(scratch, x + k, plan.params->x_stride, rows, inputs);
    for (int i = 0; i < panels; ++i) {
      const BFloat16* piece = weight + (i * plan.panel_inputs + k) * kPanelWidth;
      float (*sums)[kPanelWidth] = scratch.sums[i][depth];
      run_row_tiles<true>(sums[0], k == begin, scratch.x[0][0], piece, steps, static_cast<int>(min_of(row_tiles, 2)));
      for (int tile = 2; tile < row_tiles; tile += 2) {
        run_row_tiles<false>(sums[tile * kTileRows], k == begin, scratch.x[tile][0], piece, steps,
                             static_cast<int>(min_of(row_tiles - tile, 2)));
      }
    }
  }
  for (int i = 0; i < panels; ++i) merge_sums(scratch.sums[i][0][0], kBlockRows * kPanelWidth, rows, segment, depth);
}

template <typename Out>
void run_item(const Plan& plan, Scratch& scratch, std::int64_t row, std::int64_t rows, std::int64_t panel) {
  const LinearParams& p = *plan.params;
  const int panels = static_cast<int>(min_of(plan.panels_per_item, plan.num_panels - panel));
  const auto* x = static_cast<const BFloat16*>(p.x) + row * p.x_stride;
  const auto* weight = static_cast<const BFloat16*>(p.weight) + panel * plan.panel_inputs * kPanelWidth;
  for (int segment = 0; segment < p.num_segments; ++segment) {
    run_segment(plan, scratch, segment, rows, x, weight, panels);
  }
  for (int i = 0; i < panels; ++i) {
    const std::int64_t n = (panel + i) * kPanelWidth;
    const BFloat16* bias = p.bias == nullptr ? nullptr : static_cast<const BFloat16*>(p.bias) + n;
    for (std::int64_t r = 0; r < rows; ++r) {
      finish_row(static_cast<Out*>(p.out) + (row + r) * p.out_stride + n, scratch.sums[i][0][r], bias,
                 min_of(kPanelWidth, p.out_features - n));
    }
  }
}

template <typename Out>
void run_items(void* context, std::int64_t begin, std::int64_t end) {
  static const TileConfig kConfig;
  const Plan& plan = *static_cast<const Plan*>(context);
  const std::int64_t tokens = plan.params->num_tokens;
  const std::int64_t blocks = ceil_div(tokens, kBlockRows);
  Scratch scratch;
  _tile_loadconfig(&kConfig);
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t block = item / plan.items_per_block;
    const std::int64_t row = tokens * block / blocks;
    run_item<Out>(plan, scratch, row, tokens * (block + 1) / blocks - row,
                  item % plan.items_per_block * plan.panels_per_item);
  }
  _tile_release();
}

}  // namespace

void linear_bf16(const LinearParams& params, ThreadPool& pool) {
  const std::int64_t num_panels = ceil_div(params.out_features, kPanelWidth);
  const std::int64_t blocks = ceil_div(params.num_tokens, kBlockRows);
  // Enough items for all threads to end at about the same time.
  const std::int64_t panels_per_item = max_of(min_of(num_panels * blocks / (4 * num_threads(pool)), kMostPanels), 1);
  Plan plan{
      .params = &params,
      .num_panels = num_panels,
      .panels_per_item = panels_per_item,
      .items_per_block = ceil_div(num_panels, panels_per_item),
      .panel_inputs = packed_inputs(params.dtype, params.in_features),
  };
  parallel_run(pool, blocks * plan.items_per_block, 1,
               params.out_dtype == DType::kFloat32 ? run_items<float> : run_items<BFloat16>, &plan);
}

}  // namespace fastserve::kernels::FS_ISA
