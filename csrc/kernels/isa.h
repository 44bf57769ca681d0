#pragma once

#include "base/cpu_isa.h"

/// Declare a CPU kernel once per instruction set: FS_DECLARE_CPU(void rms_norm(const RmsNormParams&, ThreadPool&));
/// The definitions live in <op>_cpu.cc inside FS_ISA_NAMESPACE.
#define FS_DECLARE_CPU(...) \
  namespace scalar {        \
  __VA_ARGS__;              \
  }                         \
  namespace avx2 {          \
  __VA_ARGS__;              \
  }                         \
  namespace avx512 {        \
  __VA_ARGS__;              \
  }

/// Call the version of a CPU kernel that fits this machine: FS_DISPATCH_CPU(rms_norm, params, pool).
#if defined(__x86_64__)
#define FS_DISPATCH_CPU(function, ...)                                         \
  do {                                                                         \
    switch (::fastserve::cpu_isa()) {                                          \
      case ::fastserve::CpuIsa::kAmx:                                          \
      case ::fastserve::CpuIsa::kAvx512: avx512::function(__VA_ARGS__); break; \
      case ::fastserve::CpuIsa::kAvx2: avx2::function(__VA_ARGS__); break;     \
      case ::fastserve::CpuIsa::kScalar: scalar::function(__VA_ARGS__); break; \
    }                                                                          \
  } while (false)
#else
#define FS_DISPATCH_CPU(function, ...) scalar::function(__VA_ARGS__)
#endif
