// Updates by low-rank pages on CPUs: h = x A^T of every page, then h B. What they mean is in reference.py.
//
// With the few tokens of a decoding step pages are much to read and little to compute: each is read once for all tokens of
// its run, by all threads to the last page, and its lines may be asked for ahead, while something else is computed.

#pragma once

#include "products.h"

namespace lorajax {

constexpr int64_t kRows = 8;     // rank rows of a page
constexpr int64_t kTokens = 16;  // of one unit: they and their sums stay in the nearest caches
constexpr int64_t kLine = 64;    // bytes that come from memory together

struct Run {  // neighbouring items of the work list with the same tokens
  int64_t start, count, first_item, num_items;
  int64_t offset;  // of its h[token, item, row of the page] in one target's
};

// The work list of a step.
struct Work {
  const int32_t *page, *start, *count;
  const float* weight;
  int64_t num_items;
};

template <typename T>
struct Target {
  const T *a, *b;
  int64_t width_out;
};

struct Unit {
  int64_t target;
  const Run* run;
  int64_t token, count;  // of the run
  int64_t first, end;    // an item of the run for h, columns for the result
};

// Pieces of memory that will be read soon: `bytes` from `from` on of each place. Asked for line by line between the steps of
// a computation they come for nothing; all at once they would hold it up.
struct Ahead {
  const void *const *next = nullptr, *const *end = nullptr;
  int64_t from = 0, bytes = 0, at = 0;

  void Ask() {
    if (next == end) return;
    __builtin_prefetch(static_cast<const char*>(*next) + from + at, 0, 2);
    if ((at += kLine) >= bytes) at = 0, ++next;
  }
};

// h[token, row] = weight * x[token, :] . a[row, :], rounded as x is, for N tokens.
template <int N, typename T>
inline void ShrinkTile(const Token<T>* x, int64_t width, const T* a, float weight, Token<T>* h, int64_t h_stride) {
  using P = Products<T>;
  constexpr int M = 4;                                  // rows that are read side by side
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
    P::Write(rounded, weight * total);
    for (int t = 0; t < N; ++t) std::memcpy(h + t * h_stride, rounded + t * kSummed, kSummed * sizeof *h);
  }
}

template <typename T>
inline void Shrink(int64_t count, const Token<T>* x, int64_t width, const T* a, float weight, Token<T>* h,
                   int64_t h_stride) {
  for (; count > 4; count -= 4, x += 4 * width, h += 4 * h_stride) ShrinkTile<4, T>(x, width, a, weight, h, h_stride);
  switch (count) {
    case 1: return ShrinkTile<1, T>(x, width, a, weight, h, h_stride);
    case 2: return ShrinkTile<2, T>(x, width, a, weight, h, h_stride);
    case 3: return ShrinkTile<3, T>(x, width, a, weight, h, h_stride);
    default: return ShrinkTile<4, T>(x, width, a, weight, h, h_stride);
  }
}

// Neighbouring columns of the pages of a run, h of its tokens there, and where their product goes.
template <typename T>
struct Expansion {
  const T* b;
  const int32_t* page;
  int64_t num_pages, stride;  // of a row of B
  const Token<T>* h;
  int64_t h_stride;
  float* out;
  int64_t out_stride;
  bool adds;  // to what is there

  Expansion From(int64_t token, int64_t column) const {
    Expansion part = *this;
    part.b += column, part.h += token * h_stride, part.out += token * out_stride + column;
    return part;
  }
};

