// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC'11), the same numbers as kernels/philox.py.
#pragma once

#include "types.cuh"

struct Words {
    uint32 w[4];
};

// Four random words of a counter under a key.
__device__ __forceinline__ Words philox4x32(uint32 c0, uint32 c1, uint32 c2, uint32 c3, uint64 key) {
    uint32 k0 = static_cast<uint32>(key);
    uint32 k1 = static_cast<uint32>(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const uint32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1): the upper 24 bits, which float32 holds exactly.
__device__ __forceinline__ float uniform(uint32 word) {
    return static_cast<float>(word >> 8) * 0x1p-24f;
}
