// The bodies of the GPU attention kernels, run by an emulator of warps and compared with attention in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "gpu_emulator.h"
#include "kernels/attention_decode_gpu.h"
#include "kernels/attention_naive_gpu.h"
#include "kernels/attention_prefill_gpu.h"

namespace fastserve::kernels {
namespace {

constexpr int kLayers = 2;
constexpr int kLayer = 1;
constexpr int kSpareBlocks = 2;

struct Shape {
  DType dtype = DType::kBFloat16;
  int head_dim = 64;
  int num_q_heads = 4;
  int num_kv_heads = 2;
  int block_size = 16;
};

/// A batch over a cache in which all that no token has written is NaN, and so is the output before the launch.
class Batch {
 public:
  Batch(const Shape& shape, std::vector<int> seq_lens, std::vector<int> num_queries, unsigned seed = 1)
      : shape_(shape), element_(shape.dtype == DType::kFloat32 ? 4 : 2), random_(seed), seq_lens_(std::move(seq_lens)) {
    query_start_ = {0};
    block_start_ = {0};
    int num_blocks = 0;
    for (std::size_t row = 0; row < seq_lens_.size(); ++row) {
      query_start_.push_back(query_start_.back() + num_queries[row]);
      num_blocks += (std::max(seq_lens_[row], 0) + shape.block_size - 1) / shape.block_size;
      block_start_.push_back(num_blocks);
    }
    block_ids_.resize(static_cast<std::size_t>(num_blocks));
    for (int i = 0; i < num_blocks; ++i) block_ids_[static_cast<std::size_t>(i)] = i + kSpareBlocks;
    std::shuffle(block_ids_.begin(), block_ids_.end(), random_);
    const std::size_t layer = static_cast<std::size_t>(2 * shape.num_kv_heads * shape.block_size * shape.head_dim);
    block_stride_ = static_cast<std::int64_t>(layer) * kLayers;
    cache_ = memory(static_cast<std::size_t>(num_blocks + kSpareBlocks) * kLayers * layer);
    q_stride_ = (shape.num_q_heads + 2 * shape.num_kv_heads) * shape.head_dim;  // a view of a fused row
    out_stride_ = shape.num_q_heads * shape.head_dim;
    q_ = memory(static_cast<std::size_t>(num_tokens()) * static_cast<std::size_t>(q_stride_));
    out_ = memory(static_cast<std::size_t>(num_tokens()) * static_cast<std::size_t>(out_stride_));
    for (std::int64_t i = 0; i < num_tokens() * q_stride_; ++i) put(q_, i, normal_(random_));
    for (std::size_t row = 0; row < seq_lens_.size(); ++row) {
      for (int kind = 0; kind < 2; ++kind) {
        for (int head = 0; head < shape.num_kv_heads; ++head) {
          for (int token = 0; token < seq_lens_[row]; ++token) {
            for (int d = 0; d < shape.head_dim; ++d) put(cache_, at(row, kind, head, token) + d, normal_(random_));
          }
        }
      }
    }
  }

  int num_tokens() const { return query_start_.back(); }
  int num_rows() const { return static_cast<int>(seq_lens_.size()); }

  AttentionLaunch launch(int max_splits) {
    AttentionLaunch launch;
    AttentionParams& p = launch.params;
    p.q = q_.data();
    p.kv = reinterpret_cast<char*>(cache_.data()) + kLayer * block_stride_ / kLayers * element_;
    p.out = out_.data();
    p.dtype = shape_.dtype;
    p.num_q_heads = shape_.num_q_heads;
    p.num_kv_heads = shape_.num_kv_heads;
    p.head_dim = shape_.head_dim;
    p.block_size = shape_.block_size;
    p.q_token_stride = q_stride_;
    p.q_head_stride = shape_.head_dim;
    p.out_token_stride = out_stride_;
    p.out_head_stride = shape_.head_dim;
    p.block_stride = block_stride_;
    p.scale = scale();
    p.query_start = query_start_.data();
    p.seq_lens = seq_lens_.data();
    p.block_start = block_start_.data();
    p.block_ids = block_ids_.data();
    p.row_end = num_rows();
    launch.num_tokens = num_tokens();
    launch.max_seq_len = 1 << 20;
    launch.block_shift = std::countr_zero(static_cast<unsigned>(shape_.block_size));
    launch.max_splits = max_splits;
    tickets_.assign(static_cast<std::size_t>(num_rows() * shape_.num_q_heads), 0);
    values_.assign(static_cast<std::size_t>(num_rows() * shape_.num_q_heads * max_splits * shape_.head_dim), NAN);
    state_.assign(static_cast<std::size_t>(num_rows() * shape_.num_q_heads * max_splits * 2), NAN);
    launch.tickets = tickets_.data();
    launch.partial_values = reinterpret_cast<float*>(values_.data());
    launch.partial_state = reinterpret_cast<float*>(state_.data());
    return launch;
  }

