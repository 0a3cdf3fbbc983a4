// Ragged paged attention for CPUs, called by XLA through its FFI. Its meaning is in pallas_kernels/reference.py.
//
// A unit is a few neighbouring tokens of one sequence and one key/value head. Keys are widened and turned round block by
// block, so that sixteen scores come out of each multiply and nothing is summed across a vector; the block then serves
// every query of the unit. Source of the online softmax: Milakov & Gimelshein 2018 (arXiv 1805.02867).

#include "vectors.h"

namespace lorajax {
namespace {

constexpr int64_t kUnitTokens = 8;
constexpr int64_t kBlockVectors = 4;
constexpr int64_t kBlockKeys = kBlockVectors * kLanes;  // keys that share one rescaling of the sums

struct Heads { int64_t tokens, kv_heads, group, head_dim, page_tokens, table_pages; };

struct Unit { int64_t token, count; };

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

// One unit's working memory, float32, reused from unit to unit of a thread.
struct Scratch {
  std::vector<float> memory;
  float *query, *sum, *top, *total, *key, *value, *weight;
  int64_t padded_dim;

  void Fit(int64_t queries, int64_t head_dim) {
    padded_dim = (head_dim + kLanes - 1) / kLanes * kLanes;
    memory.resize(queries * (2 * padded_dim + 2 + kBlockKeys) + 2 * kBlockKeys * padded_dim);
    query = memory.data();
    sum = query + queries * padded_dim;
    key = sum + queries * padded_dim;          // [dim][key of the block]
    value = key + padded_dim * kBlockKeys;     // [key of the block][dim]
    weight = value + padded_dim * kBlockKeys;  // [query][key of the block]
    top = weight + queries * kBlockKeys;
    total = top + queries;
    std::fill(sum, sum + queries * padded_dim, 0.0f);
    std::fill(top, top + queries, -1e30f);
    std::fill(total, total + queries, 0.0f);
  }
};

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

// Widens keys `from` ... `to` of the sequence into the block that begins at key `start`; other keys of it become zeros.
template <typename T>
void ReadBlock(const Heads& n, const T* kv, const int32_t* table, int64_t head, int64_t start, int64_t from, int64_t to,
               Scratch& s) {
  const T* slots[kBlockKeys] = {};  // of the keys that are read
  int64_t page = std::max(start, from) / n.page_tokens, offset = std::max(start, from) % n.page_tokens;
  for (int64_t at = std::max(start, from); at < to; ++at, ++offset) {
    if (offset == n.page_tokens) ++page, offset = 0;
    slots[at - start] = kv + ((table[page] * n.page_tokens + offset) * 2 * n.kv_heads + head) * n.head_dim;
  }
  for (int64_t first = 0; start + first < to; first += kLanes)
    for (int64_t d = 0; d < s.padded_dim; d += kLanes) {
      Floats keys[kLanes];
      int64_t dims = std::min<int64_t>(kLanes, n.head_dim - d);
      for (int64_t i = 0; i < kLanes; ++i) {
        const T* slot = slots[first + i];
        keys[i] = slot ? LoadUpTo(slot + d, dims) : Floats{};
        Floats values = slot ? LoadUpTo(slot + n.kv_heads * n.head_dim + d, dims) : Floats{};
        std::memcpy(s.value + (first + i) * s.padded_dim + d, &values, sizeof values);
      }
      Transpose(keys);
      for (int64_t i = 0; i < kLanes; ++i) std::memcpy(s.key + (d + i) * kBlockKeys + first, &keys[i], sizeof(Floats));
    }
}

// scores[v] = query . keys of the block's first V vectors of keys.
template <int V>
inline void Scores(const float* query, const float* key, int64_t head_dim, Floats* scores) {
  Floats score[V] = {};
  for (int64_t d = 0; d < head_dim; ++d)
    for (int v = 0; v < V; ++v) score[v] += query[d] * Load(key + d * kBlockKeys + v * kLanes);
  std::memcpy(scores, score, sizeof score);
}

// sum = sum * shrink + weight[i] value[i] over keys `from` ... `to` of the block, for V vectors of the head.
template <int V>
inline void AddValues(const float* weight, const float* value, int64_t stride, int64_t from, int64_t to, float shrink,
                      float* sum) {
  Floats part[V];
  for (int v = 0; v < V; ++v) part[v] = Load(sum + v * kLanes) * shrink;
  for (int64_t i = from; i < to; ++i)
    for (int v = 0; v < V; ++v) part[v] += weight[i] * Load(value + i * stride + v * kLanes);
  std::memcpy(sum, part, sizeof part);
}

// Weighs keys `from` ... `to` of the block for one query and adds the weighed values to its sums.
void AddBlock(const Heads& n, Scratch& s, int64_t q, int64_t from, int64_t to) {
  Floats score[kBlockVectors];
  const float* query = s.query + q * s.padded_dim;
  switch ((to + kLanes - 1) / kLanes) {
    case 1: Scores<1>(query, s.key, n.head_dim, score); break;
    case 2: Scores<2>(query, s.key, n.head_dim, score); break;
    case 3: Scores<3>(query, s.key, n.head_dim, score); break;
    default: Scores<4>(query, s.key, n.head_dim, score);
  }
  float* weight = s.weight + q * kBlockKeys;
  std::memcpy(weight, score, sizeof score);
  float high = s.top[q];
  for (int64_t i = from; i < to; ++i) high = std::max(high, weight[i]);
  float shrink = std::exp(s.top[q] - high), added = 0;
  for (int64_t v = 0; v * kLanes < to; ++v) {
    Floats w = Exp(score[v] - high);
    std::memcpy(weight + v * kLanes, &w, sizeof w);
  }
  for (int64_t i = from; i < to; ++i) added += weight[i];
  s.top[q] = high;
  s.total[q] = s.total[q] * shrink + added;
  float* sum = s.sum + q * s.padded_dim;
  int64_t d = 0;
  for (; d + 4 * kLanes <= s.padded_dim; d += 4 * kLanes)
    AddValues<4>(weight, s.value + d, s.padded_dim, from, to, shrink, sum + d);
  for (; d < s.padded_dim; d += kLanes)
    AddValues<1>(weight, s.value + d, s.padded_dim, from, to, shrink, sum + d);
}

template <typename T>
void Attend(const Heads& n, const T* q, const T* kv, const int32_t* table, int64_t position, int64_t count,
            int64_t window, int64_t head, T* out, Scratch& s) {
  int64_t queries = count * n.group, token_stride = n.kv_heads * n.group * n.head_dim;
  s.Fit(queries, n.head_dim);
  float scale = 1.0f / std::sqrt(static_cast<float>(n.head_dim));
  for (int64_t i = 0; i < queries; ++i) {
    const T* from = q + i / n.group * token_stride + i % n.group * n.head_dim;
    for (int64_t d = 0; d < n.head_dim; ++d) s.query[i * s.padded_dim + d] = scale * Value(from[d]);
  }
  auto first_seen = [&](int64_t at) { return window > 0 ? std::max<int64_t>(0, at - window + 1) : 0; };
  int64_t first = first_seen(position), end = position + count;
  for (int64_t start = first / kBlockKeys * kBlockKeys; start < end; start += kBlockKeys) {
    ReadBlock(n, kv, table, head, start, first, std::min(end, start + kBlockKeys), s);
    for (int64_t i = 0; i < queries; ++i) {
      int64_t at = position + i / n.group;
      int64_t from = std::max(start, first_seen(at)) - start, to = std::min(at + 1 - start, kBlockKeys);
      if (from < to) AddBlock(n, s, i, from, to);
    }
  }
  for (int64_t i = 0; i < queries; ++i) {
    T* to = out + i / n.group * token_stride + i % n.group * n.head_dim;
    for (int64_t d = 0; d < n.head_dim; ++d) Store(to + d, s.sum[i * s.padded_dim + d] / s.total[i]);
  }
}

template <typename T>
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
  ForEach(pool, units.size() * n.kv_heads, [&](int64_t i) {
    thread_local Scratch scratch;
    Unit unit = units[i / n.kv_heads];
    int64_t head = i % n.kv_heads, at = (unit.token * n.kv_heads + head) * n.group * n.head_dim;
    Attend(n, queries + at, pages, table + row[unit.token] * n.table_pages, position[unit.token], unit.count, window, head,
           result + at, scratch);
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
    case ffi::F32: return AttentionOf<float>(pool, n, q, kv, r, p, t, window, *out);
    case ffi::BF16: return AttentionOf<Bf16>(pool, n, q, kv, r, p, t, window, *out);
    case ffi::F16: return AttentionOf<_Float16>(pool, n, q, kv, r, p, t, window, *out);
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
