#include "sched/scheduler_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "sched/policies/policy_factory.h"

namespace fastserve::sched {
namespace {

/// As Python writes it: a whole double keeps its ".0".
template <typename T>
std::string text_of(T value) {
  std::ostringstream text;
  text << value;
  if constexpr (std::is_floating_point_v<T>)
    if (std::isfinite(value) && text.str().find_first_of(".e") == std::string::npos) text << ".0";
  return text.str();
}

constexpr std::array kModes{
    std::pair{"auto", PreemptionMode::kAuto},
    std::pair{"swap", PreemptionMode::kSwap},
    std::pair{"recompute", PreemptionMode::kRecompute},
};

}  // namespace

const char* name_of(PreemptionMode mode) {
  return std::ranges::find(kModes, mode, [](const auto& entry) { return entry.second; })->first;
}

PreemptionMode preemption_mode_named(std::string_view name) {
  std::string names;
  for (const auto& [each, mode] : kModes) {
    if (each == name) return mode;
    names += (names.empty() ? "" : ", ") + std::string(each);
  }
  detail::raise<InvalidArgumentError>("preemption_mode must be one of ", names, ", got ", name);
}

template <typename T>
void Limits::check(const char* name, T value) const {
  const auto number = static_cast<double>(value);
  if ((above_low ? number > low : number >= low) && number <= high) return;
  std::ostringstream rule;
  if (above_low)
    rule << "above " << low << " and at most " << high;
  else
    rule << "between " << static_cast<std::int64_t>(low) << " and " << static_cast<std::int64_t>(high);
  detail::raise<InvalidArgumentError>(name, " must be ", rule.str(), *unit ? " " : "", unit, ", got ", text_of(value));
}

template void Limits::check(const char*, std::int32_t) const;
template void Limits::check(const char*, std::int64_t) const;
template void Limits::check(const char*, double) const;

void SchedulerConfig::validate() const {
  for_each_setting(
      [this]<typename Member, typename... Rest>([[maybe_unused]] const char* name, [[maybe_unused]] Member member,
                                                const Rest&... limits) { (limits.check(name, this->*member), ...); });
  FS_REQUIRE(max_num_batched_tokens >= max_num_seqs, "max_num_batched_tokens must be at least max_num_seqs (",
             max_num_seqs, ") so that every running request can decode, got ", max_num_batched_tokens);
  FS_REQUIRE(policy->has_objectives || (!ttft_slo_s && !tpot_slo_s), "ttft_slo_s and tpot_slo_s belong to the policy ",
             policy_with_objectives().name, ", not to ", policy->name, ": leave them out, or the policy");
}

}  // namespace fastserve::sched
