#pragma once

// Selection among the tokens of a row without sorting them: which token is the first at which a count or a mass is
// reached, in descending order of keys. A CTA finds it digit by digit: it sums the measure per value of the next 8 bits
// of the key, sees in which the sum so far crosses, and goes on inside. Measures are integers (probabilities in fixed
// point), so the order in which threads add them changes nothing and the result is the same every time.

#include "kernels/cuda/vocab_row.cuh"

namespace fastserve::kernels::cuda {

constexpr int kDigits = 256;
constexpr int kMaxCandidates = 2048;

/// Probability relative to the likeliest token, in units of 2^-43: 2^20 of them fit 64 bits.
constexpr double kWeightUnit = 8796093022208.0;

/// Shared memory of `descend`: 3 KiB.
struct Bins {
  Key mass[kDigits];
  unsigned count[kDigits];
  Key before;        // mass of the digits above the chosen one
  unsigned digit;    // the chosen one
  unsigned members;  // items in it
  Key found;
};

/// A few tokens in shared memory: 32 KiB.
struct Candidates {
  Key keys[kMaxCandidates];
  Key weights[kMaxCandidates];
  int count;  // of all that qualified, also those beyond the arrays

  FS_DEVICE std::int64_t size() const { return count; }
  FS_DEVICE Key key(std::int64_t i) const { return keys[i]; }
  FS_DEVICE Key weight(std::int64_t i) const { return weights[i]; }
};

/// All tokens of a row, read again and again.
struct WholeRow {
  const float* logits;
  std::int64_t vocab_size;
  KeyFormat format;
  float maximum;
  double inverse_temperature;

  FS_DEVICE std::int64_t size() const { return vocab_size; }
  FS_DEVICE Key key(std::int64_t i) const { return format.key(logits[i], i); }
  FS_DEVICE double weigh(float logit) const {
    return exp((static_cast<double>(logit) - maximum) * inverse_temperature);
  }
  FS_DEVICE Key weight(std::int64_t i) const { return static_cast<Key>(weigh(logits[i]) * kWeightUnit + 0.5); }
};

/// The maxima of the blocks of a row, as if each were a token.
struct BlockMaxima {
  const float* maxima;
  std::int64_t num_blocks;
  KeyFormat format;

  FS_DEVICE std::int64_t size() const { return num_blocks; }
  FS_DEVICE Key key(std::int64_t i) const { return format.key(maxima[i], i); }
};

/// bins[digit] += amount for the lanes that are active. Lanes with the digits of the first active ones are added
/// together before they go to memory: among logits, the leading digits are few. All lanes of the warp take part.
FS_DEVICE void add_to_bins(Bins& bins, bool active, unsigned digit, Key amount) {
  unsigned pending = __ballot_sync(kAllLanes, active);
  for (int round = 0; round < 2 && pending != 0; ++round) {
    const int leader = __ffs(static_cast<int>(pending)) - 1;
    const unsigned common = __shfl_sync(kAllLanes, digit, leader);
    const bool joins = active && digit == common;
    const unsigned group = __ballot_sync(kAllLanes, joins);
    const Key sum = warp_sum(joins ? amount : Key{0});
    if (static_cast<int>(threadIdx.x) % kWarp == leader) {
      atomicAdd(&bins.mass[common], sum);
      atomicAdd(&bins.count[common], static_cast<unsigned>(__popc(group)));
    }
    active = active && !joins;
    pending &= ~group;
  }
  if (active) {
    atomicAdd(&bins.mass[digit], amount);
    atomicAdd(&bins.count[digit], 1u);
  }
}

/// One warp: the largest digit at which the masses, summed from the top, reach `wanted`. Each lane has 8 digits.
FS_DEVICE void choose_digit(Bins& bins, Key wanted) {
  constexpr int kPerLane = kDigits / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int top = kDigits - 1 - lane * kPerLane;
  Key own = 0;
  for (int i = 0; i < kPerLane; ++i) own += bins.mass[top - i];
  Key sum = own;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Key other = __shfl_up_sync(kAllLanes, sum, offset);
    if (lane >= offset) sum += other;
  }
  Key before = sum - own;
  if (before >= wanted || sum < wanted) return;
  int digit = top;
  for (; before + bins.mass[digit] < wanted; --digit) before += bins.mass[digit];
  bins.before = before;
  bins.digit = static_cast<unsigned>(digit);
  bins.members = bins.count[digit];
}

