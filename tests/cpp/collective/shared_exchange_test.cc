#include "collective/shared_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace fastserve::collective {
namespace {

constexpr double kLongS = 60.0;

/// Run `work` for every rank of a new exchange, each on a thread.
void run_ranks(std::int32_t num_ranks, const std::function<void(SharedExchange&)>& work) {
  const ExchangeMemory memory(num_ranks);
  std::vector<std::thread> threads;
  for (std::int32_t rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      SharedExchange exchange(memory.fd(), rank, kLongS);
      work(exchange);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// A summand whose sums depend on their order.
float part(std::int32_t rank, std::size_t i) {
  return 1.0f / static_cast<float>(3 * rank + 1) * (i % 7 < 3 ? 1e5f : 1e-3f) + static_cast<float>(i % 11);
}

float tree(std::int32_t num_ranks, std::size_t i) {
  std::vector<float> parts;
  for (std::int32_t rank = 0; rank < num_ranks; ++rank) parts.push_back(part(rank, i));
  while (parts.size() > 1) {
    std::vector<float> sums;
    for (std::size_t p = 0; p + 1 < parts.size(); p += 2) sums.push_back(parts[p] + parts[p + 1]);
    if (parts.size() % 2 != 0) sums.push_back(parts.back());
    parts = sums;
  }
  return parts[0];
}

class SharedExchangeSizes : public testing::TestWithParam<std::int32_t> {};

TEST_P(SharedExchangeSizes, SumsAreABinaryTreeOnAllRanksWhateverTheirLength) {
  const std::int32_t num_ranks = GetParam();
  run_ranks(num_ranks, [&](SharedExchange& exchange) {
    for (const std::size_t length : {std::size_t{0}, std::size_t{1}, std::size_t{700}, std::size_t{300'001}}) {
      std::vector<float> values(length);
      for (std::size_t i = 0; i < length; ++i) values[i] = part(exchange.rank(), i);
      exchange.all_reduce(values);
      for (std::size_t i = 0; i < length; i += 97) ASSERT_EQ(values[i], tree(num_ranks, i)) << i;
    }
  });
}

TEST_P(SharedExchangeSizes, GathersHaveTheBytesOfEveryRank) {
  const std::int32_t num_ranks = GetParam();
  run_ranks(num_ranks, [&](SharedExchange& exchange) {
    const std::size_t length = 600'001;  // more than an area
    const std::vector<std::byte> mine(length, static_cast<std::byte>(exchange.rank() + 1));
    std::vector<std::byte> all(length * static_cast<std::size_t>(num_ranks));
    exchange.all_gather(mine, all);
    for (std::size_t i = 0; i < all.size(); i += 1000) {
      ASSERT_EQ(all[i], static_cast<std::byte>(i / length + 1));
    }
  });
}

TEST_P(SharedExchangeSizes, MessagesArriveAtTheRankThatTheyAreFor) {
  const std::int32_t num_ranks = GetParam();
  run_ranks(num_ranks, [&](SharedExchange& exchange) {
    std::vector<std::byte> bytes(2'500'000, static_cast<std::byte>(exchange.rank() + 1));  // more than a mailbox holds
    if (exchange.rank() != 0) {
      exchange.send(bytes, 0);
      exchange.recv(bytes, 0);
      EXPECT_EQ(bytes.back(), static_cast<std::byte>(100 + exchange.rank()));
      return;
    }
    for (std::int32_t other = num_ranks - 1; other > 0; --other) {
      exchange.recv(bytes, other);
      EXPECT_EQ(bytes.front(), static_cast<std::byte>(other + 1));
      EXPECT_EQ(bytes.back(), static_cast<std::byte>(other + 1));
      std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(100 + other));
      exchange.send(bytes, other);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, SharedExchangeSizes, testing::Values(2, 3, 4, 8));

TEST(SharedExchange, TheRanksThatDoNotJoinAreNamed) {
  const ExchangeMemory memory(3);
  std::vector<std::thread> threads;
  for (const std::int32_t rank : {0, 2}) {
    threads.emplace_back([&memory, rank] {
      SharedExchange exchange(memory.fd(), rank, 0.3);
      std::vector<float> values(3);
      try {
        exchange.all_reduce(values);
        ADD_FAILURE() << "rank 1 has not joined";
      } catch (const DeviceError& error) {
        EXPECT_NE(std::string(error.what()).find("rank 1 of a group of 3 did not join"), std::string::npos)
            << error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(SharedExchange, RanksThatDoNotJoinAreAnError) {
  const ExchangeMemory memory(2);
  SharedExchange alone(memory.fd(), 0, 0.01);
  std::vector<float> values(3);
  EXPECT_THROW(alone.all_reduce(values), DeviceError);
  std::vector<std::byte> bytes(3);
  EXPECT_THROW(alone.recv(bytes, 1), DeviceError);
  bytes.resize(std::size_t{1} << 20);
  alone.send(bytes, 1);  // fits into the mailbox
  EXPECT_THROW(alone.send(bytes, 1), DeviceError);
}

TEST(SharedExchange, DifferentCallsAreNoticedByEveryRank) {
  run_ranks(2, [](SharedExchange& exchange) {
    std::vector<float> values(exchange.rank() == 0 ? 3 : 4);
    EXPECT_THROW(exchange.all_reduce(values), InternalError);
  });
}

TEST(SharedExchange, RefusesWhatIsNoPlaceInIt) {
  EXPECT_THROW(ExchangeMemory(0), InvalidArgumentError);
  EXPECT_THROW(ExchangeMemory(65), InvalidArgumentError);
  const ExchangeMemory memory(2);
  EXPECT_THROW(SharedExchange(memory.fd(), 2, kLongS), InvalidArgumentError);
  SharedExchange exchange(memory.fd(), 0, kLongS);
  std::vector<std::byte> bytes(3);
  EXPECT_THROW(exchange.send(bytes, 2), InvalidArgumentError);
}

}  // namespace
}  // namespace fastserve::collective
