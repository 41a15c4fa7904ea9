// Frames as cameras and decoders hand them on, and the colours of 8-bit BGR, with OpenCV's rounding.
#pragma once

#include "types.cuh"

// One byte a value in rows `pitch` bytes apart. BGR: three values a pixel at `pixels`. NV12: luminance at `pixels`, and
// at `chroma` one pair (U, V) for every 2x2 pixels, in rows of the same pitch. Kernels take the members one by one, for
// cuda.core passes no structures.
struct Frame {
    uint8* pixels;
    uint8* chroma;
    int width, height, pitch;
};

// BT.601 in 15 bits, rounded: OpenCV's BGR2GRAY.
__device__ __forceinline__ int grey_of(int blue, int green, int red) {
    return (3735 * blue + 19235 * green + 9798 * red + (1 << 14)) >> 15;
}

// The same in 14 bits: the Y of OpenCV's BGR2YCrCb.
__device__ __forceinline__ int luminance(int blue, int green, int red) {
    return (1868 * blue + 9617 * green + 4899 * red + (1 << 13)) >> 14;
}

__device__ __forceinline__ int clipped(int value) { return min(max(value, 0), 255); }

// Video range (16 to 235) to 0 to 255 and back; a frame of full range is left as it is.
__device__ __forceinline__ float opened(float y, int full_range) {
    return full_range ? y : fminf(fmaxf((y - 16.0f) * (255.0f / 219.0f), 0.0f), 255.0f);
}

__device__ __forceinline__ float closed(float y, int full_range) {
    return full_range ? y : y * (219.0f / 255.0f) + 16.0f;
}
