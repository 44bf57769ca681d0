#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ptx {

/// Where a variable lies. Its address counts from the beginning of that memory; of kGlobal it is a host address.
enum class Space { kGlobal, kShared, kDynamicShared, kLocal, kParameter };

/// Address of a kDynamicShared variable until the size of the kernel's static shared memory is known.
constexpr std::uint64_t kUnplaced = 1ULL << 48;

struct Variable {
  Space space = Space::kGlobal;
  std::uint64_t address = 0;
};

/// The names between a pair of braces of a kernel's body.
class Scope {
 public:
  /// Registers name0 ... name(count - 1), of which the first has index `first`; `.reg .b32 %r<count>`.
  void add_registers(std::string_view name, int first, int count) { families_.push_back({name, first, count}); }
  void add_register(std::string_view name, int index) { registers_[name] = index; }
  int find_register(std::string_view name) const;  // < 0: none

  std::unordered_map<std::string_view, Variable> variables;
  std::unordered_map<std::string_view, std::size_t> labels;  // index of the instruction
  /// An operand that names a label, which may come later or in the braces around.
  struct LabelUse {
    std::string_view name;
    std::size_t instruction = 0;
    std::size_t operand = 0;
  };
  std::vector<LabelUse> label_uses;

 private:
  struct Family {
    std::string_view name;
    int first = 0;
    int count = 0;
  };
  std::vector<Family> families_;
  std::unordered_map<std::string_view, int> registers_;
};

}  // namespace ptx
