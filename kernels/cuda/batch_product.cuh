// The product of faces, or of their coefficients, with the basis, by a block of 256 threads: see project_batch.cu.
#pragma once

#include "tensor_core.cuh"

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// What a block works on: `kFaces` faces and `kColumns` columns of a product, `kDepth` of the inner dimension at a time,
// of which `kStages` are in shared memory or on their way.
template <int Faces, int Columns, int Depth, int Stages>
struct Shape {
    static constexpr int kFaces = Faces, kColumns = Columns, kDepth = Depth, kStages = Stages;
    static constexpr int kWarpsDown = Faces == 128 ? 4 : 2, kWarpsAcross = kWarps / kWarpsDown;
    static constexpr int kDown = Faces / kWarpsDown / 16, kAcross = Columns / kWarpsAcross / 8;  // products of a warp
    static constexpr int kTogether = kDown == 2 ? 2 : 3;  // columns of products at a time: none waits for another
    static constexpr bool kRounded = kDown * kAcross <= 12;  // whether there are registers for a second set of sums
    static constexpr int kFaceBytes = 2 * Faces * Depth * 2;
};

using Few = Shape<32, 96, 64, 4>;
using ManyFirst = Shape<128, 192, 32, 3>;
using ManySecond = Shape<128, 96, 32, 4>;

// Where a piece of 8 halves lies in a tile of rows of `kPieces` pieces: moved about, so that the same piece of 8 rows
// that follow one another lies in 8 different banks.
template <int kPieces>
__device__ __forceinline__ int moved(int row, int piece) {
    return row * kPieces + (piece ^ (row * kPieces / 8 & (kPieces - 1)));
}

#if TENSOR_CORES

constexpr int kPiece = 16;  // bytes that are copied or loaded at a time

// A tile of the basis, in the two ways that it stands in a product: its rows as columns, a few values of each (first
// product), or a few columns of it, all of whose rows are the inner dimension (second product).
template <typename S, typename B, bool kSecond>
struct BasisTile {
    static constexpr int kRows = kSecond ? S::kDepth : S::kColumns, kValues = kSecond ? S::kColumns : S::kDepth;
    static constexpr int kPieces = kValues / 8, kPitch = kSecond ? kPieces + 1 : kPieces;  // odd: in different banks
    static constexpr int kBytes = kRows * kPitch * kPiece;
    static constexpr bool kConverted = sizeof(B) == 1;
    static constexpr int kStoredPieces = kValues * static_cast<int>(sizeof(B)) / kPiece;  // of a row
    static constexpr int kStageBytes = kConverted ? kRows * kStoredPieces * kPiece : kBytes;

    static __device__ __forceinline__ int at(int row, int piece) {
        return kSecond ? row * kPitch + piece : moved<kPieces>(row, piece);
    }

    // Rows from `row`, values from `value` of each; those that no face has active, or that are not there, are zeros.
    static __device__ __forceinline__ void copy(uint4* stage, const B* basis, int row, int value, int d,
                                                const uint32* active) {
        constexpr int kValuesAPiece = kPiece / static_cast<int>(sizeof(B));
        if constexpr (kThreads % kStoredPieces == 0) {
            constexpr int kStep = kThreads / kStoredPieces;
            static_assert(kConverted || kStep * kPieces / 8 % kPieces == 0);
            const int thread = static_cast<int>(threadIdx.x), p = thread % kStoredPieces, first = thread / kStoredPieces;
            const bool inside = value + p * kValuesAPiece < d;
            const B* from = basis + static_cast<size_t>(row + first) * d + value + p * kValuesAPiece;
            uint4* to = stage + (kConverted ? thread : at(first, p));
#pragma unroll
            for (int r = 0; r < kRows; r += kStep) {
                if (kRows % kStep && first + r >= kRows) break;
                const bool wanted = inside && (active[(first + r) / 32] >> (first + r) % 32 & 1);
                copy_or_clear(to + r * kStoredPieces, from + static_cast<size_t>(r) * d, wanted);
            }
        } else {
            for (int i = threadIdx.x; i < kRows * kStoredPieces; i += kThreads) {
                const int r = i / kStoredPieces, p = i % kStoredPieces, first = value + p * kValuesAPiece;
                const bool wanted = first < d && (active[r / 32] >> r % 32 & 1);
                const B* from = basis + static_cast<size_t>(row + r) * d + first;
                copy_or_clear(stage + (kConverted ? i : at(r, p)), from, wanted);
            }
        }
    }

