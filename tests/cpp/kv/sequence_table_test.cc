#include "kv/sequence_table.h"

#include <gtest/gtest.h>

#include <random>
#include <unordered_map>

namespace fastserve::kv {
namespace {

TEST(SequenceTable, AgreesWithAMapThroughGrowthAndRemoval) {
  SequenceTable table;
  std::unordered_map<std::int64_t, std::int64_t> model;
  std::mt19937_64 random(3);
  for (int round = 0; round < 50000; ++round) {
    // Few ids, far apart: many share a run of cells. Removals prevail in the second half, so that runs are closed up.
    const auto id = static_cast<std::int64_t>(random() % 700) * (std::int64_t{1} << 40) - 5;
    const bool add = random() % 100 < (round < 25000 ? 70 : 30);
    if (add && !model.contains(id)) {
      table.add(SeqId{id}).num_computed = round;
      model[id] = round;
    } else if (!add && model.erase(id) > 0) {
      table.remove(SeqId{id});
    }
    ASSERT_EQ(table.size(), std::ssize(model));
    const Sequence* found = table.find(SeqId{id});
    ASSERT_EQ(found != nullptr, model.contains(id));
    ASSERT_TRUE(found == nullptr || found->num_computed == model[id]);
    if (round % 500 == 0) {
      for (const auto& [known, value] : model) ASSERT_EQ(table.find(SeqId{known})->num_computed, value);
    }
  }
}

TEST(SequenceTable, AReusedSlotStartsEmpty) {
  SequenceTable table;
  Sequence& first = table.add(SeqId{1});
  first.device.assign(5, BlockId{3});
  first.num_computed = 9;
  table.remove(SeqId{1});
  const Sequence& second = table.add(SeqId{2});
  EXPECT_EQ(second.id, SeqId{2});
  EXPECT_TRUE(second.device.empty() && second.host.empty());
  EXPECT_EQ(second.num_computed, 0);
}

TEST(SequenceTable, VisitsEverySequenceOnce) {
  SequenceTable table;
  std::int64_t sum = 0;
  for (std::int64_t id = 1; id <= 100; ++id) table.add(SeqId{id});
  table.remove(SeqId{50});
  table.for_each([&](const Sequence& seq) { sum += static_cast<std::int64_t>(seq.id); });
  EXPECT_EQ(sum, 5000);
}

}  // namespace
}  // namespace fastserve::kv
