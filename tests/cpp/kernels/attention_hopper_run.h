#pragma once

#include "attention_batch.h"
#include "hopper_emulator.h"
#include "kernels/attention_hopper_gpu.h"

namespace fastserve::kernels {

/// Run the Hopper prefill kernel over a batch. `change` may spoil the tensor maps.
template <DType kType, int kHeadDim, typename Machine = EmulatedHopper>
void hopper(Batch& batch, int num_ctas, GpuEmulator::Order order = {},
            void (*change)(TensorMapSpec& queries, TensorMapSpec& pages) = nullptr) {
  using Kernel = AttentionHopper<Machine, kType, kHeadDim>;
  const AttentionLaunch launch = batch.launch(1);
  TensorMapSpec queries = hopper_query_map<kHeadDim>(launch);
  TensorMapSpec pages = hopper_page_map<kHeadDim>(launch);
  if (change != nullptr) change(queries, pages);
  GpuEmulator::run(num_ctas, kHopperThreads, Kernel::kSharedBytes, order,
                   [&] { Kernel::run(launch, queries, pages); });
  batch.expect_tickets_are_back();
}

}  // namespace fastserve::kernels
