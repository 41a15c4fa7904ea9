// Mutation: probabilities to antibodies, as packed bits and as the list of active rows that `project` reads.
//
// One block a face. A thread draws the four uniforms of one Philox counter and decides four rows of the basis. The list
// is compacted by scans, not by atomics, so it is sorted and the same in every run.

#include "fault.cuh"
#include "philox.cuh"

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

constexpr float kRounding = 1e-6f;  // by which a sigmoid in single precision may leave [0, 1]

enum Mode { kSample = 0, kThreshold = 1, kExpected = 2 };

// Number of set flags of the threads before this one in the block; `total` is that of all.
__device__ __forceinline__ int scanned(int count, int* warp_sums, int& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int inclusive = count;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, inclusive, offset);
        if (lane >= offset) inclusive += other;
    }
    __syncthreads();  // the sums of an earlier round have been read
    if (lane == 31) warp_sums[warp] = inclusive;
    __syncthreads();
    int before = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
        const int sum = warp_sums[w];
        if (w < warp) before += sum;
        total += sum;
    }
    return before + inclusive - count;
}

// p (N, K), numbers (1 + N): the seed, then the faces' running numbers; in memory, so that a captured launch draws anew
// at every replay. bits (N, ceil(K / 32)), rows (N, K) and weights (N, K) of which the first counts[n] are written.
template <typename P>
__device__ __forceinline__ void mutate(const P* __restrict__ p, const uint64* __restrict__ numbers, uint32 clone, int k,
                                       int mode, uint32* __restrict__ bits, uint16* __restrict__ rows,
                                       float* __restrict__ weights, uint32* __restrict__ counts,
                                       uint32* __restrict__ faults) {
    __shared__ int warp_sums[kWarps];
    const size_t face = blockIdx.x;
    const int words = (k + 31) / 32;
    const uint64 seed = mode == kSample ? numbers[0] : 0, image = mode == kSample ? numbers[1 + face] : 0;
    p += face * k, bits += face * words, rows += face * k, weights += face * k;
    int written = 0;
    bool wrong = false;
    // All threads stay in the loop, for the scan's sake; the padding of the last word is cleared on the way.
    for (int start = 0; start < 32 * words; start += 4 * kThreads) {
        const int first = start + 4 * static_cast<int>(threadIdx.x);
        const Words drawn = philox4x32(first / 4, clone, static_cast<uint32>(image), image >> 32, seed);
        float value[4];
        uint32 nibble = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const bool inside = first + j < k;
            const float given = inside ? to_float(p[first + j]) : 0.0f;
            value[j] = fminf(fmaxf(given, 0.0f), 1.0f);  // 0 of NaN
            wrong |= !(fabsf(given - value[j]) <= kRounding);
            const float above = mode == kSample ? uniform(drawn.w[j]) : mode == kThreshold ? 0.5f : 0.0f;
            nibble |= static_cast<uint32>(inside && value[j] > above) << j;
        }
        int total;
        int at = written + scanned(__popc(nibble), warp_sums, total);
        written += total;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (nibble >> j & 1) {
                rows[at] = static_cast<uint16>(first + j);
                weights[at] = mode == kExpected ? value[j] : 1.0f;
                ++at;
            }
        }
        uint32 word = nibble << first % 32;
#pragma unroll
        for (int offset = 1; offset < 8; offset *= 2) word |= __shfl_xor_sync(0xffffffffu, word, offset);
        if (threadIdx.x % 8 == 0 && first < 32 * words) bits[first / 32] = word;
    }
    if (threadIdx.x == 0) counts[face] = written;
    if (wrong) report(faults, kProbability);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    mutate_float32(const float* p, const uint64* numbers, uint32 clone, int k, int mode, uint32* bits, uint16* rows,
                   float* weights, uint32* counts, uint32* faults) {
    mutate(p, numbers, clone, k, mode, bits, rows, weights, counts, faults);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    mutate_float16(const float16* p, const uint64* numbers, uint32 clone, int k, int mode, uint32* bits, uint16* rows,
                   float* weights, uint32* counts, uint32* faults) {
    mutate(p, numbers, clone, k, mode, bits, rows, weights, counts, faults);
}
