#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>

#include "sched/requests/request.h"

namespace fastserve::sched {

/// A FIFO of requests in which every member has a ticket, the larger the later, and one bit plane per Place. Leaving
/// from the middle and changing the place are O(1). Finding the next member in a set of places passes over 1024 tickets
/// without one at a glance; the number of members and the attained time before a ticket cost one addition per 1024
/// tickets to the nearer end. So neither the walk for a batch nor the estimate of one request's turn touches the
/// requests between.
///
/// Writes QueueNode::ticket; reads QueueNode::attained_ns, which changes through add_attained only while queued.
class TicketQueue {
 public:
  void push_back(Request& request);
  void erase(Request& request);
  /// The place of the member changed from `from` to request.place().
  void change_place(Request& request, Place from) {
    const auto left = static_cast<std::size_t>(from), entered = static_cast<std::size_t>(request.place());
    Group& group = group_of(request.queue_.ticket);
    Word& word = word_of(request.queue_.ticket);
    word.bits[left] &= ~bit_of(request.queue_.ticket);
    word.bits[entered] |= bit_of(request.queue_.ticket);
    --group.in_place[left];
    ++group.in_place[entered];
    --in_place_[left];
    ++in_place_[entered];
  }
  void add_attained(Request& request, std::int64_t ns) {
    request.queue_.attained_ns += ns;
    word_of(request.queue_.ticket).attained_ns += ns;
    group_of(request.queue_.ticket).attained_ns += ns;
    attained_ns_ += ns;
  }

  /// First member with a ticket above `after` (-1: from the front) in one of `places`; nullptr at the end.
  Request* next(std::int64_t after, PlaceMask places) const;
  /// The members with a ticket above `after` in one of `places`, in order, as far as they fit into `run`; their number.
  std::size_t next_run(std::int64_t after, PlaceMask places, std::span<Request*> run) const;
  /// Last member with a ticket below `before` in one of `places`; kBack starts at the end.
  Request* prev(std::int64_t before, PlaceMask places) const;
  static constexpr std::int64_t kBack = INT64_MAX;

  std::int64_t size() const { return size_; }
  std::int64_t attained_ns() const { return attained_ns_; }
  struct Before {
    std::int64_t count = 0;
    std::int64_t attained_ns = 0;
    Before& operator+=(const Before& other) {
      count += other.count;
      attained_ns += other.attained_ns;
      return *this;
    }
  };
  /// Members with a smaller ticket, and the time they attained.
  Before before(std::int64_t ticket) const;

  void check_integrity() const;

 private:
  static constexpr int kWordsPerGroup = 16;
  static constexpr int kTicketsPerWord = 64;
  static constexpr int kTicketsPerGroup = kWordsPerGroup * kTicketsPerWord;

  using Counts = std::array<std::int64_t, kNumPlaces>;
  struct Word {
    std::array<std::uint64_t, kNumPlaces> bits{};
    std::int64_t attained_ns = 0;
    std::int64_t count = 0;
    std::uint64_t members(PlaceMask places) const;
  };
  struct Members {
    std::array<Word, kWordsPerGroup> words{};
    std::array<Request*, kTicketsPerGroup> requests{};
  };
  /// The sums lie apart from the members: a look at all groups stays short.
  struct Group {
    std::unique_ptr<Members> members{};  // null: none left
    Counts in_place{};
    std::int64_t count = 0;
    std::int64_t attained_ns = 0;
  };

  static constexpr std::uint64_t bit_of(std::int64_t ticket) { return std::uint64_t{1} << (ticket % kTicketsPerWord); }
  Word& word_of(std::int64_t ticket) {
    const std::int64_t index = (ticket - base_) % kTicketsPerGroup / kTicketsPerWord;
    return group_of(ticket).members->words[static_cast<std::size_t>(index)];
  }
  Group& group_of(std::int64_t ticket) {
    return groups_[static_cast<std::size_t>((ticket - base_) / kTicketsPerGroup)];
  }
  static bool any(const Counts& in_place, PlaceMask places);
  std::int64_t num_groups() const { return static_cast<std::int64_t>(groups_.size()); }
  void release_group(std::int64_t index);
  /// Sum of `sum_of` over [0, end); `all` is that over [0, size).
  template <typename SumOf>
  static Before sum_before(std::int64_t end, std::int64_t size, Before all, SumOf&& sum_of);
  /// Of the members of word `index` in `mask`, the tickets before some place in it.
  static Before before_in_word(const Members& members, const Word& word, std::int64_t index, std::uint64_t mask);

  std::deque<Group> groups_;
  std::unique_ptr<Members> spare_;  // saves an allocation when a group empties and the next one starts
  std::int64_t base_ = 0;           // ticket of the first place of groups_[0]
  std::int64_t next_ticket_ = 0;
  std::int64_t size_ = 0;
  Counts in_place_{};
  std::int64_t attained_ns_ = 0;
};

}  // namespace fastserve::sched