  void expect_tickets_are_back() const {
    EXPECT_TRUE(std::ranges::all_of(tickets_, [](std::uint32_t ticket) { return ticket == 0; }));
  }

  /// Compare with the truth. Weights and results are rounded once each to the dtype; fp32 sums are good to 1e-5.
  void expect_attention() const {
    const double rounding = shape_.dtype == DType::kFloat32    ? 0.0
                            : shape_.dtype == DType::kFloat16 ? std::ldexp(1.0, -11)
                                                              : std::ldexp(1.0, -8);
    for (std::size_t row = 0; row < seq_lens_.size(); ++row) {
      const int num_queries = query_start_[row + 1] - query_start_[row];
      for (int i = 0; i < num_queries; ++i) {
        for (int head = 0; head < shape_.num_q_heads; ++head) {
          expect_head(row, query_start_[row] + i, head, seq_lens_[row] - num_queries + i + 1, rounding);
        }
      }
    }
  }

  std::vector<std::uint8_t> result() const {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(out_.data());
    return {bytes, bytes + num_tokens() * out_stride_ * element_};
  }
  /// The result of one row, to compare batches with each other.
  std::vector<std::uint8_t> result(int row) const {
    const auto all = result();
    const auto token_bytes = out_stride_ * element_;
    const auto index = static_cast<std::size_t>(row);
    return {all.begin() + query_start_[index] * token_bytes, all.begin() + query_start_[index + 1] * token_bytes};
  }
  /// Take over the tokens of a row of another batch, of the same shape.
  void copy_row(const Batch& other, int row, int other_row) {
    const auto to = static_cast<std::size_t>(row);
    const auto from = static_cast<std::size_t>(other_row);
    const int skipped = other.num_queries(from) - num_queries(to);
    for (std::int64_t i = 0; i < num_queries(to) * q_stride_; ++i) {
      put(q_, query_start_[to] * q_stride_ + i,
          get(other.q_, (other.query_start_[from] + skipped) * q_stride_ + i));
    }
    for (int kind = 0; kind < 2; ++kind) {
      for (int head = 0; head < shape_.num_kv_heads; ++head) {
        for (int token = 0; token < seq_lens_[to]; ++token) {
          for (int d = 0; d < shape_.head_dim; ++d) {
            put(cache_, at(to, kind, head, token) + d, get(other.cache_, other.at(from, kind, head, token) + d));
          }
        }
      }
    }
  }

 private:
  using Memory = std::vector<Word4>;  // aligned as memory of a GPU is

