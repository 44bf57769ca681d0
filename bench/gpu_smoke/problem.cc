#include "problem.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "float16.h"
#include "kernels/attention/attention_gpu.h"

namespace fastserve::smoke {
namespace {

constexpr int kLayers = 2;
constexpr int kLayer = 1;  // the other one is NaN
constexpr std::int64_t kFarElements = std::int64_t{1} << 31;
constexpr int kTableBits = 12;
constexpr std::size_t kRepeatedPages = 64;  // more data than a cache of the first level holds
constexpr std::uint32_t kNanBits = 0xffffffff;

/// Normally distributed numbers, quickly: a table of quantiles in random order.
class Normal {
 public:
  explicit Normal(std::uint64_t seed) : random_(seed) {
    std::mt19937_64 drawn(3);
    std::normal_distribution<float> normal;
    for (float& value : table_) value = normal(drawn);
  }
  float next() {
    if (left_ == 0) {
      bits_ = random_();
      left_ = 64 / kTableBits;
    }
    --left_;
    const float value = table_[bits_ % table_.size()];
    bits_ >>= kTableBits;
    return value;
  }

 private:
  std::mt19937_64 random_;
  std::uint64_t bits_ = 0;
  int left_ = 0;
  std::array<float, 1 << kTableBits> table_;
};

/// The bytes of values, 2 or 4 for each.
std::vector<std::byte> packed(const std::vector<std::uint32_t>& bits, std::size_t value_bytes) {
  std::vector<std::byte> bytes(bits.size() * value_bytes);
  for (std::size_t i = 0; i < bits.size(); ++i) std::memcpy(bytes.data() + i * value_bytes, &bits[i], value_bytes);
  return bytes;
}

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

TensorView view_of(void* data, DType dtype, std::initializer_list<std::int64_t> shape) {
  TensorView view;
  view.data = data;
  view.dtype = dtype;
  view.device = DeviceType::kCuda;
  view.ndim = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  std::int64_t stride = 1;
  for (int i = view.ndim - 1; i >= 0; --i) {
    view.strides[index(i)] = stride;
    stride *= view.shape[index(i)];
  }
  return view;
}

AttentionProblem::AttentionProblem(AttentionSpec spec, std::uint64_t seed, bool only_timed)
    : spec_(std::move(spec)),
      heads_(index(spec_.num_q_heads)),
      head_dim_(index(spec_.head_dim)),
      value_bytes_(index(dtype_bytes(spec_.dtype))) {
  make_queries(seed);
  make_cache(seed + 1, only_timed);
  std::vector<std::int32_t> arrays{0};  // query_start, block_start, seq_lens, block_ids, one behind the other
  for (const SpecRow& row : spec_.rows) arrays.push_back(arrays.back() + row.queries);
  arrays.insert(arrays.end(), block_start_.begin(), block_start_.end());
  for (const SpecRow& row : spec_.rows) arrays.push_back(row.length);
  arrays.insert(arrays.end(), block_ids_.begin(), block_ids_.end());
  arrays_ = std::make_unique<DeviceMemory>(4 * arrays.size());
  arrays_->write(arrays.data(), 4 * arrays.size());
  workspace_ = std::make_unique<DeviceMemory>(index(
      kernels::attention_workspace_bytes(std::ssize(spec_.rows), spec_.num_q_heads, spec_.head_dim, spec_.longest())));
  workspace_->fill(0);
}

std::size_t AttentionProblem::token_stride() const {
  return (heads_ + (spec_.fused ? 2 * index(spec_.num_kv_heads) : 0)) * head_dim_;
}

void AttentionProblem::make_queries(std::uint64_t seed) {
  Normal normal(seed);
  const std::size_t num_tokens = index(spec_.num_tokens());
  query_bits_.assign(num_tokens * token_stride(), kNanBits);
  for (std::size_t token = 0; token < num_tokens; ++token) {
    for (std::size_t i = 0; i < heads_ * head_dim_; ++i) {
      query_bits_[token * token_stride() + i] = to_bits(normal.next(), spec_.dtype);
    }
  }
  queries_ = std::make_unique<DeviceMemory>(std::max<std::size_t>(1, query_bits_.size() * value_bytes_));
  const auto bytes = packed(query_bits_, value_bytes_);
  queries_->write(bytes.data(), bytes.size());
}

void AttentionProblem::make_cache(std::uint64_t seed, bool only_timed) {
  block_start_ = {0};
  for (const SpecRow& row : spec_.rows) {
    block_start_.push_back(block_start_.back() + (row.length + spec_.page_tokens - 1) / spec_.page_tokens);
  }
  const int used = block_start_.back();
  const std::size_t page_values = 2 * index(spec_.num_kv_heads) * index(spec_.page_tokens) * head_dim_;
  const std::int64_t beyond = spec_.far ? kFarElements / static_cast<std::int64_t>(kLayers * page_values) + 1 : 0;
  num_blocks_ = beyond + used + 1;
  block_ids_.resize(index(used));
  std::iota(block_ids_.begin(), block_ids_.end(), 0);
  if (!spec_.ordered) std::shuffle(block_ids_.begin(), block_ids_.end(), std::mt19937_64(seed));
  for (std::size_t i = 0; i < block_ids_.size(); i += 2) block_ids_[i] += static_cast<std::int32_t>(beyond);

  cache_ = std::make_unique<DeviceMemory>(index(num_blocks_) * kLayers * page_values * value_bytes_);
  cache_->fill(0xff);
  Normal normal(seed);
  std::vector<std::vector<std::byte>> repeated;
  for (std::size_t row = 0; row < spec_.rows.size(); ++row) {
    for (int page = block_start_[row]; page < block_start_[row + 1]; ++page) {
      const int first_token = (page - block_start_[row]) * spec_.page_tokens;
      const int written = std::min(spec_.rows[row].length - first_token, spec_.page_tokens);
      const std::size_t at = (index(block_ids_[index(page)]) * kLayers + kLayer) * page_values * value_bytes_;
      if (only_timed && written == spec_.page_tokens && repeated.size() == kRepeatedPages) {
        const auto& bytes = repeated[index(page) % kRepeatedPages];
        cache_->write(bytes.data(), bytes.size(), at);
        continue;
      }
      std::vector<std::uint32_t> bits(page_values, kNanBits);
      for (std::size_t i = 0; i < page_values; ++i) {
        const auto token = i / head_dim_ % index(spec_.page_tokens);
        if (token < index(written)) bits[i] = to_bits(normal.next(), spec_.dtype);
      }
      auto bytes = packed(bits, value_bytes_);
      cache_->write(bytes.data(), bytes.size(), at);
      if (only_timed && repeated.size() < kRepeatedPages) repeated.push_back(std::move(bytes));
      if (!only_timed) page_bits_.push_back(std::move(bits));
    }
  }
}

void AttentionProblem::launch(const std::string& kernel, void* out, cudaStream_t stream) {
  const std::int64_t num_rows = std::ssize(spec_.rows);
  const std::int64_t num_tokens = spec_.num_tokens();
  auto* const array = reinterpret_cast<std::int32_t*>(arrays_->data());
  TensorView q = view_of(queries_->data(), spec_.dtype, {num_tokens, spec_.num_q_heads, spec_.head_dim});
  q.strides[0] = static_cast<std::int64_t>(token_stride());
  const TensorView cache = view_of(cache_->data(), spec_.dtype,
                                   {num_blocks_, kLayers, 2, spec_.num_kv_heads, spec_.page_tokens, spec_.head_dim});
  const TensorView query_start = view_of(array, DType::kInt32, {num_rows + 1});
  const TensorView block_start = view_of(array + num_rows + 1, DType::kInt32, {num_rows + 1});
  const TensorView seq_lens = view_of(array + 2 * (num_rows + 1), DType::kInt32, {num_rows});
  const TensorView block_ids =
      view_of(array + 3 * num_rows + 2, DType::kInt32, {static_cast<std::int64_t>(block_ids_.size())});
  const TensorView result = view_of(out, spec_.dtype, {num_tokens, spec_.num_q_heads, spec_.head_dim});
  const TensorView workspace =
      view_of(workspace_->data(), DType::kUInt8, {static_cast<std::int64_t>(workspace_->num_bytes())});
  kernels::AttentionInputs inputs{q, cache, query_start, seq_lens, block_start, block_ids, result};
  inputs.row_end = num_rows;
  inputs.layer = kLayer;
  inputs.scale = 1.0 / std::sqrt(static_cast<double>(spec_.head_dim));
  inputs.workspace = &workspace;
  inputs.max_seq_len = spec_.longest();
  inputs.stream = reinterpret_cast<std::int64_t>(stream);
  inputs.backend = kernel == "naive" ? kernels::AttentionBackend::kNaive
                   : kernel == "mma" ? kernels::AttentionBackend::kMma
                                     : kernels::AttentionBackend::kNative;
  if (kernel == "decode") {
    kernels::attention_decode(inputs, pool_);
  } else {
    kernels::attention_prefill(inputs, pool_);
  }
}

void AttentionProblem::set_lengths(const std::vector<std::int32_t>& lengths) {
  arrays_->write(lengths.data(), 4 * lengths.size(), 8 * (spec_.rows.size() + 1));
}

kernels::AttentionParams AttentionProblem::params() const {
  kernels::AttentionParams params;
  params.q = queries_->data();
  params.kv = cache_->data();
  params.dtype = spec_.dtype;
  params.num_q_heads = spec_.num_q_heads;
  params.num_kv_heads = spec_.num_kv_heads;
  params.head_dim = spec_.head_dim;
  params.block_size = spec_.page_tokens;
  params.q_token_stride = static_cast<std::int64_t>(token_stride());
  params.q_head_stride = spec_.head_dim;
  params.block_stride = std::int64_t{kLayers} * 2 * spec_.num_kv_heads * spec_.page_tokens * spec_.head_dim;
  return params;
}

std::int64_t AttentionProblem::counters_left() const {
  std::vector<std::uint32_t> counters(index(kernels::kAttentionCounters));
  workspace_->read(counters.data(), 4 * counters.size());
  return std::ranges::count_if(counters, [](std::uint32_t counter) { return counter != 0; });
}

std::vector<double> AttentionProblem::expected_on_host() const {
  std::vector<double> result(num_values(), 0.0);
  const double scale = 1.0 / std::sqrt(static_cast<double>(spec_.head_dim));
  const std::size_t group = heads_ / index(spec_.num_kv_heads);
  const std::size_t page_tokens = index(spec_.page_tokens);
  const std::size_t values_at = index(spec_.num_kv_heads) * page_tokens * head_dim_;
  std::size_t token = 0;
  for (std::size_t row = 0; row < spec_.rows.size(); ++row) {
    const auto [length, queries] = spec_.rows[row];
    for (int query = 0; query < queries; ++query, ++token) {
      const int visible = length - queries + query + 1;
      if (visible <= 0) continue;
      for (std::size_t head = 0; head < heads_; ++head) {
        const auto at = [&](int t, std::size_t d) {
          return (head / group * page_tokens + index(t) % page_tokens) * head_dim_ + d;
        };
        const auto page = [&](int t) -> const std::vector<std::uint32_t>& {
          return page_bits_[index(block_start_[row]) + index(t) / page_tokens];
        };
        std::vector<double> scores(index(visible), 0.0);
        for (int t = 0; t < visible; ++t) {
          for (std::size_t d = 0; d < head_dim_; ++d) {
            const float q = from_bits(query_bits_[token * token_stride() + head * head_dim_ + d], spec_.dtype);
            scores[index(t)] += static_cast<double>(q) * from_bits(page(t)[at(t, d)], spec_.dtype);
          }
        }
        const double highest = *std::ranges::max_element(scores);
        double sum = 0.0;
        for (double& score : scores) sum += score = std::exp((score - highest) * scale);
        for (int t = 0; t < visible; ++t) {
          for (std::size_t d = 0; d < head_dim_; ++d) {
            result[(token * heads_ + head) * head_dim_ + d] +=
                scores[index(t)] / sum * from_bits(page(t)[values_at + at(t, d)], spec_.dtype);
          }
        }
      }
    }
  }
  return result;
}

}  // namespace fastserve::smoke
