// Launches one stage of a program over the items of a step: a pass that leaves sums, or the step.
#pragma once

#include <algorithm>

#include "cuda/launch.h"
#include "cuda/packed_program.h"
#include "cuda/pass.h"
#include "cuda/program.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// As many places as 48 KB of shared memory have room for, a packet of 16 bytes each; and all that a
// program may have, an element each.
constexpr int few_places = 11, all_places = max_program_arrays + max_registers;
constexpr int shared_bytes = 48 << 10;

// The kernels of a kind of items.
template <class T, class Array>
struct PlainKernels {
  static constexpr int packet = 16 / sizeof(T), narrow = block_threads * 4 / sizeof(T);
  using Number = T;
  using Item = CudaItem;
  using Few = ProgramKernel<T, Array, packet, block_threads, few_places>;
  using Many = ProgramKernel<T, Array, 1, narrow, all_places>;
  using Sums = PassKernel<T, Array, narrow>;
  static_assert(sizeof(typename Few::Shared) <= shared_bytes);
  static_assert(sizeof(typename Many::Shared) <= shared_bytes);
  static_assert(sizeof(typename Sums::Shared) <= shared_bytes);
};
struct PackedProgramKernels {
  using Number = float;
  using Item = CudaPackedItem;
  using Few = PackedProgramKernel<4, few_places>;
  using Many = PackedProgramKernel<2, all_places>;
  using Sums = PassKernel<float, MixedArray, block_threads, CudaPackedItem>;
  static_assert(sizeof(Few::Shared) <= shared_bytes && sizeof(Many::Shared) <= shared_bytes);
};

inline int64_t sum_chunks_of(int64_t size) { return (size + sum_chunk - 1) / sum_chunk; }

// A stage but for its code.
struct StageShape {
  int length, arrays, summands;
  unsigned written, squares;
  int due;  // as in ProgramTable

  bool is_pass() const { return summands > 0; }
};

// Makes places of the operands of a table's code; how many there are.
template <class Table>
int place_operands(Table& table) {
  int places = table.arrays + table.summands;
  const int registers = places;
  for (int n = 0; n < table.length; ++n) {
    auto& it = table.code[n];
    for (uint8_t* operand : {&it.to, &it.a, &it.b, &it.c}) {
      if (*operand >= first_register) {
        *operand = static_cast<uint8_t>(registers + *operand - first_register);
      } else if (*operand >= first_summand) {
        *operand = static_cast<uint8_t>(table.arrays + *operand - first_summand);
      }
      places = std::max(places, *operand + 1);
    }
  }
  return places;
}

// Code whose numbers the host knows, and code whose numbers are each item's own.
template <class T, class Item>
void put_code(const BoundProgram& program, int n, ProgramTable<T, Item>& table) {
  table.code[n] = static_cast<const Instruction<T>*>(program.code)[n];
}
template <class T, class Item>
void put_code(const CudaStage& stage, int n, ProgramTable<T, Item>& table) {
  const ProgramStep& it = stage.steps[n];
  table.code[n] = {it.op, it.to, it.a, it.b, it.c, 0, 0};
  table.numbers[n][0] = static_cast<int16_t>(it.s);
  table.numbers[n][1] = static_cast<int16_t>(it.t);
}

// Where what the device computes for an item lies.
struct OwnNumbers {
  const double* numbers = nullptr;
  double* partials = nullptr;
};

// Gathers items until a table is full.
template <class Kernels>
class ProgramBatch {
 public:
  using Item = typename Kernels::Item;

  template <class Code>
  ProgramBatch(const StageShape& shape, const Code& code, const CudaStep& step, void* stream)
      : is_pass_(shape.is_pass()), one_by_one_(step.one_by_one), stream_(stream) {
    table_.grad_factor = step.grad_factor;
    table_.ema_decay = step.ema_decay;
    table_.found_inf = step.found_inf;
    table_.length = shape.length;
    table_.arrays = shape.arrays;
    table_.summands = shape.summands;
    table_.written = shape.written;
    table_.squares = shape.squares;
    table_.due = shape.due;
    table_.count = 0;
    for (int n = 0; n < shape.length; ++n) {
      table_.numbers[n][0] = table_.numbers[n][1] = -1;
      put_code(code, n, table_);
    }
    places_ = place_operands(table_);
  }

  const char* add(const Item& item, const OwnNumbers& own) {
    constexpr int warps = Kernels::Sums::warps;
    auto& entry = table_.items[table_.count++];
    entry = {item, own.numbers, own.partials};
    entry.first_chunk = static_cast<uint32_t>(blocks_);
    blocks_ += is_pass_ ? (sum_chunks_of(item.size) + warps - 1) / warps : chunks_of(item);
    return one_by_one_ || table_.count == table_.capacity ? flush() : nullptr;
  }

  const char* flush() {
    if (table_.count == 0) return nullptr;
    using Few = typename Kernels::Few;
    using Many = typename Kernels::Many;
    using Sums = typename Kernels::Sums;
    const char* error = is_pass_                ? launch<Sums>(table_, blocks_, stream_)
                        : places_ <= few_places ? launch<Few>(table_, blocks_, stream_)
                                                : launch<Many>(table_, blocks_, stream_);
    table_.count = 0;
    blocks_ = 0;
    return error;
  }

 private:
  const bool is_pass_, one_by_one_;
  void* const stream_;
  int places_;
  int64_t blocks_ = 0;
  ProgramTable<typename Kernels::Number, Item> table_;
};

// Of the items those that takes(item) says; its(i) is what the device computes for the i-th.
template <class Kernels, class Code, class Takes, class Its>
const char* run_kind(const StageShape& shape, const Code& code, const CudaStep& step,
                     const typename Kernels::Item* items, int64_t count, Takes takes, Its its,
                     void* stream) {
  const auto is_taken = [&](const CudaItem& item) { return item.size > 0 && takes(item); };
  if (std::none_of(items, items + count, is_taken)) return nullptr;
  ProgramBatch<Kernels> batch(shape, code, step, stream);
  for (int64_t i = 0; i < count; ++i) {
    if (!is_taken(items[i])) continue;
    if (const char* error = batch.add(items[i], its(i))) return error;
  }
  return batch.flush();
}

// One stage of a program; its(i) as above, with packed items behind the others.
template <class T, class Code, class Its>
const char* run_stage(const StageShape& shape, const Code& code, const CudaStep& step, Its its,
                      void* stream) {
  const auto run = [&](auto kernels, auto takes) {
    return run_kind<decltype(kernels)>(shape, code, step, step.items, step.count, takes, its,
                                       stream);
  };
  // Whether some array is stored otherwise than it is computed in.
  const auto is_mixed = [](const CudaItem& item) {
    return static_cast<Way>(item.way) != Way::float32;
  };
  if constexpr (sizeof(T) == 8) {
    return run(PlainKernels<T, ArrayOf<T>>(), [](const CudaItem&) { return true; });
  } else {
    const char* error =
        run(PlainKernels<T, ArrayOf<T>>(), [=](const CudaItem& item) { return !is_mixed(item); });
    if (error == nullptr) error = run(PlainKernels<T, MixedArray>(), is_mixed);
    if (error != nullptr) return error;
    return run_kind<PackedProgramKernels>(
        shape, code, step, step.packed, step.packed_count, [](const CudaItem&) { return true; },
        [&](int64_t i) { return its(step.count + i); }, stream);
  }
}

FASTOPT_TARGET_END
