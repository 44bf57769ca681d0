#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "ptx/cta.h"
#include "ptx/instruction.h"
#include "ptx/parser/module.h"

namespace ptx {

// For tests of single instructions: operands and instructions without a parser, a CTA without a machine.

inline Operand operand(Operand::Kind kind, int reg = -1, std::uint64_t value = 0, int width = 0) {
  Operand built;
  built.kind = kind;
  built.reg = reg;
  built.value = value;
  built.width = width;
  return built;
}
inline Operand in_register(int index, int width = 32) { return operand(Operand::Kind::kRegister, index, 0, width); }
inline Operand immediate(std::int64_t value) {
  return operand(Operand::Kind::kImmediate, -1, static_cast<std::uint64_t>(value));
}
inline Operand at_address(std::uint64_t address) { return operand(Operand::Kind::kAddress, -1, address); }
inline Operand at_register(int index) { return operand(Operand::Kind::kAddress, index); }
inline Operand sink() { return operand(Operand::Kind::kSink); }
inline Operand registers_from(int first, int count) {
  Operand built = operand(Operand::Kind::kVector);
  for (int i = 0; i < count; ++i) built.elements.push_back(in_register(first + i));
  return built;
}

/// "mma.sync.aligned" with operands, its handler set.
inline Instruction instruction(const std::string& name, std::vector<Operand> operands) {
  Instruction built;
  std::istringstream parts(name);
  std::getline(parts, built.op, '.');
  for (std::string part; std::getline(parts, part, '.');) built.modifiers.push_back(part);
  built.operands = std::move(operands);
  built.run = async_copy_handler(built);
  if (built.run == nullptr) built.run = tensor_core_handler(built);
  return built;
}

/// A CTA whose instructions a test executes one by one.
class HandBuiltCta {
 public:
  static constexpr int kRegisters = 320;
  static constexpr Mask kAll = ~Mask{0};

  explicit HandBuiltCta(int warps = 4, std::size_t shared_bytes = 128 * 1024, std::uint64_t seed = 1)
      : kernel_(make_kernel()),
        random_(seed),
        cta_(kernel_, Dim3{}, Dim3{static_cast<unsigned>(warps) * 32U, 1, 1}, Dim3{}, shared_bytes, {}, random_) {}

  Cta& cta() { return cta_; }
  Warp& warp(int index = 0) { return cta_.warps()[static_cast<std::size_t>(index)]; }

  Outcome run(const Instruction& built, int warp_index = 0, Mask active = kAll) {
    return built.run(built, warp(warp_index), active);
  }
  Outcome run(const std::string& name, std::vector<Operand> operands, int warp_index = 0, Mask active = kAll) {
    return run(instruction(name, std::move(operands)), warp_index, active);
  }
  void deliver_all() {
    while (cta_.deliver()) {
    }
  }

  std::uint64_t get(int index, int lane = 0, int warp_index = 0) {
    return warp(warp_index).registers(index)[static_cast<std::size_t>(lane)];
  }
  void set(int index, std::uint64_t value, int warp_index = 0) { warp(warp_index).registers(index).fill(value); }
  void set_lane(int index, int lane, std::uint64_t value, int warp_index = 0) {
    warp(warp_index).registers(index)[static_cast<std::size_t>(lane)] = value;
  }

  /// Shared memory as it is, past all proxies.
  template <typename T>
  T peek(std::uint64_t address) {
    T value;
    std::memcpy(&value, cta_.shared(address, sizeof(T), 1), sizeof(T));
    return value;
  }
  template <typename T>
  void poke(std::uint64_t address, T value) {
    std::memcpy(cta_.shared(address, sizeof(T), 1), &value, sizeof(T));
  }

 private:
  static Kernel make_kernel() {
    Kernel kernel;
    kernel.name = "hand_built";
    kernel.num_registers = kRegisters;
    kernel.uses_async_proxy = true;
    return kernel;
  }

  Kernel kernel_;
  std::mt19937_64 random_;
  Cta cta_;
};

}  // namespace ptx
