// The items that one kernel takes, in as few launches as it takes to name them all.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/choose.h"
#include "cuda/packed.h"  // chunks_of for packed items
#include "cuda/table.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// A rule as a table has it: by its options, or made of them for a step.
struct RuleBytes {
  std::size_t options_bytes;
  void (*bind)(const void* options, double step, double product, void* to);

  template <class Rule>
  static RuleBytes of() {
    using Options = typename Rule::Options;
    static_assert(sizeof(Options) <= max_options && sizeof(Rule) <= max_options,
                  "raise max_options in cuda/table.h");
    static_assert(std::is_trivially_copyable_v<Rule>);
    return {sizeof(Options), [](const void* options, double step, double product, void* to) {
              const Rule rule = rule_at<Rule>(*static_cast<const Options*>(options), step, product);
              __builtin_memcpy(to, &rule, sizeof rule);
            }};
  }
};

// Gathers items of one way and with these states until a table is full.
template <class Item>
class Batch {
 public:
  using Launch = const char* (*)(const TableOf<Item>& table, unsigned states, int64_t blocks,
                                 void* stream);

  // `chunk`: elements of one; a block takes up to `longer` of them where there are many.
  Batch(const CudaStep& step, const RuleBytes& rule, unsigned states, int chunk, int longer,
        void* stream, Launch launch)
      : step_(step),
        rule_(rule),
        states_(states),
        chunk_(chunk),
        longer_(longer),
        stream_(stream),
        launch_(launch) {
    table_.lr = step.lr;
    table_.grad_factor = step.grad_factor;
    table_.ema_decay = step.ema_decay;
    table_.found_inf = step.found_inf;
    table_.count = 0;
  }

  const char* add(const Item& item) {
    if (table_.count == 0) {
      bind(item);
    } else if (table_.is_bound && !is_same_rule(item)) {
      leave_unbound();
    }
    table_.items[table_.count++] = item;
    chunks_ += chunks_of(item, chunk_);
    return table_.count == TableOf<Item>::capacity || step_.one_by_one ? flush() : nullptr;
  }

  const char* flush() {
    if (table_.count == 0) return nullptr;
    table_.chunk = chunk_ * static_cast<int>(std::clamp(chunks_ / few_chunks, int64_t{1}, longer_));
    int64_t chunks = 0;
    for (int i = 0; i < table_.count; ++i) {
      Item& item = table_.items[i];
      item.first_chunk = static_cast<uint32_t>(chunks);
      chunks += chunks_of(item, table_.chunk);
    }
    const char* error = launch_(table_, states_, chunks, stream_);
    table_.count = 0;
    chunks_ = 0;
    return error;
  }

 private:
  // Blocks take several chunks where there are many and their kernel has much to do before it
  // begins; of less blocks than this some multiprocessors would be without for long at the end.
  static constexpr int64_t few_chunks = 4096;

  // Makes the rule of an item's step, where the host has all that it is made of: a block's first
  // thread takes some thousand cycles for it, while the others wait.
  void bind(const Item& item) {
    if (step_.lr.on_device() || item.step.on_device() || item.product.on_device()) {
      return leave_unbound();
    }
    rule_.bind(step_.options, item.step.value, item.product.value, table_.options);
    table_.is_bound = true;
    bound_step_ = item.step;
    bound_product_ = item.product;
  }
  bool is_same_rule(const Item& item) const {
    const auto are_same = [](const CudaNumber& a, const CudaNumber& b) {
      return !a.on_device() && a.value == b.value;
    };
    return are_same(item.step, bound_step_) && are_same(item.product, bound_product_);
  }
  void leave_unbound() {
    __builtin_memcpy(table_.options, step_.options, rule_.options_bytes);
    table_.is_bound = false;
  }

  const CudaStep& step_;
  const RuleBytes& rule_;
  const unsigned states_;
  const int chunk_;
  const int64_t longer_;
  void* const stream_;
  const Launch launch_;
  CudaNumber bound_step_ = {}, bound_product_ = {};
  TableOf<Item> table_;
  int64_t chunks_ = 0;
};

// Those of a step.
template <class Item>
const char* add_all(Batch<Item>& batch, Way way, unsigned states, const CudaStep& step) {
  const Item* items = nullptr;
  int64_t count = 0;
  if constexpr (std::is_same_v<Item, CudaPackedItem>) {
    items = step.packed, count = step.packed_count;
  } else {
    items = step.items, count = step.count;
  }
  const char* error = nullptr;
  for (int64_t i = 0; i < count && error == nullptr; ++i) {
    const Item& item = items[i];
    const bool is_taken = item.size > 0 && static_cast<Way>(item.way) == way;
    if (is_taken && states_of(item) == states) error = batch.add(item);
  }
  return error == nullptr ? batch.flush() : error;
}

FASTOPT_TARGET_END
