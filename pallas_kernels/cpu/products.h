// What LoRA multiplies with: float32 vectors, or pairs of bfloat16 where the processor has an instruction for them.

#pragma once

#include "vectors.h"

namespace lorajax {

constexpr int kStrip = 2 * kLanes;  // columns of B that are read together

// How sums take more products in. Values are widened to float32 first ...
template <typename T>
struct Products {
  using Token = float;  // what x and h are kept as
  using Vector = Floats;
  static constexpr int kStep = kLanes;  // values of a dot product in a vector
  static constexpr int kPair = 1;       // rows of B in a vector
  template <typename U>
  static Vector Read(const U* p) { return Load(p); }
  static void ReadStrip(const T* b, int64_t, Vector* strip) { strip[0] = Load(b), strip[1] = Load(b + kLanes); }
  static Vector Spread(const float* h) { return Floats{} + *h; }
  static Floats Add(Floats sum, Vector x, Vector y) { return sum + x * y; }
  static void Write(float* h, Floats v) {  // rounded to T
    for (int i = 0; i < kLanes; ++i) h[i] = Rounded<T>(v[i]);
  }
};

// ... except where the processor multiplies bfloat16 in pairs.
#if defined(__AVX512BF16__)
template <>
struct Products<Bf16> {
  using Token = Bf16;
  using Vector = __m512i;
  static constexpr int kStep = 2 * kLanes;
  static constexpr int kPair = 2;
  static Vector Read(const Bf16* p) { return _mm512_loadu_si512(p); }
  // Column by column the values of two rows, neighbours as the pairwise multiply wants them.
  static void ReadStrip(const Bf16* b, int64_t stride, Vector* strip) {
    alignas(64) static constexpr uint16_t kTurn[2 * kStep] = {
        0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39,
        8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47,
        16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
        24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63,
    };
    Vector first = Read(b), second = Read(b + stride);
    strip[0] = _mm512_permutex2var_epi16(first, _mm512_load_si512(kTurn), second);
    strip[1] = _mm512_permutex2var_epi16(first, _mm512_load_si512(kTurn + 32), second);
  }
  static Vector Spread(const Bf16* h) {
    int32_t pair;
    std::memcpy(&pair, h, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static Floats Add(Floats sum, Vector x, Vector y) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
  }
  static void Write(Bf16* h, Floats v) {  // as `Store` rounds; the processor's own conversion loses tiny numbers
    Ints bits = (Ints)v;
    Ints rounded = v == v ? bits + 0x7fff + ((bits >> 16) & 1) : Ints{} + 0x7fc00000;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(h), _mm512_cvtepi32_epi16((__m512i)(rounded >> 16)));
  }
};
#endif

template <typename T>
using Token = typename Products<T>::Token;

// Lane i of the result is the sum of v[i], of 16. Halves are added as `Sum` adds them, two vectors at a time.
inline Floats Sums(Floats* v) {
  for (int i = 0; i < 8; ++i)
    v[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(v[2 * i], v[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  for (int i = 0; i < 4; ++i)
    v[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(v[2 * i], v[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  for (int i = 0; i < 2; ++i)
    v[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
           __builtin_shufflevector(v[2 * i], v[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
  return __builtin_shufflevector(v[0], v[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
         __builtin_shufflevector(v[0], v[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

}  // namespace lorajax
