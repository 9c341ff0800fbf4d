// The threads. OpenMP, because torch has an OpenMP pool already: loaded after torch, this extension
// binds to the runtime that torch made global, so one pool serves both.
#include "cpu/parallel.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "cpu/float_mode.h"

namespace fastopt {
namespace {

// Below this many elements, waking a pool costs more than it brings.
constexpr int64_t serial_below = 1 << 16;

// Threads meet on multiples of this within a tensor, so that vectors stay aligned on both sides.
constexpr int64_t grain = 64;

// GNU OpenMP's pool does not survive a fork: a parallel region in the child would wait for ever.
std::atomic<bool> forked{false};
[[maybe_unused]] const int watching_forks =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

// Where a cut through an item falls: at its ends, or between on a multiple of the grain.
int64_t cut(int64_t position, int64_t size) {
  return position >= size ? size : std::max<int64_t>(position, 0) / grain * grain;
}

// Elements [begin, end) of the concatenated index space, each cut moved to the grain before it.
void run_range(const std::vector<Item>& items, int64_t begin, int64_t end) {
  int64_t start = 0;  // where the item starts in the index space
  for (const Item& item : items) {
    if (start >= end) break;
    const int64_t from = cut(begin - start, item.size), to = cut(end - start, item.size);
    if (from < to) item.kernel(*item.rule, item.arrays, from, to);
    start += item.size;
  }
}

// Whether two parameters lie in one memory, as weights do that are tied by their data.
bool share_memory(const std::vector<Item>& items) {
  using Range = std::pair<const char*, const char*>;
  static thread_local std::vector<Range> ranges;
  ranges.clear();
  for (const Item& item : items) {
    const char* begin = static_cast<const char*>(item.arrays[0]);
    ranges.push_back({begin, begin + item.size * (item.dtype == DType::float32 ? 4 : 8)});
  }
  std::sort(ranges.begin(), ranges.end());
  const auto overlap = [](const Range& a, const Range& b) { return b.first < a.second; };
  return std::adjacent_find(ranges.begin(), ranges.end(), overlap) != ranges.end();
}

}  // namespace

bool in_forked_child() { return forked.load(std::memory_order_relaxed); }

int usable_threads(int64_t elements, int threads) {
  return elements < serial_below || in_forked_child() ? 1 : threads;
}

void split(int64_t total, int threads, const std::function<void(int64_t, int64_t)>& body) {
  if (threads <= 1) {
    FloatMode mode;
    return body(0, total);
  }
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
    const int64_t share = (total + parts - 1) / parts;
    body(std::min(share * part, total), std::min(share * (part + 1), total));
  }
}

void run(const std::vector<Item>& items, int threads) {
  int64_t total = 0;
  for (const Item& item : items) total += item.size;
  threads = usable_threads(total, threads);
  if (threads > 1 && share_memory(items)) threads = 1;
  split(total, threads, [&](int64_t begin, int64_t end) { run_range(items, begin, end); });
}

}  // namespace fastopt
