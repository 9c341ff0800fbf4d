// Launches one stage of a program over the items of a step: a pass that leaves sums, or the step.
#pragma once

#include <algorithm>

#include "cuda/launch.h"
#include "cuda/pass.h"
#include "cuda/program.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// As many places as 48 KB of shared memory have room for, a packet of 16 bytes each; and all that a
// program may have, an element each.
constexpr int few_places = 11, all_places = max_program_arrays + max_registers;
template <class T>
constexpr int packet = 16 / sizeof(T);
template <class T>
constexpr int narrow = block_threads * 4 / static_cast<int>(sizeof(T));

template <class T, class Array>
using Few = ProgramKernel<T, Array, packet<T>, block_threads, few_places>;
template <class T, class Array>
using Many = ProgramKernel<T, Array, 1, narrow<T>, all_places>;
template <class T, class Array>
using Sums = PassKernel<T, Array, narrow<T>>;
static_assert(sizeof(typename Few<double, ArrayOf<double>>::Shared) <= 48 << 10);
static_assert(sizeof(typename Many<double, ArrayOf<double>>::Shared) <= 48 << 10);
static_assert(sizeof(typename Sums<float, ArrayOf<float>>::Shared) <= 48 << 10);
static_assert(sizeof(typename Sums<double, ArrayOf<double>>::Shared) <= 48 << 10);

inline int64_t sum_chunks_of(int64_t size) { return (size + sum_chunk - 1) / sum_chunk; }

// A table of everything but code and items.
template <class T>
ProgramTable<T> table_of(const CudaStep& step, int length, int arrays, int summands) {
  ProgramTable<T> table;
  table.grad_factor = step.grad_factor;
  table.ema_decay = step.ema_decay;
  table.found_inf = step.found_inf;
  table.length = length;
  table.arrays = arrays;
  table.summands = summands;
  table.written = table.squares = 0;
  table.due = 0;
  return table;
}

// Makes places of the operands of its code; how many there are.
template <class T>
int place_operands(ProgramTable<T>& table) {
  int places = table.arrays + table.summands;
  const int registers = places;
  for (int n = 0; n < table.length; ++n) {
    Instruction<T>& it = table.code[n];
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
inline void put_code(const BoundProgram& program, int n, ProgramTable<float>& table) {
  table.code[n] = static_cast<const Instruction<float>*>(program.code)[n];
}
inline void put_code(const BoundProgram& program, int n, ProgramTable<double>& table) {
  table.code[n] = static_cast<const Instruction<double>*>(program.code)[n];
}
template <class T>
void put_code(const CudaStage& stage, int n, ProgramTable<T>& table) {
  const ProgramStep& it = stage.steps[n];
  table.code[n] = {it.op, it.to, it.a, it.b, it.c, 0, 0};
  table.numbers[n][0] = static_cast<int16_t>(it.s);
  table.numbers[n][1] = static_cast<int16_t>(it.t);
}

// Whether some array is stored otherwise than it is computed in.
inline bool is_mixed(const CudaItem& item) {
  const Way way = static_cast<Way>(item.way);
  return way != Way::float32 && way != Way::float64;
}

// What one launch after another takes of the items that are stored in what is computed in, or of
// those that are not.
template <class T, class Array>
class ProgramBatch {
 public:
  ProgramBatch(ProgramTable<T>& table, int places, bool is_pass, void* stream)
      : table_(table), places_(places), is_pass_(is_pass), stream_(stream) {
    table.count = 0;
  }

  const char* add(const CudaProgramItem& item, bool alone) {
    CudaProgramItem& entry = table_.items[table_.count++];
    entry = item;
    entry.first_chunk = static_cast<uint32_t>(blocks_);
    blocks_ += is_pass_
                   ? (sum_chunks_of(item.size) + Sums<T, Array>::warps - 1) / Sums<T, Array>::warps
                   : chunks_of(item);
    return alone || table_.count == ProgramTable<T>::capacity ? flush() : nullptr;
  }

  const char* flush() {
    if (table_.count == 0) return nullptr;
    const char* error = is_pass_                ? launch<Sums<T, Array>>(table_, blocks_, stream_)
                        : places_ <= few_places ? launch<Few<T, Array>>(table_, blocks_, stream_)
                                                : launch<Many<T, Array>>(table_, blocks_, stream_);
    table_.count = 0;
    blocks_ = 0;
    return error;
  }

 private:
  ProgramTable<T>& table_;
  const int places_;
  const bool is_pass_;
  void* const stream_;
  int64_t blocks_ = 0;
};

template <class T, class Array, class Its>
const char* run_items(ProgramTable<T>& table, int places, bool is_pass, bool mixed,
                      const CudaStep& step, Its its, void* stream) {
  ProgramBatch<T, Array> batch(table, places, is_pass, stream);
  for (int64_t i = 0; i < step.count; ++i) {
    if (step.items[i].size == 0 || is_mixed(step.items[i]) != mixed) continue;
    if (const char* error = batch.add(its(i), step.one_by_one)) return error;
  }
  return batch.flush();
}

// One stage of a program; its(i) is item i with its numbers.
template <class T, class Code, class Its>
const char* run_stage(ProgramTable<T>& table, const Code& code, const CudaStep& step, Its its,
                      void* stream) {
  for (int n = 0; n < table.length; ++n) {
    table.numbers[n][0] = table.numbers[n][1] = -1;
    put_code(code, n, table);
  }
  const int places = place_operands(table);
  const bool is_pass = table.summands > 0;
  if constexpr (sizeof(T) == 8) {
    return run_items<T, ArrayOf<T>>(table, places, is_pass, false, step, its, stream);
  } else {
    const char* error = run_items<T, ArrayOf<T>>(table, places, is_pass, false, step, its, stream);
    if (error != nullptr) return error;
    return run_items<T, MixedArray>(table, places, is_pass, true, step, its, stream);
  }
}

FASTOPT_TARGET_END
