// The CUDA kernel that interprets a program (rules/program.h): a block takes a chunk of one
// parameter, as in step.h, and a thread packets of it.
//
// What a thread works on lies in columns of shared memory, a place for each array and register of
// the program: they are asked for by number, and registers of the GPU cannot be. No thread looks at
// another one's column. A program of many places is interpreted an element at a time, so that its
// columns find room.
#pragma once

#include <stdint.h>

#include "cuda/arrays.h"
#include "cuda/launch.h"
#include "cuda/table.h"
#include "rules/program.h"
#include "rules/program_results.h"
#include "simd/scalar.h"
#include "target.h"

namespace fastopt {

// One parameter of a program.
template <class Item>
struct ProgramItemOf : Item {
  const double* numbers;  // where the device computes them; else nullptr
  double* partials;       // of a pass for a sum: of each summand, by chunks
};

// Operands of its instructions are places in a column: arrays first, then summands and registers.
template <class T, class OfItem = CudaItem>
struct ProgramTable {
  using Item = ProgramItemOf<OfItem>;
  static constexpr int capacity =
      (parameter_bytes -
       max_instructions * static_cast<int>(sizeof(Instruction<T>) + 2 * sizeof(int16_t)) - 96) /
      static_cast<int>(sizeof(Item));
  Instruction<T> code[max_instructions];
  int16_t numbers[max_instructions][2];  // where an item's are among its own; -1 for none
  CudaNumber grad_factor;
  double ema_decay;
  const float* found_inf;
  int length, arrays, summands;
  int due;  // which of an item's own numbers says whether the program is its
  unsigned written, squares;
  int count;
  Item items[capacity];
};
using PackedProgramTable = ProgramTable<float, CudaPackedItem>;
static_assert(sizeof(ProgramTable<float>) <= parameter_bytes &&
              sizeof(ProgramTable<double>) <= parameter_bytes &&
              sizeof(PackedProgramTable) <= parameter_bytes);

constexpr int max_program_arrays = first_summand - 1;  // all but the average

}  // namespace fastopt

FASTOPT_TARGET_BEGIN

template <class T>
using ProgramNumbers = T[max_instructions][2];  // each instruction's, rounded

template <class Table>
FASTOPT_DEVICE bool is_due(const Table& table, int item) {
  const double* const own = table.items[item].numbers;
  return own == nullptr || own[table.due] != 0;
}

// A thread's part of them.
template <class T, class Item>
FASTOPT_DEVICE void read_numbers(const ProgramTable<T, Item>& table, int item, int thread,
                                 ProgramNumbers<T>& to) {
  const double* const own = table.items[item].numbers;
  for (int n = thread; n < table.length; n += block_threads) {
    const auto number = [&](T value, int at) {
      return own == nullptr || at < 0 ? value : static_cast<T>(own[at]);
    };
    to[n][0] = number(table.code[n].s, table.numbers[n][0]);
    to[n][1] = number(table.code[n].t, table.numbers[n][1]);
  }
}

// Elements that a thread works on, in a column of places that lie `stride` elements apart.
template <class T, int width, int stride>
class Column {
 public:
  using V = Vec<T>;
  FASTOPT_DEVICE explicit Column(T* first) : first_(first) {}

  FASTOPT_DEVICE void get(int place, V* to) const { get(at(place), to); }
  FASTOPT_DEVICE void put(const V* from, int place) const { put(from, at(place)); }

  FASTOPT_DEVICE void execute(const Instruction<T>* code, int length,
                              const ProgramNumbers<T>& numbers) const {
    for (int n = 0; n < length; ++n) {
      const Instruction<T>& it = code[n];
      T* const to = at(it.to);
      const T *const a = at(it.a), *const b = at(it.b), *const c = at(it.c);
      const V s(numbers[n][0]), t(numbers[n][1]), zero(T(0)), one(T(1));
#define FASTOPT_CASE(name, result)                                                                 \
  case Op::name:                                                                                   \
    each(to, a, b, c, [=]([[maybe_unused]] V x, [[maybe_unused]] V y, [[maybe_unused]] V z) -> V { \
      return result;                                                                               \
    });                                                                                            \
    break;
      switch (it.op) { FASTOPT_PROGRAM_RESULTS(FASTOPT_CASE) }
#undef FASTOPT_CASE
    }
  }

 private:
  FASTOPT_DEVICE T* at(int place) const { return first_ + place * stride; }

  template <class Of>
  static FASTOPT_DEVICE void each(T* to, const T* a, const T* b, const T* c, Of of) {
    V x[width], y[width], z[width], result[width];
    get(a, x);
    get(b, y);
    get(c, z);
    for (int k = 0; k < width; ++k) result[k] = of(x[k], y[k], z[k]);
    put(result, to);
  }

  static FASTOPT_DEVICE void get(const T* from, V* to) {
    alignas(width * sizeof(T)) T numbers[width];
    __builtin_memcpy(numbers, aligned<width * sizeof(T)>(from), sizeof numbers);
    for (int k = 0; k < width; ++k) to[k] = numbers[k];
  }
  static FASTOPT_DEVICE void put(const V* from, T* to) {
    alignas(width * sizeof(T)) T numbers[width];
    for (int k = 0; k < width; ++k) numbers[k] = from[k].value;
    __builtin_memcpy(aligned<width * sizeof(T)>(to), numbers, sizeof numbers);
  }

