#pragma once

namespace fastserve {

/// Instruction sets the CPU kernels are compiled for, in ascending order.
/// kAmx is AVX-512 with matrix units for bf16 (AMX).
enum class CpuIsa { kScalar, kAvx2, kAvx512, kAmx };

/// The best one this machine runs, or what `override_cpu_isa` chose.
CpuIsa cpu_isa();
/// Use `isa` from now on, for tests; throws InvalidArgumentError when the machine cannot run it.
void override_cpu_isa(CpuIsa isa);
const char* cpu_isa_name(CpuIsa isa);
/// "scalar", "avx2", "avx512" or "amx"; throws InvalidArgumentError for anything else.
CpuIsa parse_cpu_isa(const char* name);

}  // namespace fastserve
