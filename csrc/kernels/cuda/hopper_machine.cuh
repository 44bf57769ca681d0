#pragma once

// The instructions of Hopper that kernel bodies use; see kernels/hopper.h for what each one promises. sm_90a only.

#include <cuda.h>  // types alone: nothing of it is linked

#include <cstdint>

#include "kernels/cuda/machine.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace fastserve::kernels {

struct HopperMachine : CudaMachine {
  using TensorMap = CUtensorMap;

  static FS_DEVICE void barrier_init(std::uint64_t* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
  }
  static FS_DEVICE void barriers_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
    proxy_fence();
  }
  static FS_DEVICE void barrier_arrive(std::uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier)) : "memory");
  }
  static FS_DEVICE void barrier_expect(std::uint64_t* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
  }
  /// After ten seconds an error is better than a GPU that hangs. (All of it in one asm: a loop in C++ makes the
  /// compiler copy what follows, and run out of registers.)
  static FS_DEVICE void barrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
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
  static FS_DEVICE void prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
  }
  static FS_DEVICE void copy_box(void* shared, const TensorMap& map, const int (&at)[5], std::uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];\n" ::"r"(shared_address(shared)),
        "l"(&map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]), "r"(shared_address(barrier))
        : "memory");
  }

  static FS_DEVICE void store16(void* shared, Word4 words) { *static_cast<Word4*>(shared) = words; }
  static FS_DEVICE void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }
  static FS_DEVICE void named_sync(int id, int threads) {
    asm volatile("barrier.cta.sync.aligned %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
  }
  static FS_DEVICE void named_arrive(int id, int threads) {
    asm volatile("barrier.cta.arrive.aligned %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
  }
  template <int kCount>
  static FS_DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kCount));
  }
  template <int kCount>
  static FS_DEVICE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kCount));
  }

  template <DType kType, int kTiles>
  static FS_DEVICE void wgmma(float (&c)[kTiles][4], std::uint64_t a, std::uint64_t b, bool add) {
    cuda::wgmma<kType>(c, a, b, add);
  }
  template <DType kType, int kTiles>
  static FS_DEVICE void wgmma(float (&c)[kTiles][4], const std::uint32_t (&a)[4], std::uint64_t b) {
    cuda::wgmma<kType>(c, a, b);
  }
  template <typename... Registers>
  static FS_DEVICE void wgmma_fence(Registers&... registers) {
    (pin(registers), ...);
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
  }
  /// A branch that is never taken: ptxas moves waits across arithmetic, but not across a branch.
  static FS_DEVICE void settle(float x) {
    asm volatile("{\n.reg .pred negative;\nsetp.lt.f32 negative, %0, 0f00000000;\n@negative trap;\n}\n" ::"f"(x)
                 : "memory");
  }
  static FS_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
  template <int kLeft, typename... Registers>
  static FS_DEVICE void wgmma_wait(Registers&... registers) {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kLeft) : "memory");
    (pin(registers), ...);
  }

 private:
  /// Keeps the compiler from moving what writes or reads these registers across this place.
  template <int kTiles>
  static FS_DEVICE void pin(float (&registers)[kTiles][4]) {
    FS_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      FS_UNROLL
      for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(registers[n][i])::"memory");
    }
  }
  template <int kTiles>
  static FS_DEVICE void pin(std::uint32_t (&registers)[kTiles][4]) {
    FS_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      FS_UNROLL
      for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(registers[n][i])::"memory");
    }
  }
};

}  // namespace fastserve::kernels
