#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

class Warp;
struct Instruction;

constexpr int kWarpSize = 32;
using Mask = std::uint32_t;  // bit i: lane i takes part

/// What a warp does after an instruction.
enum class Outcome {
  kDone,   // go on behind it
  kMoved,  // the instruction has set where its lanes go on: branches, exits
  kWait,   // nothing happened: the lanes stay and try again when something in their CTA has changed
  kYield,  // done, but it was in vain (a wait that timed out): let others run first
};

/// Executes an instruction for the lanes of `active`, which is never 0.
using Handler = Outcome (*)(const Instruction&, Warp&, Mask active);

struct Operand {
  enum class Kind {
    kRegister,  // reg; of a predicate possibly `inverted`
    kImmediate,  // value: an integer as 64 bits of two's complement, a float in the width of its spelling (0f: 32, 0d: 64)
    kSpecial,  // value: a SpecialRegister
    kAddress,  // [reg + value], reg < 0: [value]; of a tensor copy also its coordinates in `elements`
    kVector,   // {elements}
    kLabel,    // value: index of an instruction
    kSink,     // _
  };
  Kind kind = Kind::kImmediate;
  int reg = -1;
  int width = 0;  // of a register as declared, in bits (a predicate: 1): ld and cvt extend signs up to it
  std::uint64_t value = 0;
  bool inverted = false;
  std::vector<Operand> elements;
};

enum class SpecialRegister {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneid,
  kWarpid,
  kGlobaltimer,
  kClock64,
  kNwarpid,
  kLanemaskEq,
  kLanemaskLt,
  kLanemaskLe,
  kLanemaskGt,
  kLanemaskGe,
};

/// One instruction of a kernel: `@guard op.modifier.modifier operands`.
struct Instruction {
  std::string op;                      // "mma"
  std::vector<std::string> modifiers;  // {"sync", "aligned", "m16n8k16", ...}; "shared::cta" is one
  std::vector<Operand> operands;       // in the order of the text; `a|b` (shfl, setp) are two operands
  int guard = -1;                      // predicate register, < 0: none
  bool guard_inverted = false;
  bool aligned = false;  // all live lanes of the warp execute it together: others are waited for
  int line = 0;          // of the PTX text
  Handler run = nullptr;

  bool has(std::string_view modifier) const;
  std::string name() const;  // op and modifiers, as in the text
};

/// Types of PTX as in the modifiers: "f32" -> {kFloat, 32}; .b and .u are kUnsigned, .pred is {kUnsigned, 1}.
struct Type {
  enum class Kind { kUnsigned, kSigned, kFloat, kBFloat };
  Kind kind = Kind::kUnsigned;
  int bits = 0;
  int bytes() const { return bits / 8; }
};
/// The type that a modifier names; bits 0 when it names none.
Type type_of(std::string_view modifier);

/// The handlers of a family of instructions; null for instructions that are not of the family. A form of a family's
/// instruction that is not implemented throws Error naming it.
Handler arithmetic_handler(const Instruction& instruction);  // add ... cvt, setp, selp, mov, prmt, bit fields
Handler memory_handler(
    const Instruction& instruction);  // ld, st, atom, red, cvta, membar, fence (not proxies), prefetch
Handler control_handler(
    const Instruction& instruction);  // bra, ret, exit, trap, bar, barrier, shfl, vote, activemask, nanosleep
Handler async_copy_handler(
    const Instruction& instruction);  // cp.async, cp.async.bulk, mbarrier, fence.proxy, fence.mbarrier_init
Handler tensor_core_handler(const Instruction& instruction);  // mma, ldmatrix, wgmma, setmaxnreg

}  // namespace ptx
