#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace fastserve::sched {

/// What an iteration is made of, as far as its time depends on it.
struct IterationShape {
  double prefill_tokens = 0.0;
  double prefill_pairs = 0.0;  // (query, key) pairs of the prefill chunks, see prefill_pairs()
  double num_decodes = 0.0;
  double decode_ctx = 0.0;  // KV tokens the decodes read, summed
};

/// Pairs that causal attention computes for `num_tokens` queries behind `ctx` tokens.
constexpr double prefill_pairs(double num_tokens, double ctx) {
  return num_tokens * ctx + num_tokens * (num_tokens + 1.0) / 2.0;
}

/// Seconds of an iteration: base + a * prefill_tokens + b * prefill_pairs + c * num_decodes + d * decode_ctx, all
/// coefficients >= 0, times a correction learned from the iterations that ran.
class LatencyModel {
 public:
  static constexpr int kNumCoefficients = 5;
  using Coefficients = std::array<double, kNumCoefficients>;  // base, a, b, c, d
  /// One measured iteration: prefill_tokens, prefill_pairs, num_decodes, decode_ctx, seconds.
  using Sample = std::array<double, 5>;

  /// Until something is measured: a small model on a CPU. 1 ms per iteration, 50 us per prefill token, 1 ns per pair,
  /// 100 us per decode, 10 ns per token of decode context. Only ratios matter to the order of requests.
  static constexpr Coefficients kPrior = {1e-3, 50e-6, 1e-9, 100e-6, 10e-9};

  /// Throws InvalidArgumentError unless all are finite, >= 0, and an iteration of one decode takes some time.
  explicit LatencyModel(const Coefficients& coefficients = kPrior);

  /// Fit the coefficients to measured iterations, least squares of the relative error under coefficients >= 0, and
  /// forget the correction. Throws InvalidArgumentError for less than one sample, or numbers that are negative or not
  /// finite.
  void fit(std::span<const Sample> samples);

  /// Learn from one iteration: the correction follows the ratio of measured to predicted time slowly and within bounds.
  void observe(const IterationShape& shape, double seconds);

  double iteration_s(const IterationShape& shape) const;
  double prefill_s(double num_tokens, double ctx) const;
  double decode_s(double batch, double total_ctx) const;

  const Coefficients& coefficients() const { return coefficients_; }
  double correction() const { return correction_; }

 private:
  Coefficients coefficients_;
  double log_correction_ = 0.0;
  double correction_ = 1.0;
};

}  // namespace fastserve::sched
