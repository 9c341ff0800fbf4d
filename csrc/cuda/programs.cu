// Launches the steps of programs, and the passes before them where numbers come of sums.
#include <algorithm>
#include <vector>

#include "cuda/launchers.h"
#include "cuda/pass.h"
#include "cuda/program.h"

namespace fastopt {
namespace FASTOPT_TARGET {
namespace {

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

int64_t sum_chunks_of(int64_t size) { return (size + sum_chunk - 1) / sum_chunk; }

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
void put_code(const BoundProgram& program, int n, ProgramTable<float>& table) {
  table.code[n] = static_cast<const Instruction<float>*>(program.code)[n];
}
void put_code(const BoundProgram& program, int n, ProgramTable<double>& table) {
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
bool is_mixed(const CudaItem& item) {
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

template <class T>
const char* run(const BoundProgram& program, const CudaStep& step, void* stream) {
  auto table = table_of<T>(step, program.length, program.arrays, 0);
  table.written = program.written;
  const auto its = [&](int64_t i) { return CudaProgramItem{step.items[i], nullptr, nullptr}; };
  return run_stage(table, program, step, its, stream);
}

// A program with sums on its way through the stages, and where its scratch lies: offsets of
// doubles.
class SummedRun {
 public:
  SummedRun(const CudaSummed& program, const CudaStep& step)
      : program_(program), step_(step), numbers_(take(step.count * program.number_count)) {
    for (int k = 0; k + 1 < program.stage_count; ++k) {
      sums_[k] = take(step.count * program.stages[k].summands);
      most_ = std::max(most_, program.stages[k].summands);
    }
    const int64_t before = size_;
    for (int64_t i = 0; i < step.count; ++i) {
      partials_.push_back(take(most_ * sum_chunks_of(step.items[i].size)));
    }
    const int64_t level = (size_ - before) / sum_chunk + most_ * step.count;
    for (int64_t& its : levels_) its = take(level);
  }

  int64_t size() const { return size_; }

  template <class T>
  const char* run(double* scratch, void* stream) {
    scratch_ = scratch;
    stream_ = stream;
    for (int k = 0; k < program_.stage_count; ++k) {
      const CudaStage& stage = program_.stages[k];
      if (const char* error = find_numbers(k)) return error;
      auto table = table_of<T>(step_, stage.length, program_.arrays, stage.summands);
      table.squares = stage.squares;
      table.written = stage.summands == 0 ? program_.written : 0;
      const auto its = [this](int64_t i) {
        return CudaProgramItem{step_.items[i], numbers_of(i), scratch_ + partials_[i]};
      };
      if (const char* error = run_stage(table, stage, step_, its, stream_)) return error;
      if (stage.summands == 0) return nullptr;
      if (const char* error = add_up(k)) return error;
    }
    return nullptr;
  }

 private:
  int64_t take(int64_t count) {
    size_ += count;
    return size_ - count;
  }

  double* numbers_of(int64_t item) const {
    return scratch_ + numbers_ + item * program_.number_count;
  }

  // What the items' numbers are after the first `done` stages.
  const char* find_numbers(int done) {
    NumbersTable table;
    std::copy_n(program_.numbers, program_.number_count, table.initial);
    table.node_count = program_.stages[done].nodes;
    for (int n = 0; n < table.node_count; ++n) {
      const NumberNode& it = program_.nodes[n];
      table.nodes[n] = {it.op, static_cast<uint16_t>(it.a), static_cast<uint16_t>(it.b)};
    }
    for (int k = 0; k < done; ++k) {
      table.sums[k] = scratch_ + sums_[k];
      table.summands[k] = program_.stages[k].summands;
    }
    table.stages = done;
    table.number_count = program_.number_count;
    table.size_at = program_.size_at;
    table.first_node = program_.first_node;
    for (int64_t i = 0; i < step_.count; i += table.count) {
      table.first = i;
      table.count = static_cast<int>(std::min<int64_t>(step_.count - i, NumbersTable::capacity));
      for (int k = 0; k < table.count; ++k) {
        table.entries[k] = {numbers_of(i + k), step_.items[i + k].size};
      }
      const int64_t blocks = (table.count + block_threads - 1) / block_threads;
      if (const char* error = launch<ProgramNumbersKernel>(table, blocks, stream_)) return error;
    }
    return nullptr;
  }

  // The sums of a stage: those of its chunks by the tree of the norm, level by level.
  const char* add_up(int stage) {
    const int summands = program_.stages[stage].summands;
    std::vector<Values> arrays;
    int64_t longest = 1;
    for (int64_t i = 0; i < step_.count; ++i) {
      const int64_t chunks = sum_chunks_of(step_.items[i].size);
      for (int k = 0; k < summands; ++k) {
        arrays.push_back({scratch_ + partials_[i] + k * chunks, chunks, DType::float64});
      }
      longest = std::max(longest, chunks);
    }
    for (int level = 0;; level = 1 - level) {
      longest = sum_chunks_of(longest);
      double* at = scratch_ + (longest == 1 ? sums_[stage] : levels_[level]);
      const char* error =
          sum_chunks(arrays.data(), static_cast<int64_t>(arrays.size()), false, at, stream_);
      if (error != nullptr || longest == 1) return error;
      for (Values& values : arrays) {
        values.data = at;
        values.size = sum_chunks_of(values.size);
        at += values.size;
      }
    }
  }

  const CudaSummed& program_;
  const CudaStep& step_;
  double* scratch_ = nullptr;
  void* stream_ = nullptr;
  int64_t size_ = 0;
  const int64_t numbers_;
  int64_t sums_[max_program_stages] = {}, levels_[2] = {};
  std::vector<int64_t> partials_;  // of each item
  int most_ = 0;                   // summands
};

}  // namespace

const char* run_program(const BoundProgram& program, DType compute, const CudaStep& step,
                        const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  return compute == DType::float64 ? run<double>(program, step, place.stream)
                                   : run<float>(program, step, place.stream);
}

int64_t summed_scratch(const CudaSummed& program, const CudaStep& step) {
  const bool fits = program.number_count <= max_program_numbers &&
                    program.stages[program.stage_count - 1].nodes <= max_program_nodes &&
                    program.stage_count <= max_program_stages;
  return fits ? SummedRun(program, step).size() : -1;
}

const char* run_summed(const CudaSummed& program, DType compute, const CudaStep& step,
                       double* scratch, const CudaPlace& place) {
  const OnDevice device(place.device);
  if (device.error() != nullptr) return device.error();
  SummedRun run(program, step);
  return compute == DType::float64 ? run.run<double>(scratch, place.stream)
                                   : run.run<float>(scratch, place.stream);
}

}  // namespace FASTOPT_TARGET
}  // namespace fastopt
