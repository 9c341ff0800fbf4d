// The items that one kernel takes, in as few launches as it takes to name them all.
#pragma once

#include "cuda/choose.h"
#include "cuda/packed.h"  // chunks_of for packed items
#include "cuda/table.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// Gathers items of one way and with these states until a table is full.
template <class Item>
class Batch {
 public:
  using Launch = const char* (*)(const TableOf<Item>& table, unsigned states, int64_t blocks,
                                 void* stream);

  // `chunk`: elements of one.
  Batch(const CudaStep& step, std::size_t options_bytes, unsigned states, int chunk, void* stream,
        Launch launch)
      : one_by_one_(step.one_by_one),
        states_(states),
        chunk_(chunk),
        stream_(stream),
        launch_(launch) {
    __builtin_memcpy(table_.options, step.options, options_bytes);
    table_.lr = step.lr;
    table_.grad_factor = step.grad_factor;
    table_.ema_decay = step.ema_decay;
    table_.found_inf = step.found_inf;
    table_.count = 0;
  }

  const char* add(const Item& item) {
    Item& entry = table_.items[table_.count++];
    entry = item;
    entry.first_chunk = static_cast<uint32_t>(chunks_);
    chunks_ += chunks_of(item, chunk_);
    return table_.count == TableOf<Item>::capacity || one_by_one_ ? flush() : nullptr;
  }

  const char* flush() {
    if (table_.count == 0) return nullptr;
    const char* error = launch_(table_, states_, chunks_, stream_);
    table_.count = 0;
    chunks_ = 0;
    return error;
  }

 private:
  const bool one_by_one_;
  const unsigned states_;
  const int chunk_;
  void* const stream_;
  const Launch launch_;
  TableOf<Item> table_;
  int64_t chunks_ = 0;
};

template <class Item>
const char* add_all(Batch<Item>& batch, Way way, unsigned states, const Item* items,
                    int64_t count) {
  const char* error = nullptr;
  for (int64_t i = 0; i < count && error == nullptr; ++i) {
    const Item& item = items[i];
    const bool is_taken = item.size > 0 && static_cast<Way>(item.way) == way;
    if (is_taken && states_of(item) == states) error = batch.add(item);
  }
  return error == nullptr ? batch.flush() : error;
}

FASTOPT_TARGET_END
