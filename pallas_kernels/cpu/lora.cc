// Grouped LoRA for CPUs, called by XLA through its FFI. What it means is in reference.py.
//
// First h = x A^T of every page, then h B. With the few tokens of a decoding step most time goes into reading pages
// from memory: each is read once for all tokens of its run, A from end to end, by all threads to the last page.

#include <thread>

#include "products.h"

namespace lorajax {
namespace {

constexpr int64_t kRows = 8;     // rank rows of a page
constexpr int64_t kTokens = 16;  // of one unit: they and their sums stay in the nearest caches
constexpr int64_t kColumns = 512;
constexpr int64_t kPages = 8;    // of one unit: pages that are neighbours are one stream

struct Run {  // neighbouring items of the work list with the same tokens
  int64_t start, count, first_item, num_items;
  int64_t offset;  // of its h[token, item, row of the page] in one target's
};

template <typename T>
struct Target {
  const T *a, *b;
  float* out;
  int64_t width_out;
};

struct Unit {
  int64_t target;
  const Run* run;
  int64_t token, count;  // of the run
  int64_t first, end;    // items of the run for h, columns for the result
};

// h[token, row] = weight * x[token, :] . a[row, :], rounded as x is, for N tokens, with M rows read side by side. From
// memory one row after another comes faster; four at once take less arithmetic, where the page is in the cache.
template <int N, int M, typename T>
inline void ShrinkTile(const Token<T>* x, int64_t width, const T* a, float weight, Token<T>* h, int64_t h_stride) {
  using P = Products<T>;
  constexpr int kSummed = N <= 2 ? kRows : kLanes / 4;  // rows whose sums fit into a vector
  for (int64_t r = 0; r < kRows; r += kSummed, a += kSummed * width, h += kSummed) {
    Floats sum[kLanes] = {};
    for (int m = 0; m < kSummed; m += M) {
      Floats part[N][M] = {};
      for (int64_t i = 0; i + P::kStep <= width; i += P::kStep) {
        typename P::Vector row[M];
        for (int k = 0; k < M; ++k) row[k] = P::Read(a + (m + k) * width + i);
        for (int t = 0; t < N; ++t) {
          auto token = P::Read(x + t * width + i);
          for (int k = 0; k < M; ++k) part[t][k] = P::Add(part[t][k], token, row[k]);
        }
      }
      for (int t = 0; t < N; ++t)
        for (int k = 0; k < M; ++k) sum[t * kSummed + m + k] = part[t][k];
    }
    Floats total = Sums(sum);
    for (int64_t i = width / P::kStep * P::kStep; i < width; ++i)
      for (int k = 0; k < N * kSummed; ++k)
        total[k] += Value(x[k / kSummed * width + i]) * Value(a[k % kSummed * width + i]);
    Token<T> rounded[kLanes];
    for (int k = 0; k < kLanes; ++k) Store(rounded + k, Rounded<T>(weight * total[k]));
    for (int t = 0; t < N; ++t) std::memcpy(h + t * h_stride, rounded + t * kSummed, kSummed * sizeof *h);
  }
}

template <int M, typename T>
inline void ShrinkUpTo4(int64_t count, const Token<T>* x, int64_t width, const T* a, float weight, Token<T>* h,
                        int64_t h_stride) {
  switch (count) {
    case 1: return ShrinkTile<1, M, T>(x, width, a, weight, h, h_stride);
    case 2: return ShrinkTile<2, M, T>(x, width, a, weight, h, h_stride);
    case 3: return ShrinkTile<3, M, T>(x, width, a, weight, h, h_stride);
    default: return ShrinkTile<4, M, T>(x, width, a, weight, h, h_stride);
  }
}

template <typename T>
inline void Shrink(int64_t count, const Token<T>* x, int64_t width, const T* a, float weight, Token<T>* h,
                   int64_t h_stride) {
  ShrinkUpTo4<1, T>(count, x, width, a, weight, h, h_stride);
  for (int64_t t = 4; t < count; t += 4)
    ShrinkUpTo4<4, T>(count - t, x + t * width, width, a, weight, h + t * h_stride, h_stride);
}

// out[token, c ...] = or += h[token, :] . b[:, c ...] of one page: N tokens, V strips of columns.
template <int N, int V, typename T>
inline void ExpandTile(const T* b, int64_t stride, const Token<T>* h, int64_t h_stride, bool adds, float* out) {
  using P = Products<T>;
  Floats sum[N][2 * V] = {};
  for (int t = 0; adds && t < N; ++t)
    for (int v = 0; v < 2 * V; ++v) sum[t][v] = Load(out + t * stride + v * kLanes);
  for (int64_t r = 0; r < kRows; r += P::kPair) {
    typename P::Vector strip[2 * V];
    for (int v = 0; v < V; ++v) P::ReadStrip(b + r * stride + v * kStrip, stride, strip + 2 * v);
    for (int t = 0; t < N; ++t) {
      auto factor = P::Spread(h + t * h_stride + r);
      for (int v = 0; v < 2 * V; ++v) sum[t][v] = P::Add(sum[t][v], factor, strip[v]);
    }
  }
  for (int t = 0; t < N; ++t)
    for (int v = 0; v < 2 * V; ++v) std::memcpy(out + t * stride + v * kLanes, &sum[t][v], sizeof(Floats));
}

template <int N, typename T>
inline void ExpandOf(const T* b, int64_t stride, const Token<T>* h, int64_t h_stride, bool adds, int64_t columns,
                     float* out) {
  constexpr int V = N <= 2 ? 4 : N <= 4 ? 2 : 1;  // their sums stay in registers
  int64_t c = 0;
  for (; c + V * kStrip <= columns; c += V * kStrip) ExpandTile<N, V, T>(b + c, stride, h, h_stride, adds, out + c);
  for (; c + kStrip <= columns; c += kStrip) ExpandTile<N, 1, T>(b + c, stride, h, h_stride, adds, out + c);
  for (; c < columns; ++c)
    for (int t = 0; t < N; ++t) {
      float sum = adds ? out[t * stride + c] : 0.0f;
      for (int64_t r = 0; r < kRows; ++r) sum += Value(h[t * h_stride + r]) * Value(b[r * stride + c]);
      out[t * stride + c] = sum;
    }
}

template <typename T>
inline void Expand(int64_t count, const T* b, int64_t stride, const Token<T>* h, int64_t h_stride, bool adds,
                   int64_t columns, float* out) {
  for (; count >= 8; count -= 8, h += 8 * h_stride, out += 8 * stride)
    ExpandOf<8, T>(b, stride, h, h_stride, adds, columns, out);
  for (; count >= 4; count -= 4, h += 4 * h_stride, out += 4 * stride)
    ExpandOf<4, T>(b, stride, h, h_stride, adds, columns, out);
  if (count == 3) ExpandOf<3, T>(b, stride, h, h_stride, adds, columns, out);
  if (count == 2) ExpandOf<2, T>(b, stride, h, h_stride, adds, columns, out);
  if (count == 1) ExpandOf<1, T>(b, stride, h, h_stride, adds, columns, out);
}

// The tokens as products take them: x itself, or a widened copy of those that have an adapter.
inline const float* Prepared(const float* x, int64_t, const std::vector<Run>&, std::vector<float>&) { return x; }
#if defined(__AVX512BF16__)
inline const Bf16* Prepared(const Bf16* x, int64_t, const std::vector<Run>&, std::vector<Bf16>&) { return x; }
#endif
template <typename T>
inline const float* Prepared(const T* x, int64_t width, const std::vector<Run>& runs, std::vector<float>& wide) {
  wide.resize((runs.back().start + runs.back().count) * width);
  for (const auto& run : runs)
    for (int64_t i = run.start * width; i < (run.start + run.count) * width; ++i) wide[i] = Value(x[i]);
  return wide.data();
}

std::vector<Run> Runs(const int32_t* start, const int32_t* count, int64_t num_items) {
  std::vector<Run> runs;
  for (int64_t i = 0, offset = 0; i < num_items; ++i) {
    if (runs.empty() || runs.back().start != start[i]) runs.push_back({start[i], count[i], i, 0, offset});
    ++runs.back().num_items;
    offset += count[i] * kRows;
  }
  return runs;
}

// Zeros for the tokens between the runs; those of a run are written once their first page comes.
template <typename T>
void ZeroOthers(const std::vector<Run>& runs, const std::vector<Target<T>>& targets, int64_t num_tokens) {
  int64_t end = 0;
  for (size_t i = 0; i <= runs.size(); ++i) {
    int64_t next = i < runs.size() ? runs[i].start : num_tokens;
    for (const auto& t : targets) std::memset(t.out + end * t.width_out, 0, (next - end) * t.width_out * sizeof(float));
    if (i < runs.size()) end = runs[i].start + runs[i].count;
  }
}

// Cuts the `size` items or columns of a target and run into parts for all threads, of at most `most`, in whole `step`s.
void Cut(int64_t target, const Run& run, int64_t size, int64_t threads, int64_t most, int64_t step,
         std::vector<Unit>& units) {
  int64_t part = std::min(most, ((size + threads - 1) / threads + step - 1) / step * step);
  for (int64_t first = 0; first < size; first += part)
    for (int64_t t = 0; t < run.count; t += kTokens)
      units.push_back({target, &run, t, std::min(kTokens, run.count - t), first, std::min(first + part, size)});
}

template <typename T>
void Lora(ffi::ThreadPool& pool, const T* x, int64_t num_tokens, int64_t width_in,
          const std::vector<Target<T>>& targets, const int32_t* page, const int32_t* start, const int32_t* count,
          const float* weight, int64_t num_items) {
  std::vector<Run> runs = Runs(start, count, num_items);
  ZeroOthers(runs, targets, num_tokens);
  if (runs.empty()) return;

  std::vector<Token<T>> copy;
  const Token<T>* tokens = Prepared(x, width_in, runs, copy);
  std::vector<Unit> units, expands;
  int64_t num_targets = targets.size(), threads = pool.num_threads();
  for (int64_t t = 0; t < num_targets; ++t)
    for (const Run& run : runs) {
      Cut(t, run, run.num_items, threads, kPages, 1, units);
      Cut(t, run, targets[t].width_out, threads, kColumns, kStrip, expands);
    }
  int64_t num_shrinks = units.size();
  units.insert(units.end(), expands.begin(), expands.end());

  int64_t size = runs.back().offset + runs.back().count * runs.back().num_items * kRows;  // of one target's h
  std::vector<Token<T>> h(size * num_targets);
  auto h_of = [&](const Unit& u) {
    return h.data() + u.target * size + u.run->offset + u.token * u.run->num_items * kRows;
  };
  auto shrink = [&](const Unit& u) {
    const Token<T>* from = tokens + (u.run->start + u.token) * width_in;
    for (int64_t i = u.first; i < u.end; ++i) {
      int64_t item = u.run->first_item + i;
      Shrink<T>(u.count, from, width_in, targets[u.target].a + page[item] * kRows * width_in, weight[item],
                h_of(u) + i * kRows, u.run->num_items * kRows);
    }
  };
  auto expand = [&](const Unit& u) {
    int64_t stride = targets[u.target].width_out;
    float* out = targets[u.target].out + (u.run->start + u.token) * stride + u.first;
    for (int64_t i = 0; i < u.run->num_items; ++i)
      Expand<T>(u.count, targets[u.target].b + page[u.run->first_item + i] * kRows * stride + u.first, stride,
                h_of(u) + i * kRows, u.run->num_items * kRows, i > 0, u.end - u.first, out);
  };

  // One loop for both, so that threads meet once: units are taken in order, so whoever waits for h waits for threads
  // that are at work on it.
  std::atomic<int64_t> shrunk{0};
  ForEach(pool, units.size(), [&](int64_t i) {
    if (i < num_shrinks) {
      shrink(units[i]);
      ++shrunk;
    } else {
      for (int spin = 0; shrunk.load() < num_shrinks; ++spin) spin < 2000 ? Pause() : std::this_thread::yield();
      expand(units[i]);
    }
  });
}

template <typename T>
ffi::Error LoraOf(ffi::ThreadPool& pool, ffi::RemainingArgs& args, ffi::RemainingRets& rets) {
  auto x = args.get<ffi::AnyBuffer>(0);
  std::vector<Target<T>> targets;
  for (size_t i = 0; i < rets.size(); ++i) {
    auto a = args.get<ffi::AnyBuffer>(6 + 2 * i), b = args.get<ffi::AnyBuffer>(7 + 2 * i);
    auto out = rets.get<ffi::AnyBuffer>(i);
    if (a->dimensions()[1] != kRows) return ffi::Error::InvalidArgument("want pages of 8 rows");
    targets.push_back({static_cast<const T*>(a->untyped_data()), static_cast<const T*>(b->untyped_data()),
                       static_cast<float*>((*out)->untyped_data()), b->dimensions()[2]});
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
