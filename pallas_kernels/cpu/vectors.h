// What the CPU kernels are made of: vectors of 16 floats, exp, and a loop over threads.
//
// Compiler vectors, so one source serves AVX-512, AVX2 and NEON. Values are widened to float32 as they are read; every sum
// is float32. Work is cut into units that threads take one by one, so results do not depend on how many threads there are.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace lorajax {

namespace ffi = xla::ffi;

inline constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));
typedef float float8 __attribute__((vector_size(32)));
typedef float float4 __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t)), aligned(2)));
typedef _Float16 Float16s __attribute__((vector_size(kLanes * sizeof(_Float16)), aligned(2)));

struct Bf16 { uint16_t bits; };

inline Floats Load(const float* p) { return *reinterpret_cast<const Floats*>(p); }
#if defined(__AVX512F__)  // compilers find one instruction each for these only when told
inline __m256i Load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Floats Load(const Bf16* p) { return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(Load256(p)), 16); }
inline Floats Load(const _Float16* p) { return (Floats)_mm512_cvtph_ps(Load256(p)); }
#else
inline Floats Load(const Bf16* p) {
  Halves bits;
  std::memcpy(&bits, p, sizeof bits);
  return (Floats)(__builtin_convertvector(bits, Ints) << 16);
}
inline Floats Load(const _Float16* p) { return __builtin_convertvector(*reinterpret_cast<const Float16s*>(p), Floats); }
#endif

inline float Value(float x) { return x; }
inline float Value(_Float16 x) { return x; }
inline float Value(Bf16 x) {
  uint32_t wide = uint32_t{x.bits} << 16;
  float out;
  std::memcpy(&out, &wide, sizeof out);
  return out;
}

inline void Store(float* p, float x) { *p = x; }
inline void Store(_Float16* p, float x) { *p = static_cast<_Float16>(x); }
inline void Store(Bf16* p, float x) {  // round to nearest even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  p->bits = std::isnan(x) ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <typename T>
inline float Rounded(float x) {
  T narrow;
  Store(&narrow, x);
  return Value(narrow);
}

// A tree of sums: no chain of dependent adds.
inline float Sum(Floats v) {
  float8 half[2];
  std::memcpy(half, &v, sizeof half);
  float4 quarter[2];
  half[0] += half[1];
  std::memcpy(quarter, &half[0], sizeof quarter);
  quarter[0] += quarter[1];
  return (quarter[0][0] + quarter[0][2]) + (quarter[0][1] + quarter[0][3]);
}

inline float Max(Floats v) {
  float8 half[2];
  std::memcpy(half, &v, sizeof half);
  half[0] = half[0] > half[1] ? half[0] : half[1];
  float4 quarter[2];
  std::memcpy(quarter, &half[0], sizeof quarter);
  float4 q = quarter[0] > quarter[1] ? quarter[0] : quarter[1];
  return std::max(std::max(q[0], q[1]), std::max(q[2], q[3]));
}

// exp to within 2 ulp for x <= 0. Source: the classic range reduction by ln 2 with a degree 5 polynomial (Cephes).
inline Floats Exp(Floats x) {
  x = x < -87.0f ? Floats{} - 87.0f : x;
  Ints power = __builtin_convertvector(x * 1.44269504f - 0.5f, Ints);
  Floats whole = __builtin_convertvector(power, Floats);
  Floats r = x - whole * 0.693359375f - whole * -2.12194440e-4f;
  Floats y = Floats{} + 1.9875691500e-4f;
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) y = y * r + c;
  y = y * r * r + r + 1.0f;
  return y * (Floats)((power + 127) << 23);
}

// For a loop that waits for another thread.
inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Runs unit(0) ... unit(n - 1) on the pool's threads and on this one, and returns when all are done. A helper that the
// pool starts too late finds nothing left, so the caller never waits for a thread that has not begun a unit.
inline void ForEach(ffi::ThreadPool& pool, int64_t n, const std::function<void(int64_t)>& unit) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  int64_t helpers = std::min<int64_t>(pool.num_threads(), n) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < n; ++i) unit(i);
    return;
  }
  auto shared = std::make_shared<Shared>();
  auto work = [shared, n, &unit] {  // `unit` outlives every turn that gets an index below n
    int64_t mine = 0;
    for (int64_t i; (i = shared->next.fetch_add(1)) < n; ++mine) unit(i);
    if (mine && shared->done.fetch_add(mine) + mine == n) {
      std::lock_guard<std::mutex> lock(shared->mutex);
      shared->all_done.notify_one();
    }
  };
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(decltype(work)(work));
  work();
  for (int spin = 0; spin < 2000 && shared->done.load() < n; ++spin) Pause();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == n; });
}

}  // namespace lorajax
