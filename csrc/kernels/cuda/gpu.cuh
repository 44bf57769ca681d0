#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "base/dtype.h"
#include "kernels/simt.h"

// The instructions that attention kernels use, sm_80 and later. Hopper's own: hopper.cuh.

namespace fastserve::kernels {

extern __shared__ uint4 cuda_shared_memory[];

namespace gpu {

inline constexpr unsigned kWholeWarp = 0xffffffffu;

/// Index in the thread block; index and number of thread blocks.
FS_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
FS_DEVICE int cta() { return static_cast<int>(blockIdx.x); }
FS_DEVICE int num_ctas() { return static_cast<int>(gridDim.x); }
/// The dynamic shared memory, aligned to 16 bytes.
FS_DEVICE char* shared() { return reinterpret_cast<char*>(cuda_shared_memory); }

/// Barriers of the thread block and of the warp; memory fence for the whole device.
FS_DEVICE void sync() { __syncthreads(); }
FS_DEVICE void sync_warp() { __syncwarp(); }
FS_DEVICE void fence() { __threadfence(); }

/// Exchanges between the lanes of a whole warp.
template <typename T>
FS_DEVICE T shfl(T value, int lane) {
  return __shfl_sync(kWholeWarp, value, lane);
}
template <typename T>
FS_DEVICE T shfl_up(T value, int distance) {
  return __shfl_up_sync(kWholeWarp, value, static_cast<unsigned>(distance));
}
template <typename T>
FS_DEVICE T shfl_xor(T value, int mask) {
  return __shfl_xor_sync(kWholeWarp, value, mask);
}

/// Whether it is true in every lane of a whole warp.
FS_DEVICE bool all(bool mine) { return __all_sync(kWholeWarp, mine ? 1 : 0) != 0; }

FS_DEVICE std::uint32_t fetch_add(std::uint32_t* address, std::uint32_t value) { return atomicAdd(address, value); }
/// A global load that no stale first-level cache line answers.
FS_DEVICE float load_fresh(const float* address) { return __ldcg(address); }

/// The address in bytes of something in shared memory.
FS_DEVICE std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copy 16 bytes asynchronously; if not wanted, write zeros and read nothing.
FS_DEVICE void copy16(void* shared, const void* global, bool wanted) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global),
               "r"(wanted ? 16 : 0)
               : "memory");
}
/// End a group of copies; wait until at most kLeft groups are unfinished.
FS_DEVICE void commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int kLeft>
FS_DEVICE void wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

FS_DEVICE void ldmatrix(std::uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
FS_DEVICE void ldmatrix_transposed(std::uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

/// c += a b, m16n8k16.
template <DType kType>
FS_DEVICE void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  static_assert(kType == DType::kBFloat16 || kType == DType::kFloat16);
  if constexpr (kType == DType::kBFloat16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// Round to 16 bits each.
template <DType kType>
FS_DEVICE std::uint32_t pack(float low, float high) {
  static_assert(kType == DType::kBFloat16 || kType == DType::kFloat16);
  if constexpr (kType == DType::kBFloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.x)) |
           static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return static_cast<std::uint32_t>(__half_as_ushort(__low2half(pair))) |
           static_cast<std::uint32_t>(__half_as_ushort(__high2half(pair))) << 16;
  }
}

/// thread() % 32, read again: what follows from it is computed where it is used, not ahead of a loop, where it would
/// occupy registers.
FS_DEVICE int fresh_lane() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;\n" : "=r"(lane));
  return lane;
}

/// One element of an array.
template <DType kType>
FS_DEVICE float load(const void* array, std::int64_t index) {
  if constexpr (kType == DType::kBFloat16) {
    return __bfloat162float(static_cast<const __nv_bfloat16*>(array)[index]);
  } else if constexpr (kType == DType::kFloat16) {
    return __half2float(static_cast<const __half*>(array)[index]);
  } else {
    return static_cast<const float*>(array)[index];
  }
}
template <DType kType>
FS_DEVICE void store(void* array, std::int64_t index, float value) {
  if constexpr (kType == DType::kBFloat16) {
    static_cast<__nv_bfloat16*>(array)[index] = __float2bfloat16_rn(value);
  } else if constexpr (kType == DType::kFloat16) {
    static_cast<__half*>(array)[index] = __float2half_rn(value);
  } else {
    static_cast<float*>(array)[index] = value;
  }
}

FS_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace gpu
}  // namespace fastserve::kernels
