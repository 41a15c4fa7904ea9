// Integers of known width and half precision, without a header of the toolkit: NVRTC then needs no include folder, which
// the machines that compile at first use often lack.
#pragma once

using uint8 = unsigned char;
using int8 = signed char;
using uint16 = unsigned short;
using uint32 = unsigned int;
using uint64 = unsigned long long;

// IEEE binary16 as it lies in memory; arithmetic is done in float32.
struct float16 {
    uint16 bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ float to_float(float16 value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}