    // int8 as halves.
    static __device__ __forceinline__ void convert(uint4* tile, const uint4* stage) {
        const uint2* bytes = reinterpret_cast<const uint2*>(stage);
        for (int i = threadIdx.x; i < kRows * kPieces; i += kThreads) {
            const uint2 eight = bytes[i];
            uint4 values;
            to_halves(eight.x, values.x, values.y);
            to_halves(eight.y, values.z, values.w);
            tile[at(i / kPieces, i % kPieces)] = values;
        }
    }

    // For the products of a warp with 32 of the inner dimension from `depth`: of 8 columns from `column`, what two
    // multiplications take.
    static __device__ __forceinline__ void load(uint32 (&found)[4], const uint4* tile, int column, int depth) {
        const int lane = threadIdx.x % 32;
        if constexpr (kSecond) {
            load_transposed(found, tile + at(depth + lane, column / 8));
        } else {
            load_matrices(found, tile + at(column + lane % 8, depth / 8 + lane / 8));
        }
    }
};

// Faces or coefficients (2, n, pitch), the high halves and then the low ones, from `value` on. A thread's pieces differ
// by whole rows, and lie equally far from one another in the tile.
template <typename S>
__device__ __forceinline__ void copy_faces(uint4* stage, const float16* given, int n, int pitch, int value) {
    constexpr int kPieces = S::kDepth / 8, kRows = kThreads / kPieces;
    static_assert(S::kFaces % kRows == 0 && kRows * kPieces / 8 % kPieces == 0);
    const int p = static_cast<int>(threadIdx.x) % kPieces, row = static_cast<int>(threadIdx.x) / kPieces;
    const bool inside = value + p * 8 < pitch;
    const float16* from = given + static_cast<size_t>(row) * pitch + value + p * 8;
    uint4* to = stage + moved<kPieces>(row, p);
#pragma unroll
    for (int r = 0; r < 2 * S::kFaces; r += kRows) {
        const int part = r / S::kFaces, face = r % S::kFaces;
        const size_t rows = static_cast<size_t>(part * n + face);
        copy_or_clear(to + r * kPieces, from + rows * pitch, inside && row + face < n);
    }
}

template <typename S>
struct Sums {
    float of[S::kDown][S::kAcross][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < S::kDown; ++i)
#pragma unroll
            for (int j = 0; j < S::kAcross; ++j)
#pragma unroll
                for (int v = 0; v < 4; ++v) of[i][j][v] = 0.0f;
    }
};

// Adds the product of a stage's faces and tile to what the warp owns of the block's.
template <typename S, typename Tile>
__device__ __forceinline__ void multiply(Sums<S>& sums, const uint4* faces, const uint4* tile, int face, int column) {
    constexpr int kPieces = S::kDepth / 8, kTogether = S::kTogether;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int depth = 0; depth < S::kDepth; depth += 32) {
        uint32 a[2][2][S::kDown][4];
#pragma unroll
        for (int part = 0; part < 2; ++part)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int i = 0; i < S::kDown; ++i) {
                    const int row = part * S::kFaces + face + 16 * i + lane % 16;
                    load_matrices(a[part][half][i], faces + moved<kPieces>(row, depth / 8 + 2 * half + lane / 16));
                }
