// y[token, column] = x[token, :] . W[:, column] in bfloat16 with float32 sums, over weights packed once when they are loaded.
//
// XLA's own product packs all of W again at every call, which costs more than the product where tokens are few. Packed, 32
// columns lie together: [column / 32][row / 2][column % 16 ...][two rows], which is read from end to end and is what the
// processor's pairwise multiply takes. Updates by low-rank pages are added while a panel's result is in the nearest cache:
// in a call of their own threads would meet once more, and all of it would be read and written again. Built only for
// processors that multiply pairs (AVX512-BF16).

#include "lora.h"

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

struct Product {
  int64_t tokens, depth, columns;
  const uint16_t *x, *weights;
  float* out;

  Product(Narrow from, Narrow packed, Wide& to)
      : tokens(from.dimensions()[0]), depth(from.dimensions()[1]), columns(packed.dimensions()[1]),
        x(reinterpret_cast<const uint16_t*>(from.untyped_data())),
        weights(reinterpret_cast<const uint16_t*>(packed.untyped_data())), out(to.typed_data()) {}

  bool Fits() const { return depth % 2 == 0 && columns % kPanel == 0; }

  void Panel(int64_t i) const {
    ProjectPanel(tokens, x, depth, weights + i * kPanel * depth, out + i * kPanel, columns);
  }
};

const auto kUnfit = ffi::Error::InvalidArgument("want an even depth and columns by 32");

ffi::Error ProjectImpl(ffi::ThreadPool pool, Narrow x, Narrow packed, ffi::Result<Wide> out) {
  Product product(x, packed, *out);
  if (!product.Fits()) return kUnfit;
  ForEach(pool, product.columns / kPanel, [&](int64_t panel) { product.Panel(panel); });
  return ffi::Error::Success();
}

// Arguments after the weights: page, start, count, weight, num_items, then (a, b) of every target. The columns of the
// product are `groups` times a part of every target's, in order; a panel is of one target.
ffi::Error AdaptedImpl(ffi::ThreadPool pool, Narrow x, Narrow packed, ffi::RemainingArgs args, ffi::Result<Wide> out,
                       int64_t groups) {
  Product product(x, packed, *out);
  if (!product.Fits()) return kUnfit;
  Updates<Bf16> updates(reinterpret_cast<const Bf16*>(product.x), product.depth, TargetsOf<Bf16>(args, 5),
                        WorkOf(args, 0), pool.num_threads());
  std::vector<std::pair<int64_t, int64_t>> place;  // target and first column there of every panel
  for (int64_t group = 0; group < groups; ++group)
    for (size_t t = 0; t < updates.targets.size(); ++t)
      for (int64_t part = updates.targets[t].width_out / groups, c = 0; c < part; c += kPanel)
        place.push_back({t, group * part + c});
  int64_t num_shrinks = updates.num_shrinks();
  ForEach(pool, num_shrinks + place.size(), [&](int64_t i) {
    if (i < num_shrinks) return updates.Shrink(i);
    int64_t panel = i - num_shrinks;
    product.Panel(panel);
    auto [target, column] = place[panel];
    for (const Run& run : updates.runs)
      updates.Expand({target, &run, 0, run.count, column, column + kPanel},
                     product.out + run.start * product.columns + panel * kPanel, product.columns, true);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    LorajaxProject, ProjectImpl,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Narrow>().Arg<Narrow>().Ret<Wide>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(LorajaxAdapted, AdaptedImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Narrow>()
                                  .Arg<Narrow>()
                                  .RemainingArgs()
                                  .Ret<Wide>()
                                  .Attr<int64_t>("groups"));

}  // namespace lorajax

#endif
