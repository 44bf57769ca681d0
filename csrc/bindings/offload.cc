#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/offload_handle.h"
#include "bindings/tensor_caster.h"
#include "kernels/memory/copy_blocks.h"
#include "offload/cuda/fragments.h"
#include "offload/factory.h"
#include "offload/host/host_memory.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

using namespace offload;

constexpr double kForeverS = std::numeric_limits<double>::infinity();

/// Keeps the memory of a writable arena in place: a memoryview of what has the buffer protocol (its owner cannot resize
/// it meanwhile), else the tensor itself.
py::object hold(const py::object& arena) {
  if (PyObject_CheckBuffer(arena.ptr()) == 0) return arena;
  const py::memoryview held(arena);
  FS_REQUIRE(!held.attr("readonly").cast<bool>(), "device_arena must be writable, got a read-only buffer");
  return held;
}

std::span<const std::int32_t> ids(const TensorView& blocks, const char* name) {
  require_ndim(blocks, 1, name);
  require_dtype(blocks, DType::kInt32, name);
  require_contiguous(blocks, name);
  require_cpu(blocks, name);
  return {blocks.as<const std::int32_t>(), static_cast<std::size_t>(blocks.numel())};
}

Transfer transfer_of(Direction direction, const TensorView& source_blocks, const TensorView& target_blocks) {
  return {direction, ids(source_blocks, "source_blocks"), ids(target_blocks, "target_blocks")};
}

void register_values(py::module_& module) {
  py::native_enum<Direction>(module, "Direction", "enum.Enum", "Which way blocks move.")
      .value("DEVICE_TO_HOST", Direction::kDeviceToHost)
      .value("HOST_TO_DEVICE", Direction::kHostToDevice)
      .finalize();

  py::class_<Completion>(module, "Completion", "How a transfer ended; a failed one leaves unspecified bytes.")
      .def_property_readonly(
          "ticket", [](const Completion& self) { return static_cast<std::int64_t>(self.ticket); },
          "What submit returned.")
      .def_readonly("direction", &Completion::direction)
      .def_readonly("ok", &Completion::ok)
      .def_readonly("error", &Completion::error, "Empty when ok.")
      .def_readonly("bytes", &Completion::bytes, "Bytes asked for, whether ok or not.")
      .def_readonly("seconds", &Completion::seconds, "From the start of the copy to its end, with its verification.")
      .def("__repr__", [](const Completion& self) {
        return "Completion(ticket=" + std::to_string(static_cast<std::int64_t>(self.ticket)) + ", " +
               direction_name(self.direction) + ", " + (self.ok ? "ok" : self.error) + ", " +
               std::to_string(self.bytes) + " bytes)";
      });
}

void register_host_arena(py::module_& module) {
  py::class_<HostArena, std::shared_ptr<HostArena>>(
      module, "HostArena", py::buffer_protocol(),
      "Host memory for offloaded blocks: 2 MiB aligned, zero-filled. Has the "
      "buffer protocol, uint8 [num_blocks, block_bytes]: numpy.asarray(arena) is a writable view that keeps it alive.")
      .def(py::init([](std::int64_t num_blocks, std::int64_t block_bytes, int num_threads, bool prefault, bool pin,
                       int device) {
             const py::gil_scoped_release release;  // touching the pages takes a while
             return std::make_shared<HostArena>(num_blocks, block_bytes,
                                                HostArenaOptions{num_threads, prefault, pin, device});
           }),
           py::arg("num_blocks"), py::arg("block_bytes"), py::kw_only(), py::arg("num_threads") = 0,
           py::arg("prefault") = true, py::arg("pin") = false, py::arg("device") = 0,
           "Map the memory; with prefault, num_threads touch it first (0: one per core, at most 16); with pin it is "
           "touched and page-locked, near GPU `device`. InvalidArgumentError for sizes below 1 and for pin without "
           "CUDA in the "
           "build, DeviceError when the memory cannot be had or locked.")
      .def_buffer([](HostArena& self) {
        return py::buffer_info(reinterpret_cast<std::uint8_t*>(self.data()), {self.num_blocks(), self.block_bytes()},
                               {self.block_bytes(), std::int64_t{1}});
      })
      .def_property_readonly("num_blocks", &HostArena::num_blocks)
      .def_property_readonly("block_bytes", &HostArena::block_bytes)
      .def_property_readonly("num_bytes", &HostArena::num_bytes)
      .def_property_readonly("pinned", &HostArena::pinned, "Page-locked: a GPU can copy to and from it by itself.");
}

