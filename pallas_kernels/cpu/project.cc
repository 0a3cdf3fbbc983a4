// y[token, column] = x[token, :] . W[:, column] in bfloat16 with float32 sums, over weights packed once when they are loaded.
//
// XLA's own product packs all of W again at every call, which costs more than the product where tokens are few. Packed, 32
// columns lie together: [column / 32][row / 2][column % 16 ...][two rows], which is read from end to end and is what the
// processor's pairwise multiply takes. Built only for processors that have it (AVX512-BF16).

#include "vectors.h"

#if defined(__AVX512BF16__)

namespace lorajax {
namespace {

constexpr int64_t kPanel = 32;  // columns of one unit

using Narrow = ffi::Buffer<ffi::BF16, 2>;
using Wide = ffi::Buffer<ffi::F32, 2>;

// out[token, 0 ... 31] = x[token, :] . panel for N neighbouring tokens.
template <int N>
inline void ProjectTile(const uint16_t* x, int64_t depth, const uint16_t* panel, float* out, int64_t out_stride) {
  __m512 low[N] = {}, high[N] = {};
  for (int64_t k = 0; k < depth; k += 2, panel += 2 * kPanel) {
    auto first = (__m512bh)_mm512_loadu_si512(panel), second = (__m512bh)_mm512_loadu_si512(panel + kPanel);
    for (int t = 0; t < N; ++t) {
      int32_t pair;
      std::memcpy(&pair, x + t * depth + k, sizeof pair);
      auto both = (__m512bh)_mm512_set1_epi32(pair);
      low[t] = _mm512_dpbf16_ps(low[t], both, first);
      high[t] = _mm512_dpbf16_ps(high[t], both, second);
    }
  }
  for (int t = 0; t < N; ++t) {
    _mm512_storeu_ps(out + t * out_stride, low[t]);
    _mm512_storeu_ps(out + t * out_stride + kLanes, high[t]);
  }
}

void ProjectPanel(int64_t tokens, const uint16_t* x, int64_t depth, const uint16_t* panel, float* out,
                  int64_t out_stride) {
  for (; tokens >= 8; tokens -= 8, x += 8 * depth, out += 8 * out_stride) ProjectTile<8>(x, depth, panel, out, out_stride);
  for (; tokens >= 4; tokens -= 4, x += 4 * depth, out += 4 * out_stride) ProjectTile<4>(x, depth, panel, out, out_stride);
  for (; tokens; --tokens, x += depth, out += out_stride) ProjectTile<1>(x, depth, panel, out, out_stride);
}

ffi::Error ProjectImpl(ffi::ThreadPool pool, Narrow x, Narrow packed, ffi::Result<Wide> out) {
  int64_t tokens = x.dimensions()[0], depth = x.dimensions()[1], columns = packed.dimensions()[1];
  if (depth % 2 || columns % kPanel) return ffi::Error::InvalidArgument("want an even depth and columns by 32");
  auto* from = reinterpret_cast<const uint16_t*>(x.untyped_data());
  auto* weights = reinterpret_cast<const uint16_t*>(packed.untyped_data());
  ForEach(pool, columns / kPanel, [&](int64_t unit) {
    ProjectPanel(tokens, from, depth, weights + unit * kPanel * depth, out->typed_data() + unit * kPanel, columns);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    LorajaxProject, ProjectImpl,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Narrow>().Arg<Narrow>().Ret<Wide>());

}  // namespace lorajax

#endif
