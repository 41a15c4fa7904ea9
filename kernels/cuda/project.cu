// Projection of faces onto the eigenfaces that their antibodies leave active, in two passes over the active rows:
// coefficients, then the face. For cards whose shared memory cannot hold the active rows (see project_once.cu), and for
// bases and cards that cannot share the passes among faces (see project_batch.cu).
//
// Sums are formed in a fixed order and nothing is added atomically: equal runs are bit-equal.

#include "basis.cuh"

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRowsAWarp = 4;  // rows of a warp at a time: loads in flight, and each centred value is read once for four
constexpr int kLanes = 16;     // pieces of a row that a block of the second pass owns
constexpr int kGroups = kThreads / kLanes;

// coefficients (N, K): of active row i of face n, weight * scale^2 * dot(row, face - mean). The stored row is the
// eigenface over its scale, and stands on both sides of the antibody, so the scale is squared here and nowhere else.
// Dynamic shared memory: D floats.
template <typename B>
__device__ __forceinline__ void coefficients(const float* __restrict__ faces, const float* __restrict__ mean,
                                             const B* __restrict__ basis, const float* __restrict__ scale,
                                             const uint16* __restrict__ rows, const float* __restrict__ weights,
                                             const uint32* __restrict__ counts, int k, int d,
                                             float* __restrict__ found) {
    extern __shared__ float4 centred[];
    const size_t face = blockIdx.y;
    const int count = static_cast<int>(counts[face]);
    constexpr int kRowsABlock = kWarps * kRowsAWarp;
    if (static_cast<int>(blockIdx.x) * kRowsABlock >= count) return;
    const float4* x = reinterpret_cast<const float4*>(faces + face * d);
    const float4* mu = reinterpret_cast<const float4*>(mean);
    for (int i = threadIdx.x; i < d / 4; i += kThreads) {
        const float4 a = x[i], b = mu[i];
        centred[i] = make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w);
    }
    __syncthreads();
    rows += face * k, weights += face * k, found += face * k;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int pieces = d / Piece<B>::kValues;
    for (int base = static_cast<int>(blockIdx.x) * kRowsABlock; base < count; base += static_cast<int>(gridDim.x) * kRowsABlock) {
        const int first = base + warp * kRowsAWarp;
        if (first >= count) break;
        const Piece<B>* row[kRowsAWarp];
        float sum[kRowsAWarp];
#pragma unroll
        for (int r = 0; r < kRowsAWarp; ++r) {
            // Beyond the end the last row is read again, and its sum dropped.
            const int index = rows[min(first + r, count - 1)];
            row[r] = reinterpret_cast<const Piece<B>*>(basis + static_cast<size_t>(index) * d);
            sum[r] = 0.0f;
        }
        for (int i = lane; i < pieces; i += 32) {
            Piece<B> piece[kRowsAWarp];
#pragma unroll
            for (int r = 0; r < kRowsAWarp; ++r) piece[r].bits = __ldg(&row[r][i].bits);
            const float4* part = centred + i * (Piece<B>::kValues / 4);
#pragma unroll
            for (int r = 0; r < kRowsAWarp; ++r) add_dot(piece[r], part, sum[r]);
        }
#pragma unroll
        for (int r = 0; r < kRowsAWarp; ++r) {
#pragma unroll
            for (int offset = 16; offset; offset /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], offset);
            if (lane == 0 && first + r < count) {
                const float factor = scale ? scale[rows[first + r]] : 1.0f;
                found[first + r] = weights[first + r] * factor * factor * sum[r];
            }
        }
    }
}

// pixels (N, D): mean plus the active rows times their coefficients, as 8-bit pixels; restored (N, D), if not null, the
// same in [-1, 1] for a network that goes on from there. Dynamic shared memory: K floats and K uint16.
template <typename B>
__device__ __forceinline__ void reconstruct(const float* __restrict__ mean, const B* __restrict__ basis,
                                            const uint16* __restrict__ rows, const float* __restrict__ found,
                                            const uint32* __restrict__ counts, int k, int d,
                                            uint8* __restrict__ pixels, float* __restrict__ faces) {
    constexpr int kValues = Piece<B>::kValues;
    extern __shared__ float weight[];
    uint16* index = reinterpret_cast<uint16*>(weight + k);
    __shared__ float partial[kGroups][kLanes * kValues];
    const size_t face = blockIdx.y;
    const int count = static_cast<int>(counts[face]);
    for (int i = threadIdx.x; i < count; i += kThreads) {
        weight[i] = found[face * k + i];
        index[i] = rows[face * k + i];
    }
    __syncthreads();
    const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
    const int pieces = d / kValues, piece = static_cast<int>(blockIdx.x) * kLanes + lane;
    float sum[kValues];
#pragma unroll
    for (int v = 0; v < kValues; ++v) sum[v] = 0.0f;
    if (piece < pieces) {
        const Piece<B>* column = reinterpret_cast<const Piece<B>*>(basis) + piece;
#pragma unroll 4
        for (int i = group; i < count; i += kGroups) {
            Piece<B> part;
            part.bits = __ldg(&column[static_cast<size_t>(index[i]) * pieces].bits);
            add_scaled(part, weight[i], sum);
        }
    }
#pragma unroll
    for (int v = 0; v < kValues; ++v) partial[group][lane * kValues + v] = sum[v];
    __syncthreads();
    for (int column = threadIdx.x; column < kLanes * kValues; column += kThreads) {
        const int at = static_cast<int>(blockIdx.x) * kLanes * kValues + column;
        if (at >= d) continue;
        float total = 0.0f;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) total += partial[g][column];
        const float value = mean[at] + total;
        pixels[face * d + at] = pixel(value);
        if (faces) faces[face * d + at] = fminf(fmaxf(value, -1.0f), 1.0f);
    }
}

#define PROJECT(NAME, B)                                                                                              \
    extern "C" __global__ void __launch_bounds__(kThreads) coefficients_##NAME(                                       \
        const float* faces, const float* mean, const B* basis, const float* scale, const uint16* rows,              \
        const float* weights, const uint32* counts, int k, int d, float* found) {                                   \
        coefficients(faces, mean, basis, scale, rows, weights, counts, k, d, found);                                  \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(kThreads)                                                            \
        reconstruct_##NAME(const float* mean, const B* basis, const uint16* rows, const float* found,               \
                           const uint32* counts, int k, int d, uint8* pixels, float* faces) {                     \
        reconstruct(mean, basis, rows, found, counts, k, d, pixels, faces);                                           \
    }

PROJECT(float32, float)
PROJECT(float16, float16)
PROJECT(int8, int8)
