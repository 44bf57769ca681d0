#pragma once

#include "ptx/instruction.h"

namespace ptx {

/// atom and red.
Handler atomic_handler(const Instruction& instruction);

}  // namespace ptx
