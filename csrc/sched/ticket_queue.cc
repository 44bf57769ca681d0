#include "sched/ticket_queue.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace fastserve::sched {
std::uint64_t TicketQueue::Word::members(PlaceMask places) const {
  std::uint64_t result = 0;
  for (unsigned place = 0; place < kNumPlaces; ++place)
    result |= bits[place] & (std::uint64_t{0} - std::uint64_t{(places >> place) & 1u});
  return result;
}

void TicketQueue::push_back(Request& request) {
  const std::int64_t ticket = next_ticket_++;
  if ((ticket - base_) / kTicketsPerGroup >= num_groups()) {
    groups_.push_back(spare_ ? std::move(spare_) : std::make_unique<Group>());
    spare_.reset();
  } else if (!groups_.back()) {
    groups_.back() = spare_ ? std::move(spare_) : std::make_unique<Group>();
  }
  request.ticket = ticket;
  Group& group = group_of(ticket);
  Word& word = word_of(ticket);
  group.requests[static_cast<std::size_t>((ticket - base_) % kTicketsPerGroup)] = &request;
  word.bits[static_cast<std::size_t>(request.place())] |= bit_of(ticket);
  ++group.count;
  ++size_;
  word.attained_ns += request.attained_ns;
  group.attained_ns += request.attained_ns;
  attained_ns_ += request.attained_ns;
}

void TicketQueue::erase(Request& request) {
  const std::int64_t ticket = request.ticket;
  Group& group = group_of(ticket);
  Word& word = word_of(ticket);
  for (auto& bits : word.bits) bits &= ~bit_of(ticket);
  word.attained_ns -= request.attained_ns;
  group.attained_ns -= request.attained_ns;
  attained_ns_ -= request.attained_ns;
  --size_;
  request.ticket = -1;
  if (--group.count == 0) release_group((ticket - base_) / kTicketsPerGroup);
}

void TicketQueue::release_group(std::int64_t index) {
  auto& slot = groups_[static_cast<std::size_t>(index)];
  if (!spare_) spare_ = std::move(slot);  // its bits and sums are zero by now
  slot.reset();
  while (!groups_.empty() && !groups_.front() && (groups_.size() > 1 || size_ == 0)) {
    groups_.pop_front();
    base_ += kTicketsPerGroup;
  }
  if (groups_.empty()) base_ = next_ticket_ = 0;
}

Request* TicketQueue::next(std::int64_t after, PlaceMask places) const {
  Request* found = nullptr;
  next_run(after, places, {&found, 1});
  return found;
}

std::size_t TicketQueue::next_run(std::int64_t after, PlaceMask places, std::span<Request*> run) const {
  if (size_ == 0) return 0;
  std::size_t count = 0;
  const std::int64_t first = std::max(after + 1, base_) - base_;
  std::int64_t word_index = first % kTicketsPerGroup / kTicketsPerWord;
  std::uint64_t mask = ~std::uint64_t{0} << (first % kTicketsPerWord);
  for (std::int64_t g = first / kTicketsPerGroup; g < num_groups(); ++g, word_index = 0, mask = ~std::uint64_t{0}) {
    const Group* const group = groups_[static_cast<std::size_t>(g)].get();
    if (!group) continue;
    for (; word_index < kWordsPerGroup; ++word_index, mask = ~std::uint64_t{0}) {
      std::uint64_t members = group->words[static_cast<std::size_t>(word_index)].members(places) & mask;
      for (; members != 0; members &= members - 1) {
        if (count == run.size()) return count;
        run[count++] =
            group->requests[static_cast<std::size_t>(word_index * kTicketsPerWord + std::countr_zero(members))];
      }
      if (count == run.size()) return count;
    }
  }
  return count;
}

