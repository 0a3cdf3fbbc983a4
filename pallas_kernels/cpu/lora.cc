// Grouped LoRA for CPUs, called by XLA through its FFI. What it means is in reference.py.

#include "vectors.h"

namespace lorajax {
namespace {

struct Run {  // neighbouring items of the work list with the same tokens
  int64_t start, count, first_item, num_items;
};

template <typename T>
struct Target {
  const T *a, *b;
  float* out;
  int64_t rows, width_out;
};

constexpr int64_t kColumns = 512;  // output columns of one unit: their sums stay in the nearest cache

// out[token, c ...] = or += h[row, token] B[row, c ...] over the rows of one page: N tokens, V vectors of columns.
template <int N, int V, typename T>
inline void ExpandTile(const T* b, int64_t rows, int64_t b_stride, const float* h, int64_t h_stride, bool adds,
                       float* out, int64_t out_stride) {
  Floats sum[N][V] = {};
  for (int t = 0; adds && t < N; ++t)
    for (int v = 0; v < V; ++v) sum[t][v] = Load(out + t * out_stride + v * kLanes);
  for (int64_t r = 0; r < rows; ++r) {
    Floats wide[V];
    for (int v = 0; v < V; ++v) wide[v] = Load(b + r * b_stride + v * kLanes);
    for (int t = 0; t < N; ++t)
      for (int v = 0; v < V; ++v) sum[t][v] += wide[v] * h[r * h_stride + t];
  }
  for (int t = 0; t < N; ++t)
    for (int v = 0; v < V; ++v) std::memcpy(out + t * out_stride + v * kLanes, &sum[t][v], sizeof(Floats));
}

template <int N, typename T>
inline void ExpandOf(const T* b, int64_t rows, int64_t b_stride, const float* h, int64_t h_stride, bool adds,
                     int64_t columns, float* out, int64_t out_stride) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= columns; c += 4 * kLanes)
    ExpandTile<N, 4>(b + c, rows, b_stride, h, h_stride, adds, out + c, out_stride);
  for (; c + kLanes <= columns; c += kLanes)
    ExpandTile<N, 1>(b + c, rows, b_stride, h, h_stride, adds, out + c, out_stride);
  for (; c < columns; ++c)
    for (int t = 0; t < N; ++t) {
      float sum = adds ? out[t * out_stride + c] : 0.0f;
      for (int64_t r = 0; r < rows; ++r) sum += h[r * h_stride + t] * Value(b[r * b_stride + c]);
      out[t * out_stride + c] = sum;
    }
}

template <typename T>
inline void Expand(int64_t count, const T* b, int64_t rows, int64_t b_stride, const float* h, int64_t h_stride,
                   bool adds, int64_t columns, float* out, int64_t out_stride) {
  for (; count >= 4; count -= 4, h += 4, out += 4 * out_stride)
    ExpandOf<4>(b, rows, b_stride, h, h_stride, adds, columns, out, out_stride);
  if (count == 3) ExpandOf<3>(b, rows, b_stride, h, h_stride, adds, columns, out, out_stride);
  if (count == 2) ExpandOf<2>(b, rows, b_stride, h, h_stride, adds, columns, out, out_stride);
  if (count == 1) ExpandOf<1>(b, rows, b_stride, h, h_stride, adds, columns, out, out_stride);
}

