#include "ptx/matrix/matrix.h"
#include "ptx/memory/mbarrier.h"

namespace ptx {
namespace {

// The machine has registers without end: only the rules of setmaxnreg are kept (PTX ISA 9.0, 9.7.19.5).
Outcome set_max_registers(const Instruction& instruction, Warp&, Mask active) {
  require_whole_warp(instruction, active);
  return Outcome::kDone;
}

Handler set_max_registers_handler(const Instruction& instruction) {
  require_known(instruction, {"inc", "dec", "sync", "aligned", "u32"});
  if (!instruction.has("inc") && !instruction.has("dec")) refuse(instruction, "neither .inc nor .dec");
  const bool fits = instruction.operands.size() == 1 && instruction.operands[0].kind == Operand::Kind::kImmediate &&
                    instruction.operands[0].value >= 24 && instruction.operands[0].value <= 256 &&
                    instruction.operands[0].value % 8 == 0;
  if (!fits) refuse(instruction, "the count must be a multiple of 8 from 24 to 256");
  return set_max_registers;
}

}  // namespace

Handler tensor_core_handler(const Instruction& instruction) {
  if (instruction.op == "setmaxnreg") return set_max_registers_handler(instruction);
  const Handler handler = matrix_handler(instruction);
  return handler != nullptr ? handler : wgmma_handler(instruction);
}

}  // namespace ptx