/// The key of the first item, in descending order of keys, at which the sum of measure(i, key) so far reaches `wanted`,
/// which is at least 1 and at most the sum over all. Items with key 0 or measure 0 do not count. The whole CTA takes
/// part, of a multiple of 32 threads, and all get the result.
template <typename Items, typename Measure>
FS_DEVICE Key descend(const Items& items, KeyFormat format, Key wanted, Bins& bins, Measure measure) {
  Key prefix = 0;
  int shift = 32 + format.id_bits;
  do {
    shift -= 8;
    for (int d = static_cast<int>(threadIdx.x); d < kDigits; d += static_cast<int>(blockDim.x)) {
      bins.mass[d] = 0;
      bins.count[d] = 0;
    }
    __syncthreads();
    for (std::int64_t base = 0; base < items.size(); base += blockDim.x) {
      const std::int64_t i = base + threadIdx.x;
      const Key key = i < items.size() ? items.key(i) : 0;
      const Key amount = key != 0 && key >> shift >> 8 == prefix ? measure(i, key) : 0;
      add_to_bins(bins, amount > 0, static_cast<unsigned>(key >> shift & 255), amount);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) choose_digit(bins, wanted);
    __syncthreads();
    wanted -= bins.before;
    prefix = prefix << 8 | bins.digit;
  } while (shift > 0 && bins.members > 1);
  if (shift == 0) return prefix;
  for (std::int64_t i = threadIdx.x; i < items.size(); i += blockDim.x) {  // the only one left: which is it?
    const Key key = items.key(i);
    if (key != 0 && key >> shift == prefix && measure(i, key) > 0) bins.found = key;
  }
  __syncthreads();
  return bins.found;
}

/// Sum of measure(i, key) over the items, in all threads. `partials` is shared memory for 32 keys.
template <typename Items, typename Measure>
FS_DEVICE Key sum_over(const Items& items, Key* partials, Measure measure) {
  Key sum = 0;
  for (std::int64_t i = threadIdx.x; i < items.size(); i += blockDim.x) {
    const Key key = items.key(i);
    if (key != 0) sum += measure(i, key);
  }
  __syncthreads();  // partials may still be in use
  return block_sum(sum, partials);
}

/// The key above which all of the `count` first tokens of a row are found, and few others: `count` blocks have a token
/// at or above the count-th largest maximum. 0, so all tokens, when there are not so many blocks.
FS_DEVICE Key threshold_of(const BlockMaxima& maxima, std::int64_t count, Bins& bins, Key* partials) {
  const auto one = [](std::int64_t, Key) { return Key{1}; };
  if (count >= maxima.num_blocks || sum_over(maxima, partials, one) < static_cast<Key>(count)) return 0;
  return maxima.format.floor(descend(maxima, maxima.format, static_cast<Key>(count), bins, one));
}

/// Fill `candidates` with the keys of the tokens at or above `threshold`, in no order; count says how many there are,
/// which may be more than fit. The whole CTA takes part.
FS_DEVICE void gather(const WholeRow& row, const BlockMaxima& maxima, Key threshold, Candidates& candidates) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const Key lowest = row.format.floor(threshold);  // a block's key has the block in place of the token
  __syncthreads();
  if (threadIdx.x == 0) candidates.count = 0;
  __syncthreads();
  for (std::int64_t first = threadIdx.x / kWarp * kWarp; first < maxima.num_blocks; first += blockDim.x) {
    const std::int64_t block = first + lane;
    const Key highest = block < maxima.num_blocks ? maxima.key(block) : 0;
    unsigned pending = __ballot_sync(kAllLanes, highest != 0 && row.format.floor(highest) >= lowest);
    for (; pending != 0; pending &= pending - 1) {
      const std::int64_t begin = (first + __ffs(static_cast<int>(pending)) - 1) * kVocabBlock;
      for (std::int64_t id = begin + lane; id < begin + kVocabBlock; id += kWarp) {
        const Key key = id < row.vocab_size ? row.key(id) : 0;
        if (key == 0 || key < threshold) continue;
        const int place = atomicAdd(&candidates.count, 1);
        if (place < kMaxCandidates) candidates.keys[place] = key;
      }
    }
  }
  __syncthreads();
}

}  // namespace fastserve::kernels::cuda
