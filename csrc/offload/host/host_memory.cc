#include "offload/host/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace fastserve::offload {
namespace {

constexpr std::int64_t kUnknown = std::numeric_limits<std::int64_t>::max();

/// The number after `key` in a file of "key number" lines.
std::optional<std::int64_t> value_of(const std::filesystem::path& file, const std::string& key) {
  std::ifstream lines(file);
  std::string line;
  while (std::getline(lines, line)) {
    if (line.size() > key.size() && line.compare(0, key.size(), key) == 0 && line[key.size()] == ' ') {
      return std::stoll(line.substr(key.size()));
    }
  }
  return std::nullopt;
}

std::int64_t available_to_the_machine() {
  const auto kib = value_of("/proc/meminfo", "MemAvailable:");
  return kib ? *kib * 1024 : kUnknown;
}

/// Path of this process below the cgroup v2 mount, "/" inside a container.
std::string own_cgroup() {
  std::ifstream lines("/proc/self/cgroup");
  std::string line;
  while (std::getline(lines, line)) {
    if (line.compare(0, 3, "0::") == 0) return line.substr(3);
  }
  return "/";
}

}  // namespace

std::int64_t available_cgroup_bytes(const std::filesystem::path& cgroup) {
  std::int64_t limit = 0;
  if (!(std::ifstream(cgroup / "memory.max") >> limit)) return kUnknown;  // no such file, or "max"
  const auto anonymous = value_of(cgroup / "memory.stat", "anon").value_or(0);
  const auto shared = value_of(cgroup / "memory.stat", "shmem").value_or(0);
  return std::max<std::int64_t>(limit - anonymous - shared, 0);
}

std::int64_t available_below(const std::filesystem::path& root, const std::filesystem::path& own) {
  std::filesystem::path group = root;
  std::int64_t available = available_cgroup_bytes(group);
  for (const auto& name : own.relative_path()) {
    group /= name;
    available = std::min(available, available_cgroup_bytes(group));
  }
  return available;
}

std::int64_t available_host_bytes() {
  return std::min(available_to_the_machine(), available_below("/sys/fs/cgroup", own_cgroup()));
}

}  // namespace fastserve::offload
