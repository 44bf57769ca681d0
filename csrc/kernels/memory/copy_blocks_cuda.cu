// Copies of whole KV blocks within the memory of one GPU, and their checksums.
//
// Thread mapping of the copy: grid (pieces of a block, copies of the launch), 256 threads, each thread 8 vectors of 16
// bytes, one thread block apart, so a CTA moves 32 KiB; all loads are issued before the first store. No shared memory.
// Block ids travel in the kernel's parameters (at most kMaxCopies pairs a launch), so nothing is allocated and nothing
// waits.

#include <algorithm>

#include "base/block_hash.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/memory/copy_blocks.h"

namespace fastserve::kernels {
namespace {

using namespace cuda;

constexpr int kMaxCopies = 480;  // 8 bytes each: with the pointers below the 4 KiB that every launch may pass
constexpr int kThreads = 256;
constexpr int kVectorsPerThread = 8;

struct Batch {
  const char* src;
  char* dst;
  std::int64_t block_bytes;
  std::int32_t src_ids[kMaxCopies];
  std::int32_t dst_ids[kMaxCopies];
};
static_assert(sizeof(Batch) <= 4096);

/// Copy one block in units of Unit; block_bytes is a multiple of it.
template <typename Unit>
__global__ void __launch_bounds__(kThreads) copy_kernel(const __grid_constant__ Batch batch) {
  const std::int64_t num_units = batch.block_bytes / static_cast<std::int64_t>(sizeof(Unit));
  const auto* src = reinterpret_cast<const Unit*>(batch.src + batch.src_ids[blockIdx.y] * batch.block_bytes);
  auto* dst = reinterpret_cast<Unit*>(batch.dst + batch.dst_ids[blockIdx.y] * batch.block_bytes);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kThreads * kVectorsPerThread) + threadIdx.x;
  Unit units[kVectorsPerThread];
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; ++i) {
    if (first + i * kThreads < num_units) units[i] = src[first + i * kThreads];
  }
#pragma unroll
  for (int i = 0; i < kVectorsPerThread; ++i) {
    if (first + i * kThreads < num_units) dst[first + i * kThreads] = units[i];
  }
}

template <typename Unit>
void launch_copies(const CopyBlocksParams& params, void* stream) {
  const unsigned pieces = ceil_div(params.block_bytes, sizeof(Unit) * kThreads * kVectorsPerThread);
  for (std::int64_t first = 0; first < params.num_copies; first += kMaxCopies) {
    const std::int64_t count = std::min<std::int64_t>(kMaxCopies, params.num_copies - first);
    Batch batch{params.src, params.dst, params.block_bytes, {}, {}};
    std::copy_n(params.src_ids + first, count, batch.src_ids);
    std::copy_n(params.dst_ids + first, count, batch.dst_ids);
    launch(FS_SITE("copy_blocks"), copy_kernel<Unit>, dim3(pieces, static_cast<unsigned>(count)), kThreads, stream,
           batch);
  }
}

/// Checksums of up to so many blocks in one launch: ids of 4 bytes beside the pointers.
constexpr int kMaxChecksums = 960;
constexpr int kChecksumThreads = 512;
constexpr int kLanes = 8;  // of a segment, see base/block_hash.h
constexpr int kGroups = kChecksumThreads / kLanes;

struct ChecksumBatch {
  const char* cache;
  std::int64_t* out;
  std::int64_t block_bytes;
  std::int32_t ids[kMaxChecksums];
};
static_assert(sizeof(ChecksumBatch) <= 4096);

using Hash = unsigned long long;

FS_DEVICE Hash step(Hash state, Hash word) {
  const Hash x = (state ^ word) * kHashMultiplier;
  return x << 31 | x >> 33;
}

/// The 8 bytes from `offset` on; zeros beyond the end. `aligned` is whether whole words may be read at once.
FS_DEVICE Hash word_at(const char* block, std::int64_t offset, std::int64_t block_bytes, bool aligned) {
  if (aligned && offset + 8 <= block_bytes) return *reinterpret_cast<const Hash*>(block + offset);
  Hash word = 0;
  for (int i = 0; i < 8 && offset + i < block_bytes; ++i) {
    word |= static_cast<Hash>(static_cast<unsigned char>(block[offset + i])) << (8 * i);
  }
  return word;
}

/// hash_block of base/block_hash.h: one CTA per block, 8 threads per segment, thread 0 folds the segments in order.
/// Shared memory: 8 lanes of each of the 64 segments at a time, 4 KiB.
__global__ void __launch_bounds__(kChecksumThreads) checksum_kernel(const __grid_constant__ ChecksumBatch batch) {
  __shared__ Hash lanes[kGroups][kLanes];
  constexpr std::int64_t kSegment = kHashSegmentBytes;
  const char* block = batch.cache + batch.ids[blockIdx.x] * batch.block_bytes;
  const bool whole_words = (reinterpret_cast<std::uintptr_t>(block) % 8) == 0;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  Hash hash = static_cast<Hash>(batch.block_bytes);
  for (std::int64_t first = 0; first < batch.block_bytes; first += kGroups * kSegment) {
    const std::int64_t begin = first + group * kSegment;
    const std::int64_t end = min(begin + kSegment, batch.block_bytes);
    Hash state = static_cast<Hash>(lane + 1) * kHashSeed;
    for (std::int64_t row = begin; row < end; row += kLanes * 8) {
      state = step(state, word_at(block, row + lane * 8, batch.block_bytes, whole_words));
    }
    lanes[group][lane] = state;
    __syncthreads();
    for (int g = 0; threadIdx.x == 0 && g < kGroups && first + g * kSegment < batch.block_bytes; ++g) {
      Hash segment = 0;
      for (int k = 0; k < kLanes; ++k) segment = step(segment, lanes[g][k]);
      hash = step(hash, segment);
    }
    __syncthreads();
  }
  if (batch.block_bytes == 0) hash = 0;
  if (threadIdx.x == 0) batch.out[blockIdx.x] = static_cast<std::int64_t>(hash ^ hash >> 32);
}

}  // namespace

void copy_blocks_cuda(const CopyBlocksParams& params, void* stream) {
  const auto alignment = reinterpret_cast<std::uintptr_t>(params.src) | reinterpret_cast<std::uintptr_t>(params.dst) |
                         static_cast<std::uintptr_t>(params.block_bytes);
  if (alignment % sizeof(uint4) == 0) {
    launch_copies<uint4>(params, stream);
  } else {
    launch_copies<char>(params, stream);
  }
}

void checksum_blocks_cuda(const ChecksumBlocksParams& params, void* stream) {
  for (std::int64_t first = 0; first < params.num_blocks; first += kMaxChecksums) {
    const std::int64_t count = std::min<std::int64_t>(kMaxChecksums, params.num_blocks - first);
    ChecksumBatch batch{params.cache, params.out + first, params.block_bytes, {}};
    std::copy_n(params.ids + first, count, batch.ids);
    launch(FS_SITE("checksum_blocks"), checksum_kernel, dim3(static_cast<unsigned>(count)), kChecksumThreads, stream,
           batch);
  }
}

}  // namespace fastserve::kernels
