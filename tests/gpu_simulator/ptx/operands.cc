#include "ptx/operands.h"

namespace ptx {

void Source::copy(Warp& warp, const Operand& operand) {
  lanes_ = copy_.data();
  if (operand.kind == Operand::Kind::kRegister) {  // an inverted predicate
    const Lanes& values = warp.registers(operand.reg);
    for (std::size_t lane = 0; lane < kWarpSize; ++lane) copy_[lane] = ~values[lane] & 1;
  } else if (operand.kind == Operand::Kind::kImmediate) {
    copy_.fill(operand.value);
  } else {
    for (std::size_t lane = 0; lane < kWarpSize; ++lane) copy_[lane] = warp.bits(operand, static_cast<int>(lane));
  }
}

}  // namespace ptx
