#pragma once

#include "ptx/instruction.h"

namespace ptx {

/// Handlers of what the lanes of a warp do with each other: shfl, vote, activemask, bar.warp.sync; null for others.
Handler exchange_handler(const Instruction& instruction);

}  // namespace ptx