#pragma unroll
        for (int j = 0; j < S::kAcross; j += kTogether) {
            uint32 b[kTogether][4];
            float few[kTogether][S::kDown][4];
#pragma unroll
            for (int t = 0; t < kTogether; ++t) {
                Tile::load(b[t], tile, column + 8 * (j + t), depth);
#pragma unroll
                for (int i = 0; i < S::kDown; ++i)
#pragma unroll
                    for (int v = 0; v < 4; ++v) few[t][i][v] = S::kRounded ? 0.0f : sums.of[i][j + t][v];
            }
            // The low halves first: what is truncated of their sum is least.
#pragma unroll
            for (int part = 1; part >= 0; --part)
#pragma unroll
                for (int half = 0; half < 2; ++half)
#pragma unroll
                    for (int t = 0; t < kTogether; ++t)
#pragma unroll
                        for (int i = 0; i < S::kDown; ++i)
                            multiply_add(few[t][i], a[part][half][i], b[t][2 * half], b[t][2 * half + 1]);
#pragma unroll
            for (int t = 0; t < kTogether; ++t)
#pragma unroll
                for (int i = 0; i < S::kDown; ++i)
#pragma unroll
                    for (int v = 0; v < 4; ++v) {
                        const float before = S::kRounded ? sums.of[i][j + t][v] : 0.0f;
                        sums.of[i][j + t][v] = before + few[t][i][v];
                    }
        }
    }
}

// The product over steps `first` to `last` of the inner dimension. `column` is the block's first: a row of the basis in the
// first product, a value of its rows in the second. `given` as of copy_faces. Shared memory: the stages, the tile of
// converted values if there is one; then `active`, bits of the tile's rows (first product) or of all (second).
template <typename S, typename B, bool kSecond>
__device__ __forceinline__ void product(Sums<S>& sums, uint4* shared, const uint32* active, const float16* given, int n,
                                        int pitch, const B* basis, int d, int column, int first, int last) {
    using Tile = BasisTile<S, B, kSecond>;
    constexpr int kStagePieces = (S::kFaceBytes + Tile::kStageBytes) / kPiece;
    constexpr int kFacePieces = S::kFaceBytes / kPiece;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int face = warp / S::kWarpsAcross * 16 * S::kDown, across = warp % S::kWarpsAcross * 8 * S::kAcross;
    const auto copy = [&](int step) {
        uint4* stage = shared + (step - first) % S::kStages * kStagePieces;
        const int inner = step * S::kDepth;
        copy_faces<S>(stage, given, n, pitch, inner);
        if constexpr (kSecond) {
            Tile::copy(stage + kFacePieces, basis, inner, column, d, active + inner / 32);
        } else {
            Tile::copy(stage + kFacePieces, basis, column, inner, d, active);
        }
    };
    sums.clear();
    for (int step = first; step < first + S::kStages - 1; ++step) {
        if (step < last) copy(step);
        commit_copies();
    }
    for (int step = first; step < last; ++step) {
        wait_for_copies<S::kStages - 2>();
        __syncthreads();  // all copies of this step are there, and the stage of the last one is free
        if (step + S::kStages - 1 < last) copy(step + S::kStages - 1);
        commit_copies();
        const uint4* stage = shared + (step - first) % S::kStages * kStagePieces;
        const uint4* tile = stage + kFacePieces;
        if constexpr (Tile::kConverted) {
            uint4* converted = shared + S::kStages * kStagePieces;
            Tile::convert(converted, tile);
            __syncthreads();
            tile = converted;
        }
        if (face < n) multiply<S, Tile>(sums, stage, tile, face, across);
    }
}

// Calls use(face, column, first, second) for every two neighbours that this thread owns of the block's product.
template <typename S, typename F>
__device__ __forceinline__ void each_pair(const Sums<S>& sums, const F& use) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int face = warp / S::kWarpsAcross * 16 * S::kDown + lane / 4;
    const int column = warp % S::kWarpsAcross * 8 * S::kAcross + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < S::kDown; ++i)
#pragma unroll
        for (int j = 0; j < S::kAcross; ++j) {
            use(face + 16 * i, column + 8 * j, sums.of[i][j][0], sums.of[i][j][1]);
            use(face + 16 * i + 8, column + 8 * j, sums.of[i][j][2], sums.of[i][j][3]);
        }
}

template <typename S, typename B, bool kSecond>
__device__ __forceinline__ uint32* behind_the_stages(uint4* shared) {
    using Tile = BasisTile<S, B, kSecond>;
    constexpr int kBytes = S::kStages * (S::kFaceBytes + Tile::kStageBytes) + (Tile::kConverted ? Tile::kBytes : 0);
    return reinterpret_cast<uint32*>(shared + kBytes / kPiece);
}

#endif
