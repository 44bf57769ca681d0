#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "sched/gittins.h"
#include "sched/length_histogram.h"

namespace fastserve::sched {

/// From `tokens` outputs on, a request of the class stands in `level`, with the index `index_tokens` there.
struct LevelStep {
  std::int32_t tokens = 0;
  std::int32_t level = 0;
  double index_tokens = 0.0;  // Gittins index, in tokens of decoding per 1/token of worth
};

/// A class of output lengths as the outside may look at it. `quantiles`: the lengths at kQuantiles, tokens.
struct LengthClassView {
  static constexpr std::array<double, 7> kQuantiles = {0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95};

  std::uint64_t key = 0;
  std::int64_t num_observations = 0;  // ends seen
  std::int32_t num_live = 0;
  bool learned = false;  // the rest is empty before
  std::array<double, kQuantiles.size()> quantiles{};
  std::vector<LevelStep> levels;
};

/// What is learned of the output lengths of one class of requests, and the index that follows from it.
class LengthClass {
 public:
  /// Ends between two rebuilds of the index: they cost a few microseconds.
  static constexpr std::int64_t kRebuildInterval = 8;

  /// `min_observations`: ends before the class counts as learned, at least 1.
  LengthClass(std::uint64_t key, double half_life, std::int64_t min_observations)
      : key_(key), min_observations_(min_observations), histogram_(half_life) {}

  void enters(std::int32_t bin);
  void moves(std::int32_t from, std::int32_t to) { histogram_.live_moves(from, to); }
  void leaves(std::int32_t bin);
  void ended(std::int32_t tokens);
  void censored(std::int32_t tokens) { histogram_.censored(tokens); }

  std::uint64_t key() const { return key_; }
  bool learned() const { return rebuilt_at_ > 0; }
  std::int64_t num_observations() const { return histogram_.num_ended(); }
  std::int32_t num_live() const { return num_live_; }
  /// Valid once learned().
  const GittinsIndex& index() const { return index_; }

 private:
  std::uint64_t key_;
  std::int64_t min_observations_;
  std::int64_t rebuilt_at_ = 0;  // ends seen then; 0: never
  std::int32_t num_live_ = 0;
  LengthHistogram histogram_;
  GittinsIndex index_;
};

/// The classes by key, boundedly many: where one more would be too many, the one without live requests that was asked
/// for longest ago makes way; when all have live requests, the newcomer shares a class with all who come after it.
class LengthClasses {
 public:
  static constexpr std::size_t kMost = 256;  // about 8 KB each

  LengthClasses(double half_life, std::int64_t min_observations)
      : half_life_(half_life), min_observations_(min_observations) {}

  /// The class of the key; its address is stable while it has live requests.
  LengthClass& of(std::uint64_t key);
  /// In ascending order of the keys; the shared one last, under key 0.
  std::vector<const LengthClass*> all() const;

 private:
  struct Entry {
    std::unique_ptr<LengthClass> lengths;
    std::int64_t last_use = 0;
  };
  bool forget_one();

  double half_life_;
  std::int64_t min_observations_;
  std::int64_t uses_ = 0;
  std::unordered_map<std::uint64_t, Entry> entries_;
  std::unique_ptr<LengthClass> shared_;
};

}  // namespace fastserve::sched
