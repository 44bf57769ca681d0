#include "sched/queues/ticket_queue.h"

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

bool TicketQueue::any(const Counts& in_place, PlaceMask places) {
  std::int64_t count = 0;
  for (unsigned place = 0; place < kNumPlaces; ++place) count += (places >> place & 1u) != 0 ? in_place[place] : 0;
  return count > 0;
}

void TicketQueue::push_back(Request& request) {
  const std::int64_t ticket = next_ticket_++;
  if ((ticket - base_) / kTicketsPerGroup >= num_groups()) groups_.emplace_back();
  Group& group = group_of(ticket);
  if (!group.members) group.members = spare_ ? std::move(spare_) : std::make_unique<Members>();
  request.queue_.ticket = ticket;
  Word& word = word_of(ticket);
  const auto place = static_cast<std::size_t>(request.place());
  group.members->requests[static_cast<std::size_t>((ticket - base_) % kTicketsPerGroup)] = &request;
  word.bits[place] |= bit_of(ticket);
  ++word.count;
  ++group.count;
  ++size_;
  ++group.in_place[place];
  ++in_place_[place];
  word.attained_ns += request.queue_.attained_ns;
  group.attained_ns += request.queue_.attained_ns;
  attained_ns_ += request.queue_.attained_ns;
}

void TicketQueue::erase(Request& request) {
  const std::int64_t ticket = request.queue_.ticket;
  Group& group = group_of(ticket);
  Word& word = word_of(ticket);
  const auto place = static_cast<std::size_t>(request.place());
  word.bits[place] &= ~bit_of(ticket);
  --group.in_place[place];
  --in_place_[place];
  word.attained_ns -= request.queue_.attained_ns;
  group.attained_ns -= request.queue_.attained_ns;
  attained_ns_ -= request.queue_.attained_ns;
  --word.count;
  --size_;
  request.queue_.ticket = -1;
  if (--group.count == 0) release_group((ticket - base_) / kTicketsPerGroup);
}

