#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "offload/offload_engine.h"

namespace fastserve::offload {
class HostArena;
}

namespace fastserve::bindings {

/// An offload engine and the owner of the memory it copies from, which outlives it.
struct EngineHandle {
  pybind11::object device_owner;
  std::unique_ptr<offload::OffloadEngine> engine;

  EngineHandle(const pybind11::object& device_arena, std::shared_ptr<const offload::HostArena> host_arena,
               const offload::OffloadOptions& options);
  ~EngineHandle();
};

}  // namespace fastserve::bindings
