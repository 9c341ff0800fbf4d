// What a launch takes in its parameters: no copy to the device, and no memory that must outlive it,
// so that a launch may be captured in a graph as it is.
#pragma once

#include <stdint.h>

#include "cuda/face.h"
#include "cuda/launch.h"
#include "rules/rule.h"
#include "target.h"

namespace fastopt {

constexpr int parameter_bytes = 32764;  // of a launch, since CUDA 12.1 on compute capability 7.0
constexpr int max_options = 128;        // bytes
constexpr int chunk_size = 8192;        // elements: a block's work; a multiple of every packet
constexpr int chunk_bytes = 32768;      // of an array's elements at their widest: a block's work

template <class Item>
struct TableOf {
  static constexpr int capacity = (parameter_bytes - max_options - 80) / sizeof(Item);
  alignas(8) unsigned char options[max_options];  // the rule's; the rule itself if is_bound
  CudaNumber lr, grad_factor;
  double ema_decay;
  const float* found_inf;
  int count;
  int chunk;      // elements that a block takes
  bool is_bound;  // all items have the rule of one step
  Item items[capacity];
};
using StepTable = TableOf<CudaItem>;
using PackedTable = TableOf<CudaPackedItem>;
static_assert(sizeof(StepTable) <= parameter_bytes && sizeof(PackedTable) <= parameter_bytes);

}  // namespace fastopt

FASTOPT_TARGET_BEGIN

// A bit for each state that an item keeps.
inline unsigned states_of(const CudaItem& item) {
  unsigned states = 0;
  for (int k = 0; k < max_states; ++k) states |= unsigned{item.arrays[2 + k] != nullptr} << k;
  return states;
}

inline int64_t chunks_of(const CudaItem& item, int size = chunk_size) {
  return (item.size + size - 1) / size;
}

FASTOPT_DEVICE double read(const CudaNumber& number) {
  if (number.type == CudaNumber::Type::value) return number.value;
  return number.type == CudaNumber::Type::float64
             ? *static_cast<const double*>(number.at)
             : static_cast<double>(*static_cast<const float*>(number.at));
}

// Sets the rate of options that have one.
template <class Options>
FASTOPT_DEVICE auto set_lr(Options& options, double lr, int) -> decltype(void(options.lr)) {
  options.lr = lr;
}
template <class Options>
FASTOPT_DEVICE void set_lr(Options&, double, long) {}

// The rule of an item's step. Where it is not bound, some of what it is made of lies on the device.
template <class Rule, class Table>
FASTOPT_DEVICE Rule rule_of(const Table& table, const CudaItem& item) {
  if (table.is_bound) return *reinterpret_cast<const Rule*>(table.options);
  typename Rule::Options options;
  __builtin_memcpy(&options, table.options, sizeof options);
  if (table.lr.type != CudaNumber::Type::value) set_lr(options, read(table.lr), 0);
  const double product = keeps_product<Rule> ? read(item.product) : 1;
  return rule_at<Rule>(options, read(item.step), product);
}

// A block's part of an item.
struct Chunk {
  int64_t begin;  // the first element
  int item, size;
};

// The last entry that begins at a chunk or before it, found by halving.
template <class Entry>
FASTOPT_DEVICE int entry_at(const Entry* entries, int count, int64_t chunk) {
  int entry = 0;
  for (int behind = count; behind - entry > 1;) {
    const int middle = entry + (behind - entry) / 2;
    if (entries[middle].first_chunk <= chunk) {
      entry = middle;
    } else {
      behind = middle;
    }
  }
  return entry;
}

template <class Item>
FASTOPT_DEVICE Chunk chunk_at(const Item* items, int count, uint32_t chunk, int size) {
  const int item = entry_at(items, count, chunk);
  const int64_t begin = int64_t{size} * (chunk - items[item].first_chunk);
  const int64_t rest = items[item].size - begin;
  return {begin, item, rest < size ? static_cast<int>(rest) : size};
}

FASTOPT_TARGET_END
