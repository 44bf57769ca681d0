#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "bindings/tensor_caster.h"
#include "internals/internals.h"
#include "kv/kv_manager.h"

namespace py = pybind11;

namespace fastserve::internals {
namespace {

using namespace kv;

std::span<const std::int32_t> tokens_of(const TensorView& tokens) {
  require_ndim(tokens, 1, "tokens");
  require_dtype(tokens, DType::kInt32, "tokens");
  require_contiguous(tokens, "tokens");
  require_cpu(tokens, "tokens");
  return {tokens.as<const std::int32_t>(), static_cast<std::size_t>(tokens.numel())};
}

py::array_t<std::int32_t> copied(std::span<const BlockId> blocks) {
  static_assert(sizeof(BlockId) == sizeof(std::int32_t));
  return py::array_t<std::int32_t>(static_cast<py::ssize_t>(blocks.size()),
                                   reinterpret_cast<const std::int32_t*>(blocks.data()));
}

void register_enums(py::module_& module) {
  py::native_enum<Residency>(module, "Residency", "enum.Enum", "Where the KV of a sequence is; only DEVICE may run.")
      .value("NONE", Residency::kNone)
      .value("DEVICE", Residency::kDevice)
      .value("OFFLOADING", Residency::kOffloading)
      .value("HOST", Residency::kHost)
      .value("UPLOADING", Residency::kUploading)
      .finalize();
  py::native_enum<TransferKind>(module, "TransferKind", "enum.Enum", "Why blocks are copied.")
      .value("OFFLOAD", TransferKind::kOffload)
      .value("MIRROR", TransferKind::kMirror)
      .value("UPLOAD", TransferKind::kUpload)
      .finalize();
}

void register_values(py::module_& module) {
  py::class_<Transfer>(module, "Transfer",
                       "Blocks to copy from one tier to the other: source[i] to target[i]. UPLOAD goes from host to "
                       "device, OFFLOAD and MIRROR the other way.")
      .def_property_readonly("id", [](const Transfer& self) { return static_cast<std::int64_t>(self.id); })
      .def_property_readonly("seq", [](const Transfer& self) { return static_cast<std::int64_t>(self.seq); })
      .def_readonly("kind", &Transfer::kind)
      .def_property_readonly(
          "source", [](const Transfer& self) { return copied(self.source); }, "int32 [num_blocks], a copy.")
      .def_property_readonly(
          "target", [](const Transfer& self) { return copied(self.target); }, "int32 [num_blocks], a copy.")
      .def("__len__", [](const Transfer& self) { return self.source.size(); });
}

void register_sequences(py::class_<KvManager>& manager) {
  manager
      .def(
          "probe_prefix",
          [](const KvManager& self, const TensorView& tokens, std::uint64_t salt) {
            return self.probe_prefix(tokens_of(tokens), salt);
          },
          py::arg("tokens"), py::arg("salt") = 0, py::call_guard<py::gil_scoped_release>(),
          "Tokens of the longest cached prefix of tokens (int32 [n]), whole blocks, less than n.")
      .def(
          "begin",
          [](KvManager& self, std::int64_t seq, const TensorView& tokens, std::uint64_t salt) {
            return self.begin(SeqId{seq}, tokens_of(tokens), salt);
          },
          py::arg("seq"), py::arg("tokens"), py::arg("salt") = 0, py::call_guard<py::gil_scoped_release>(),
          "Start a sequence, adopt its longest cached prefix and return the tokens of that.")
      .def(
          "try_reserve",
          [](KvManager& self, std::int64_t seq, std::int64_t num_tokens) {
            return self.try_reserve(SeqId{seq}, num_tokens);
          },
          py::arg("seq"), py::arg("num_tokens"),
          "Hold device blocks for num_tokens tokens in all; False when the pool is short.")
      .def(
          "commit_computed",
          [](KvManager& self, std::int64_t seq, const TensorView& tokens, std::int64_t num_computed) {
            self.commit_computed(SeqId{seq}, tokens_of(tokens), num_computed);
          },
          py::arg("seq"), py::arg("tokens"), py::arg("num_computed"), py::call_guard<py::gil_scoped_release>(),
          "The KV of the first num_computed tokens (int32 [n], prompt and output) is written.")
      .def(
          "device_blocks",
          [](const KvManager& self, std::int64_t seq) { return copied(self.device_blocks(SeqId{seq})); },
          py::arg("seq"), "Device blocks in order of position: int32 [num_blocks], a copy.")
      .def(
          "drop", [](KvManager& self, std::int64_t seq) { self.drop(SeqId{seq}); }, py::arg("seq"),
          "Give up all KV of the sequence on both tiers.")
      .def(
          "end", [](KvManager& self, std::int64_t seq) { self.end(SeqId{seq}); }, py::arg("seq"),
          "Forget the sequence; its full blocks may live on as cached prefixes.")
      .def(
          "residency", [](const KvManager& self, std::int64_t seq) { return self.residency(SeqId{seq}); },
          py::arg("seq"))
      .def(
          "__contains__", [](const KvManager& self, std::int64_t seq) { return self.contains(SeqId{seq}); },
          py::arg("seq"))
      .def(
          "num_computed", [](const KvManager& self, std::int64_t seq) { return self.num_computed(SeqId{seq}); },
          py::arg("seq"), "Tokens whose KV is valid.")
      .def(
          "num_device_blocks",
          [](const KvManager& self, std::int64_t seq) { return self.num_device_blocks(SeqId{seq}); }, py::arg("seq"))
      .def(
          "num_releasable_blocks",
          [](const KvManager& self, std::int64_t seq) { return self.num_releasable_blocks(SeqId{seq}); },
          py::arg("seq"), "Device blocks that only this sequence holds.")
      .def(
          "num_blocks_to_offload",
          [](const KvManager& self, std::int64_t seq) { return self.num_blocks_to_offload(SeqId{seq}); },
          py::arg("seq"), "Blocks an offload would have to copy.")
      .def(
          "num_blocks_to_upload",
          [](const KvManager& self, std::int64_t seq) { return self.num_blocks_to_upload(SeqId{seq}); }, py::arg("seq"),
          "Free device blocks an upload would take.")
      .def(
          "num_blocks_to_reserve",
          [](const KvManager& self, std::int64_t seq, std::int64_t num_tokens) {
            return self.num_blocks_to_reserve(SeqId{seq}, num_tokens);
          },
          py::arg("seq"), py::arg("num_tokens"), "Further device blocks needed to hold num_tokens.");
}

void register_copies(py::class_<KvManager>& manager) {
  manager
      .def(
          "try_offload", [](KvManager& self, std::int64_t seq) { return self.try_offload(SeqId{seq}); }, py::arg("seq"),
          "Start to move a sequence from the device to the host; None when the host pool is short. An empty transfer "
          "needs no complete().")
      .def(
          "try_mirror",
          [](KvManager& self, std::int64_t seq, std::int32_t max_blocks) {
            return self.try_mirror(SeqId{seq}, max_blocks);
          },
          py::arg("seq"), py::arg("max_blocks"),
          "Start to copy full blocks of a running sequence to the host; None when there is nothing to copy or no "
          "space.")
      .def(
          "try_upload", [](KvManager& self, std::int64_t seq) { return self.try_upload(SeqId{seq}); }, py::arg("seq"),
          "Start to bring a sequence back from the host; None when the device pool is short.")
      .def(
          "complete", [](KvManager& self, std::int64_t transfer, bool ok) { self.complete(TransferId{transfer}, ok); },
          py::arg("transfer"), py::arg("ok"), "Report the end of a transfer by its id.");
}

void register_pools(py::class_<KvManager>& manager) {
  manager.def("usage", &KvManager::usage, py::arg("tier"))
      .def("num_free", &KvManager::num_free, py::arg("tier"))
      .def("clear_prefix_cache", &KvManager::clear_prefix_cache, "Forget all cached prefixes that no sequence holds.")
      .def("check_integrity", &KvManager::check_integrity, py::call_guard<py::gil_scoped_release>(),
           "InternalError when any invariant is broken.");
}

}  // namespace

void register_kv(py::module_& module) {
  register_enums(module);
  register_values(module);
  py::class_<KvManager> manager(module, "KvManager", py::module_local(),
                                "The manager with all its methods; fastserve._C.kv.KvManager, which a scheduler takes, "
                                "has those that the product calls.");
  manager.def(py::init([](std::int32_t block_size, std::int32_t num_device_blocks, std::int32_t num_host_blocks,
                          bool enable_prefix_caching) {
                return std::make_unique<KvManager>(
                    KvConfig{block_size, num_device_blocks, num_host_blocks, enable_prefix_caching});
              }),
              py::kw_only(), py::arg("block_size") = KvConfig{}.block_size, py::arg("num_device_blocks"),
              py::arg("num_host_blocks") = KvConfig{}.num_host_blocks,
              py::arg("enable_prefix_caching") = KvConfig{}.enable_prefix_caching);
  register_sequences(manager);
  register_copies(manager);
  register_pools(manager);
}

}  // namespace fastserve::internals