void TicketQueue::release_group(std::int64_t index) {
  auto& members = groups_[static_cast<std::size_t>(index)].members;
  if (!spare_) spare_ = std::move(members);  // its bits and sums are zero by now
  members.reset();
  while (!groups_.empty() && !groups_.front().members && (groups_.size() > 1 || size_ == 0)) {
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
  if (!any(in_place_, places)) return 0;
  std::size_t count = 0;
  const std::int64_t first = std::max(after + 1, base_) - base_;
  std::int64_t word_index = first % kTicketsPerGroup / kTicketsPerWord;
  std::uint64_t mask = ~std::uint64_t{0} << (first % kTicketsPerWord);
  for (std::int64_t g = first / kTicketsPerGroup; g < num_groups(); ++g, word_index = 0, mask = ~std::uint64_t{0}) {
    const Group& group = groups_[static_cast<std::size_t>(g)];
    if (!any(group.in_place, places)) continue;
    const Members& held = *group.members;
    for (; word_index < kWordsPerGroup; ++word_index, mask = ~std::uint64_t{0}) {
      std::uint64_t members = held.words[static_cast<std::size_t>(word_index)].members(places) & mask;
      for (; members != 0; members &= members - 1) {
        if (count == run.size()) return count;
        run[count++] =
            held.requests[static_cast<std::size_t>(word_index * kTicketsPerWord + std::countr_zero(members))];
      }
      if (count == run.size()) return count;
    }
  }
  return count;
}

Request* TicketQueue::prev(std::int64_t before, PlaceMask places) const {
  if (!any(in_place_, places)) return nullptr;
  const std::int64_t last = std::min(before, next_ticket_) - 1 - base_;
  if (last < 0) return nullptr;
  std::int64_t word_index = last % kTicketsPerGroup / kTicketsPerWord;
  std::uint64_t mask = ~std::uint64_t{0} >> (63 - last % kTicketsPerWord);
  for (std::int64_t g = last / kTicketsPerGroup; g >= 0;
       --g, word_index = kWordsPerGroup - 1, mask = ~std::uint64_t{0}) {
    const Group& group = groups_[static_cast<std::size_t>(g)];
    if (!any(group.in_place, places)) continue;
    const Members& held = *group.members;
    for (; word_index >= 0; --word_index, mask = ~std::uint64_t{0}) {
      const std::uint64_t members = held.words[static_cast<std::size_t>(word_index)].members(places) & mask;
      if (members != 0)
        return held.requests[static_cast<std::size_t>(word_index * kTicketsPerWord + 63 - std::countl_zero(members))];
    }
  }
  return nullptr;
}

/// Each of the three sums runs to the nearer end: what stands before is all less what does not.
TicketQueue::Before TicketQueue::before(std::int64_t ticket) const {
  const std::int64_t slot = ticket - base_;
  const std::int64_t g = slot / kTicketsPerGroup;
  const Group& group = groups_[static_cast<std::size_t>(g)];
  Before result = sum_before(g, num_groups(), {size_, attained_ns_}, [this](std::int64_t i) {
    const Group& other = groups_[static_cast<std::size_t>(i)];
    return Before{other.count, other.attained_ns};
  });
  const std::int64_t w = slot % kTicketsPerGroup / kTicketsPerWord;
  const Members& members = *group.members;
  const Word& word = members.words[static_cast<std::size_t>(w)];
  result += sum_before(w, kWordsPerGroup, {group.count, group.attained_ns}, [&members](std::int64_t i) {
    const Word& other = members.words[static_cast<std::size_t>(i)];
    return Before{other.count, other.attained_ns};
  });
  result += before_in_word(members, word, w, bit_of(slot) - 1);
  return result;
}

template <typename SumOf>
TicketQueue::Before TicketQueue::sum_before(std::int64_t end, std::int64_t size, Before all, SumOf&& sum_of) {
  Before sum;
  if (end <= size / 2) {
    for (std::int64_t i = 0; i < end; ++i) sum += sum_of(i);
    return sum;
  }
  for (std::int64_t i = end; i < size; ++i) sum += sum_of(i);
  return {all.count - sum.count, all.attained_ns - sum.attained_ns};
}

TicketQueue::Before TicketQueue::before_in_word(const Members& members, const Word& word, std::int64_t index,
                                                std::uint64_t mask) {
  const std::uint64_t all = word.members(kAnyPlace);
  const std::int64_t count = std::popcount(all & mask);
  const bool from_front = 2 * count <= word.count;
  std::int64_t attained_ns = 0;
  for (std::uint64_t rest = all & (from_front ? mask : ~mask); rest != 0; rest &= rest - 1)
    attained_ns += members.requests[static_cast<std::size_t>(index * kTicketsPerWord + std::countr_zero(rest))]
                       ->queue_.attained_ns;
  return {count, from_front ? attained_ns : word.attained_ns - attained_ns};
}

void TicketQueue::check_integrity() const {
  std::int64_t count = 0;
  std::int64_t attained = 0;
  Counts in_queue{};
  for (std::int64_t g = 0; g < num_groups(); ++g) {
    const Group& group = groups_[static_cast<std::size_t>(g)];
    FS_CHECK((group.members != nullptr) == (group.count > 0), "a queue group counts members it lacks");
    if (!group.members) continue;
    Before sum;
    Counts in_group{};
    for (std::int64_t w = 0; w < kWordsPerGroup; ++w) {
      const Word& word = group.members->words[static_cast<std::size_t>(w)];
      std::int64_t word_attained = 0;
      const std::int64_t count_before = sum.count;
      for (std::int64_t b = 0; b < kTicketsPerWord; ++b) {
        const int planes =
            static_cast<int>(std::ranges::count_if(word.bits, [&](auto bits) { return (bits >> b & 1) != 0; }));
        if (planes == 0) continue;
        const std::int64_t slot = w * kTicketsPerWord + b;
        const Request& request = *group.members->requests[static_cast<std::size_t>(slot)];
        FS_CHECK(planes == 1, "request ", request.id, " is in ", planes, " places of its queue");
        FS_CHECK(request.queue_.ticket == base_ + g * kTicketsPerGroup + slot, "request ", request.id,
                 " holds a wrong ticket");
        FS_CHECK((word.bits[static_cast<std::size_t>(request.place())] >> b & 1) != 0, "request ", request.id,
                 " stands in a place that is not that of its state ", name_of(request.state()));
        sum.count += 1;
        ++in_group[static_cast<std::size_t>(request.place())];
        word_attained += request.queue_.attained_ns;
      }
      FS_CHECK(word.attained_ns == word_attained && word.count == sum.count - count_before,
               "sums of a queue word are off");
      sum.attained_ns += word_attained;
    }
    FS_CHECK(group.count == sum.count && group.attained_ns == sum.attained_ns && group.in_place == in_group,
             "sums of a queue group are off");
    for (std::size_t place = 0; place < kNumPlaces; ++place) in_queue[place] += in_group[place];
    count += sum.count;
    attained += sum.attained_ns;
  }
  FS_CHECK(count == size_ && attained == attained_ns_ && in_queue == in_place_, "sums of a queue are off: ", count,
           " members, ", size_, " counted");
}

}  // namespace fastserve::sched
