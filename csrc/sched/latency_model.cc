#include "sched/latency_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "base/error.h"

namespace fastserve::sched {
namespace {

constexpr int kN = LatencyModel::kNumCoefficients;
constexpr double kCorrectionRate = 0.02;       // of the log ratio, per iteration: about 50 iterations to follow
constexpr double kLargestStep = 0.6931471806;  // log 2: one stalled iteration moves the correction by 1.4 % at most
constexpr double kLargestCorrection = 1.386294361;  // log 4, both ways

using Vector = std::array<double, kN>;
using Matrix = std::array<Vector, kN>;

/// Solve the rows and columns of `matrix` named in `subset` by Cholesky; nullopt when they are (nearly) dependent.
std::optional<Vector> solve_subset(const Matrix& matrix, const Vector& rhs, unsigned subset) {
  std::array<int, kN> index{};
  int n = 0;
  for (int i = 0; i < kN; ++i)
    if (subset >> i & 1u) index[n++] = i;
  Matrix low{};
  Vector y{};
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = matrix[index[i]][index[j]];
      for (int k = 0; k < j; ++k) sum -= low[i][k] * low[j][k];
      if (i != j) {
        low[i][j] = sum / low[j][j];
      } else {
        if (!(sum > 1e-12)) return std::nullopt;  // columns have unit length
        low[i][i] = std::sqrt(sum);
      }
    }
    double sum = rhs[index[i]];
    for (int k = 0; k < i; ++k) sum -= low[i][k] * y[k];
    y[i] = sum / low[i][i];
  }
  Vector x{};
  for (int i = n - 1; i >= 0; --i) {
    double sum = y[i];
    for (int k = i + 1; k < n; ++k) sum -= low[k][i] * x[index[k]];
    x[index[i]] = sum / low[i][i];
  }
  return x;
}

/// argmin |A x - 1| over x >= 0, given A'A and A'1 with unit columns: the best of the 31 unconstrained solutions, one
/// per set of columns, that is nowhere negative.
Vector solve_non_negative(const Matrix& matrix, const Vector& rhs) {
  Vector best{};
  double best_gain = -std::numeric_limits<double>::infinity();
  for (unsigned subset = 1; subset < 1u << kN; ++subset) {
    const auto x = solve_subset(matrix, rhs, subset);
    if (!x || std::ranges::any_of(*x, [](double value) { return value < 0.0; })) continue;
    double gain = 0.0;  // |1|^2 - |A x - 1|^2 at a stationary point
    for (int i = 0; i < kN; ++i) gain += (*x)[i] * rhs[i];
    if (gain > best_gain) {
      best_gain = gain;
      best = *x;
    }
  }
  return best;
}

}  // namespace

LatencyModel::LatencyModel(const Coefficients& coefficients) : coefficients_(coefficients) {
  for (const double value : coefficients)
    FS_REQUIRE(std::isfinite(value) && value >= 0.0, "latency coefficients must be finite and not negative, got ",
               value);
  FS_REQUIRE(decode_s(1, 1) > 0.0, "an iteration of one decode must take some time: base, c and d are all 0");
  FS_REQUIRE(std::isfinite(decode_s(1, 1)),
             "an iteration of one decode must take a finite time: base, c and d are too large");
}

void LatencyModel::fit(std::span<const Sample> samples) {
  FS_REQUIRE(!samples.empty(), "fit needs at least one sample, got none");
  Matrix matrix{};
  Vector rhs{};
  for (const Sample& sample : samples) {
    for (const double value : sample)
      FS_REQUIRE(std::isfinite(value) && value >= 0.0, "samples must be finite and not negative, got ", value);
    FS_REQUIRE(sample[4] > 0.0, "a sample must have taken some time, got 0 seconds");
    const Vector row = {1.0 / sample[4], sample[0] / sample[4], sample[1] / sample[4], sample[2] / sample[4],
                        sample[3] / sample[4]};
    for (int i = 0; i < kN; ++i) {
      rhs[i] += row[i];
      for (int j = 0; j < kN; ++j) matrix[i][j] += row[i] * row[j];
    }
  }
  Vector scale{};
  for (int i = 0; i < kN; ++i) scale[i] = matrix[i][i] > 0.0 ? 1.0 / std::sqrt(matrix[i][i]) : 0.0;
  for (int i = 0; i < kN; ++i) {
    rhs[i] *= scale[i];
    for (int j = 0; j < kN; ++j) matrix[i][j] *= scale[i] * scale[j];
  }
  Vector x = solve_non_negative(matrix, rhs);
  for (int i = 0; i < kN; ++i) x[i] *= scale[i];
  *this = LatencyModel(x);
}

void LatencyModel::observe(const IterationShape& shape, double seconds) {
  if (!(seconds > 0.0) || !std::isfinite(seconds)) return;
  const double off = std::clamp(std::log(seconds / iteration_s(shape)), -kLargestStep, kLargestStep);
  log_correction_ = std::clamp(log_correction_ + kCorrectionRate * off, -kLargestCorrection, kLargestCorrection);
  correction_ = std::exp(log_correction_);
}

double LatencyModel::iteration_s(const IterationShape& shape) const {
  const auto& [base, a, b, c, d] = coefficients_;
  return correction_ *
         (base + a * shape.prefill_tokens + b * shape.prefill_pairs + c * shape.num_decodes + d * shape.decode_ctx);
}

double LatencyModel::prefill_s(double num_tokens, double ctx) const {
  return iteration_s({.prefill_tokens = num_tokens, .prefill_pairs = prefill_pairs(num_tokens, ctx)});
}

double LatencyModel::decode_s(double batch, double total_ctx) const {
  return iteration_s({.num_decodes = batch, .decode_ctx = total_ctx});
}

}  // namespace fastserve::sched