// N tokens, V strips of columns.
template <int N, int V, typename T>
inline void ExpandTile(const Expansion<T>& e) {
  using P = Products<T>;
  Floats sum[N][2 * V] = {};
  for (int t = 0; e.adds && t < N; ++t)
    for (int v = 0; v < 2 * V; ++v) sum[t][v] = Load(e.out + t * e.out_stride + v * kLanes);
  for (int64_t i = 0; i < e.num_pages; ++i) {
    const T* b = e.b + e.page[i] * kRows * e.stride;
    for (int64_t r = 0; r < kRows; r += P::kPair) {
      typename P::Vector strip[2 * V];
      for (int v = 0; v < V; ++v) P::ReadStrip(b + r * e.stride + v * kStrip, e.stride, strip + 2 * v);
      for (int t = 0; t < N; ++t) {
        auto factor = P::Spread(e.h + t * e.h_stride + i * kRows + r);
        for (int v = 0; v < 2 * V; ++v) sum[t][v] = P::Add(sum[t][v], factor, strip[v]);
      }
    }
  }
  for (int t = 0; t < N; ++t)
    for (int v = 0; v < 2 * V; ++v) std::memcpy(e.out + t * e.out_stride + v * kLanes, &sum[t][v], sizeof(Floats));
}

template <int N, typename T>
inline void ExpandOf(const Expansion<T>& e, int64_t columns) {
  constexpr int V = N <= 2 ? 4 : N <= 4 ? 2 : 1;  // their sums stay in registers
  int64_t c = 0;
  for (; c + V * kStrip <= columns; c += V * kStrip) ExpandTile<N, V>(e.From(0, c));
  for (; c + kStrip <= columns; c += kStrip) ExpandTile<N, 1>(e.From(0, c));
  for (; c < columns; ++c)
    for (int t = 0; t < N; ++t) {
      float sum = e.adds ? e.out[t * e.out_stride + c] : 0.0f;
      for (int64_t r = 0; r < e.num_pages * kRows; ++r)
        sum += Value(e.h[t * e.h_stride + r]) * Value(e.b[(e.page[r / kRows] * kRows + r % kRows) * e.stride + c]);
      e.out[t * e.out_stride + c] = sum;
    }
}

