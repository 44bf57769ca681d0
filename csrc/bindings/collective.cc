#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/tensor_caster.h"
#include "collective/frame_ring.h"
#include "collective/shared_exchange.h"
#include "sched/plans/plan_bytes.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

using namespace collective;

constexpr std::size_t kPlanAlignment = 8;

std::span<std::byte> bytes_of(const TensorView& tensor, const char* name) {
  require_contiguous(tensor, name);
  require_cpu(tensor, name);
  return {tensor.as<std::byte>(), static_cast<std::size_t>(tensor.numel() * dtype_bytes(tensor.dtype))};
}

/// Where the plan of a frame begins, behind so many bytes of text.
constexpr std::size_t plan_start(std::size_t num_text_bytes) {
  return (num_text_bytes + kPlanAlignment - 1) / kPlanAlignment * kPlanAlignment;
}

/// A frame: text, filled up to a multiple of 8 bytes, then the plan, if there is one.
bool write_frame(FrameWriter& writer, std::uint32_t kind, std::string_view text, const sched::StepPlan* plan,
                 double timeout_s) {
  const std::size_t plan_at = plan_start(text.size());
  const std::size_t num_bytes = plan ? plan_at + sched::plan_bytes(*plan) : text.size();
  std::optional<std::span<std::byte>> room;
  {
    const py::gil_scoped_release release;
    room = writer.reserve(num_bytes, timeout_s);
  }
  if (!room) return false;
  if (!text.empty()) std::memcpy(room->data(), text.data(), text.size());
  if (plan) sched::write_plan(*plan, room->subspan(plan_at));
  writer.publish(kind, num_bytes);
  return true;
}

/// A read-only view of bytes that `owner` keeps in place.
py::memoryview view_in(std::span<const std::byte> bytes, const py::object& owner) {
  const auto* const data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  py::array_t<std::uint8_t> array(static_cast<py::ssize_t>(bytes.size()), data, owner);
  array.attr("flags").attr("writeable") = false;
  return py::memoryview(array);
}

void register_ring(py::module_& module) {
  py::class_<FrameWriter>(
      module, "FrameWriter",
      "The writing end of a ring of frames in shared memory, which every reader reads in order. One "
      "thread.")
      .def(py::init<std::int32_t, std::int32_t, std::size_t>(), py::kw_only(), py::arg("num_readers"),
           py::arg("num_slots"), py::arg("slot_bytes"),
           "Make the memory: num_slots frames of at most slot_bytes may be on their way.")
      .def(
          "write",
          [](FrameWriter& self, std::uint32_t kind, const py::bytes& text, double timeout_s) {
            return write_frame(self, kind, std::string_view(text), nullptr, timeout_s);
          },
          py::arg("kind"), py::arg("text"), py::kw_only(), py::arg("timeout_s"),
          "Write a frame; False when a reader left no room for it within timeout_s. InvalidArgumentError: longer than "
          "slot_bytes.")
      .def(
          "write_plan",
          [](FrameWriter& self, std::uint32_t kind, const py::bytes& text, const sched::StepPlan& plan,
             double timeout_s) { return write_frame(self, kind, std::string_view(text), &plan, timeout_s); },
          py::arg("kind"), py::arg("text"), py::arg("plan"), py::kw_only(), py::arg("timeout_s"),
          "As write, of text and a plan, which is written in place; see FrameReader.read_plan.")
      .def("beats", &FrameWriter::beats, py::arg("reader"), "How often the reader called beat, modulo 2**32.")
      .def_property_readonly("fd", &FrameWriter::fd, "Descriptor of the memory, for the readers' processes.");

  py::class_<FrameReader>(module, "FrameReader",
                          "A reading end; one thread, but for beat. A frame stays as it is until it is released.")
      .def(py::init<int, std::int32_t>(), py::arg("fd"), py::arg("index"),
           "Map the memory of a ring; the descriptor stays the caller's.")
      .def(
          "read",
          [](const py::object& self, double timeout_s) -> std::optional<std::pair<std::uint32_t, py::memoryview>> {
            std::optional<Frame> frame;
            {
              auto& reader = self.cast<FrameReader&>();
              const py::gil_scoped_release release;
              frame = reader.read(timeout_s);
            }
            if (!frame) return std::nullopt;
            return std::pair(frame->kind, view_in(frame->bytes, self));
          },
          py::arg("timeout_s"), "(kind, bytes in place) of the next frame; None when none came within timeout_s.")
      .def("release", &FrameReader::release, "Let the writer have the oldest frame that was read.")
      .def("beat", &FrameReader::beat, "Count up what FrameWriter.beats shows.");

  module.def(
      "read_plan",
      [](const py::buffer& frame, std::size_t num_text_bytes, sched::StepPlan& plan) {
        const py::buffer_info info = frame.request();
        const std::size_t plan_at = plan_start(num_text_bytes);
        const auto num_bytes = static_cast<std::size_t>(info.size * info.itemsize);
        FS_REQUIRE(plan_at <= num_bytes, "the text of a frame of ", num_bytes, " bytes must end within it, got ",
                   num_text_bytes, " bytes");
        sched::read_plan({static_cast<const std::byte*>(info.ptr) + plan_at, num_bytes - plan_at}, plan);
      },
      py::arg("frame"), py::arg("num_text_bytes"), py::arg("plan"),
      "Replace `plan` by that of a frame of FrameWriter.write_plan. InvalidArgumentError: the bytes are none of a "
      "plan.");
  module.def(
      "plan_frame",
      [](const py::bytes& text, const sched::StepPlan& plan) {
        const std::string_view view(text);
        const std::size_t plan_at = plan_start(view.size());
        std::string frame(plan_at + sched::plan_bytes(plan), '\0');
        std::memcpy(frame.data(), view.data(), view.size());
        sched::write_plan(plan, std::as_writable_bytes(std::span(frame)).subspan(plan_at));
        return py::bytes(frame);
      },
      py::arg("text"), py::arg("plan"), "What FrameWriter.write_plan writes, for those that no slot holds.");
  module.def("plan_bytes", &sched::plan_bytes, py::arg("plan"), "Bytes that a plan takes in a frame.");
}

