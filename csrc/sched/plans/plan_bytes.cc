#include "sched/plans/plan_bytes.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace fastserve::sched {
namespace {

constexpr std::size_t kNumArrays = [] {
  std::size_t count = 0;
  const StepPlan plan;
  StepPlan::for_each_array(plan, [&count](const char*, const auto&) { ++count; });
  return count;
}();
constexpr std::size_t kWidths[] = {8, 4, 1};  // bytes of an element: in this order everything lies aligned

struct Header {
  std::int64_t step;
  std::int32_t num_decode_rows;
  std::array<std::uint32_t, kNumArrays> lengths;  // in the order of for_each_array
};

template <typename Plan, typename Visit>
void for_each_array_by_width(Plan& plan, Visit&& visit) {
  for (const std::size_t width : kWidths) {
    std::size_t index = 0;
    StepPlan::for_each_array(plan, [&](const char*, auto& array) {
      if (sizeof(array[0]) == width) visit(array, index);
      ++index;
    });
  }
}

}  // namespace

std::size_t plan_bytes(const StepPlan& plan) {
  std::size_t num_bytes = sizeof(Header);
  StepPlan::for_each_array(plan, [&](const char*, const auto& array) { num_bytes += array.size() * sizeof(array[0]); });
  return num_bytes;
}

void write_plan(const StepPlan& plan, std::span<std::byte> out) {
  FS_REQUIRE(out.size() == plan_bytes(plan), "a plan needs room of ", plan_bytes(plan), " bytes, got ", out.size());
  Header header{static_cast<std::int64_t>(plan.step), plan.num_decode_rows, {}};
  std::byte* at = out.data() + sizeof(Header);
  for_each_array_by_width(plan, [&](const auto& array, std::size_t index) {
    header.lengths[index] = static_cast<std::uint32_t>(array.size());
    const std::size_t num_bytes = array.size() * sizeof(array[0]);
    if (num_bytes != 0) std::memcpy(at, array.data(), num_bytes);
    at += num_bytes;
  });
  std::memcpy(out.data(), &header, sizeof(Header));
}

void read_plan(std::span<const std::byte> bytes, StepPlan& plan) {
  Header header;
  FS_REQUIRE(bytes.size() >= sizeof(Header), "a plan has at least ", sizeof(Header), " bytes, got ", bytes.size());
  std::memcpy(&header, bytes.data(), sizeof(Header));
  std::size_t num_bytes = sizeof(Header);
  for_each_array_by_width(plan, [&](auto& array, std::size_t index) {
    num_bytes += std::size_t{header.lengths[index]} * sizeof(array[0]);
  });
  FS_REQUIRE(num_bytes == bytes.size(), "a plan of these lengths has ", num_bytes, " bytes, got ", bytes.size());
  plan.step = StepId{header.step};
  plan.num_decode_rows = header.num_decode_rows;
  const std::byte* at = bytes.data() + sizeof(Header);
  for_each_array_by_width(plan, [&](auto& array, std::size_t index) {
    array.resize(header.lengths[index]);
    const std::size_t array_bytes = array.size() * sizeof(array[0]);
    if (array_bytes != 0) std::memcpy(array.data(), at, array_bytes);
    at += array_bytes;
  });
}

}  // namespace fastserve::sched