Request* TicketQueue::prev(std::int64_t before, PlaceMask places) const {
  if (size_ == 0) return nullptr;
  const std::int64_t last = std::min(before, next_ticket_) - 1 - base_;
  if (last < 0) return nullptr;
  std::int64_t word_index = last % kTicketsPerGroup / kTicketsPerWord;
  std::uint64_t mask = ~std::uint64_t{0} >> (63 - last % kTicketsPerWord);
  for (std::int64_t g = last / kTicketsPerGroup; g >= 0;
       --g, word_index = kWordsPerGroup - 1, mask = ~std::uint64_t{0}) {
    const Group* const group = groups_[static_cast<std::size_t>(g)].get();
    if (!group) continue;
    for (; word_index >= 0; --word_index, mask = ~std::uint64_t{0}) {
      const std::uint64_t members = group->words[static_cast<std::size_t>(word_index)].members(places) & mask;
      if (members != 0)
        return group->requests[static_cast<std::size_t>(word_index * kTicketsPerWord + 63 - std::countl_zero(members))];
    }
  }
  return nullptr;
}

TicketQueue::Before TicketQueue::before(std::int64_t ticket) const {
  Before result;
  const std::int64_t last = ticket - base_;
  const std::int64_t last_group = last / kTicketsPerGroup;
  for (std::int64_t g = 0; g < last_group; ++g) {
    const Group* const group = groups_[static_cast<std::size_t>(g)].get();
    if (!group) continue;
    result.count += group->count;
    result.attained_ns += group->attained_ns;
  }
  const Group& group = *groups_[static_cast<std::size_t>(last_group)];
  const std::int64_t last_word = last % kTicketsPerGroup / kTicketsPerWord;
  for (std::int64_t w = 0; w < last_word; ++w) {
    const Word& word = group.words[static_cast<std::size_t>(w)];
    result.count += std::popcount(word.members(kAnyPlace));
    result.attained_ns += word.attained_ns;
  }
  std::uint64_t members = group.words[static_cast<std::size_t>(last_word)].members(kAnyPlace) & (bit_of(last) - 1);
  for (; members != 0; members &= members - 1) {
    const auto slot = last_word * kTicketsPerWord + std::countr_zero(members);
    result.count += 1;
    result.attained_ns += group.requests[static_cast<std::size_t>(slot)]->attained_ns;
  }
  return result;
}

void TicketQueue::check_integrity() const {
  std::int64_t count = 0;
  std::int64_t attained = 0;
  for (std::int64_t g = 0; g < num_groups(); ++g) {
    const Group* const group = groups_[static_cast<std::size_t>(g)].get();
    if (!group) continue;
    Before sum;
    for (std::int64_t w = 0; w < kWordsPerGroup; ++w) {
      const Word& word = group->words[static_cast<std::size_t>(w)];
      std::int64_t word_attained = 0;
      for (std::int64_t b = 0; b < kTicketsPerWord; ++b) {
        const int planes =
            static_cast<int>(std::ranges::count_if(word.bits, [&](auto bits) { return (bits >> b & 1) != 0; }));
        if (planes == 0) continue;
        const std::int64_t slot = w * kTicketsPerWord + b;
        const Request& request = *group->requests[static_cast<std::size_t>(slot)];
        FS_CHECK(planes == 1, "request ", request.id, " is in ", planes, " places of its queue");
        FS_CHECK(request.ticket == base_ + g * kTicketsPerGroup + slot, "request ", request.id,
                 " holds a wrong ticket");
        FS_CHECK((word.bits[static_cast<std::size_t>(request.place())] >> b & 1) != 0, "request ", request.id,
                 " stands in a place that is not that of its state ", name_of(request.state()));
        sum.count += 1;
        word_attained += request.attained_ns;
      }
      FS_CHECK(word.attained_ns == word_attained, "attained time of a queue word is off");
      sum.attained_ns += word_attained;
    }
    FS_CHECK(group->count == sum.count && group->attained_ns == sum.attained_ns, "sums of a queue group are off");
    count += sum.count;
    attained += sum.attained_ns;
  }
  FS_CHECK(count == size_ && attained == attained_ns_, "sums of a queue are off: ", count, " members, ", size_,
           " counted");
}

}  // namespace fastserve::sched
