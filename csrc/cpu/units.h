// The units of work of a step that goes over each tensor in several passes (cpu/normed.h,
// cpu/summed.h).
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/parallel.h"

namespace fastopt {

// What a thread takes of a tensor: whole chunks, and little enough for all arrays to stay in a
// core's own cache, since a tensor that is no larger has its next pass right after the first.
constexpr int64_t unit_chunks = 4, unit_size = unit_chunks * sum_chunk;

inline int64_t chunks_of(const Item& item) { return (item.size + sum_chunk - 1) / sum_chunk; }
inline int64_t units_of(const Item& item) { return (item.size + unit_size - 1) / unit_size; }

// Those of several items, counted through.
class Units {
 public:
  void add(Item& item) {
    item.start = count_;
    count_ += units_of(item);
    elements_ += item.size;
  }

  int64_t count() const { return count_; }

  // act(entry, begin, end) on the elements of every unit. There is an entry for each item, in the
  // order in which they were added.
  template <class Entries, class Act>
  void each(Entries& entries, int threads, Act act, Order order = Order::forwards) const {
    constexpr int64_t at_once = 16;  // as many elements as a piece in cpu/parallel.cpp
    const auto units = [&](int64_t begin, int64_t end) {
      const auto starts_after = [](int64_t unit, const auto& entry) {
        return unit < entry.item().start;
      };
      auto entry = std::upper_bound(entries.begin(), entries.end(), begin, starts_after) - 1;
      for (int64_t unit = begin; unit < end; ++unit) {
        while (unit - entry->item().start >= units_of(entry->item())) ++entry;
        const int64_t from = (unit - entry->item().start) * unit_size;
        act(*entry, from, std::min(from + unit_size, entry->item().size));
      }
    };
    split(count_, at_once, usable_threads(elements_, threads), units, order);
  }

 private:
  int64_t count_ = 0, elements_ = 0;
};

}  // namespace fastopt
