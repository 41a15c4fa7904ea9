// The part of CUDA that the kernels use, on a CPU: one system thread a block, one fibre a thread. It finds errors of
// indices and of barriers; it says nothing of a card's memory model, its rounding of intrinsics, or its speed.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static thread_local

struct Dim {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max;
using std::min;

namespace cpu {

constexpr size_t kStack = 64 << 10;

// A copy to shared memory that has been asked for.
struct Copy {
    void* to;
    const void* from;
    int bytes;  // of 16; the others become zeros
};

struct Fibre {
    ucontext_t context;  // of its beginning; from there on jumps, which ask nothing of the system and are much quicker
    jmp_buf at;
    bool started = false;
    std::unique_ptr<char[]> stack;
    Dim thread;
    bool finished = false;
    int waits = 0;  // 1 for its warp, 2 for its block
    unsigned products = 0;
    std::vector<std::vector<Copy>> copies = std::vector<std::vector<Copy>>(1);  // in groups; the last is open
};

// What a lane gives of the factors of a warp's product.
struct Factors {
    float a[8], b[4];
};

struct Block {
    std::vector<Fibre> fibres;
    std::vector<unsigned> exchange;  // a word of every thread, for shuffles
    std::vector<const void*> rows;   // of matrices, one of every thread
    std::vector<Factors> factors[2];  // of a product and of the one after it, which some lanes may have come to
    jmp_buf scheduler;
    int current = 0;
    std::function<void()> body;
};

inline thread_local Block* block = nullptr;
inline thread_local Dim block_index, block_size, grid_size;
inline thread_local char* dynamic_shared = nullptr;

inline void enter() {
    block->body();
    block->fibres[block->current].finished = true;
    _longjmp(block->scheduler, 1);
}

inline void wait(int scope) {
    Fibre& fibre = block->fibres[block->current];
    fibre.waits = scope;
    if (_setjmp(fibre.at) == 0) _longjmp(block->scheduler, 1);
}

__attribute__((noinline)) inline void resume(Block& own, Fibre& fibre) {
    if (_setjmp(own.scheduler) != 0) return;
    if (fibre.started) _longjmp(fibre.at, 1);
    fibre.started = true;
    setcontext(&fibre.context);
}

// Lets the threads go on that a barrier held, once all that still run have come to it.
inline bool release(int from, int to, int scope) {
    bool any = false;
    for (int i = from; i < to; ++i) {
        const Fibre& fibre = block->fibres[i];
        if (fibre.finished) continue;
        if (fibre.waits != scope) return false;
        any = true;
    }
    for (int i = from; i < to; ++i) block->fibres[i].waits = 0;
    return any;
}

inline void run_block(Dim index, Dim size, Dim grid, size_t shared, const std::function<void()>& body) {
    Block own;
    block = &own;
    block_index = index, block_size = size, grid_size = grid;
    // Poisoned, for what a kernel does not write it must not read.
    std::vector<uint4> room(shared / 16 + 3, uint4{0x7fc00001u, 0x7fc00001u, 0x7fc00001u, 0x7fc00001u});
    dynamic_shared = reinterpret_cast<char*>(room.data());
    char guard[16];
    std::memset(guard, 0x5a, sizeof guard);
    std::memcpy(dynamic_shared + shared, guard, sizeof guard);
    const int threads = static_cast<int>(size.x);
    own.fibres.resize(threads);
    own.exchange.resize(threads);
    own.rows.resize(threads);
    for (auto& factors : own.factors) factors.resize(threads);
    own.body = body;
    for (int i = 0; i < threads; ++i) {
        Fibre& fibre = own.fibres[i];
        fibre.thread = {static_cast<unsigned>(i), 0, 0};
        fibre.stack.reset(new char[kStack]);
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.get();
        fibre.context.uc_stack.ss_size = kStack;
        fibre.context.uc_link = nullptr;
        makecontext(&fibre.context, enter, 0);
    }
    for (;;) {
        bool moved = false, left = false;
        for (int i = 0; i < threads; ++i) {
            Fibre& fibre = own.fibres[i];
            if (fibre.finished) continue;
            left = true;
            if (fibre.waits) continue;
            own.current = i;
            resume(own, fibre);
            moved = true;
        }
        if (!left) break;
        for (int i = 0; i < threads; i += 32) moved |= release(i, min(i + 32, threads), 1);
        moved |= release(0, threads, 2);
        if (!moved) {
            std::fprintf(stderr, "a barrier is waited for by some threads only\n");
            std::abort();
        }
    }
    if (std::memcmp(dynamic_shared + shared, guard, sizeof guard) != 0) {
        std::fprintf(stderr, "a kernel wrote beyond its shared memory\n");
        std::abort();
    }
    block = nullptr;
}

// Blocks of a cooperative grid wait for one another, so all are there at once; others come one after another.
inline void run_grid(unsigned x, unsigned y, unsigned threads, size_t shared, bool together,
                     const std::function<void()>& body) {
    std::vector<std::thread> running;
    for (unsigned j = 0; j < y; ++j) {
        for (unsigned i = 0; i < x; ++i) {
            const auto one = [=, &body] { run_block({i, j, 0}, {threads, 1, 1}, {x, y, 1}, shared, body); };
            if (together) {
                running.emplace_back(one);
            } else {
                std::thread(one).join();
            }
        }
    }
    for (auto& thread : running) thread.join();
}

template <typename T>
T shuffled(T value, int from) {
    static_assert(sizeof(T) == 4);
    const int self = block->current, base = self / 32 * 32;
    std::memcpy(&block->exchange[self], &value, 4);
    wait(1);
    T found;
    std::memcpy(&found, &block->exchange[base + from], 4);
    wait(1);
    return found;
}

inline float from_half(unsigned short bits) {
    const int sign = bits >> 15, exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 0    ? std::ldexp(static_cast<float>(fraction), -24)
                       : exponent == 31 ? (fraction ? NAN : INFINITY)
                                        : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    return sign ? -size : size;
}

// To nearest, halves to even.
inline unsigned short to_half(float value) {
    const unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (std::isnan(value)) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00;
    int exponent = size == 0 ? -14 : max(std::ilogb(size), -14);
    int digits = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
    if (digits == 2048) digits = 1024, ++exponent;
    return sign | (digits < 1024 ? digits : (exponent + 15) << 10 | (digits - 1024));
}

inline unsigned minus_halves(unsigned a, unsigned b) {
    const auto minus = [](unsigned x, unsigned y) -> unsigned { return to_half(from_half(x) - from_half(y)); };
    return minus(a & 0xffff, b & 0xffff) | minus(a >> 16, b >> 16) << 16;
}

// Nothing of a copy is there before it is waited for; until then there is a half that is no number.
inline void copy_later(void* to, const void* from, int bytes) {
    std::memset(to, 0xff, 16);
    block->fibres[block->current].copies.back().push_back({to, from, bytes});
}

inline void commit_copies() { block->fibres[block->current].copies.emplace_back(); }

inline void wait_for_copies(int pending) {
    auto& groups = block->fibres[block->current].copies;
    while (static_cast<int>(groups.size()) - 1 > pending) {
        for (const Copy& copy : groups.front()) {
            std::memset(copy.to, 0, 16);
            std::memcpy(copy.to, copy.from, copy.bytes);
        }
        groups.erase(groups.begin());
    }
}

// ldmatrix .x4 of 8x8 matrices of 16 bits (PTX ISA): lane l gives row l % 8 of matrix l / 8.
inline void load_matrices(unsigned (&found)[4], const void* row, bool transposed) {
    const int self = block->current, base = self / 32 * 32, lane = self % 32;
    if (reinterpret_cast<size_t>(row) % 16) {
        std::fprintf(stderr, "a row of a matrix is not aligned to 16 bytes\n");
        std::abort();
    }
    block->rows[self] = row;
    wait(1);
    for (int m = 0; m < 4; ++m) {
        unsigned short pair[2];
        for (int i = 0; i < 2; ++i) {
            const int r = transposed ? 2 * (lane % 4) + i : lane / 4, c = transposed ? lane / 4 : 2 * (lane % 4) + i;
            std::memcpy(&pair[i], static_cast<const char*>(block->rows[base + 8 * m + r]) + 2 * c, 2);
        }
        found[m] = pair[0] | static_cast<unsigned>(pair[1]) << 16;
    }
    wait(1);
}

inline const std::vector<float>& all_halves() {
    static const std::vector<float> values = [] {
        std::vector<float> found(1 << 16);
        for (int i = 0; i < 1 << 16; ++i) found[i] = from_half(static_cast<unsigned short>(i));
        return found;
    }();
    return values;
}

// mma m16n8k16, row.col, of halves (fragments as in the PTX ISA). The sum is truncated, as cards were seen to do.
inline void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    static const std::vector<float>& values = all_halves();
    const int self = block->current, base = self / 32 * 32, lane = self % 32;
    auto& shared = block->factors[block->fibres[self].products++ % 2];
    for (int r = 0; r < 4; ++r) {
        shared[self].a[2 * r] = values[a[r] & 0xffff], shared[self].a[2 * r + 1] = values[a[r] >> 16];
    }
    shared[self].b[0] = values[b0 & 0xffff], shared[self].b[1] = values[b0 >> 16];
    shared[self].b[2] = values[b1 & 0xffff], shared[self].b[3] = values[b1 >> 16];
    wait(1);
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
        double exact = sum[i];
        for (int k = 0; k < 16; ++k) {
            const float x = shared[base + row % 8 * 4 + k % 8 / 2].a[2 * (row / 8 + k / 8 * 2) + k % 2];
            const float y = shared[base + column * 4 + k % 8 / 2].b[k / 8 * 2 + k % 2];
            exact += static_cast<double>(x) * y;
        }
        sum[i] = static_cast<float>(exact);
        if (std::fabs(sum[i]) > std::fabs(exact)) sum[i] = std::nextafter(sum[i], 0.0f);
    }
}

}  // namespace cpu