template <typename T>
void Lora(ffi::ThreadPool& pool, const T* x, int64_t num_tokens, int64_t width_in,
          const std::vector<Target<T>>& targets, const int32_t* page, const int32_t* start, const int32_t* count,
          const float* weight, int64_t num_items) {
  std::vector<Run> runs;
  for (int64_t i = 0; i < num_items; ++i) {
    if (runs.empty() || runs.back().start != start[i]) runs.push_back({start[i], count[i], i, 0});
    ++runs.back().num_items;
  }
  int64_t end = 0;  // tokens without an adapter get zeros, the others are written once their first page comes
  for (size_t i = 0; i <= runs.size(); ++i) {
    int64_t next = i < runs.size() ? runs[i].start : num_tokens;
    for (const auto& t : targets) std::memset(t.out + end * t.width_out, 0, (next - end) * t.width_out * sizeof(float));
    if (i < runs.size()) end = runs[i].start + runs[i].count;
  }
  if (runs.empty()) return;

  std::vector<float> wide(num_tokens * width_in);
  for (const auto& run : runs)
    for (int64_t i = run.start * width_in; i < (run.start + run.count) * width_in; ++i) wide[i] = Value(x[i]);

  // h[target, item][row, token of the run], laid out one after another.
  int64_t rows = targets[0].rows, num_targets = targets.size();
  std::vector<int64_t> run_of(num_items), offset(num_items * num_targets);
  int64_t size = 0;
  for (size_t r = 0; r < runs.size(); ++r)
    for (int64_t i = runs[r].first_item; i < runs[r].first_item + runs[r].num_items; ++i) {
      run_of[i] = r;
      for (int64_t t = 0; t < num_targets; ++t, size += rows * runs[r].count) offset[t * num_items + i] = size;
    }
  std::vector<float> h(size);
  ForEach(pool, num_items * num_targets, [&](int64_t unit) {
    int64_t item = unit % num_items;
    const Run& run = runs[run_of[item]];
    const T* a = targets[unit / num_items].a + page[item] * rows * width_in;
    float* to = h.data() + offset[unit];
    const float* tokens = wide.data() + run.start * width_in;
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
      Dots<4>(run.count, tokens, width_in, a + r * width_in, width_in, width_in, to + r * run.count, run.count);
    for (; r < rows; ++r)
      Dots<1>(run.count, tokens, width_in, a + r * width_in, width_in, width_in, to + r * run.count, run.count);
    for (int64_t i = 0; i < rows * run.count; ++i) to[i] = Rounded<T>(weight[item] * to[i]);
  });

  struct Tile { int64_t target, run, token, column; };
  constexpr int64_t kTileTokens = 16;
  std::vector<Tile> tiles;
  for (int64_t t = 0; t < num_targets; ++t)
    for (size_t r = 0; r < runs.size(); ++r)
      for (int64_t c = 0; c < targets[t].width_out; c += kColumns)
        for (int64_t k = 0; k < runs[r].count; k += kTileTokens) tiles.push_back({t, static_cast<int64_t>(r), k, c});
  ForEach(pool, tiles.size(), [&](int64_t unit) {
    const Tile& tile = tiles[unit];
    const Run& run = runs[tile.run];
    const Target<T>& target = targets[tile.target];
    int64_t tokens = std::min(kTileTokens, run.count - tile.token);
    int64_t columns = std::min(kColumns, target.width_out - tile.column);
    float* out = target.out + (run.start + tile.token) * target.width_out + tile.column;
    for (int64_t i = run.first_item; i < run.first_item + run.num_items; ++i)
      Expand(tokens, target.b + page[i] * rows * target.width_out + tile.column, rows, target.width_out,
             h.data() + offset[tile.target * num_items + i] + tile.token, run.count, i > run.first_item, columns, out,
             target.width_out);
  });
}

template <typename T>
ffi::Error LoraOf(ffi::ThreadPool& pool, ffi::RemainingArgs& args, ffi::RemainingRets& rets) {
  auto x = args.get<ffi::AnyBuffer>(0);
  std::vector<Target<T>> targets;
  for (size_t i = 0; i < rets.size(); ++i) {
    auto a = args.get<ffi::AnyBuffer>(6 + 2 * i), b = args.get<ffi::AnyBuffer>(7 + 2 * i);
    auto out = rets.get<ffi::AnyBuffer>(i);
    targets.push_back({static_cast<const T*>(a->untyped_data()), static_cast<const T*>(b->untyped_data()),
                       static_cast<float*>((*out)->untyped_data()), a->dimensions()[1], b->dimensions()[2]});
  }
  auto ints = [&](size_t i) { return static_cast<const int32_t*>(args.get<ffi::AnyBuffer>(i)->untyped_data()); };
  Lora<T>(pool, static_cast<const T*>(x->untyped_data()), x->dimensions()[0], x->dimensions()[1], targets, ints(1),
          ints(2), ints(3), static_cast<const float*>(args.get<ffi::AnyBuffer>(4)->untyped_data()), *ints(5));
  return ffi::Error::Success();
}

// Arguments: x, page, start, count, weight, num_items, then (a, b) of every target; one result for each.
ffi::Error LoraImpl(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  switch (args.get<ffi::AnyBuffer>(0)->element_type()) {
    case ffi::F32: return LoraOf<float>(pool, args, rets);
    case ffi::BF16: return LoraOf<Bf16>(pool, args, rets);
    case ffi::F16: return LoraOf<_Float16>(pool, args, rets);
    default: return ffi::Error::InvalidArgument("x must be float32, bfloat16 or float16");
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(LorajaxLora, LoraImpl,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets());

}  // namespace lorajax
