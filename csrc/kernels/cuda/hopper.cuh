#pragma once

#include <cuda.h>  // types alone: nothing of it is linked

#include <cstdint>

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/wgmma.cuh"

// The instructions that only Hopper GPUs have (sm_90a); see kernels/hopper.h for what a TensorMap and a descriptor are.

namespace fastserve::kernels::gpu {

/// What the copy engine knows of an array; made of a TensorMapSpec.
using TensorMap = CUtensorMap;

/// A barrier in shared memory that counts arrivals and bytes. One thread initialises, then barriers_ready() and sync().
FS_DEVICE void barrier_init(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
/// After ordinary stores to shared memory that the copy engine or wgmma uses next; then a barrier.
FS_DEVICE void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }
FS_DEVICE void barriers_ready() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  proxy_fence();
}
/// Arrive; `expect` also announces bytes.
FS_DEVICE void barrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
}
FS_DEVICE void barrier_expect(std::uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
/// Wait until the phase of that parity has ended: all arrived, and all bytes came.
/// After ten seconds an error is better than a GPU that hangs. (All of it in one asm: a loop in C++ makes the
/// compiler copy what follows, and run out of registers.)
FS_DEVICE void barrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
  asm volatile(
      "{\n.reg .pred ended, late;\n.reg .u64 begin_ns, now_ns;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@ended bra done;\n"
      "mov.u64 begin_ns, %%globaltimer;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@ended bra done;\n"
      "mov.u64 now_ns, %%globaltimer;\n"
      "sub.u64 now_ns, now_ns, begin_ns;\n"
      "setp.gt.u64 late, now_ns, 10000000000;\n"
      "@late trap;\n"
      "bra again;\n"
      "done:\n}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
/// A hint that copies with the map follow soon.
FS_DEVICE void prefetch(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory"); }
/// Copy a box asynchronously; what lies outside the array becomes zeros, and counts as bytes all the same.
FS_DEVICE void copy_box(void* shared, const TensorMap& map, const int (&at)[5], std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];\n" ::"r"(shared_address(shared)),
      "l"(&map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]), "r"(shared_address(barrier))
      : "memory");
}

FS_DEVICE void store16(void* shared, Word4 words) { *static_cast<Word4*>(shared) = words; }
/// Barriers 1 to 15, of some of the warps.
FS_DEVICE void named_sync(int id, int threads) {
  asm volatile("barrier.cta.sync.aligned %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
FS_DEVICE void named_arrive(int id, int threads) {
  asm volatile("barrier.cta.arrive.aligned %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
/// Change the number of registers of a thread; whole warpgroup.
template <int kCount>
FS_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kCount));
}
template <int kCount>
FS_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kCount));
}

/// Keeps the compiler from moving what writes or reads these registers across this place.
template <int kTiles>
FS_DEVICE void pin(float (&registers)[kTiles][4]) {
  FS_UNROLL
  for (int n = 0; n < kTiles; ++n) {
    FS_UNROLL
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(registers[n][i])::"memory");
  }
}
template <int kTiles>
FS_DEVICE void pin(std::uint32_t (&registers)[kTiles][4]) {
  FS_UNROLL
  for (int n = 0; n < kTiles; ++n) {
    FS_UNROLL
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(registers[n][i])::"memory");
  }
}
/// Before a wgmma whose registers were written by something else.
template <typename... Registers>
FS_DEVICE void wgmma_fence(Registers&... registers) {
  (pin(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
/// What this number, not negative, follows from is computed before what comes next.
/// A branch that is never taken: ptxas moves waits across arithmetic, but not across a branch.
FS_DEVICE void settle(float x) {
  asm volatile("{\n.reg .pred negative;\nsetp.lt.f32 negative, %0, 0f00000000;\n@negative trap;\n}\n" ::"f"(x)
               : "memory");
}
/// End a group of wgmma; wait until at most kLeft groups are unfinished, after which these registers may be used again.
/// Between a wgmma and its end nothing touches its registers or its shared memory.
FS_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <int kLeft, typename... Registers>
FS_DEVICE void wgmma_wait(Registers&... registers) {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kLeft) : "memory");
  (pin(registers), ...);
}

}  // namespace fastserve::kernels::gpu
