// The steps that a product of rows by columns is summed in, four bytes each, kept as float whatever they hold.
//
// A step is one value widened to float32 (`Singles`) or, where the processor multiplies bfloat16 by pairs (AVX512-BF16),
// two values as they lie in memory (`Pairs`): half the multiplies, and nothing to widen. Sums are float32 in both.

#pragma once

#include "vectors.h"

namespace lorajax {

inline Floats LoadUpTo(const float* p, int64_t n) {
  Floats out = {};
  std::memcpy(&out, p, n * sizeof(float));
  return out;
}
template <typename T>
inline Floats LoadUpTo(const T* p, int64_t n) {
  if (n == kLanes) return Load(p);
  Floats out = {};
  for (int64_t i = 0; i < n; ++i) out[i] = Value(p[i]);
  return out;
}

inline void Save(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

template <typename T>
struct Singles {
  using Element = T;
  static constexpr int64_t kValues = 1;

  static Floats Add(Floats sum, float left, const float* right) { return sum + left * Load(right); }
  // Sixteen neighbouring steps of a row of `n` values.
  static Floats Along(const T* row, int64_t n) { return LoadUpTo(row, std::min<int64_t>(n, kLanes)); }
  // One step of sixteen neighbouring columns, of `n`; its values come from one row each, from value `d` on.
  static Floats Across(const T* const* rows, int64_t d, int64_t n) { return Along(rows[0] + d, n); }
  static void SaveWeights(float* to, Floats low, Floats high) {
    Save(to, low);
    Save(to + kLanes, high);
  }
};

#if defined(__AVX512BF16__)
struct Pairs {
  using Element = Bf16;
  static constexpr int64_t kValues = 2;

  static Floats Add(Floats sum, float left, const float* right) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(left), (__m512bh)Load(right));
  }
  static Floats Along(const Bf16* row, int64_t n) {
    if (n >= 2 * kLanes) return Load(reinterpret_cast<const float*>(row));
    Floats out = {};
    std::memcpy(&out, row, n * sizeof(Bf16));
    return out;
  }
  static Floats Across(const Bf16* const* rows, int64_t d, int64_t n) {
    n = std::min<int64_t>(n, kLanes);
    Ints low = (Ints)LoadUpTo(rows[0] + d, n), high = (Ints)LoadUpTo(rows[1] + d, n);  // each in the upper half
    return (Floats)((low >> 16 & 0xffff) | high);
  }
  static void SaveWeights(float* to, Floats low, Floats high) {
    auto both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    std::memcpy(to, &both, sizeof both);
  }
};
using OfBf16 = Pairs;
#else
using OfBf16 = Singles<Bf16>;
#endif

}  // namespace lorajax