#define threadIdx (cpu::block->fibres[cpu::block->current].thread)
#define blockIdx cpu::block_index
#define blockDim cpu::block_size
#define gridDim cpu::grid_size

inline void __syncthreads() { cpu::wait(2); }
inline void __syncwarp() { cpu::wait(1); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline unsigned atomicAdd(unsigned* at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST); }
inline unsigned atomicOr(unsigned* at, unsigned value) { return __atomic_fetch_or(at, value, __ATOMIC_SEQ_CST); }
template <typename T>
T __shfl_up_sync(unsigned, T value, int offset) {
    const int lane = cpu::block->current % 32;
    return cpu::shuffled(value, lane >= offset ? lane - offset : lane);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return cpu::shuffled(value, (cpu::block->current % 32) ^ mask);
}
template <typename T>
T __ldg(const T* at) {
    return *at;
}
template <typename T>
T __ldcg(const T* at) {
    return *reinterpret_cast<const volatile T*>(at);
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned long long>(a) * b >> 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
    unsigned found = 0;
    for (int i = 0; i < 4; ++i) found |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return found;
}
inline float __uint_as_float(unsigned x) {
    float found;
    std::memcpy(&found, &x, 4);
    return found;
}
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(std::lrintf(x)); }
inline int __float2int_rn(float x) { return static_cast<int>(std::lrintf(x)); }
inline float __expf(float x) { return std::exp(x); }
