#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "sched/lengths/gittins.h"
#include "sched/lengths/length_histogram.h"

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
  std::int64_t num_observations = 0;  // ends and limits seen
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
/// - A class starts from what its parent knows, the class of all requests: before its first observation it is treated
///   like the average of them, so a name that was never used gains nothing and loses nothing. What the parent knows
///   counts as kPooledWeight observations.
/// - Lengths are learned for all prompts together, and for each kind of prompts, where the lengths of all count as
///   kPooledWeight observations. So a kind goes by its own lengths once it has that many, and where prompts tell
///   nothing, little is lost.
/// - An abort tells nothing of the length while a class has other ends. Where hanging up is all that clients do, it is
///   how their requests end: until the first end of another kind, an abort after some output counts as an end.
/// - The worth of a request of x tokens is 1 / x + flat. A second of delay per request costs mean normalised latency
///   E[1/X] and mean latency 1; flat is such that kFlatShare of what it costs in worth goes to the latter. Without it
///   requests that turned out to be long wait without end, which lengthens the mean by up to half.
class LengthClass {
 public:
  /// Observations between two rebuilds of an index: they cost a few microseconds.
  static constexpr std::int64_t kRebuildInterval = 8;
  static constexpr double kPooledWeight = 16.0;
  static constexpr double kFlatShare = 0.2;

  /// The class of all requests. `min_observations`: ends and limits before it counts as learned, at least 1.
  LengthClass(double half_life, std::int64_t min_observations)
      : half_life_(half_life), min_observations_(min_observations), histogram_(half_life) {}
  /// A class of some of the requests of `parent`, which outlives it and sees what it sees.
  LengthClass(std::uint64_t key, LengthClass& parent)
      : key_(key), half_life_(parent.half_life_), parent_(&parent), histogram_(parent.half_life_) {}

  // Of a request with a prompt of so many tokens, which stands in `bin` of the lengths.
  void enters(std::int32_t prompt_tokens, std::int32_t bin);
  void moves(std::int32_t prompt_tokens, std::int32_t from, std::int32_t to);
  void leaves(std::int32_t prompt_tokens, std::int32_t bin);
  void ended(std::int32_t prompt_tokens, std::int32_t tokens);
  void limited(std::int32_t prompt_tokens, std::int32_t tokens);
  void aborted(std::int32_t prompt_tokens, std::int32_t tokens);
  void censored(std::int32_t prompt_tokens, std::int32_t tokens);

  std::uint64_t key() const { return key_; }
  bool learned() const { return parent_ ? parent_->learned() : rebuilt_at_ > 0; }
  std::int64_t num_observations() const { return histogram_.num_observed(); }
  std::int32_t num_live() const { return num_live_; }
  /// Of all prompts together; valid once learned().
  const GittinsIndex& index() const { return rebuilt_at_ > 0 || !parent_ ? index_ : parent_->index(); }
  /// Of the prompts of the same kind as one of `prompt_tokens`; valid once learned(), until the next observation.
  const GittinsIndex& index(std::int32_t prompt_tokens);

 private:
  struct Kind {
    explicit Kind(double half_life) : histogram(half_life) {}
    LengthHistogram histogram;
    LengthHistogram::Hazards hazards{};  // as at rebuilt_at
    GittinsIndex index;
    std::int64_t rebuilt_at = 0;  // value of rebuilt_at_ then
  };
  Kind& kind(std::int32_t prompt_tokens);
  /// What is known of a kind of prompts, brought up to date.
  Kind& rebuilt(std::int32_t prompt_tokens);
  void observed();

  std::uint64_t key_ = 0;
  double half_life_;
  std::int64_t min_observations_ = 1;
  LengthClass* parent_ = nullptr;
  bool ends_by_itself_ = false;  // something else than aborts was seen
  std::int64_t rebuilt_at_ = 0;  // observations seen then; 0: never
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

  LengthClasses(double half_life, std::int64_t min_observations) : requests_(half_life, min_observations) {}

  /// Something is known of every class.
  bool learned() const { return requests_.learned(); }

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

  LengthClass requests_;  // all of them
  std::int64_t uses_ = 0;
  std::unordered_map<std::uint64_t, Entry> entries_;
  std::unique_ptr<LengthClass> shared_;
};

}  // namespace fastserve::sched
