// The threads. OpenMP, because torch has an OpenMP pool already: loaded after torch, this extension
// binds to the runtime that torch made global, so one pool serves both. A build without OpenMP
// (FASTOPT_OPENMP=OFF) starts threads of its own for each large step.
#include "cpu/parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu/copied.h"
#include "cpu/cut.h"
#include "cpu/float_mode.h"
#include "cpu/normed.h"
#include "cpu/overlap.h"
#include "cpu/summed.h"

namespace fastopt {
namespace {

// Below this many elements, waking a pool costs more than it brings; starting threads costs more.
#ifdef _OPENMP
constexpr int64_t serial_below = 1 << 16;
#else
constexpr int64_t serial_below = 1 << 18;
#endif

// What a thread takes at a time: long enough to run at the memory's speed, short enough that a
// thread whose core is busy with something else holds up the others by a millisecond at most.
constexpr int64_t piece_size = 1 << 18;

// GNU OpenMP's pool does not survive a fork: a parallel region in the child would wait for ever.
std::atomic<bool> forked{false};
[[maybe_unused]] const int watching_forks =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

// body(i) on threads 0 to `threads` - 1; on fewer of them where no more are to be had.
void on_threads(int threads, const std::function<void(int)>& body) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num());
#else
  std::vector<std::thread> others;
  others.reserve(threads);
  try {
    for (int i = 1; i < threads; ++i) others.emplace_back(body, i);
  } catch (const std::system_error&) {
  }
  body(0);
  for (std::thread& it : others) it.join();
#endif
}

// Elements [begin, end) of the concatenated index space, each moved to the cut before it.
void run_range(const std::vector<Item>& items, int64_t begin, int64_t end) {
  const auto starts_after = [](int64_t position, const Item& item) {
    return position < item.start;
  };
  auto item = std::upper_bound(items.begin(), items.end(), begin, starts_after) - 1;
  for (; item != items.end() && item->start < end; ++item) {
    const int64_t from = cut(begin - item->start, *item), to = cut(end - item->start, *item);
    if (from < to) step_elements(*item, from, to);
  }
}

}  // namespace

bool share_memory(const std::vector<Item>& items) {
  static thread_local SharedMemory memory;
  memory.clear();
  for (const Item& item : items) memory.add(item);
  return memory.any();
}

bool in_forked_child() { return forked.load(std::memory_order_relaxed); }

int usable_threads(int64_t elements, int threads) {
  return elements < serial_below || in_forked_child() ? 1 : threads;
}

void split(int64_t total, int64_t piece, int threads,
           const std::function<void(int64_t, int64_t)>& body, Order order) {
  if (threads <= 1 && order == Order::forwards) {
    FloatMode mode;
    return body(0, total);
  }
  struct alignas(64) Part {
    int64_t begin = 0, end = 0;
    std::atomic<int64_t> next{0};
  };
  threads = std::max(threads, 1);
  const int64_t share = (total + threads - 1) / threads;
  std::vector<Part> parts(threads);
  for (int i = 0; i < threads; ++i) {
    parts[i].next = parts[i].begin = std::min(share * i, total);
    parts[i].end = std::min(share * (i + 1), total);
  }
  const auto work = [&](int thread) {
    FloatMode mode;
    for (int i = 0; i < threads; ++i) {
      Part& part = parts[(thread + i) % threads];
      for (int64_t begin; (begin = part.next.fetch_add(piece)) < part.end;) {
        const int64_t end = std::min(begin + piece, part.end), both = part.begin + part.end;
        order == Order::forwards ? body(begin, end) : body(both - end, both - begin);
      }
    }
  };
  if (threads == 1) return work(0);
  on_threads(threads, work);
}

namespace {

// Several passes over each parameter, and one parameter after another where they lie in one memory,
// as where one pass is enough.
void run_passes(std::vector<Item>& items, int threads, void (*passes)(std::vector<Item>&, int)) {
  if (!share_memory(items)) return passes(items, threads);
  for (const Item& item : items) {
    std::vector<Item> alone = {item};
    passes(alone, threads);
  }
}

}  // namespace

void run(std::vector<Item>& items, int threads) {
  const auto has_sums = [](const Item& item) { return item.rule->summed != nullptr; };
  if (std::any_of(items.begin(), items.end(), has_sums)) {
    const auto middle = std::stable_partition(items.begin(), items.end(), has_sums);
    std::vector<Item> others(middle, items.end());
    items.erase(middle, items.end());
    run_passes(items, threads, run_summed);
    return run(others, threads);
  }
  if (!items.empty() && items[0].rule->has_norms) return run_passes(items, threads, run_normed);
  int64_t total = 0;
  for (Item& item : items) {
    item.start = total;
    total += item.size;
  }
  if (total == 0) return;
  threads = usable_threads(total, threads);
  if (threads > 1 && share_memory(items)) threads = 1;
  split(total, piece_size, threads,
        [&](int64_t begin, int64_t end) { run_range(items, begin, end); });
}

}  // namespace fastopt