template <typename T>
inline void Expand(const Expansion<T>& e, int64_t count, int64_t columns) {
  int64_t t = 0;
  for (; t + 8 <= count; t += 8) ExpandOf<8>(e.From(t, 0), columns);
  for (; t + 4 <= count; t += 4) ExpandOf<4>(e.From(t, 0), columns);
  if (count - t == 3) ExpandOf<3>(e.From(t, 0), columns);
  if (count - t == 2) ExpandOf<2>(e.From(t, 0), columns);
  if (count - t == 1) ExpandOf<1>(e.From(t, 0), columns);
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

inline std::vector<Run> Runs(const Work& work) {
  std::vector<Run> runs;
  for (int64_t i = 0, offset = 0; i < work.num_items; ++i) {
    if (runs.empty() || runs.back().start != work.start[i])
      runs.push_back({work.start[i], work.count[i], i, 0, offset});
    ++runs.back().num_items;
    offset += work.count[i] * kRows;
  }
  return runs;
}

// The updates of one call, for the units of one `ForEach`: first those that shrink, then the caller's own, which expand.
//
// One loop for both, so that threads meet once: units are taken in order, so whoever waits for h waits for threads that are
// at work on it.
template <typename T>
class Updates {
 public:
  const std::vector<Target<T>> targets;
  const std::vector<Run> runs;

  Updates(const T* x, int64_t width_in, std::vector<Target<T>> of, const Work& work)
      : targets(std::move(of)), runs(Runs(work)), work_(work), width_in_(width_in) {
    if (runs.empty()) return;
    tokens_ = Prepared(x, width_in, runs, copy_);
    for (size_t t = 0; t < targets.size(); ++t)
      for (const Run& run : runs)
        for (int64_t i = 0; i < run.num_items; ++i)
          for (int64_t token = 0; token < run.count; token += kTokens)
            units_.push_back({int64_t(t), &run, token, std::min(kTokens, run.count - token), i, i + 1});
    size_ = runs.back().offset + runs.back().count * runs.back().num_items * kRows;
    h_.resize(size_ * targets.size());
    for (const Unit& u : units_) pages_.push_back(PageOf(u));
    for (const auto& target : targets)
      for (int64_t i = 0; i < work.num_items * kRows; ++i)
        rows_.push_back(target.b + (work.page[i / kRows] * kRows + i % kRows) * target.width_out);
  }

  int64_t num_shrinks() const { return units_.size(); }

  // What these units read to shrink.
  Ahead Pages(int64_t first, int64_t end) const {
    return {pages_.data() + first, pages_.data() + end, 0, kRows * width_in_ * int64_t{sizeof(T)}};
  }

  // What the updates of neighbouring columns read.
  Ahead Columns(int64_t target, int64_t column, int64_t columns) const {
    auto rows = rows_.data() + target * work_.num_items * kRows;
    return {rows, rows + work_.num_items * kRows, column * int64_t{sizeof(T)}, columns * int64_t{sizeof(T)}};
  }

  void Shrink(int64_t unit) {
    const Unit& u = units_[unit];
    lorajax::Shrink<T>(u.count, tokens_ + (u.run->start + u.token) * width_in_, width_in_, PageOf(u),
                       work_.weight[u.run->first_item + u.first], HOf(u) + u.first * kRows, u.run->num_items * kRows);
    if (++shrunk_ == num_shrinks()) {
      std::lock_guard<std::mutex> lock(mutex_);
      all_shrunk_.notify_all();
    }
  }

  // Sets, or adds to, the unit's tokens and columns; `out` is where they begin. Waits for h.
  void Expand(const Unit& u, float* out, int64_t out_stride, bool adds) {
    AwaitH();
    lorajax::Expand<T>({targets[u.target].b + u.first, work_.page + u.run->first_item, u.run->num_items,
                        targets[u.target].width_out, HOf(u), u.run->num_items * kRows, out, out_stride, adds},
                       u.count, u.end - u.first);
  }

 private:
  const T* PageOf(const Unit& u) const {
    return targets[u.target].a + work_.page[u.run->first_item + u.first] * kRows * width_in_;
  }
  // Sleeps where it takes long: then whoever still shrinks may be waiting for this very core.
  void AwaitH() {
    auto is_done = [&] { return shrunk_.load() == num_shrinks(); };
    for (int spin = 0; spin < 2000 && !is_done(); ++spin) Pause();
    if (is_done()) return;
    std::unique_lock<std::mutex> lock(mutex_);
    all_shrunk_.wait(lock, is_done);
  }
  Token<T>* HOf(const Unit& u) {
    return h_.data() + u.target * size_ + u.run->offset + u.token * u.run->num_items * kRows;
  }

  Work work_;
  int64_t width_in_, size_ = 0;      // of x, and of one target's h
  std::vector<Token<T>> copy_, h_;   // h[token, item, row of the page] of each run of each target
  const Token<T>* tokens_ = nullptr;
  std::vector<Unit> units_;
  std::vector<const void*> pages_, rows_;  // of A, as units take them; of B, target by target
  std::atomic<int64_t> shrunk_{0};
  std::mutex mutex_;
  std::condition_variable all_shrunk_;
};

// Of the arguments of a call, from `first` on: page, start, count, weight, num_items.
inline Work WorkOf(ffi::RemainingArgs& args, size_t first) {
  auto data = [&](size_t i) { return args.get<ffi::AnyBuffer>(first + i)->untyped_data(); };
  auto ints = [&](size_t i) { return static_cast<const int32_t*>(data(i)); };
  return {ints(0), ints(1), ints(2), static_cast<const float*>(data(3)), *ints(4)};
}

// The (a, b) of every target, which are the arguments from `first` on.
template <typename T>
std::vector<Target<T>> TargetsOf(ffi::RemainingArgs& args, size_t first) {
  std::vector<Target<T>> targets;
  for (size_t i = first; i + 1 < args.size(); i += 2) {
    auto a = args.get<ffi::AnyBuffer>(i), b = args.get<ffi::AnyBuffer>(i + 1);
    targets.push_back({static_cast<const T*>(a->untyped_data()), static_cast<const T*>(b->untyped_data()),
                       b->dimensions()[2]});
  }
  return targets;
}

}  // namespace lorajax