void register_transfers(py::class_<EngineHandle>& engine) {
  const auto release_gil = py::call_guard<py::gil_scoped_release>();
  engine
      .def(
          "submit",
          [](EngineHandle& self, Direction way, const TensorView& source, const TensorView& target) {
            return static_cast<std::int64_t>(self.engine->submit(transfer_of(way, source, target)));
          },
          py::arg("direction"), py::arg("source_blocks"), py::arg("target_blocks"), release_gil,
          "Queue a transfer of block source_blocks[i] onto target_blocks[i] (int32 [num_blocks] each, copied) and "
          "return its ticket; waits only while the direction's queue is full. InvalidArgumentError: lengths differ, "
          "an id out of range, a target twice, a block in use by a transfer in flight, engine closed.")
      .def(
          "poll", [](EngineHandle& self) { return self.engine->poll(); }, release_gil,
          "The completions not reported yet, in order of completion; never waits. Each is reported once.")
      .def(
          "wait_any", [](EngineHandle& self, double timeout_s) { return self.engine->wait_any(timeout_s); },
          py::arg("timeout_s") = kForeverS, release_gil,
          "Wait until poll would return something; False after timeout_s seconds, or at once with nothing in flight.")
      .def(
          "wait",
          [](EngineHandle& self, std::int64_t ticket, double timeout_s) {
            return self.engine->wait(Ticket{ticket}, timeout_s);
          },
          py::arg("ticket"), py::arg("timeout_s") = kForeverS, release_gil,
          "Wait for one transfer and report it, so that poll does not; None after timeout_s seconds. "
          "InvalidArgumentError: unknown ticket, already reported, or another thread waits for it.")
      .def(
          "close", [](EngineHandle& self) { self.engine->close(); }, release_gil,
          "Cancel what is queued, let running transfers end, join the threads; completions can still be polled.");
}

void register_state(py::class_<EngineHandle>& engine) {
  engine
      .def(
          "link_bytes_per_s",
          [](const EngineHandle& self, Direction direction) { return self.engine->link_bytes_per_s(direction); },
          py::arg("direction"), "Smoothed rate of recent copies; 10e9 before the first one.")
      .def_property_readonly(
          "device_fault", [](const EngineHandle& self) { return self.engine->device_fault(); },
          "Why the device is lost, known before the transfer that met it is reported; empty while "
          "it works. Once set, nothing that lies on the device can be trusted.")
      .def_property_readonly("block_bytes", [](const EngineHandle& self) { return self.engine->block_bytes(); });
}

void register_host_memory(py::module_& module) {
  module.def(
      "available_host_bytes", &available_host_bytes,
      "Bytes this process could still fill: what the kernel counts as available, or what is left of its cgroup's "
      "limit; 2**63 - 1 when the system does not say.");
}

void register_fragments(py::module_& module) {
  module.def(
      "copy_fragments", &copy_fragments, py::arg("source"), py::arg("target"), py::arg("offsets"), py::arg("sizes"),
      py::arg("stream") = 0, py::call_guard<py::gil_scoped_release>(),
      "Copy ranges of bytes (int64 offsets and sizes) of one uint8 tensor to the same places in another. Between "
      "the CPU (page-locked) and a GPU it is one kernel on `stream`, not a job for a copy engine. "
      "InvalidArgumentError: sizes differ, a range outside; DeviceError: the launch failed.");
}

}  // namespace

EngineHandle::EngineHandle(const py::object& device_arena, std::shared_ptr<const HostArena> host_arena,
                           const OffloadOptions& options) {
  TensorView view;
  if (!view_of(device_arena, view)) {
    throw py::type_error("device_arena must be a torch tensor or an array with the buffer protocol");
  }
  device_owner = hold(device_arena);
  engine = make_offload_engine(view, std::move(host_arena), options);
}

EngineHandle::~EngineHandle() {
  const py::gil_scoped_release release;
  engine.reset();
}

void register_offload(py::module_& module) {
  register_values(module);
  register_fragments(module);
  register_host_memory(module);
  register_host_arena(module);
  py::class_<EngineHandle> engine(
      module, "OffloadEngine",
      "Copies KV blocks between the device arena and the host arena beside the compute; every method may be called "
      "from any thread. Transfers of one direction complete in order; the directions run at once, and a transfer that "
      "touches blocks of another one in flight is refused.");
  engine.def(
      py::init([](const py::object& device_arena, std::shared_ptr<HostArena> host_arena, std::int64_t queue_capacity,
                  bool verify_checksums, std::uintptr_t compute_stream, bool allow_pageable, bool batch_copies) {
        return std::make_unique<EngineHandle>(device_arena, std::move(host_arena),
                                              OffloadOptions{.queue_capacity = queue_capacity,
                                                             .verify_checksums = verify_checksums,
                                                             .compute_stream = compute_stream,
                                                             .allow_pageable = allow_pageable,
                                                             .batch_copies = batch_copies,
                                                             .hash_on_device = kernels::hash_blocks_on_gpu()});
      }),
      py::arg("device_arena"), py::arg("host_arena"), py::kw_only(),
      py::arg("queue_capacity") = OffloadOptions{}.queue_capacity, py::arg("verify_checksums") = false,
      py::arg("compute_stream") = 0, py::arg("allow_pageable") = false, py::arg("batch_copies") = true,
      "device_arena [num_blocks, ...] is a contiguous, writable tensor whose blocks have host_arena.block_bytes "
      "bytes; both arenas are kept alive. queue_capacity: transfers per direction queued or running. On a GPU: "
      "a copy begins after what compute_stream (a cudaStream_t as an integer) was given before its submission; "
      "host_arena must be pinned unless allow_pageable; batch_copies hands many pieces to the driver at once.");
  register_transfers(engine);
  register_state(engine);
}

}  // namespace fastserve::bindings
