// y[token, column] = x[token, :] . W[:, column] in bfloat16 with float32 sums, over weights packed once when they are loaded.
//
// XLA's own product packs all of W again at every call, which costs more than the product where tokens are few. Packed, 32
// columns lie together: [column / 32][row / 2][column % 16 ...][two rows], which is read from end to end and is what the
// processor's pairwise multiply takes. While one panel is multiplied the next comes from memory. So do the pages of updates
// that are part of a call: they are much memory and little arithmetic. Built only for processors that multiply pairs
// (AVX512-BF16).

#include "lora.h"

#if defined(__AVX512BF16__)

namespace lorajax {
namespace {

constexpr int64_t kPanel = 32;  // columns of one unit

using Narrow = ffi::Buffer<ffi::BF16, 2>;
using Wide = ffi::Buffer<ffi::F32, 2>;

// What is asked for while a panel is multiplied: the panel that this thread will likely take next, and pages.
struct Next {
  Ahead panel, pages;

  void Ask() {
    panel.Ask();
    pages.Ask();
  }
};

// out[token, 0 ... 31] = x[token, :] . panel for N neighbouring tokens. Sums that loops leave rolled stay in memory, hence
// the pragmas.
template <int N>
inline void ProjectTile(const uint16_t* x, int64_t depth, const uint16_t* panel, float* out, int64_t out_stride,
                        Next& next) {
  __m512 low[N], high[N];
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) low[t] = high[t] = __m512{};
  for (int64_t k = 0; k < depth; k += 2, panel += 2 * kPanel) {
    next.Ask();
    auto first = (__m512bh)_mm512_loadu_si512(panel), second = (__m512bh)_mm512_loadu_si512(panel + kPanel);
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      int32_t pair;
      std::memcpy(&pair, x + t * depth + k, sizeof pair);
      auto both = (__m512bh)_mm512_set1_epi32(pair);
      low[t] = _mm512_dpbf16_ps(low[t], both, first);
      high[t] = _mm512_dpbf16_ps(high[t], both, second);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    _mm512_storeu_ps(out + t * out_stride, low[t]);
    _mm512_storeu_ps(out + t * out_stride + kLanes, high[t]);
  }
}

void ProjectPanel(int64_t tokens, const uint16_t* x, int64_t depth, const uint16_t* panel, float* out,
                  int64_t out_stride, Next next) {
  for (; tokens >= 8; tokens -= 8, x += 8 * depth, out += 8 * out_stride)
    ProjectTile<8>(x, depth, panel, out, out_stride, next);
  for (; tokens >= 4; tokens -= 4, x += 4 * depth, out += 4 * out_stride)
    ProjectTile<4>(x, depth, panel, out, out_stride, next);
  for (; tokens; --tokens, x += depth, out += out_stride) ProjectTile<1>(x, depth, panel, out, out_stride, next);
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

  int64_t panels() const { return columns / kPanel; }

  // Panel i; meanwhile asks for panel `later`, if there is one, and for pages.
  void Panel(int64_t i, int64_t later, Ahead pages) const {
    const void* at = weights + later * kPanel * depth;
    Ahead panel = {&at, &at + (later < panels()), 0, kPanel * depth * int64_t{sizeof *weights}};
    ProjectPanel(tokens, x, depth, weights + i * kPanel * depth, out + i * kPanel, columns, {panel, pages});
  }
};

const auto kUnfit = ffi::Error::InvalidArgument("want an even depth and columns by 32");

ffi::Error ProjectImpl(ffi::ThreadPool pool, Narrow x, Narrow packed, ffi::Result<Wide> out) {
  Product product(x, packed, *out);
  if (!product.Fits()) return kUnfit;
  ForEach(pool, product.panels(), [&](int64_t i) { product.Panel(i, i + pool.num_threads(), {}); });
  return ffi::Error::Success();
}

struct Place {  // of a panel
  int64_t target, column;
};

// The columns of the product are `groups` times a part of every target's, in order; a panel is of one target.
std::vector<Place> Places(const std::vector<Target<Bf16>>& targets, int64_t groups) {
  std::vector<Place> places;
  for (int64_t group = 0; group < groups; ++group)
    for (size_t t = 0; t < targets.size(); ++t)
      for (int64_t part = targets[t].width_out / groups, c = 0; c < part; c += kPanel)
        places.push_back({int64_t(t), group * part + c});
  return places;
}

// Panels go in pairs. While the first of each is multiplied, pages of A come from memory, which then make h; while the
// second is, in the latter half of the units, columns of B come, which then update both.
//
// Arguments after the weights: page, start, count, weight, num_items, then (a, b) of every target.
ffi::Error AdaptedImpl(ffi::ThreadPool pool, Narrow x, Narrow packed, ffi::RemainingArgs args, ffi::Result<Wide> out,
                       int64_t groups) {
  Product product(x, packed, *out);
  if (!product.Fits()) return kUnfit;
  Updates<Bf16> updates(reinterpret_cast<const Bf16*>(product.x), product.depth, TargetsOf<Bf16>(args, 5),
                        WorkOf(args, 0));
  std::vector<Place> places = Places(updates.targets, groups);
  int64_t panels = product.panels(), pairs = (panels + 1) / 2, num_shrinks = updates.num_shrinks();
  auto panel_of = [&](int64_t unit) { return unit < pairs ? 2 * unit : 2 * (unit - pairs) + 1; };
  ForEach(pool, 2 * pairs, [&](int64_t i) {
    int64_t later = panel_of(i + pool.num_threads());
    if (i < pairs) {
      int64_t first = i * num_shrinks / pairs, end = (i + 1) * num_shrinks / pairs;
      product.Panel(2 * i, later, updates.Pages(first, end));
      for (int64_t unit = first; unit < end; ++unit) updates.Shrink(unit);
      return;
    }
    int64_t panel = 2 * (i - pairs), width = kPanel, end = std::min(panel + 2, panels);
    auto [target, column] = places[panel];
    if (panel + 1 < end) {
      product.Panel(panel + 1, later, updates.Columns(target, column, 2 * kPanel));
      if (places[panel + 1].target == target) width = 2 * kPanel;  // then their columns are neighbours, too
    }
    for (; panel < end; panel += width / kPanel)
      for (const Run& run : updates.runs)
        updates.Expand({places[panel].target, &run, 0, run.count, places[panel].column, places[panel].column + width},
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
