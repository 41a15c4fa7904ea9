// Projection of many faces as two matrix products on tensor cores, which read the basis twice whatever the number of
// faces: coefficients (faces times rows), then the faces from them. For bases of halves or int8, from sm_80 on.
//
// Tensor cores multiply halves and add in float32. Rows are exact in halves; what they are multiplied with, centred
// faces and then weighted coefficients, is the sum of two halves each, hence two products for one. Sums of tensor cores
// are truncated, not rounded: each takes the products of 32 of the inner dimension, and is then added in float32. There
// are no registers for that in the first product of many faces; there the launch plan limits a block's part of D.
//
// Every sum has one owner and a fixed order for a given grid, and nothing is added atomically: equal runs on a card are
// bit-equal.

#include "batch_product.cuh"
#include "pixel.cuh"

// partial (splits, n, pitch): shares of the products of centred faces (2, n, D) and rows, each over `steps` steps of D.
// active as of `centre_halves`.
template <typename S, typename B>
__device__ __forceinline__ void batch_coefficients(const float16* __restrict__ centred, const B* __restrict__ basis,
                                                   const uint32* __restrict__ active, int n, int k, int d, int pitch,
                                                   int steps, float* __restrict__ partial) {
#if TENSOR_CORES
    extern __shared__ uint4 shared[];
    const int row = static_cast<int>(blockIdx.x) * S::kColumns, split = static_cast<int>(blockIdx.y);
    uint32* mine = behind_the_stages<S, B, false>(shared);
    if (threadIdx.x < S::kColumns / 32) {
        const int word = row / 32 + static_cast<int>(threadIdx.x);
        mine[threadIdx.x] = word < (k + 31) / 32 ? active[word] : 0;
    }
    __syncthreads();
    Sums<S> sums;
    const int last = min((split + 1) * steps, (d + S::kDepth - 1) / S::kDepth);
    product<S, B, false>(sums, shared, mine, centred, n, d, basis, d, row, split * steps, last);
    each_pair<S>(sums, [&](int face, int column, float first, float second) {
        if (face < n && row + column < pitch) {
            const size_t at = (static_cast<size_t>(split) * n + face) * pitch + row + column;
            *reinterpret_cast<float2*>(partial + at) = make_float2(first, second);
        }
    });
#endif
}

// Two powers of two with opposite exponents keep coefficients where halves are fine: see `lift` of the launcher.
__device__ __forceinline__ float power_of_two(int exponent) {
    return __uint_as_float(static_cast<uint32>(127 + exponent) << 23);
}

// pixels (N, D) and restored (N, D), which may be null, as of `reconstruct` in project.cu, from the coefficients
// (2, n, pitch) of `weigh_halves`.
template <typename S, typename B>
__device__ __forceinline__ void batch_reconstruct(const float* __restrict__ mean, const B* __restrict__ basis,
                                                  const uint32* __restrict__ active,
                                                  const float16* __restrict__ coefficients, int n, int k, int d,
                                                  int pitch, int lift, uint8* __restrict__ pixels,
                                                  float* __restrict__ restored) {
#if TENSOR_CORES
    extern __shared__ uint4 shared[];
    const int first = static_cast<int>(blockIdx.x) * S::kColumns;
    const int words = (k + 31) / 32, steps = (k + S::kDepth - 1) / S::kDepth;
    uint32* mine = behind_the_stages<S, B, true>(shared);
    for (int i = threadIdx.x; i < steps * (S::kDepth / 32); i += kThreads) mine[i] = i < words ? active[i] : 0;
    __syncthreads();
    Sums<S> sums;
    product<S, B, true>(sums, shared, mine, coefficients, n, pitch, basis, d, first, 0, steps);
    const float lowered = power_of_two(-lift);
    each_pair<S>(sums, [&](int face, int column, float one, float other) {
        if (face < n && first + column < d) {
            const size_t at = static_cast<size_t>(face) * d + first + column;
            const float a = fmaf(one, lowered, mean[first + column]), b = fmaf(other, lowered, mean[first + column + 1]);
            *reinterpret_cast<uint16*>(pixels + at) = static_cast<uint16>(pixel(a) | pixel(b) << 8);
            if (restored) {
                *reinterpret_cast<float2*>(restored + at) =
                    make_float2(fminf(fmaxf(a, -1.0f), 1.0f), fminf(fmaxf(b, -1.0f), 1.0f));
            }
        }
    });
#endif
}

