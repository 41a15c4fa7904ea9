// Warp-wide matrix products of halves, and the copies that feed them, as PTX has them from sm_80 on. Each instruction is
// one function, which all lanes of a warp call together.
#pragma once

#include "types.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// Four 8x8 matrices of halves in shared memory. Lane l gives the address of row l % 8 of matrix l / 8, and gets, in
// found[m], elements 2 (l % 4) and the next one of row l / 4 of matrix m.
__device__ __forceinline__ void load_matrices(uint32 (&found)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(found[0]), "=r"(found[1]), "=r"(found[2]), "=r"(found[3])
                 : "r"(static_cast<uint32>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The same, but of the transposed matrices: elements of column l / 4.
__device__ __forceinline__ void load_transposed(uint32 (&found)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(found[0]), "=r"(found[1]), "=r"(found[2]), "=r"(found[3])
                 : "r"(static_cast<uint32>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// sum (16, 8) += a (16, 16) b (16, 8). With g = l / 4 and q = 2 (l % 4), lane l has a[0] at (g, q), a[1] at (g + 8, q),
// a[2] at (g, q + 8), a[3] at (g + 8, q + 8), b0 at (q, g), b1 at (q + 8, g), each with the half after it (of b, below
// it); sum[0], sum[1] at (g, q) and sum[2], sum[3] at (g + 8, q).
__device__ __forceinline__ void multiply_add(float (&sum)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes to shared memory, there once `wait_for_copies` says so; zeros, and nothing read, unless `wanted`.
__device__ __forceinline__ void copy_or_clear(void* shared, const void* global, bool wanted) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32>(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(wanted ? 16 : 0)
                 : "memory");
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `kPending` of this thread's groups are under way; the others' copies need a barrier, too.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#define TENSOR_CORES 1
#else
#define TENSOR_CORES 0
#endif

// Two halves, less two others.
__device__ __forceinline__ uint32 minus_halves(uint32 a, uint32 b) {
    uint32 result;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

// Four int8 as halves, exactly: a byte under 0x64 is the half 1024 + byte.
__device__ __forceinline__ void to_halves(uint32 bytes, uint32& low, uint32& high) {
    const uint32 shifted = bytes ^ 0x80808080u;
    low = minus_halves(__byte_perm(shifted, 0x64646464u, 0x4140), 0x64806480u);
    high = minus_halves(__byte_perm(shifted, 0x64646464u, 0x4342), 0x64806480u);
}

__device__ __forceinline__ float16 to_half(float value) {
    uint16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return {bits};
}

// A value as the sum of two halves: 22 bits of it, and never finer than 2^-25.
struct Halves {
    float16 high, low;
};

__device__ __forceinline__ Halves halves(float value) {
    const float16 high = to_half(value);
    return {high, to_half(value - to_float(high))};
}
