#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
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

/// Prompts by their length, in half powers of two: what a request is for shows in its prompt, and with it how much it
/// will say.
struct PromptKinds {
  static constexpr std::size_t kNum = 62;
  /// The kind of a prompt of `tokens` >= 1.
  static constexpr std::size_t of(std::int32_t tokens) {
    const auto n = static_cast<std::uint64_t>(std::max(tokens, 1));
    const auto octave = static_cast<std::size_t>(std::bit_width(n)) - 1;
    return 2 * octave + ((n * n) >> (2 * octave + 1));  // the upper half begins at the root of 2
  }
};

/// What is learned of the output lengths of one class of requests, and the index that follows from it.
///
/// - Lengths are learned for all prompts together, and for each kind of prompts, where the lengths of all count as
///   kPooledWeight observations. So a kind goes by its own lengths once it has that many, and where prompts tell
///   nothing, little is lost.
/// - The worth of a request of x tokens is 1 / x + flat. A second of delay to everybody costs mean normalised latency
///   E[1/X] and mean latency 1; flat is such that kFlatShare of what it costs in worth goes to the latter. Without it
///   requests that have turned out to be long stand back for ever, which lengthens the mean by up to half.
class LengthClass {
 public:
  /// Ends between two rebuilds of an index: they cost a few microseconds.
  static constexpr std::int64_t kRebuildInterval = 8;
  static constexpr double kPooledWeight = 16.0;
  static constexpr double kFlatShare = 0.2;

  /// `min_observations`: ends before the class counts as learned, at least 1.
  LengthClass(std::uint64_t key, double half_life, std::int64_t min_observations)
      : key_(key), half_life_(half_life), min_observations_(min_observations), histogram_(half_life) {}

  // Of a request with a prompt of so many tokens, which stands in `bin` of the lengths.
  void enters(std::int32_t prompt_tokens, std::int32_t bin);
  void moves(std::int32_t prompt_tokens, std::int32_t from, std::int32_t to);
  void leaves(std::int32_t prompt_tokens, std::int32_t bin);
  void ended(std::int32_t prompt_tokens, std::int32_t tokens);
  void censored(std::int32_t prompt_tokens, std::int32_t tokens);

  std::uint64_t key() const { return key_; }
  bool learned() const { return rebuilt_at_ > 0; }
  std::int64_t num_observations() const { return histogram_.num_ended(); }
  std::int32_t num_live() const { return num_live_; }
  /// Of all prompts together; valid once learned().
  const GittinsIndex& index() const { return index_; }
  /// Of the prompts of the same kind as one of `prompt_tokens`; valid once learned(), until an end.
  const GittinsIndex& index(std::int32_t prompt_tokens);

 private:
  struct Kind {
    explicit Kind(double half_life) : histogram(half_life) {}
    LengthHistogram histogram;
    GittinsIndex index;
    std::int64_t rebuilt_at = 0;  // value of rebuilt_at_ then
  };
  Kind& kind(std::int32_t prompt_tokens);

  std::uint64_t key_;
  double half_life_;
  std::int64_t min_observations_;
  std::int64_t rebuilt_at_ = 0;  // ends seen then; 0: never
  std::int32_t num_live_ = 0;
  LengthHistogram histogram_;
  LengthHistogram::Hazards hazards_{};  // of all prompts, as at rebuilt_at_
  LengthWeight weight_;
  GittinsIndex index_;
  std::array<std::unique_ptr<Kind>, PromptKinds::kNum> kinds_;  // those that were seen
};

/// The classes by key, boundedly many: where one more would be too many, the one without live requests that was asked
/// for longest ago makes way; when all have live requests, the newcomer shares a class with all who come after it.
class LengthClasses {
 public:
  static constexpr std::size_t kMost = 256;  // about 8 KB each, and as much per kind of prompts seen

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
