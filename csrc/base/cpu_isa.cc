#include "base/cpu_isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include <atomic>
#include <cstring>

#include "base/error.h"

namespace fastserve {
namespace {

#if defined(__x86_64__)
/// Whether the processor converts fp16; asked by cpuid because not every clang knows the name "f16c".
bool has_f16c() {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

/// Whether the processor multiplies bf16 matrices and the kernel lets this process use the state that this takes.
bool has_amx() {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned int kBf16 = 1u << 22, kTiles = 1u << 24;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kBf16) == 0 || (edx & kTiles) == 0) return false;
#if defined(__linux__)
  constexpr long kRequestState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
#else
  return false;
#endif
}
#endif

CpuIsa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && has_amx()) return CpuIsa::kAmx;
  if (avx512) return CpuIsa::kAvx512;
  if (avx2) return CpuIsa::kAvx2;
#endif
  return CpuIsa::kScalar;
}

const CpuIsa kDetected = detect();
std::atomic<CpuIsa> current_isa{kDetected};

}  // namespace

CpuIsa cpu_isa() { return current_isa.load(std::memory_order_relaxed); }

void override_cpu_isa(CpuIsa isa) {
  FS_REQUIRE(isa <= kDetected, "this machine does not run ", cpu_isa_name(isa), "; the best it has is ",
             cpu_isa_name(kDetected));
  current_isa.store(isa, std::memory_order_relaxed);
}

const char* cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar: return "scalar";
    case CpuIsa::kAvx2: return "avx2";
    case CpuIsa::kAvx512: return "avx512";
    case CpuIsa::kAmx: return "amx";
  }
  return "unknown";
}

CpuIsa parse_cpu_isa(const char* name) {
  for (const CpuIsa isa : {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAmx}) {
    if (std::strcmp(name, cpu_isa_name(isa)) == 0) return isa;
  }
  detail::raise<InvalidArgumentError>("unknown instruction set '", name, "': use scalar, avx2, avx512 or amx");
}

}  // namespace fastserve