  Memory memory(std::size_t elements) const {
    return Memory((elements * static_cast<std::size_t>(element_) + 15) / 16, Word4{~0u, ~0u, ~0u, ~0u});
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  int num_queries(std::size_t row) const { return query_start_[row + 1] - query_start_[row]; }

  std::int64_t at(std::size_t row, int kind, int kv_head, int token) const {
    const auto block = static_cast<std::size_t>(block_start_[row] + token / shape_.block_size);
    return block_ids_[block] * block_stride_ + kLayer * block_stride_ / kLayers +
           ((kind * shape_.num_kv_heads + kv_head) * shape_.block_size + token % shape_.block_size) * shape_.head_dim;
  }
  void put(Memory& memory, std::int64_t index, float value) {
    if (shape_.dtype == DType::kFloat32) {
      reinterpret_cast<float*>(memory.data())[index] = value;
    } else {
      reinterpret_cast<std::uint16_t*>(memory.data())[index] = narrow(shape_.dtype, value);
    }
  }
  float get(const Memory& memory, std::int64_t index) const {
    if (shape_.dtype == DType::kFloat32) return reinterpret_cast<const float*>(memory.data())[index];
    return widen(shape_.dtype, reinterpret_cast<const std::uint16_t*>(memory.data())[index]);
  }

  void expect_head(std::size_t row, int token, int head, int visible, double rounding) const {
    const int kv_head = head / (shape_.num_q_heads / shape_.num_kv_heads);
    const std::int64_t q_at = static_cast<std::int64_t>(token) * q_stride_ + head * shape_.head_dim;
    std::vector<double> weights;
    double highest = -INFINITY;
    double sum = 0.0;
    for (int t = 0; t < visible; ++t) {
      double score = 0.0;
      for (int d = 0; d < shape_.head_dim; ++d) {
        score += static_cast<double>(get(q_, q_at + d)) * get(cache_, at(row, 0, kv_head, t) + d);
      }
      weights.push_back(score * scale());
      highest = std::max(highest, weights.back());
    }
    for (double& weight : weights) sum += weight = std::exp(weight - highest);
    for (int d = 0; d < shape_.head_dim; ++d) {
      double expected = 0.0;
      double size = 0.0;
      for (int t = 0; t < visible; ++t) {
        const double value = get(cache_, at(row, 1, kv_head, t) + d);
        expected += weights[static_cast<std::size_t>(t)] / sum * value;
        size += weights[static_cast<std::size_t>(t)] / sum * std::fabs(value);
      }
      const float result = get(out_, static_cast<std::int64_t>(token) * out_stride_ + head * shape_.head_dim + d);
      ASSERT_NEAR(result, expected, 1e-5 + 2 * rounding * size) << row << " token " << token << " head " << head;
    }
  }

  Shape shape_;
  int element_;
  std::mt19937 random_;
  std::normal_distribution<float> normal_;
  std::vector<std::int32_t> seq_lens_, query_start_, block_start_, block_ids_;
  std::int64_t block_stride_ = 0, q_stride_ = 0, out_stride_ = 0;
  Memory cache_, q_, out_;
  std::vector<std::uint32_t> tickets_;
  std::vector<float> state_;
  std::vector<float> values_;
};

template <DType kType, int kHeadDim>
void decode(Batch& batch, int num_ctas, GpuEmulator::Order order = {}) {
  using Kernel = AttentionDecode<EmulatedMachine, kType, kHeadDim>;
  const AttentionLaunch launch = batch.launch(kDecodeMaxSplits);
  GpuEmulator::run(num_ctas, kDecodeThreads, Kernel::kSharedBytes, order, [&] { Kernel::run(launch); });
  batch.expect_tickets_are_back();
}

template <DType kType, int kHeadDim>
void prefill(Batch& batch, const Shape& shape, GpuEmulator::Order order = {}) {
  using Kernel = AttentionPrefill<EmulatedMachine, kType, kHeadDim>;
  const AttentionLaunch launch = batch.launch(1);
  const int group = shape.num_q_heads / shape.num_kv_heads;
  const int tiles = batch.num_tokens() * group / kPrefillRows + batch.num_rows();
  GpuEmulator::run(tiles * shape.num_kv_heads, 32 * prefill_warps(kHeadDim), Kernel::kSharedBytes, order,
                   [&] { Kernel::run(launch); });
}

template <DType kType>
void naive(Batch& batch, const Shape& shape) {
  const AttentionLaunch launch = batch.launch(1);
  const int warps = batch.num_tokens() * shape.num_q_heads;
  GpuEmulator::run((warps + 3) / 4, kNaiveThreads, 16, {},
                   [&] { AttentionNaive<EmulatedMachine, kType>::run(launch); });
}

template <int kHeadDim>
void expect_banks_apart() {
  using Layout = TileLayout<kHeadDim>;
  for (int chunk = 0; chunk < Layout::kChunks; ++chunk) {
    unsigned banks = 0;
    for (int row = 0; row < 8; ++row) banks |= 1u << (Layout::offset(row, chunk) / 16 % 8);
    EXPECT_EQ(banks, 0xffu) << kHeadDim << ' ' << chunk;
  }
  EXPECT_GE(Layout::offset(1, 0), Layout::offset(0, Layout::kChunks - 1) + 16);
}

TEST(AttentionTileLayout, EightRowsOfAChunkLieInDifferentBanks) {
  expect_banks_apart<64>();
  expect_banks_apart<80>();
  expect_banks_apart<96>();
  expect_banks_apart<128>();
  expect_banks_apart<256>();
}

TEST(AttentionSchedule, SplitsFollowFromTheLengthAndAreBounded) {
  for (int length = 0; length < 300'000; length += length < 2000 ? 1 : 97) {
    const DecodeRow row = decode_row(length);
    EXPECT_LE(row.num_splits(), kDecodeMaxSplits);
    EXPECT_LE(row.num_splits(), decode_max_splits(length));
    EXPECT_LE(decode_max_splits(length), decode_max_splits(length + 97));
    EXPECT_GE(row.tiles * kDecodeTileTokens, length);
  }
}

TEST(AttentionSchedule, EveryItemIsTakenByOneThreadBlock) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::vector<int> lengths(1 + random() % 40);
    for (int& length : lengths) length = static_cast<int>(random() % (round % 3 == 0 ? 20'000 : 400)) - 20;
    const int units = 1 + static_cast<int>(random() % 9);
    const int num_ctas = 1 + static_cast<int>(random() % 300);
    const int num_rows = static_cast<int>(lengths.size());
    const auto length_of = [&](int row) { return lengths[static_cast<std::size_t>(row)]; };
    std::vector<std::int64_t> row_start{0};
    for (const int length : lengths) {
      row_start.push_back(row_start.back() + std::int64_t{decode_row_tiles(length)} * units);
    }
    DecodeItem expected;
    expected.shape = decode_row(lengths[0]);
    for (int cta = 0; cta < num_ctas; ++cta) {
      const std::int64_t begin = row_start.back() * cta / num_ctas;
      const std::int64_t end = row_start.back() * (cta + 1) / num_ctas;
      if (begin == end) continue;
      const auto row = std::ranges::upper_bound(row_start, begin) - row_start.begin() - 1;
      for (auto item = first_decode_item(begin, static_cast<int>(row), row_start[static_cast<std::size_t>(row)],
                                         num_rows, units, length_of);
           item.start < end; item.next(num_rows, units, length_of)) {
        ASSERT_EQ(item.row, expected.row);
        ASSERT_EQ(item.unit, expected.unit);
        ASSERT_EQ(item.split, expected.split);
        ASSERT_EQ(item.start, expected.start);
        ASSERT_LT(item.first_tile(), item.end_tile());
        expected.next(num_rows, units, length_of);
      }
    }
    EXPECT_EQ(expected.row, num_rows);
    EXPECT_EQ(expected.start, row_start.back());
  }
}

TEST(AttentionNaiveGpu, MatchesAttentionInDouble) {
  for (const int block_size : {8, 16}) {
    const Shape shape{DType::kFloat32, 40, 6, 2, block_size};
    Batch batch(shape, {1, 33, 0, 20}, {1, 7, 1, 20});
    naive<DType::kFloat32>(batch, shape);
    batch.expect_attention();
  }
  const Shape shape{DType::kBFloat16, 256, 2, 2, 32};
  Batch batch(shape, {40}, {3});
  naive<DType::kBFloat16>(batch, shape);
  batch.expect_attention();
}

TEST(AttentionDecodeGpu, LengthsAroundTilesAndSplitsMatchAttentionInDouble) {
  const Shape shape{DType::kBFloat16, 64, 4, 2, 16};
  const std::vector<int> lengths{1, 15, 16, 17, 63, 64, 65, 0, 127, 128, 129, 130, 200, 257, -3};
  Batch batch(shape, lengths, std::vector<int>(lengths.size(), 1));
  decode<DType::kBFloat16, 64>(batch, 7);
  batch.expect_attention();
}

template <DType kType, int kHeadDim>
void expect_decode(int num_q_heads, int num_kv_heads, int block_size) {
  const Shape shape{kType, kHeadDim, num_q_heads, num_kv_heads, block_size};
  Batch batch(shape, {90, 150, 3}, {1, 1, 1});
  decode<kType, kHeadDim>(batch, 3);
  batch.expect_attention();
}

TEST(AttentionDecodeGpu, EveryHeadSizeAndGroupMatchesAttentionInDouble) {
  expect_decode<DType::kFloat16, 64>(1, 1, 16);
  expect_decode<DType::kFloat16, 80>(7, 1, 16);
  expect_decode<DType::kBFloat16, 96>(16, 2, 32);
  expect_decode<DType::kFloat16, 128>(16, 1, 16);
  expect_decode<DType::kBFloat16, 128>(20, 1, 16);  // two passes over the heads of one KV head
  expect_decode<DType::kBFloat16, 256>(9, 1, 32);
}

TEST(AttentionDecodeGpu, ManySplitsAndOverlongItemsMatchAttentionInDouble) {
  const Shape shape{DType::kBFloat16, 64, 2, 1, 16};
  Batch batch(shape, {1100, 700}, {1, 1});
  decode<DType::kBFloat16, 64>(batch, 5);
  batch.expect_attention();
}

TEST(AttentionDecodeGpu, ARowHasTheSameBitsInEveryBatchGridAndOrder) {
  const Shape shape{DType::kBFloat16, 64, 4, 1, 16};
  Batch alone(shape, {333}, {1}, 5);
  decode<DType::kBFloat16, 64>(alone, 1);
  for (const int num_ctas : {2, 3, 9}) {
    Batch many(shape, {70, 333, 500, 2}, {1, 1, 1, 1}, 6);
    many.copy_row(alone, 1, 0);
    decode<DType::kBFloat16, 64>(many, num_ctas, {num_ctas % 2 == 1, num_ctas != 3});
    EXPECT_EQ(many.result(1), alone.result());
  }
}

template <DType kType, int kHeadDim>
void expect_prefill(int num_q_heads, int num_kv_heads, int block_size) {
  const Shape shape{kType, kHeadDim, num_q_heads, num_kv_heads, block_size};
  Batch batch(shape, {70, 33, 9}, {70, 5, 1});
  prefill<kType, kHeadDim>(batch, shape);
  batch.expect_attention();
}

TEST(AttentionPrefillGpu, EveryHeadSizeAndGroupMatchesAttentionInDouble) {
  expect_prefill<DType::kFloat16, 64>(3, 3, 16);
  expect_prefill<DType::kBFloat16, 80>(2, 1, 16);
  expect_prefill<DType::kFloat16, 96>(3, 1, 32);
  expect_prefill<DType::kBFloat16, 128>(4, 1, 16);
  expect_prefill<DType::kFloat16, 256>(2, 1, 32);
}

TEST(AttentionPrefillGpu, RowsOfManyLengthsMatchAttentionInDouble) {
  const Shape shape{DType::kBFloat16, 64, 2, 1, 16};
  std::vector<int> lengths{200, 64, 0, 1, 130, 65}, queries{130, 64, 2, 1, 3, 0};
  for (int i = 0; i < 40; ++i) {  // more rows than lanes
    lengths.push_back(i % 5 + 1);
    queries.push_back(i % 3 == 0 ? 0 : 1);
  }
  Batch batch(shape, lengths, queries);
  prefill<DType::kBFloat16, 64>(batch, shape, {true, true});
  batch.expect_attention();
}

TEST(AttentionPrefillGpu, ATokenHasTheSameBitsHoweverThePromptIsCut) {
  const Shape shape{DType::kBFloat16, 128, 3, 1, 16};
  Batch whole(shape, {100}, {100}, 3);
  prefill<DType::kBFloat16, 128>(whole, shape);
  Batch part(shape, {20, 100}, {1, 37}, 4);
  part.copy_row(whole, 1, 0);
  prefill<DType::kBFloat16, 128>(part, shape);
  const auto all = whole.result();
  const auto tail = part.result(1);
  EXPECT_TRUE(std::equal(tail.begin(), tail.end(), all.end() - static_cast<std::ptrdiff_t>(tail.size())));
}

}  // namespace
}  // namespace fastserve::kernels
