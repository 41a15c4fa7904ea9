// Faces on their way in and out: 8-bit pixels or float32 to what the networks take, and float32 to 8-bit pixels.
//
// A thread has one value: callers' arrays begin anywhere, their rows may lie apart (as those of pitched memory do), and
// a face is small beside the basis.

#include "fault.cuh"
#include "pixel.cuh"

constexpr int kThreads = 256;
constexpr float kSlack = 1e-3f;  // by which interpolation may overshoot; a wrong scale overshoots by more

// The value of this thread in a batch of faces of d values each; -1 beyond the face.
__device__ __forceinline__ long long own_value(int d) {
    const int at = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
    return at < d ? static_cast<long long>(blockIdx.y) * d + at : -1;
}

// The same value in a caller's array, whose rows of `width` values, and whose faces, may lie apart.
__device__ __forceinline__ unsigned long long given_value(int width, uint64 row_step, uint64 face_step) {
    const unsigned at = blockIdx.x * kThreads + threadIdx.x, row = at / static_cast<unsigned>(width);
    return blockIdx.y * face_step + row * row_step + (at - row * static_cast<unsigned>(width));
}

// faces (N, D) in [-1, 1] from pixels.
extern "C" __global__ void __launch_bounds__(kThreads)
    take_uint8(const uint8* given, int width, uint64 row_step, uint64 face_step, int d, float* faces) {
    const long long at = own_value(d);
    if (at >= 0) faces[at] = face_value(given[given_value(width, row_step, face_step)]);
}

// faces (N, D) from float32, with what is wrong with them.
extern "C" __global__ void __launch_bounds__(kThreads)
    take_float32(const float* given, int width, uint64 row_step, uint64 face_step, int d, float* faces,
                 uint32* faults) {
    const long long at = own_value(d);
    if (at < 0) return;
    const float value = given[given_value(width, row_step, face_step)], size = fabsf(value);
    if (!(size <= 1.0f + kSlack)) report(faults, size < __uint_as_float(0x7f800000u) ? kFaceOutOfRange : kFaceNotFinite);
    faces[at] = value;
}

// pixels (N, D) of faces (N, D) that a network has written.
extern "C" __global__ void __launch_bounds__(kThreads)
    quantize_float32(const float* faces, int d, uint8* pixels, uint32* faults) {
    const long long at = own_value(d);
    if (at < 0) return;
    const float value = faces[at];
    if (value != value) report(faults, kRestoredNan);
    pixels[at] = pixel(value);
}
