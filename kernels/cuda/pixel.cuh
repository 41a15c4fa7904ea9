// Faces in [-1, 1] and their 8-bit pixels, as kernels/pixels.py has them.
#pragma once

#include "types.cuh"

// Clipped, halves to even. What is no number becomes 0; who may meet it looks before.
__device__ __forceinline__ uint8 pixel(float face) {
    return static_cast<uint8>(__float2uint_rn(fminf(fmaxf((face + 1.0f) * 127.5f, 0.0f), 255.0f)));
}

__device__ __forceinline__ float face_value(uint8 pixel) { return pixel / 127.5f - 1.0f; }
