#include "items.h"

#include <exception>

#include "compare.h"
#include "device.h"
#include "spec.h"

namespace fastserve::smoke {
namespace {

struct DeviceItem {
  const char* name;
  Outcome (*run)();
};
constexpr DeviceItem kDeviceItems[] = {
    {"device", describe_device},       {"tensor maps", make_tensor_maps}, {"mapped write", write_to_host},
    {"batched copy", copy_in_batches}, {"occupancy", describe_kernels},   {"carve-out", gather_thread_blocks},
    {"graph", replay_graph},
};
constexpr std::string_view kTime = "time ";

Outcome run(const std::string& name) {
  for (const DeviceItem& item : kDeviceItems) {
    if (name == item.name) return item.run();
  }
  if (name.starts_with(kTime)) return time_kernel(parse_spec(std::string_view(name).substr(kTime.size())));
  return compare(parse_spec(name));
}

}  // namespace

std::vector<std::string> default_items() {
  std::vector<std::string> names;
  for (const DeviceItem& item : kDeviceItems) names.emplace_back(item.name);
  for (std::string& spec : default_comparisons()) names.push_back(std::move(spec));
  for (const std::string& spec : default_timings()) names.push_back(std::string(kTime) + spec);
  return names;
}

Outcome run_item(const std::string& name) {
  try {
    return run(name);
  } catch (const std::exception& error) {
    Outcome outcome{"failed", {}};
    outcome.facts.add("error", error.what());
    return outcome;
  }
}

}  // namespace fastserve::smoke
