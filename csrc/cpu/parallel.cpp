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
void run_range(const Item* items, std::size_t count, int64_t begin, int64_t end) {
  int64_t start = 0;  // where the item starts in the index space
  for (std::size_t i = 0; i < count && start < end; start += items[i].size, ++i) {
    const int64_t from = cut(begin - start, items[i].size);
    const int64_t to = cut(end - start, items[i].size);
    if (from < to) items[i].kernel(items[i].rule, items[i].arrays, from, to);
  }
}

// Whether two parameters lie in one memory, as weights do that are tied by their data.
bool share_memory(const Item* items, std::size_t count) {
  using Range = std::pair<const char*, const char*>;
  static thread_local std::vector<Range> ranges;
  ranges.clear();
  for (std::size_t i = 0; i < count; ++i) {
    const char* begin = static_cast<const char*>(items[i].arrays[0]);
    ranges.push_back({begin, begin + items[i].size * items[i].element_bytes});
  }
  std::sort(ranges.begin(), ranges.end());
  const auto overlap = [](const Range& a, const Range& b) { return b.first < a.second; };
  return std::adjacent_find(ranges.begin(), ranges.end(), overlap) != ranges.end();
}

}  // namespace

void run(const Item* items, std::size_t count, int threads) {
  int64_t total = 0;
  for (std::size_t i = 0; i < count; ++i) total += items[i].size;

  if (threads <= 1 || total < serial_below || forked.load(std::memory_order_relaxed) ||
      share_memory(items, count)) {
    FloatMode mode;
    return run_range(items, count, 0, total);
  }
#pragma omp parallel num_threads(threads)
  {
    FloatMode mode;
    const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
    const int64_t share = (total + parts - 1) / parts;
    run_range(items, count, share * part, std::min(share * (part + 1), total));
  }
}

}  // namespace fastopt