// Faces less their mean as halves (2, n, D), and the rows that some face has active as bits, active (ceil(K / 32)).
extern "C" __global__ void __launch_bounds__(kThreads)
    centre_halves(const float* faces, const float* mean, const uint32* bits, int n, int k, int d, float16* centred,
                  uint32* active) {
    const int piece = static_cast<int>(blockIdx.x * kThreads + threadIdx.x), face = static_cast<int>(blockIdx.y);
    if (piece < d / 8) {
        const size_t at = static_cast<size_t>(face) * d + 8 * piece, low = static_cast<size_t>(n) * d;
        uint32 high[4], rest[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 x = *reinterpret_cast<const float2*>(faces + at + 2 * i);
            const float2 mu = *reinterpret_cast<const float2*>(mean + 8 * piece + 2 * i);
            const Halves a = halves(x.x - mu.x), b = halves(x.y - mu.y);
            high[i] = a.high.bits | static_cast<uint32>(b.high.bits) << 16;
            rest[i] = a.low.bits | static_cast<uint32>(b.low.bits) << 16;
        }
        *reinterpret_cast<uint4*>(centred + at) = make_uint4(high[0], high[1], high[2], high[3]);
        *reinterpret_cast<uint4*>(centred + low + at) = make_uint4(rest[0], rest[1], rest[2], rest[3]);
    }
    const int words = (k + 31) / 32, lane = threadIdx.x % 32;
    const int warps = static_cast<int>(gridDim.x * gridDim.y) * kWarps;
    const int warp = static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
    for (int word = warp; word < words; word += warps) {
        uint32 found = 0;
        for (int i = lane; i < n; i += 32) found |= bits[static_cast<size_t>(i) * words + word];
#pragma unroll
        for (int offset = 16; offset; offset /= 2) found |= __shfl_xor_sync(0xffffffffu, found, offset);
        if (lane == 0) active[word] = found;
    }
}

// coefficients (2, n, pitch): the sum of the shares of each active row, times weight, scale^2 and 2^lift, as halves;
// zeros of the others and of the padding. rows, weights, counts as of `mutate`.
extern "C" __global__ void __launch_bounds__(kThreads)
    weigh_halves(const float* partial, const float* scale, const uint32* bits, const uint16* rows, const float* weights,
                 const uint32* counts, int splits, int n, int k, int pitch, int lift, float16* coefficients) {
    const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
    const size_t face = blockIdx.y, low = static_cast<size_t>(n) * pitch;
    coefficients += face * pitch;
    if (i < pitch && !(i < k && (bits[face * ((k + 31) / 32) + i / 32] >> i % 32 & 1))) {
        coefficients[i] = coefficients[low + i] = float16{0};
    }
    if (i >= static_cast<int>(counts[face])) return;
    const int row = rows[face * k + i];
    const float* share = partial + face * pitch + row;
    float sum = 0.0f;
#pragma unroll 8
    for (int s = 0; s < splits; ++s) sum += share[s * low];
    const float factor = scale ? scale[row] : 1.0f;
    const Halves found = halves(weights[face * k + i] * factor * factor * power_of_two(lift) * sum);
    coefficients[row] = found.high;
    coefficients[low + row] = found.low;
}

#define PROJECT_BATCH(NAME, B)                                                                                        \
    extern "C" __global__ void __launch_bounds__(kThreads, 2) few_coefficients_##NAME(                                \
        const float16* centred, const B* basis, const uint32* active, int n, int k, int d, int pitch, int steps,      \
        float* partial) {                                                                                             \
        batch_coefficients<Few>(centred, basis, active, n, k, d, pitch, steps, partial);                              \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(kThreads, 2) few_reconstruct_##NAME(                                 \
        const float* mean, const B* basis, const uint32* active, const float16* coefficients, int n, int k,           \
        int d, int pitch, int lift, uint8* pixels, float* restored) {                                                 \
        batch_reconstruct<Few>(mean, basis, active, coefficients, n, k, d, pitch, lift, pixels, restored);            \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(kThreads, 1) many_coefficients_##NAME(                               \
        const float16* centred, const B* basis, const uint32* active, int n, int k, int d, int pitch, int steps,      \
        float* partial) {                                                                                             \
        batch_coefficients<ManyFirst>(centred, basis, active, n, k, d, pitch, steps, partial);                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(kThreads, 1) many_reconstruct_##NAME(                                \
        const float* mean, const B* basis, const uint32* active, const float16* coefficients, int n, int k,           \
        int d, int pitch, int lift, uint8* pixels, float* restored) {                                                 \
        batch_reconstruct<ManySecond>(mean, basis, active, coefficients, n, k, d, pitch, lift, pixels, restored);     \
    }

PROJECT_BATCH(float16, float16)
PROJECT_BATCH(int8, int8)
