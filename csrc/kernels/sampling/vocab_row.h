#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/forward.h"

namespace fastserve::kernels {

struct Candidate {
  float logit;
  std::int32_t id;
};

/// One row of logits and what has been learnt of it, in buffers kept from row to row. Tokens are ordered by logit, the
/// larger first, equal ones by id, the lower first. Nothing allocates after `reserve`.
class VocabRow {
 public:
  void reserve(std::int64_t vocab_size);
  /// Take the row `logits` of the reserved size and find the maximum of each block.
  void scan(const float* logits);

  std::int64_t vocab_size() const { return vocab_size_; }
  const float* logits() const { return logits_; }
  /// Largest finite logit; -inf when there is none.
  float maximum() const { return maximum_; }
  /// The first token in order, -1 when no logit is finite.
  std::int32_t argmax() const;
  /// The first `count` tokens in order, fewer when fewer are finite; valid until the next call.
  std::span<const Candidate> top(std::int64_t count);
  /// Number of tokens with a finite logit above `logit`.
  std::int64_t num_above(float logit) const;

  /// Sum of exp((logit - maximum) * inverse_temperature); also fills `masses()`.
  double weigh(float inverse_temperature);
  /// The same sum, block by block.
  std::span<const float> masses() const { return {masses_.data(), num_blocks()}; }

  /// A copy of the row that may be changed before it is scanned.
  float* copy(const float* logits);
  /// How often tokens occur; all zero between rows.
  std::int32_t* marks() { return marks_.data(); }

 private:
  std::size_t num_blocks() const { return maxima_.size(); }
  std::span<const float> block(std::size_t index) const;

  std::int64_t vocab_size_ = 0;
  const float* logits_ = nullptr;
  float maximum_ = 0.0f;
  std::vector<float> maxima_;
  std::vector<float> masses_;
  std::vector<float> ordered_maxima_;
  std::vector<float> copy_;
  std::vector<std::int32_t> marks_;
  std::vector<Candidate> candidates_;
};

/// Call handle(row_index, scratch) for the rows [0, num_rows) on the threads of the pool.
void for_each_row(ThreadPool& pool, std::int64_t num_rows, std::int64_t vocab_size,
                  void (*handle)(void*, std::int64_t, VocabRow&), void* context);

template <typename Fn>
void for_each_row(ThreadPool& pool, std::int64_t num_rows, std::int64_t vocab_size, Fn&& fn) {
  for_each_row(
      pool, num_rows, vocab_size,
      [](void* context, std::int64_t row, VocabRow& scratch) { (*static_cast<Fn*>(context))(row, scratch); },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace fastserve::kernels
