// Purified faces back into the frame that they came from, in place; the arithmetic of runtime/faces/paste.py.
//
// A thread owns a pixel of the frame (of NV12, four that share their chroma) and lays the faces over it in their order, so
// overlapping faces need no second launch and equal runs are bit-equal.

#include "frame.cuh"

constexpr int kSide = 112;
constexpr float kFeather = 10.0f;  // crop pixels over which a face fades into the frame

__device__ __forceinline__ float ramp(int i) {
    return i < 0 || i >= kSide ? 0.0f : fminf((min(i, kSide - 1 - i) + 0.5f) / kFeather, 1.0f);
}

// How much of the face shows at (u, v) of the crop: the fade, interpolated bilinearly, zero beyond the crop.
__device__ __forceinline__ float shown(float u, float v) {
    if (!(u > -1.0f && v > -1.0f && u < kSide && v < kSide)) return 0.0f;
    const float left = floorf(u), top = floorf(v), right = u - left, bottom = v - top;
    const int x = static_cast<int>(left), y = static_cast<int>(top);
    return (1.0f - bottom) * ((1.0f - right) * fminf(ramp(x), ramp(y)) + right * fminf(ramp(x + 1), ramp(y))) +
           bottom * ((1.0f - right) * fminf(ramp(x), ramp(y + 1)) + right * fminf(ramp(x + 1), ramp(y + 1)));
}

// Keys' cubic with a = -3/4, OpenCV's INTER_CUBIC, at distance t of a sample.
__device__ __forceinline__ float cubic(float t) {
    constexpr float a = -0.75f;
    t = fabsf(t);
    return t < 1.0f ? ((a + 2.0f) * t - (a + 3.0f)) * t * t + 1.0f
                    : t < 2.0f ? ((a * t - 5.0f * a) * t + 8.0f * a) * t - 4.0f * a : 0.0f;
}

__device__ __forceinline__ int purified_at(const uint8* __restrict__ face, float u, float v) {
    const int left = static_cast<int>(floorf(u)), top = static_cast<int>(floorf(v));
    float sum = 0.0f;
#pragma unroll
    for (int dy = -1; dy < 3; ++dy) {
        const uint8* row = face + min(max(top + dy, 0), kSide - 1) * kSide;
        float line = 0.0f;
#pragma unroll
        for (int dx = -1; dx < 3; ++dx) line = fmaf(cubic(u - left - dx), row[min(max(left + dx, 0), kSide - 1)], line);
        sum = fmaf(cubic(v - top - dy), line, sum);
    }
    return clipped(__float2int_rn(sum));
}

__device__ __forceinline__ int blended(int before, int painted, float weight) {
    return __float2int_rn(before + weight * (painted - before));
}

// The region begins at (left, top); matrices (N, 2, 3) from pixels of the frame to pixels of the crop.
extern "C" __global__ void __launch_bounds__(256, 4)
    paste_bgr(uint8* pixels, int frame_width, int frame_height, int pitch, int left, int top, int width, int height,
              const uint8* faces, const float* matrices, int n, int grey) {
    const Frame frame = {pixels, nullptr, frame_width, frame_height, pitch};
    const int dx = static_cast<int>(blockIdx.x * 32 + threadIdx.x % 32);
    const int dy = static_cast<int>(blockIdx.y * 8 + threadIdx.x / 32);
    const int x = left + dx, y = top + dy;
    if (dx >= width || dy >= height || x >= frame.width || y >= frame.height) return;
    uint8* at = frame.pixels + static_cast<size_t>(y) * frame.pitch + 3 * x;
    int blue = at[0], green = at[1], red = at[2];
    for (int face = 0; face < n; ++face) {
        const float* m = matrices + 6 * face;
        const float u = m[0] * x + m[1] * y + m[2], v = m[3] * x + m[4] * y + m[5];
        const float weight = shown(u, v);
        if (weight <= 0.0f) continue;
        const int light = purified_at(faces + static_cast<size_t>(face) * kSide * kSide, u, v);
        int painted_blue = light, painted_green = light, painted_red = light;
        if (!grey) {
            // OpenCV's BGR2YCrCb and back in 14 bits, with the luminance exchanged between.
            const int before = luminance(blue, green, red), half = 1 << 13, middle = 128 << 14;
            const int cr = clipped(((red - before) * 11682 + middle + half) >> 14) - 128;
            const int cb = clipped(((blue - before) * 9241 + middle + half) >> 14) - 128;
            painted_blue = clipped(light + ((29049 * cb + half) >> 14));
            painted_green = clipped(light + ((-11698 * cr - 5636 * cb + half) >> 14));
            painted_red = clipped(light + ((22987 * cr + half) >> 14));
        }
        blue = blended(blue, painted_blue, weight);
        green = blended(green, painted_green, weight);
        red = blended(red, painted_red, weight);
    }
    at[0] = static_cast<uint8>(blue), at[1] = static_cast<uint8>(green), at[2] = static_cast<uint8>(red);
}

// As above; left and top are even. The chroma of the frame stays, or fades to none where the face is to be grey.
extern "C" __global__ void __launch_bounds__(256, 4)
    paste_nv12(uint8* pixels, uint8* chroma, int frame_width, int frame_height, int pitch, int left, int top, int width,
               int height, const uint8* faces, const float* matrices, int n, int grey, int full_range) {
    const Frame frame = {pixels, chroma, frame_width, frame_height, pitch};
    const int dx = 2 * static_cast<int>(blockIdx.x * 32 + threadIdx.x % 32);
    const int dy = 2 * static_cast<int>(blockIdx.y * 8 + threadIdx.x / 32);
    if (dx >= width || dy >= height) return;
    float kept = 1.0f;  // of the chroma
    for (int corner = 0; corner < 4; ++corner) {
        const int x = left + dx + corner % 2, y = top + dy + corner / 2;
        if (x >= frame.width || y >= frame.height) continue;
        uint8* at = frame.pixels + static_cast<size_t>(y) * frame.pitch + x;
        int light = *at;
        float through = 1.0f;
        for (int face = 0; face < n; ++face) {
            const float* m = matrices + 6 * face;
            const float u = m[0] * x + m[1] * y + m[2], v = m[3] * x + m[4] * y + m[5];
            const float weight = shown(u, v);
            if (weight <= 0.0f) continue;
            const int painted = purified_at(faces + static_cast<size_t>(face) * kSide * kSide, u, v);
            light = blended(light, clipped(__float2int_rn(closed(painted, full_range))), weight);
            through *= 1.0f - weight;
        }
        *at = static_cast<uint8>(light);
        kept = fminf(kept, through);
    }
    if (grey && kept < 1.0f) {
        uint8* pair = frame.chroma + static_cast<size_t>((top + dy) / 2) * frame.pitch + left + dx;
        pair[0] = static_cast<uint8>(blended(128, pair[0], kept));
        pair[1] = static_cast<uint8>(blended(128, pair[1], kept));
    }
}
