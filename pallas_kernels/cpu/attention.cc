// Ragged paged attention for CPUs, called by XLA through its FFI. Its meaning is in pallas_kernels/reference.py.
//
// A unit is some neighbouring tokens of one sequence. Head by head and block by block, its keys are turned round, so that
// sixteen scores come out of each multiply and nothing is summed across a vector; the block then serves every query of the
// unit, a few at a time. Source of the online softmax: Milakov & Gimelshein 2018 (arXiv 1805.02867).
//
// Both products are sums over steps of four bytes; steps.h says what a step is, and nothing here depends on it.

#include "steps.h"

namespace lorajax {
namespace {

constexpr int64_t kUnitTokens = 16;
constexpr int64_t kBlockVectors = 4;
constexpr int64_t kBlockKeys = kBlockVectors * kLanes;  // keys that share one rescaling of the sums
constexpr int64_t kTileQueries = 4;                     // whose sums stay in registers together
constexpr int64_t kLineBytes = 64;
constexpr int64_t kSlotBytes = 4096;  // of slots up to this size, a block of all heads stays in the second nearest cache

struct Heads { int64_t tokens, kv_heads, group, head_dim, page_tokens, table_pages; };

struct Unit { int64_t token, count; };

struct Span { int64_t from, to; };  // keys of a block

// Turns sixteen vectors round: afterwards rows[i][j] is what rows[j][i] was. Four rounds of interleaving far halves.
inline void Transpose(Floats* rows) {
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
    Floats mixed[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      mixed[2 * i] = __builtin_shufflevector(rows[i], rows[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      mixed[2 * i + 1] =
          __builtin_shufflevector(rows[i], rows[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = mixed[i];
  }
}

// One unit's working memory, reused from unit to unit of a thread. Steps are kept as float, whatever they hold.
struct Scratch {
  std::vector<float> memory;
  float *query, *sum, *top, *total, *key, *value, *score, *weight;
  int64_t padded_dim;

  void Fit(int64_t queries, int64_t head_dim) {
    padded_dim = (head_dim + kLanes - 1) / kLanes * kLanes;
    memory.resize(kLanes + queries * (2 * padded_dim + 2 * kBlockKeys + 2) + 2 * kBlockKeys * padded_dim);
    // From a cache line on: vectors that lie on two of them take twice as long. [query][step of the head]
    query = memory.data() + -(reinterpret_cast<uintptr_t>(memory.data()) / sizeof(float)) % kLanes;
    sum = query + queries * padded_dim;       // [query][dim]
    key = sum + queries * padded_dim;         // [step of the head][key of the block]
    value = key + padded_dim * kBlockKeys;    // [step of the block][dim]
    score = value + padded_dim * kBlockKeys;  // [query][key of the block]
    weight = score + queries * kBlockKeys;    // [query][step of the block]
    top = weight + queries * kBlockKeys;
    total = top + queries;
    std::fill(sum, sum + queries * padded_dim, 0.0f);
    std::fill(top, top + queries, -1e30f);
    std::fill(total, total + queries, 0.0f);
  }
};

// Asks for a whole slot long before the later heads read it: memory is quick only at neighbouring lines.
inline void Prefetch(const void* slot, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += kLineBytes) __builtin_prefetch(static_cast<const char*>(slot) + at, 0, 2);
}

// Lays keys `from` ... `to` of the sequence into the block that begins at key `start`. The block's other keys repeat one of
// these: nobody sees them, and nothing else is read.
template <typename S, typename T = typename S::Element>
void ReadBlock(const Heads& n, const T* kv, const int32_t* table, int64_t head, int64_t start, int64_t from, int64_t to,
               Scratch& s) {
  const T* keys[kBlockKeys];
  int64_t at = std::max(start, from), page = at / n.page_tokens, offset = at % n.page_tokens;
  int64_t slot_values = 2 * n.kv_heads * n.head_dim, slot_bytes = slot_values * sizeof(T);
  auto key_at = [&] { return kv + (table[page] * n.page_tokens + offset) * slot_values + head * n.head_dim; };
  std::fill(keys, keys + kBlockKeys, key_at());
  for (; at < to; ++at, ++offset) {
    if (offset == n.page_tokens) ++page, offset = 0;
    keys[at - start] = key_at();
    if (head == 0 && slot_bytes <= kSlotBytes) Prefetch(keys[at - start], slot_bytes);
  }
  constexpr int64_t kAcross = kLanes * S::kValues;  // values of a key that are turned round together
  for (int64_t first = 0; start + first < to; first += kLanes)
    for (int64_t d = 0; d < n.head_dim; d += kAcross) {
      Floats rows[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) rows[i] = S::Along(keys[first + i] + d, n.head_dim - d);
      Transpose(rows);
      for (int64_t i = 0; i < kLanes; ++i) Save(s.key + (d / S::kValues + i) * kBlockKeys + first, rows[i]);
    }
  for (int64_t key = 0; start + key < to; key += S::kValues)
    for (int64_t d = 0; d < n.head_dim; d += kLanes)
      Save(s.value + key / S::kValues * s.padded_dim + d,
           S::Across(keys + key, n.kv_heads * n.head_dim + d, n.head_dim - d));
}

// sum[q][v] += left[q][step] right[step][v] over steps `from` ... `to`, for Q rows on the left and V vectors on the right.
template <typename S, int Q, int V>
inline void AddTile(const float* left, int64_t left_stride, const float* right, int64_t right_stride, Span steps,
                    float* sum, int64_t sum_stride) {
  Floats sums[Q][V];
  for (int i = 0; i < Q; ++i)
    for (int v = 0; v < V; ++v) sums[i][v] = Load(sum + i * sum_stride + v * kLanes);
  for (int64_t k = steps.from; k < steps.to; ++k)
    for (int i = 0; i < Q; ++i)
      for (int v = 0; v < V; ++v)
        sums[i][v] = S::Add(sums[i][v], left[i * left_stride + k], right + k * right_stride + v * kLanes);
  for (int i = 0; i < Q; ++i)
    for (int v = 0; v < V; ++v) Save(sum + i * sum_stride + v * kLanes, sums[i][v]);
}

// Scores of one query to weights: zero for keys that it does not see. Its sums so far shrink to the new top score.
template <typename S>
void Weigh(const Scratch& s, int64_t q, Span span, float scale) {
  const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Floats score[kBlockVectors], top = Floats{} + s.top[q], added = {};
  for (int v = 0; v < kBlockVectors; ++v) {
    Ints key = lanes + v * kLanes;
    Ints is_seen = (key >= static_cast<int32_t>(span.from)) & (key < static_cast<int32_t>(span.to));
    score[v] = is_seen ? scale * Load(s.score + q * kBlockKeys + v * kLanes) : Floats{} - INFINITY;
    top = score[v] > top ? score[v] : top;
  }
  float high = Max(top), shrink = std::exp(s.top[q] - high);
  for (int v = 0; v < kBlockVectors; ++v) {
    score[v] = score[v] == -INFINITY ? Floats{} : Exp(score[v] - high);
    added += score[v];
  }
  for (int v = 0; v < kBlockVectors; v += 2)
    S::SaveWeights(s.weight + (q * kBlockKeys + v * kLanes) / S::kValues, score[v], score[v + 1]);
  s.top[q] = high;
  s.total[q] = s.total[q] * shrink + Sum(added);
  for (int64_t d = 0; d < s.padded_dim; d += kLanes)
    Save(s.sum + q * s.padded_dim + d, Load(s.sum + q * s.padded_dim + d) * shrink);
}

// Adds the block to Q neighbouring queries, the first of which is `q`; `seen(q)` is the span that a query sees of it.
template <typename S, int Q, typename Seen>
inline void AddBlock(const Heads& n, const Scratch& s, int64_t q, Seen seen) {
  constexpr int64_t kSteps = kBlockKeys / S::kValues;
  float* score = s.score + q * kBlockKeys;
  std::fill(score, score + Q * kBlockKeys, 0.0f);
  AddTile<S, Q, kBlockVectors>(s.query + q * s.padded_dim, s.padded_dim, s.key, kBlockKeys,
                               {0, (n.head_dim + S::kValues - 1) / S::kValues}, score, kBlockKeys);
  float scale = 1.0f / std::sqrt(static_cast<float>(n.head_dim));
  for (int i = 0; i < Q; ++i) Weigh<S>(s, q + i, seen(q + i), scale);
  Span steps = {seen(q).from / S::kValues, (seen(q + Q - 1).to + S::kValues - 1) / S::kValues};
  const float* weight = s.weight + q * kSteps;
  int64_t d = 0;
  for (; d + 4 * kLanes <= s.padded_dim; d += 4 * kLanes)
    AddTile<S, Q, 4>(weight, kSteps, s.value + d, s.padded_dim, steps, s.sum + q * s.padded_dim + d, s.padded_dim);
  for (; d < s.padded_dim; d += kLanes)
    AddTile<S, Q, 1>(weight, kSteps, s.value + d, s.padded_dim, steps, s.sum + q * s.padded_dim + d, s.padded_dim);
}

template <typename S, typename T = typename S::Element>
void Attend(const Heads& n, const T* q, const T* kv, const int32_t* table, int64_t position, int64_t count,
            int64_t window, int64_t head, T* out, Scratch& s) {
  int64_t queries = count * n.group, token_stride = n.kv_heads * n.group * n.head_dim;
  s.Fit(queries, n.head_dim);
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t d = 0; d < n.head_dim; d += kLanes * S::kValues)
      Save(s.query + i * s.padded_dim + d / S::kValues,
           S::Along(q + i / n.group * token_stride + i % n.group * n.head_dim + d, n.head_dim - d));
  auto first_seen = [&](int64_t at) { return window > 0 ? std::max<int64_t>(0, at - window + 1) : 0; };
  int64_t first = first_seen(position), end = position + count;
  for (int64_t start = first / kBlockKeys * kBlockKeys; start < end; start += kBlockKeys) {
    ReadBlock<S>(n, kv, table, head, start, first, std::min(end, start + kBlockKeys), s);
    auto seen = [&](int64_t i) {
      int64_t at = position + i / n.group;
      return Span{std::max(start, first_seen(at)) - start, std::min(at + 1 - start, kBlockKeys)};
    };
    for (int64_t i = 0; i < queries; i += kTileQueries) switch (queries - i) {
        case 1: AddBlock<S, 1>(n, s, i, seen); break;
        case 2: AddBlock<S, 2>(n, s, i, seen); break;
        case 3: AddBlock<S, 3>(n, s, i, seen); break;
        default: AddBlock<S, kTileQueries>(n, s, i, seen);
      }
  }
  for (int64_t i = 0; i < queries; ++i) {
    T* to = out + i / n.group * token_stride + i % n.group * n.head_dim;
    for (int64_t d = 0; d < n.head_dim; ++d) Store(to + d, s.sum[i * s.padded_dim + d] / s.total[i]);
  }
}

template <typename S, typename T = typename S::Element>
ffi::Error AttentionOf(ffi::ThreadPool& pool, const Heads& n, ffi::AnyBuffer q, ffi::AnyBuffer kv, const int32_t* row,
                       const int32_t* position, const int32_t* table, int64_t window, ffi::AnyBuffer out) {
  const T *queries = static_cast<const T*>(q.untyped_data()), *pages = static_cast<const T*>(kv.untyped_data());
  T* result = static_cast<T*>(out.untyped_data());
  std::vector<Unit> units;
  for (int64_t t = 0; t < n.tokens; ++t) {
    bool follows = t && row[t] == row[t - 1] && position[t] == position[t - 1] + 1 && units.back().count < kUnitTokens;
    if (follows)
      ++units.back().count;
    else
      units.push_back({t, 1});
  }
  // The heads of a unit lie in the same slots, so one thread takes them all, unless there is too little for every thread.
  // Prefill comes last in most plans; it is begun first, so that no thread is left with a long unit at the end.
  int64_t heads = units.size() < 2 * pool.num_threads() ? 1 : n.kv_heads;
  ForEach(pool, units.size() * n.kv_heads / heads, [&](int64_t i) {
    thread_local Scratch scratch;
    Unit unit = units[units.size() - 1 - i * heads / n.kv_heads];
    for (int64_t head = i * heads % n.kv_heads, last = head + heads; head < last; ++head) {
      int64_t at = (unit.token * n.kv_heads + head) * n.group * n.head_dim;
      Attend<S>(n, queries + at, pages, table + row[unit.token] * n.table_pages, position[unit.token], unit.count, window,
                head, result + at, scratch);
    }
  });
  return ffi::Error::Success();
}

ffi::Error AttentionImpl(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::AnyBuffer kv, ffi::Buffer<ffi::S32> row,
                         ffi::Buffer<ffi::S32> position, ffi::Buffer<ffi::S32> table, ffi::Result<ffi::AnyBuffer> out,
                         int64_t window) {
  auto d = q.dimensions();
  Heads n = {d[0], d[1], d[2], d[3], kv.dimensions()[1], table.dimensions()[1]};
  const int32_t *r = row.typed_data(), *p = position.typed_data(), *t = table.typed_data();
  switch (q.element_type()) {
    case ffi::F32: return AttentionOf<Singles<float>>(pool, n, q, kv, r, p, t, window, *out);
    case ffi::BF16: return AttentionOf<OfBf16>(pool, n, q, kv, r, p, t, window, *out);
    case ffi::F16: return AttentionOf<Singles<_Float16>>(pool, n, q, kv, r, p, t, window, *out);
    default: return ffi::Error::InvalidArgument("q must be float32, bfloat16 or float16");
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(LorajaxAttention, AttentionImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("window"));

}  // namespace lorajax
