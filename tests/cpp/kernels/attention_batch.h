#pragma once

// A batch for the bodies of the GPU attention kernels, and attention in double to compare with.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "gpu_emulator.h"
#include "kernels/attention_gpu.h"

namespace fastserve::kernels {

inline constexpr int kLayers = 2;
inline constexpr int kLayer = 1;
inline constexpr int kSpareBlocks = 2;

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
    launch.num_blocks = static_cast<std::int64_t>(block_ids_.size()) + kSpareBlocks;
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

}  // namespace fastserve::kernels
