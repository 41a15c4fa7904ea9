// What kernels find wrong with values, as bits of one word that the host reads with the results; see fault.py.
#pragma once

#include "types.cuh"

enum Fault { kProbability = 1, kFaceNotFinite = 2, kFaceOutOfRange = 4, kRestoredNan = 8 };

// Atomic, because kernels and blocks report to the same word.
__device__ __forceinline__ void report(uint32* faults, Fault fault) { atomicOr(faults, static_cast<uint32>(fault)); }