  T* const first_;
};

// All arrays but the average into a column. All loads are on their way before the first place is
// written.
template <class T, class Array, int width, class Access, class Its>
FASTOPT_DEVICE void load_arrays(const CudaItem& item, int64_t begin, int arrays, T factor,
                                Access access, const Its& column) {
  Vec<T> loaded[max_program_arrays][width];
#ifdef __CUDACC__
#pragma unroll
#endif
  for (int k = 0; k < max_program_arrays; ++k) {
    if (k < arrays) Array(item, k, begin).load(access, loaded[k]);
  }
#ifdef __CUDACC__
#pragma unroll
#endif
  for (int k = 0; k < max_program_arrays; ++k) {
    if (k >= arrays) continue;
    if (k == 1) {
      for (Vec<T>& v : loaded[k]) v = Vec<T>(factor) * v;
    }
    column.put(loaded[k], k);
  }
}

// `width` elements at a time; columns of as many places.
template <class T, class Array, int width, int columns, int places>
struct ProgramKernel {
  using Args = ProgramTable<T>;
  using V = Vec<T>;
  static_assert(width == 1 || columns == block_threads, "as Packets are laid out");

  struct Shared {
    Chunk chunk;
    int head, in_packets;  // elements: those before the packets, and those in them
    double dither_step;
    T factor, decay, growth;
    ProgramNumbers<T> numbers;
    alignas(16) T place[places][columns][width];
  };

  static FASTOPT_DEVICE void run(const Args& table, Shared& shared, const Block& block) {
    block.each([&](int thread) {
      if (thread == 0) bind(table, static_cast<uint32_t>(block.index), shared);
    });
    block.each([&](int thread) { read_numbers(table, shared.chunk.item, thread, shared.numbers); });
    block.each([&](int thread) {
      if (thread < columns) Worker(table, shared, thread).run();
    });
  }

 private:
  static FASTOPT_DEVICE void bind(const Args& table, uint32_t index, Shared& shared) {
    shared.chunk = chunk_at(table.items, table.count, index, chunk_size);
    const CudaItem& item = table.items[shared.chunk.item];
    shared.dither_step = read(item.dither_step);
    shared.factor = static_cast<T>(read(table.grad_factor));
    shared.decay = static_cast<T>(table.ema_decay);
    shared.growth = static_cast<T>(1 - table.ema_decay);
    const bool skips = table.found_inf != nullptr && *table.found_inf != 0;
    if (skips || !is_due(table, shared.chunk.item)) shared.chunk.size = 0;
    shared.head = head_of<Array, width>(item, shared.chunk.size);
    shared.in_packets = (shared.chunk.size - shared.head) / width * width;
  }

  // A thread's way through its chunk.
  class Worker {
   public:
    FASTOPT_DEVICE Worker(const Args& table, Shared& shared, int thread)
        : table_(table),
          shared_(shared),
          item_(table.items[shared.chunk.item]),
          thread_(thread),
          averages_(item_.arrays[ema_array] != nullptr),
          column_(shared.place[0][thread]) {}

    // The packets, then single elements before and behind them.
    FASTOPT_DEVICE void run() {
      const int head = shared_.head, behind = head + shared_.in_packets, end = shared_.chunk.size;
      for (int part = 0; part < 3; ++part) {
        const int from = part == 0 ? head : part == 1 ? 0 : behind;
        const int to = part == 0 ? behind : part == 1 ? head : end;
        for (int i = from + thread_ * (part == 0 ? width : 1); i < to; i += columns * width) {
          V average[width];
          if (part == 0) {
            load(Packets<width, 1>{i, to}, average);
          } else {
            load(Packets<1, width>{i, to}, average);
          }
          column_.execute(table_.code, table_.length, shared_.numbers);
          if (averages_) average_with(average);
          if (part == 0) {
            store(Packets<width, 1>{i, to}, average);
          } else {
            store(Packets<1, width>{i, to}, average);
          }
        }
      }
    }

   private:
    FASTOPT_DEVICE Array array(int number) const { return {item_, number, shared_.chunk.begin}; }

    template <class Access>
    FASTOPT_DEVICE void load(Access access, V* average) const {
      if (averages_) array(ema_array).load(access, average);
      load_arrays<T, Array, width>(item_, shared_.chunk.begin, table_.arrays, shared_.factor,
                                   access, column_);
    }

    template <class Access>
    FASTOPT_DEVICE void store(Access access, const V* average) const {
      for (int k = 0; k < table_.arrays; ++k) {
        if ((table_.written >> k & 1) == 0) continue;
        V v[width];
        column_.get(k, v);
        if (k == 0) {
          array(k).store(access, v);
        } else {
          const HalfDraws draws{shared_.dither_step, item_.first + shared_.chunk.begin, k - 2};
          array(k).store(access, v, draws);
        }
      }
      if (averages_) array(ema_array).store(access, average);
    }

    FASTOPT_DEVICE void average_with(V* average) const {
      V param[width];
      column_.get(0, param);
      for (int k = 0; k < width; ++k) {
        average[k] = V(shared_.decay) * average[k] + V(shared_.growth) * param[k];
      }
    }

    const Args& table_;
    Shared& shared_;
    const CudaItem& item_;
    const int thread_;
    const bool averages_;
    const Column<T, width, columns * width> column_;
  };
};

FASTOPT_TARGET_END
