#pragma once

#include "ptx/parser/module.h"

namespace ptx {

/// Gives registers of a kernel that are never live together the same place. nvcc's PTX writes nearly every register
/// once, thousands in all; 256 bytes each per warp would not fit the caches of the CPU.
void reuse_registers(Kernel& kernel);

}  // namespace ptx
