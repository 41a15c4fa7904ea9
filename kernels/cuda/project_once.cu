// Projection of one face after another, reading every active row of the basis from memory once.
//
// Every block keeps a strip of the active rows in shared memory: all rows, a few columns. Its share of the coefficients
// goes to the others through a small table, and from the finished coefficients it makes its columns of the face. Rows
// that do not fit are read twice. The blocks wait for one another, so all of them must be resident: launch it
// cooperatively, with one block a multiprocessor.
//
// Sums are formed in a fixed order for a given grid: equal runs on a card are bit-equal.

#include "basis.cuh"

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kPartners = 4;  // lanes that share a row of the strip

// All blocks of the grid; `barrier` are two words that are zero before the first launch, and are left so.
__device__ __forceinline__ void wait_for_grid(uint32* barrier) {
    __syncthreads();
    if (threadIdx.x == 0) {
        volatile uint32* generation = barrier + 1;
        const uint32 mine = *generation;
        __threadfence();
        if (atomicAdd(barrier, 1) == gridDim.x - 1) {
            *barrier = 0;
            __threadfence();
            *generation = mine + 1;
        } else {
            while (*generation == mine) {
            }
        }
        __threadfence();
    }
    __syncthreads();
}

__device__ __forceinline__ void copy_later(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
    const uint32 address = static_cast<uint32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
#else
    *static_cast<uint4*>(shared) = __ldg(static_cast<const uint4*>(global));
#endif
}

__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
    __syncthreads();
}

// Parameters as of `coefficients` and `reconstruct` in project.cu. A block owns `strip` pieces of every row, and keeps
// the first `capacity` active ones. partial (K, grid) and found (K) are scratch.
// Dynamic shared memory: capacity * strip pieces, 2 * strip * values floats, K floats, groups * strip * values floats.
template <typename B>
__device__ __forceinline__ void project_once(const float* __restrict__ faces, const float* __restrict__ mean,
                                             const B* __restrict__ basis, const float* __restrict__ scale,
                                             const uint16* __restrict__ rows, const float* __restrict__ weights,
                                             const uint32* __restrict__ counts, int n, int k, int d, int strip,
                                             int capacity, float* partial, float* found, uint32* barrier,
                                             uint8* __restrict__ pixels, float* __restrict__ restored) {
    constexpr int kValues = Piece<B>::kValues;
    extern __shared__ uint4 shared[];
    Piece<B>* kept = reinterpret_cast<Piece<B>*>(shared);
    float4* centred = reinterpret_cast<float4*>(kept + static_cast<size_t>(capacity) * strip);
    float* mu = reinterpret_cast<float*>(centred + strip * kValues / 4);
    float* weight = mu + strip * kValues;
    float* sums = weight + (k + 3) / 4 * 4;

    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const int pieces = d / kValues, first = block * strip;
    const int mine = max(0, min(strip, pieces - first));  // the last block's strip is shorter
    const Piece<B>* stored = reinterpret_cast<const Piece<B>*>(basis) + first;

    for (int i = thread; i < mine * kValues; i += kThreads) mu[i] = mean[first * kValues + i];
    __syncthreads();
    for (int face = 0; face < n; ++face) {
        const int count = static_cast<int>(counts[face]), held = min(count, capacity);
        const uint16* row = rows + static_cast<size_t>(face) * k;
        for (int i = thread; i < held * mine; i += kThreads) {
            const int r = i / mine, c = i % mine;
            copy_later(&kept[r * strip + c], &stored[static_cast<size_t>(row[r]) * pieces + c]);
        }
        const float* x = faces + static_cast<size_t>(face) * d + first * kValues;
        float* difference = reinterpret_cast<float*>(centred);
        for (int i = thread; i < mine * kValues; i += kThreads) difference[i] = x[i] - mu[i];
        wait_for_copies();

        const auto piece_of = [&](int r, int c) {
            if (r < held) return kept[r * strip + c];
            return Piece<B>{__ldg(&stored[static_cast<size_t>(row[r]) * pieces + c].bits)};
        };

        // A row is shared by a few neighbouring lanes, so that a warp's reads of the strip fall on different banks.
        const int partner = thread % kPartners;
        for (int r = thread / kPartners; r < (count + 7) / 8 * 8; r += kThreads / kPartners) {
            float sum = 0.0f;
            if (r < count) {
                for (int c = partner; c < mine; c += kPartners) {
                    add_dot(piece_of(r, c), centred + c * (kValues / 4), sum);
                }
            }
#pragma unroll
            for (int offset = kPartners / 2; offset; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
            if (partner == 0 && r < count) partial[static_cast<size_t>(r) * blocks + block] = sum;
        }
        wait_for_grid(barrier);

        for (int r = block * kWarps + warp; r < count; r += blocks * kWarps) {
            float sum = 0.0f;
            for (int b = lane; b < blocks; b += 32) sum += __ldcg(&partial[static_cast<size_t>(r) * blocks + b]);
#pragma unroll
            for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
            if (lane == 0) {
                const float factor = scale ? scale[row[r]] : 1.0f;
                found[r] = weights[static_cast<size_t>(face) * k + r] * factor * factor * sum;
            }
        }
        wait_for_grid(barrier);

        for (int r = thread; r < count; r += kThreads) weight[r] = __ldcg(&found[r]);
        __syncthreads();
        const int groups = kThreads / strip, group = thread / strip, c = thread % strip;
        float sum[kValues];
#pragma unroll
        for (int v = 0; v < kValues; ++v) sum[v] = 0.0f;
        if (group < groups && c < mine) {
            for (int r = group; r < count; r += groups) {
                add_scaled(piece_of(r, c), weight[r], sum);
            }
        }
        if (group < groups) {
#pragma unroll
            for (int v = 0; v < kValues; ++v) sums[(group * strip + c) * kValues + v] = sum[v];
        }
        __syncthreads();
        for (int i = thread; i < mine * kValues; i += kThreads) {
            float total = 0.0f;
            for (int g = 0; g < groups; ++g) total += sums[g * strip * kValues + i];
            const float result = mu[i] + total;
            const size_t at = static_cast<size_t>(face) * d + first * kValues + i;
            pixels[at] = pixel(result);
            if (restored) restored[at] = fminf(fmaxf(result, -1.0f), 1.0f);
        }
        __syncthreads();  // the strip is written again
    }
}

#define PROJECT_ONCE(NAME, B)                                                                                         \
    extern "C" __global__ void __launch_bounds__(kThreads, 1) project_once_##NAME(                                    \
        const float* faces, const float* mean, const B* basis, const float* scale, const uint16* rows,                \
        const float* weights, const uint32* counts, int n, int k, int d, int strip, int capacity, float* partial,     \
        float* found, uint32* barrier, uint8* pixels, float* restored) {                                              \
        project_once(faces, mean, basis, scale, rows, weights, counts, n, k, d, strip, capacity, partial, found,      \
                     barrier, pixels, restored);                                                                      \
    }

PROJECT_ONCE(float32, float)
PROJECT_ONCE(float16, float16)
PROJECT_ONCE(int8, int8)
