#include "ptx/memory/addresses.h"

#include "ptx/error.h"

namespace ptx {
namespace {

std::byte* within(std::string_view space, std::byte* memory, std::uint64_t size, std::uint64_t address,
                  std::size_t num_bytes) {
  if (address > size || size - address < num_bytes) {
    fail("an access to ", num_bytes, " bytes at address ", address, " of ", space, " memory, which has ", size);
  }
  if ((address & (num_bytes - 1)) != 0) {
    fail("an access to ", num_bytes, " bytes at address ", address, " of ", space, " memory is not aligned to them");
  }
  return memory + address;
}

}  // namespace

StateSpace take_space(Form& form) {
  switch (form.take_one({"global", "shared", "shared::cta", "local", "param", "param::entry", "const"})) {
    case 0:
    case 6: return StateSpace::kGlobal;
    case 1:
    case 2: return StateSpace::kShared;
    case 3: return StateSpace::kLocal;
    case 4:
    case 5: return StateSpace::kParam;
    default: return StateSpace::kGeneric;
  }
}

bool take_hints(Form& form) {
  form.take_one({"weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"});
  form.take_one({"cta", "cluster", "gpu", "sys"});
  form.take("nc");
  form.take("noftz");
  form.take_one({"ca", "cg", "cs", "lu", "cv", "wb", "wt"});
  form.take_one({"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"});
  form.take_one({"L2::evict_normal", "L2::evict_first", "L2::evict_last"});
  form.take_one({"L2::64B", "L2::128B", "L2::256B"});
  return form.take("L2::cache_hint");
}

void refuse_global(std::uint64_t address, std::size_t num_bytes) {
  if (address % num_bytes != 0) {
    fail("an access to ", num_bytes, " bytes of global memory at ", address, " is not aligned to them");
  }
  fail("an access to ", num_bytes, " bytes of global memory at ", address, ", near null");
}

std::byte* local_bytes(Warp& warp, std::size_t lane, std::uint64_t address, std::size_t num_bytes) {
  return within("local", warp.local(static_cast<int>(lane)), warp.kernel().local_bytes, address, num_bytes);
}

std::byte* parameter_bytes(Warp& warp, std::uint64_t address, std::size_t num_bytes) {
  return within("parameter", const_cast<std::byte*>(warp.cta().parameters()), warp.kernel().parameter_bytes, address,
                num_bytes);
}

}  // namespace ptx