void register_exchange(py::module_& module) {
  const auto release_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<ExchangeMemory>(module, "ExchangeMemory",
                             "Memory through which the ranks of one machine exchange tensors.")
      .def(py::init<std::int32_t>(), py::arg("num_ranks"))
      .def_property_readonly("fd", &ExchangeMemory::fd, "Descriptor of the memory, for the ranks' processes.");
  py::class_<SharedExchange>(
      module, "SharedExchange",
      "A rank's end. All ranks make the same collective calls in the same order; one that is not "
      "joined within timeout_s raises DeviceError, one that differs InternalError.")
      .def(py::init<int, std::int32_t, double>(), py::arg("fd"), py::arg("rank"), py::kw_only(), py::arg("timeout_s"))
      .def_property_readonly("rank", &SharedExchange::rank)
      .def_property_readonly("num_ranks", &SharedExchange::num_ranks)
      .def(
          "all_reduce",
          [](SharedExchange& self, const TensorView& x) {
            require_dtype(x, DType::kFloat32, "x");
            const std::span<std::byte> bytes = bytes_of(x, "x");
            self.all_reduce({x.as<float>(), bytes.size() / sizeof(float)});
          },
          py::arg("x"), release_gil,
          "Replace the float32 x by its sum over the ranks, added as a binary tree, on all ranks.")
      .def(
          "all_gather",
          [](SharedExchange& self, const TensorView& x, const TensorView& out) {
            self.all_gather(bytes_of(x, "x"), bytes_of(out, "out"));
          },
          py::arg("x"), py::arg("out"), release_gil, "Fill out [num_ranks, *x.shape] with x of every rank.")
      .def(
          "send", [](SharedExchange& self, const TensorView& x, std::int32_t to) { self.send(bytes_of(x, "x"), to); },
          py::arg("x"), py::arg("to"), release_gil, "Hand x to another rank, which receives as many bytes.")
      .def(
          "recv",
          [](SharedExchange& self, const TensorView& x, std::int32_t source) { self.recv(bytes_of(x, "x"), source); },
          py::arg("x"), py::arg("source"), release_gil, "Fill x with what another rank sends.");
}

}  // namespace

void register_collective(py::module_& module) {
  register_ring(module);
  register_exchange(module);
}

}  // namespace fastserve::bindings
