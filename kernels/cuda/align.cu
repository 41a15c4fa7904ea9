// Faces cut out of a frame and aligned to the template, grey and normalised: what the analyzer takes.
//
// A face much larger than the crop is blurred by a Gaussian of half a crop pixel, or it would alias; smaller ones are
// sampled bilinearly. What lies beyond the frame repeats its edge. The arithmetic is that of runtime/faces/align.py;
// OpenCV interpolates at 1/32 of a pixel and rounds more often, so the two agree to a few grey levels where the picture
// is steep.

#include "frame.cuh"

constexpr int kSide = 112;
constexpr float kAlias = 1.5f;  // crop pixels this many frame pixels wide are blurred
constexpr int kReach = 24;      // largest half-width of the blur in samples; beyond, samples lie further apart

struct Tap {
    float blue, green, red;
};

__device__ __forceinline__ void add_bgr(const Frame& frame, int x, int y, float weight, Tap& sum) {
    x = min(max(x, 0), frame.width - 1), y = min(max(y, 0), frame.height - 1);
    const uint8* at = frame.pixels + static_cast<size_t>(y) * frame.pitch + 3 * x;
    sum.blue = fmaf(weight, at[0], sum.blue);
    sum.green = fmaf(weight, at[1], sum.green);
    sum.red = fmaf(weight, at[2], sum.red);
}

__device__ __forceinline__ void add_nv12(const Frame& frame, int x, int y, float weight, Tap& sum) {
    x = min(max(x, 0), frame.width - 1), y = min(max(y, 0), frame.height - 1);
    sum.green = fmaf(weight, frame.pixels[static_cast<size_t>(y) * frame.pitch + x], sum.green);
}

// The frame's colour at (x, y), seen by a pixel `coarse` times larger than the frame's.
template <bool kPlanar>
__device__ __forceinline__ Tap sampled(const Frame& frame, float x, float y, float coarse) {
    Tap sum = {0.0f, 0.0f, 0.0f};
    if (coarse <= kAlias) {
        const float left = floorf(x), top = floorf(y), right = x - left, bottom = y - top;
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
            const int dx = corner % 2, dy = corner / 2;
            const float weight = (dx ? right : 1.0f - right) * (dy ? bottom : 1.0f - bottom);
            if constexpr (kPlanar) {
                add_nv12(frame, static_cast<int>(left) + dx, static_cast<int>(top) + dy, weight, sum);
            } else {
                add_bgr(frame, static_cast<int>(left) + dx, static_cast<int>(top) + dy, weight, sum);
            }
        }
        return sum;
    }
    const float sigma = 0.5f * coarse, step = fmaxf(1.0f, ceilf(3.0f * sigma / kReach));
    const int reach = static_cast<int>(ceilf(3.0f * sigma / step));
    const float centre_x = rintf(x), centre_y = rintf(y);
    float total = 0.0f;
    for (int i = -reach; i <= reach; ++i) {
        const float py = centre_y + i * step;
        for (int j = -reach; j <= reach; ++j) {
            const float px = centre_x + j * step;
            const float weight = __expf(-0.5f * ((px - x) * (px - x) + (py - y) * (py - y)) / (sigma * sigma));
            if constexpr (kPlanar) {
                add_nv12(frame, static_cast<int>(px), static_cast<int>(py), weight, sum);
            } else {
                add_bgr(frame, static_cast<int>(px), static_cast<int>(py), weight, sum);
            }
            total += weight;
        }
    }
    return {sum.blue / total, sum.green / total, sum.red / total};
}

// faces (N, 112, 112) in [-1, 1]; back (N, 2, 3) from pixels of the crop to pixels of the frame. crops
// (N, 112, 112, 3), if not null, the same in the colours of a BGR frame.
template <bool kPlanar>
__device__ __forceinline__ void align(const Frame& frame, const float* __restrict__ back, int full_range,
                                      float* __restrict__ faces, uint8* __restrict__ crops) {
    const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= kSide * kSide) return;
    const float* m = back + 6 * blockIdx.y;
    const float u = at % kSide, v = at / kSide;
    const Tap tap = sampled<kPlanar>(frame, m[0] * u + m[1] * v + m[2], m[3] * u + m[4] * v + m[5], hypotf(m[0], m[3]));
    float grey;
    if constexpr (kPlanar) {
        grey = rintf(opened(tap.green, full_range));
    } else {
        const int blue = __float2int_rn(tap.blue), green = __float2int_rn(tap.green), red = __float2int_rn(tap.red);
        grey = grey_of(blue, green, red);
        if (crops) {
            uint8* crop = crops + 3 * (static_cast<size_t>(blockIdx.y) * kSide * kSide + at);
            crop[0] = static_cast<uint8>(blue), crop[1] = static_cast<uint8>(green), crop[2] = static_cast<uint8>(red);
        }
    }
    faces[static_cast<size_t>(blockIdx.y) * kSide * kSide + at] = grey / 127.5f - 1.0f;
}

extern "C" __global__ void __launch_bounds__(256, 4)
    align_bgr(uint8* pixels, int width, int height, int pitch, const float* back, float* faces, uint8* crops) {
    align<false>({pixels, nullptr, width, height, pitch}, back, 1, faces, crops);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    align_nv12(uint8* pixels, int width, int height, int pitch, const float* back, int full_range, float* faces) {
    align<true>({pixels, nullptr, width, height, pitch}, back, full_range, faces, nullptr);
}
