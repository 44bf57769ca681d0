#include "ptx/parser/register_reuse.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <queue>
#include <string_view>
#include <utility>
#include <vector>

namespace ptx {
namespace {

constexpr std::size_t kNever = ~std::size_t{0};

// Number of operands, the first ones, that an instruction writes whole in every lane that executes it and does not read.
// Too few do no harm: a register is then only thought to be live for longer.
std::size_t num_written(const Instruction& instruction) {
  static constexpr std::array<std::string_view, 45> kNames{
      "abs", "add", "and", "atom", "bfe",      "bfi", "bfind", "brev",  "copysign", "cos", "cvt",  "cvta",
      "div", "ex2", "fma", "ld",   "ldmatrix", "lg2", "mad",   "max",   "min",      "mma", "mov",  "mul",
      "neg", "not", "or",  "popc", "prmt",     "rcp", "rem",   "rsqrt", "selp",     "set", "setp", "shfl",
      "shl", "shr", "sin", "slct", "sqrt",     "sub", "tanh",  "vote",  "xor"};
  const bool writes = std::find(kNames.begin(), kNames.end(), instruction.op) != kNames.end();
  if (instruction.guard >= 0 || !writes || instruction.operands.empty()) return 0;
  return instruction.op == "shfl" && instruction.operands.size() == 6 ? 2 : 1;  // value|predicate
}

template <typename Action>
void for_registers(const Operand& operand, const Action& action) {
  if (operand.reg >= 0) action(static_cast<std::size_t>(operand.reg));
  for (const Operand& element : operand.elements) for_registers(element, action);
}

template <typename Action>
void for_registers(const Instruction& instruction, std::size_t first_operand, const Action& action) {
  if (instruction.guard >= 0) action(static_cast<std::size_t>(instruction.guard));
  for (std::size_t i = first_operand; i < instruction.operands.size(); ++i) {
    for_registers(instruction.operands[i], action);
  }
}

class RegisterSet {
 public:
  explicit RegisterSet(std::size_t size) : words_((size + 63) / 64) {}
  void add(std::size_t i) { words_[i / 64] |= std::uint64_t{1} << i % 64; }
  void remove(std::size_t i) { words_[i / 64] &= ~(std::uint64_t{1} << i % 64); }
  bool has(std::size_t i) const { return (words_[i / 64] >> i % 64 & 1U) != 0; }
  void add_all(const RegisterSet& other) {
    for (std::size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  }
  // live-in = used or (live-out and not written); true when this set changes
  bool assign_live_in(const RegisterSet& used, const RegisterSet& live_out, const RegisterSet& written) {
    bool changed = false;
    for (std::size_t i = 0; i < words_.size(); ++i) {
      const std::uint64_t word = used.words_[i] | (live_out.words_[i] & ~written.words_[i]);
      changed |= word != words_[i];
      words_[i] = word;
    }
    return changed;
  }
  template <typename Action>
  void for_each(const Action& action) const {
    for (std::size_t i = 0; i < words_.size(); ++i) {
      for (std::uint64_t word = words_[i]; word != 0; word &= word - 1) {
        action(i * 64 + static_cast<std::size_t>(__builtin_ctzll(word)));
      }
    }
  }

 private:
  std::vector<std::uint64_t> words_;
};

struct Block {
  Block(std::size_t first, std::size_t behind, std::size_t num_registers)
      : begin(first),
        end(behind),
        used(num_registers),
        written(num_registers),
        live_in(num_registers),
        live_out(num_registers) {}
  std::size_t begin, end;  // instructions
  std::vector<std::size_t> successors;
  RegisterSet used, written, live_in, live_out;
};

bool leaves(const Instruction& instruction) { return instruction.op == "ret" || instruction.op == "exit"; }

// The basic blocks: a lane enters at the first instruction and leaves behind the last one.
std::vector<Block> blocks_of(const Kernel& kernel) {
  const std::vector<Instruction>& code = kernel.code;
  std::vector<bool> starts(code.size() + 1, false);
  starts[0] = starts[code.size()] = true;
  for (std::size_t i = 0; i < code.size(); ++i) {
    if (code[i].op == "bra") starts[code[i].operands[0].value] = true;
    if (code[i].op == "bra" || leaves(code[i])) starts[i + 1] = true;
  }
  std::vector<Block> blocks;
  std::vector<std::size_t> block_at(code.size() + 1, kNever);
  for (std::size_t begin = 0; begin < code.size();) {
    std::size_t end = begin + 1;
    while (!starts[end]) ++end;
    block_at[begin] = blocks.size();
    blocks.emplace_back(begin, end, static_cast<std::size_t>(kernel.num_registers));
    begin = end;
  }
  for (Block& block : blocks) {
    const Instruction& last = code[block.end - 1];
    const bool always = last.guard < 0 && (last.op == "bra" || leaves(last));
    if (last.op == "bra") block.successors.push_back(block_at[last.operands[0].value]);
    if (!always && block.end < code.size()) block.successors.push_back(block_at[block.end]);
    for (std::size_t i = block.begin; i < block.end; ++i) {
      const std::size_t written = num_written(code[i]);
      for_registers(code[i], written, [&](std::size_t r) {
        if (!block.written.has(r)) block.used.add(r);
      });
      for (std::size_t operand = 0; operand < written; ++operand) {
        for_registers(code[i].operands[operand], [&](std::size_t r) { block.written.add(r); });
      }
    }
  }
  return blocks;
}

struct Range {
  std::size_t first = kNever;  // instructions, both inclusive
  std::size_t last = 0;
  void include(std::size_t instruction) {
    first = std::min(first, instruction);
    last = std::max(last, instruction);
  }
};

// From the first to the last place in the text where a register is live.
std::vector<Range> ranges_of(const Kernel& kernel) {
  std::vector<Block> blocks = blocks_of(kernel);
  for (bool changed = true; changed;) {
    changed = false;
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
      for (const std::size_t successor : block->successors) block->live_out.add_all(blocks[successor].live_in);
      changed |= block->live_in.assign_live_in(block->used, block->live_out, block->written);
    }
  }
  std::vector<Range> ranges(static_cast<std::size_t>(kernel.num_registers));
  for (const Block& block : blocks) {
    block.live_in.for_each([&](std::size_t r) { ranges[r].include(block.begin); });
    block.live_out.for_each([&](std::size_t r) { ranges[r].include(block.end - 1); });
  }
  std::size_t products_end = kernel.code.size();  // where the wgmma before i are waited for
  for (std::size_t i = kernel.code.size(); i-- > 0;) {
    const Instruction& instruction = kernel.code[i];
    for_registers(instruction, 0, [&](std::size_t r) { ranges[r].include(i); });
    if (instruction.op != "wgmma") continue;
    if (instruction.has("wait_group")) products_end = i;
    for_registers(instruction, 0, [&](std::size_t r) { ranges[r].include(products_end); });
  }
  return ranges;
}

void rename(Operand& operand, const std::vector<int>& places) {
  if (operand.reg >= 0) operand.reg = places[static_cast<std::size_t>(operand.reg)];
  for (Operand& element : operand.elements) rename(element, places);
}

}  // namespace

void reuse_registers(Kernel& kernel) {
  const std::vector<Range> ranges = ranges_of(kernel);
  std::vector<std::size_t> order;
  for (std::size_t r = 0; r < ranges.size(); ++r) {
    if (ranges[r].first != kNever) order.push_back(r);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(ranges[a].first, a) < std::pair(ranges[b].first, b);
  });
  using Place = std::pair<std::size_t, int>;  // last use, index
  std::priority_queue<Place, std::vector<Place>, std::greater<>> taken;
  std::vector<int> places(ranges.size(), -1);
  int num_places = 0;
  for (const std::size_t r : order) {
    // An instruction never finds a source in the place of another register that it writes: hence `<`.
    const bool is_free = !taken.empty() && taken.top().first < ranges[r].first;
    places[r] = is_free ? taken.top().second : num_places++;
    if (is_free) taken.pop();
    taken.emplace(ranges[r].last, places[r]);
  }
  for (Instruction& instruction : kernel.code) {
    if (instruction.guard >= 0) instruction.guard = places[static_cast<std::size_t>(instruction.guard)];
    for (Operand& operand : instruction.operands) rename(operand, places);
  }
  kernel.num_registers = num_places;
}

}  // namespace ptx
