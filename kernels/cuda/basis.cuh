// Rows of the basis in 16-byte pieces, as float32.
#pragma once

#include "pixel.cuh"

// A piece of a row in the format it is stored in: 4 float32, 8 float16 or 16 int8.
template <typename B>
struct Piece {
    static constexpr int kValues = 16 / sizeof(B);
    uint4 bits;
};

template <int W>
__device__ __forceinline__ uint32 word(const uint4& bits) {
    return W == 0 ? bits.x : W == 1 ? bits.y : W == 2 ? bits.z : bits.w;
}

// A function, not an array of results: an array that is filled by reinterpretation ends in local memory.
template <int I>
__device__ __forceinline__ float value(const Piece<float>& piece) {
    return __uint_as_float(word<I>(piece.bits));
}

template <int I>
__device__ __forceinline__ float value(const Piece<float16>& piece) {
    return to_float(float16{static_cast<uint16>(word<I / 2>(piece.bits) >> 16 * (I % 2))});
}

template <int I>
__device__ __forceinline__ float value(const Piece<int8>& piece) {
    return static_cast<float>(static_cast<int8>(word<I / 4>(piece.bits) >> 8 * (I % 4)));
}

// sum += dot(piece, x), x in shared memory, 16-byte aligned.
template <typename B, int I = 0>
__device__ __forceinline__ void add_dot(const Piece<B>& piece, const float4* x, float& sum) {
    if constexpr (I < Piece<B>::kValues) {
        const float4 part = x[I / 4];
        sum = fmaf(value<I>(piece), part.x, sum);
        sum = fmaf(value<I + 1>(piece), part.y, sum);
        sum = fmaf(value<I + 2>(piece), part.z, sum);
        sum = fmaf(value<I + 3>(piece), part.w, sum);
        add_dot<B, I + 4>(piece, x, sum);
    }
}

// sums[i] += weight * piece[i]
template <typename B, int I = 0>
__device__ __forceinline__ void add_scaled(const Piece<B>& piece, float weight, float (&sums)[Piece<B>::kValues]) {
    if constexpr (I < Piece<B>::kValues) {
        sums[I] = fmaf(weight, value<I>(piece), sums[I]);
        add_scaled<B, I + 1>(piece, weight, sums);
    }
}
