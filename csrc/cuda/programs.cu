// Launches the steps of programs.
#include "cuda/launchers.h"
#include "cuda/program.h"

namespace fastopt {
namespace FASTOPT_TARGET {
namespace {

// As many places as 48 KB of shared memory have room for, a packet of 16 bytes each; and all that a
// program may have, an element each.
constexpr int few_places = 11, all_places = max_program_arrays + max_registers;
template <class T>
constexpr int packet = 16 / sizeof(T);

template <class T, class Array>
using Few = ProgramKernel<T, Array, packet<T>, block_threads, few_places>;
template <class T, class Array>
using Many =
    ProgramKernel<T, Array, 1, block_threads * 4 / static_cast<int>(sizeof(T)), all_places>;
static_assert(sizeof(typename Few<float, ArrayOf<float>>::Shared) <= 48 << 10);
static_assert(sizeof(typename Many<double, ArrayOf<double>>::Shared) <= 48 << 10);

// Where an operand lies in a column: registers come right behind the arrays.
uint8_t place_of(int operand, int arrays) {
  return static_cast<uint8_t>(operand < first_register ? operand
                                                       : arrays + operand - first_register);
}

// The code with its operands as places; how many there are.
template <class T>
int put_code(const BoundProgram& program, ProgramTable<T>& table) {
  const auto* code = static_cast<const Instruction<T>*>(program.code);
  int places = program.arrays;
  for (int n = 0; n < program.length; ++n) {
    Instruction<T>& it = table.code[n] = code[n];
    for (uint8_t* operand : {&it.to, &it.a, &it.b, &it.c}) {
      *operand = place_of(*operand, program.arrays);
      if (*operand >= places) places = *operand + 1;
    }
  }
  return places;
}

bool is_mixed(const CudaItem& item, DType compute) {
  for (int array = 0; array < max_arrays; ++array) {
    if (item.arrays[array] != nullptr && item.dtypes[array] != static_cast<int>(compute)) {
      return true;
    }
  }
  return false;
}

template <class T, class Array>
const char* launch_program(const ProgramTable<T>& table, int places, int64_t blocks, void* stream) {
  return places <= few_places ? launch<Few<T, Array>>(table, blocks, stream)
                              : launch<Many<T, Array>>(table, blocks, stream);
}

// The items that are stored in what is computed in, or those that are not.
template <class T, class Array>
const char* run_items(ProgramTable<T>& table, int places, DType compute, bool mixed,
                      const CudaStep& step, void* stream) {
  int64_t chunks = 0;
  table.count = 0;
  const auto flush = [&]() -> const char* {
    if (table.count == 0) return nullptr;
    const char* error = launch_program<T, Array>(table, places, chunks, stream);
    table.count = 0;
    chunks = 0;
    return error;
  };
  for (int64_t i = 0; i < step.count; ++i) {
    const CudaItem& item = step.items[i];
    if (item.size == 0 || is_mixed(item, compute) != mixed) continue;
    CudaItem& entry = table.items[table.count++];
    entry = item;
    entry.first_chunk = static_cast<uint32_t>(chunks);
    chunks += chunks_of(item);
    if (table.count < ProgramTable<T>::capacity && !step.one_by_one) continue;
    if (const char* error = flush()) return error;
  }
  return flush();
}

template <class T>
ProgramTable<T> table_of(const BoundProgram& program, const CudaStep& step, int& places) {
  ProgramTable<T> table;
  places = put_code(program, table);
  table.grad_factor = step.grad_factor;
  table.ema_decay = step.ema_decay;
  table.found_inf = step.found_inf;
  table.length = program.length;
  table.arrays = program.arrays;
  table.written = program.written;
  return table;
}

}  // namespace

const char* run_program(const BoundProgram& program, DType compute, const CudaStep& step,
                        const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  int places;
  if (compute == DType::float64) {
    auto table = table_of<double>(program, step, places);
    return run_items<double, ArrayOf<double>>(table, places, compute, false, step, place.stream);
  }
  auto table = table_of<float>(program, step, places);
  const char* error =
      run_items<float, ArrayOf<float>>(table, places, compute, false, step, place.stream);
  if (error != nullptr) return error;
  return run_items<float, MixedArray>(table, places, compute, true, step, place.stream);
}

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
