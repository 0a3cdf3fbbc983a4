// Grouped LoRA alone, called by XLA through its FFI; project.cc has it as part of a product. See lora.h.

#include "lora.h"

namespace lorajax {
namespace {

constexpr int64_t kColumns = 512;  // of one unit

// Cuts the columns of a target and run into units, as many as there are threads at least.
void Cut(int64_t target, const Run& run, int64_t columns, int64_t threads, std::vector<Unit>& units) {
  int64_t part = std::min(kColumns, ((columns + threads - 1) / threads + kStrip - 1) / kStrip * kStrip);
  for (int64_t first = 0; first < columns; first += part)
    for (int64_t t = 0; t < run.count; t += kTokens)
      units.push_back({target, &run, t, std::min(kTokens, run.count - t), first, std::min(first + part, columns)});
}

// Zeros for the tokens between the runs; those of a run are written by their units.
void ZeroOthers(const std::vector<Run>& runs, float* out, int64_t num_tokens, int64_t width) {
  int64_t end = 0;
  for (size_t i = 0; i <= runs.size(); ++i) {
    int64_t next = i < runs.size() ? runs[i].start : num_tokens;
    std::memset(out + end * width, 0, (next - end) * width * sizeof(float));
    if (i < runs.size()) end = runs[i].start + runs[i].count;
  }
}

template <typename T>
ffi::Error LoraOf(ffi::ThreadPool& pool, ffi::RemainingArgs& args, ffi::RemainingRets& rets) {
  auto x = args.get<ffi::AnyBuffer>(0);
  Updates<T> updates(static_cast<const T*>(x->untyped_data()), x->dimensions()[1], TargetsOf<T>(args, 6),
                     WorkOf(args, 1));
  const auto& targets = updates.targets;
  std::vector<float*> outs;
  std::vector<Unit> expands;
  for (size_t t = 0; t < targets.size(); ++t) {
    outs.push_back(static_cast<float*>((*rets.get<ffi::AnyBuffer>(t))->untyped_data()));
    ZeroOthers(updates.runs, outs[t], x->dimensions()[0], targets[t].width_out);
    for (const Run& run : updates.runs)
      Cut(t, run, targets[t].width_out, pool.num_threads(), expands);
  }
  int64_t num_shrinks = updates.num_shrinks();
  ForEach(pool, num_shrinks + expands.size(), [&](int64_t i) {
    if (i < num_shrinks) return updates.Shrink(i);
    const Unit& u = expands[i - num_shrinks];
    int64_t stride = targets[u.target].width_out;
    updates.Expand(u, outs[u.target] + (u.run->start + u.token) * stride + u.first, stride, false);
  });
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
