#pragma once

// wgmma for every width that attention uses; see kernels/hopper.h for what an operand is. An instruction names each of
// its registers, hence the macros. Accumulators are fp32, 4 per 8 columns and thread.

#include <cstdint>

#include "base/dtype.h"
#include "kernels/simt.h"

namespace fastserve::kernels::gpu {

#define FS_NAMES_32                                                                                         \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22" \
  ", %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FS_NAMES_40 FS_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define FS_NAMES_48 FS_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define FS_NAMES_64 FS_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FS_NAMES_128                                                                                               \
  FS_NAMES_64                                                                                                      \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83"           \
  ", %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104" \
  ", %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121"         \
  ", %122, %123, %124, %125, %126, %127"
#define FS_REGISTERS(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define FS_REGISTERS_32                                                                                 \
  FS_REGISTERS(0), FS_REGISTERS(1), FS_REGISTERS(2), FS_REGISTERS(3), FS_REGISTERS(4), FS_REGISTERS(5), \
      FS_REGISTERS(6), FS_REGISTERS(7)
#define FS_REGISTERS_40 FS_REGISTERS_32, FS_REGISTERS(8), FS_REGISTERS(9)
#define FS_REGISTERS_48 FS_REGISTERS_40, FS_REGISTERS(10), FS_REGISTERS(11)
#define FS_REGISTERS_64 FS_REGISTERS_48, FS_REGISTERS(12), FS_REGISTERS(13), FS_REGISTERS(14), FS_REGISTERS(15)
#define FS_REGISTERS_128                                                                                          \
  FS_REGISTERS_64, FS_REGISTERS(16), FS_REGISTERS(17), FS_REGISTERS(18), FS_REGISTERS(19), FS_REGISTERS(20),      \
      FS_REGISTERS(21), FS_REGISTERS(22), FS_REGISTERS(23), FS_REGISTERS(24), FS_REGISTERS(25), FS_REGISTERS(26), \
      FS_REGISTERS(27), FS_REGISTERS(28), FS_REGISTERS(29), FS_REGISTERS(30), FS_REGISTERS(31)

/// c = a b^T, or c += a b^T: 64 rows, `width` columns, both operands in shared memory.
#define FS_WGMMA_SHARED(type, width, count, a_at, b_at, add_at)                                         \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" add_at                                              \
               ", 0;\n"                                                                                 \
               "wgmma.mma_async.sync.aligned.m64n" width "k16.f32." type "." type " {" FS_NAMES_##count \
               "}, %" a_at ", %" b_at ", p, 1, 1, 0, 0;\n}\n"                                           \
               : FS_REGISTERS_##count                                                                   \
               : "l"(a), "l"(b), "r"(add ? 1 : 0))

/// c += a b: a in registers, b in shared memory with its columns in neighbouring bytes.
#define FS_WGMMA_REGISTERS(type, width, count, a0, a1, a2, a3, b_at)                                    \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" width "k16.f32." type "." type " {" FS_NAMES_##count \
               "}, {%" a0 ", %" a1 ", %" a2 ", %" a3 "}, %" b_at ", 1, 1, 1, 1;\n"                      \
               : FS_REGISTERS_##count                                                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define FS_DEFINE_WGMMA_SHARED(tiles, width, count, a_at, b_at, add_at)                    \
  template <DType kType>                                                                   \
  FS_DEVICE void wgmma(float (&c)[tiles][4], std::uint64_t a, std::uint64_t b, bool add) { \
    if constexpr (kType == DType::kBFloat16) {                                             \
      FS_WGMMA_SHARED("bf16", width, count, a_at, b_at, add_at);                           \
    } else {                                                                               \
      FS_WGMMA_SHARED("f16", width, count, a_at, b_at, add_at);                            \
    }                                                                                      \
  }
#define FS_DEFINE_WGMMA_REGISTERS(tiles, width, count, a0, a1, a2, a3, b_at)                 \
  template <DType kType>                                                                     \
  FS_DEVICE void wgmma(float (&c)[tiles][4], const std::uint32_t (&a)[4], std::uint64_t b) { \
    if constexpr (kType == DType::kBFloat16) {                                               \
      FS_WGMMA_REGISTERS("bf16", width, count, a0, a1, a2, a3, b_at);                        \
    } else {                                                                                 \
      FS_WGMMA_REGISTERS("f16", width, count, a0, a1, a2, a3, b_at);                         \
    }                                                                                        \
  }

FS_DEFINE_WGMMA_SHARED(8, "64", 32, "32", "33", "34")
FS_DEFINE_WGMMA_SHARED(16, "128", 64, "64", "65", "66")
FS_DEFINE_WGMMA_REGISTERS(8, "64", 32, "32", "33", "34", "35", "36")
FS_DEFINE_WGMMA_REGISTERS(10, "80", 40, "40", "41", "42", "43", "44")
FS_DEFINE_WGMMA_REGISTERS(12, "96", 48, "48", "49", "50", "51", "52")
FS_DEFINE_WGMMA_REGISTERS(16, "128", 64, "64", "65", "66", "67", "68")
FS_DEFINE_WGMMA_REGISTERS(32, "256", 128, "128", "129", "130", "131", "132")

#undef FS_DEFINE_WGMMA_REGISTERS
#undef FS_DEFINE_WGMMA_SHARED
#undef FS_WGMMA_REGISTERS
#undef FS_WGMMA_SHARED
#undef FS_REGISTERS_128
#undef FS_REGISTERS_64
#undef FS_REGISTERS_48
#undef FS_REGISTERS_40
#undef FS_REGISTERS_32
#undef FS_REGISTERS
#undef FS_NAMES_128
#undef FS_NAMES_64
#undef FS_NAMES_48
#undef FS_NAMES_40
#undef FS_NAMES_32

}  // namespace fastserve::kernels::gpu
