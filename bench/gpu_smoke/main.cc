// gpu_smoke: the first program to run on a GPU that the kernels have not seen. Needs a driver, neither Python nor torch.
//
// Every item is done in a child process and has its line of JSON at once, whatever the others do; see items.h.

#include <cuda_runtime_api.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "facts.h"
#include "items.h"
#include "supervisor.h"

namespace {

using namespace fastserve::smoke;

constexpr const char* kUsage =
    "usage: gpu_smoke [--out FILE] [--stall-s SECONDS] [--list] [ITEM...]\n"
    "Runs the items (default: all of --list) on the first GPU; writes a line of JSON for each to FILE and to the "
    "terminal.\n"
    "An item may be any shape, such as 'decode bf16 32/8 d128 p16 4097:1,1:1*3' or 'time hopper fp16 8/2 d64 p16 "
    "512:512'.\n"
    "gpu_smoke --child ITEM...  runs them in this process, for debuggers and compute-sanitizer.\n"
    "Exit status 0: every item is ok or left out.\n";

/// In this process, one after another, until one of them costs us the device.
int run_here(const std::vector<std::string>& names) {
  bool good = true;
  for (const std::string& name : names) {
    std::printf("{\"begin\": %s}\n", quoted(name).c_str());
    std::fflush(stdout);
    const auto begin = std::chrono::steady_clock::now();
    Outcome outcome = run_item(name);
    outcome.facts.add("seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    good = good && (outcome.word == "ok" || outcome.word == "left out");
    std::printf("{\"end\": %s, \"outcome\": %s, %s}\n", quoted(name).c_str(), quoted(outcome.word).c_str(),
                outcome.facts.text().c_str());
    std::fflush(stdout);
    if (outcome.word == "failed" && cudaDeviceSynchronize() != cudaSuccess) std::_Exit(kDeviceLost);
  }
  return good ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  std::vector<std::string> names;
  std::string out;
  double stall_s = 15.0;  // a wait within a kernel gives up after ten
  bool child = false;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const bool has_next = i + 1 < count;
    if (word == "--list") {
      for (const std::string& name : default_items()) std::puts(name.c_str());
      return 0;
    } else if (word == "--child") {
      child = true;
    } else if (word == "--out" && has_next) {
      out = words[++i];
    } else if (word == "--stall-s" && has_next && (stall_s = std::atof(words[++i])) > 0.0) {
    } else if (word.starts_with("--")) {
      std::fputs(kUsage, stderr);
      return 2;
    } else {
      names.push_back(word);
    }
  }
  if (child) return run_here(names);
  std::FILE* file = out.empty() ? nullptr : std::fopen(out.c_str(), "a");
  if (!out.empty() && file == nullptr) {
    std::fprintf(stderr, "cannot write %s: %s\n", out.c_str(), std::strerror(errno));
    return 2;
  }
  const auto write = [&](const std::string& line) {
    std::puts(line.c_str());
    std::fflush(stdout);
    if (file == nullptr) return;
    std::fprintf(file, "%s\n", line.c_str());
    std::fflush(file);
  };
  const bool good = supervise("/proc/self/exe", names.empty() ? default_items() : names,
                              std::chrono::milliseconds(static_cast<std::int64_t>(1e3 * stall_s)), write);
  if (file != nullptr) std::fclose(file);
  return good ? 0 : 1;
}
