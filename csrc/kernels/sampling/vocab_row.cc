#include "kernels/sampling/vocab_row.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "base/thread_pool.h"
#include "kernels/sampling/vocab_scan.h"

namespace fastserve::kernels {
namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

bool comes_first(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

}  // namespace

void VocabRow::reserve(std::int64_t vocab_size) {
  if (vocab_size == vocab_size_) return;
  const auto size = static_cast<std::size_t>(vocab_size);
  const auto blocks = static_cast<std::size_t>((vocab_size + kVocabBlock - 1) / kVocabBlock);
  maxima_.resize(blocks);
  masses_.resize(blocks);
  ordered_maxima_.resize(blocks);
  copy_.resize(size);
  marks_.assign(size, 0);
  candidates_.reserve(size);
  vocab_size_ = vocab_size;
}

float* VocabRow::copy(const float* logits) {
  std::copy_n(logits, vocab_size_, copy_.begin());
  return copy_.data();
}

void VocabRow::scan(const float* logits) {
  logits_ = logits;
  FS_DISPATCH_CPU(block_maxima, logits, vocab_size_, maxima_.data());
  maximum_ = maxima_.empty() ? kMinusInf : *std::max_element(maxima_.begin(), maxima_.end());
}

std::span<const float> VocabRow::block(std::size_t index) const {
  const auto begin = static_cast<std::int64_t>(index) * kVocabBlock;
  return {logits_ + begin, static_cast<std::size_t>(std::min(kVocabBlock, vocab_size_ - begin))};
}

std::int32_t VocabRow::argmax() const {
  if (maximum_ == kMinusInf) return -1;
  const auto index = static_cast<std::size_t>(std::find(maxima_.begin(), maxima_.end(), maximum_) - maxima_.begin());
  const auto tokens = block(index);
  const auto within = std::find(tokens.begin(), tokens.end(), maximum_) - tokens.begin();
  return static_cast<std::int32_t>(static_cast<std::int64_t>(index) * kVocabBlock + within);
}

std::span<const Candidate> VocabRow::top(std::int64_t count) {
  candidates_.clear();
  const auto wanted = static_cast<std::size_t>(std::clamp<std::int64_t>(count, 0, vocab_size_));
  if (wanted == 0) return {};
  // `wanted` blocks have a token at or above the wanted-th largest block maximum, so the tokens sought are all there
  // too.
  float threshold = std::numeric_limits<float>::lowest();
  if (wanted < num_blocks()) {
    std::copy(maxima_.begin(), maxima_.end(), ordered_maxima_.begin());
    const auto nth = ordered_maxima_.begin() + static_cast<std::ptrdiff_t>(wanted) - 1;
    std::nth_element(ordered_maxima_.begin(), nth, ordered_maxima_.end(), std::greater<>());
    threshold = std::max(threshold, *nth);
  }
  for (std::size_t b = 0; b < num_blocks(); ++b) {
    if (maxima_[b] < threshold) continue;
    auto id = static_cast<std::int32_t>(static_cast<std::int64_t>(b) * kVocabBlock);
    for (const float logit : block(b)) {
      if (logit >= threshold && std::isfinite(logit)) candidates_.push_back({logit, id});
      ++id;
    }
  }
  const auto kept = static_cast<std::ptrdiff_t>(std::min(wanted, candidates_.size()));
  std::nth_element(candidates_.begin(), candidates_.begin() + kept, candidates_.end(), comes_first);
  std::sort(candidates_.begin(), candidates_.begin() + kept, comes_first);
  return {candidates_.data(), static_cast<std::size_t>(kept)};
}

std::int64_t VocabRow::num_above(float logit) const {
  std::int64_t count = 0;
  for (std::size_t b = 0; b < num_blocks(); ++b) {
    if (!(maxima_[b] > logit)) continue;
    for (const float other : block(b)) count += other > logit && std::isfinite(other);
  }
  return count;
}

double VocabRow::weigh(float inverse_temperature) {
  FS_DISPATCH_CPU(block_masses, logits_, vocab_size_, maximum_, inverse_temperature, masses_.data());
  return std::accumulate(masses_.begin(), masses_.end(), 0.0);
}

void for_each_row(ThreadPool& pool, std::int64_t num_rows, std::int64_t vocab_size,
                  void (*handle)(void*, std::int64_t, VocabRow&), void* context) {
  // Kept by the calling thread from step to step, one for each thread that may help.
  thread_local std::vector<VocabRow> scratch;
  const auto num_workers = static_cast<std::size_t>(std::min<std::int64_t>(pool.num_threads(), num_rows));
  if (scratch.size() < num_workers) scratch.resize(num_workers);
  for (std::size_t w = 0; w < num_workers; ++w) scratch[w].reserve(vocab_size);
  VocabRow* const rows = scratch.data();
  std::atomic<std::int64_t> next_row{0};
  pool.parallel_for(static_cast<std::int64_t>(num_workers), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t w = begin; w < end; ++w) {
      for (std::int64_t row = next_row++; row < num_rows; row = next_row++) handle(context, row, rows[w]);
    }
  });
}

}  // namespace fastserve::kernels
