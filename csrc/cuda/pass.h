// The CUDA kernels of programs whose numbers the device computes: those numbers, and, where they
// come of sums over a tensor (cpu/summed.h has the CPU's way), a pass that sums up chunk by chunk.
#pragma once

#include <stdint.h>

#include "cuda/launch.h"
#include "cuda/program.h"
#include "rules/number_results.h"
#include "target.h"

namespace fastopt {

// What an item's numbers are after some stages: the same for all items but for what is given of
// each, its size and its sums. One more says whether the guards hold.
struct ProgramNumbersTable {
  struct Node {
    NumberOp op;
    uint16_t a, b;
  };
  struct Guard {
    uint16_t number;
    bool answer;
  };
  struct Entry {
    double* numbers;
    int64_t size;
    CudaNumber given[max_program_given];
  };
  double initial[max_program_numbers];
  Node nodes[max_program_nodes];
  Guard guards[max_program_guards];
  const double* sums[max_program_stages];  // of each stage that is done: of every item
  int summands[max_program_stages];
  int given_at[max_program_given];
  int stages, number_count, size_at, first_node, node_count, guard_count, given_count;
  int count;
  int64_t first;  // of the items
  static constexpr int capacity = (parameter_bytes - 8 * max_program_numbers -
                                   8 * max_program_nodes - 4 * max_program_guards - 200) /
                                  static_cast<int>(sizeof(Entry));
  Entry entries[capacity];
};
static_assert(sizeof(ProgramNumbersTable) <= parameter_bytes);

}  // namespace fastopt

FASTOPT_TARGET_BEGIN

// An item a thread.
struct ProgramNumbersKernel {
  using Args = ProgramNumbersTable;
  struct Shared {};

  static FASTOPT_DEVICE void run(const Args& table, Shared&, const Block& block) {
    block.each([&](int thread) {
      const int64_t i = block.index * block_threads + thread;
      if (i < table.count) compute(table, static_cast<int>(i));
    });
  }

 private:
  static FASTOPT_DEVICE void compute(const Args& table, int entry) {
    const Args::Entry& own = table.entries[entry];
    double* const numbers = own.numbers;
    for (int n = 0; n < table.number_count; ++n) numbers[n] = table.initial[n];
    for (int k = 0; k < table.given_count; ++k) numbers[table.given_at[k]] = read(own.given[k]);
    if (table.size_at >= 0) put_sums(table, entry);
    for (int n = 0; n < table.node_count; ++n) {
      const Args::Node& node = table.nodes[n];
      numbers[table.first_node + n] = result_of(node.op, numbers[node.a], numbers[node.b]);
    }
    bool hold = true;
    for (int n = 0; n < table.guard_count; ++n) {
      hold = hold && (numbers[table.guards[n].number] != 0) == table.guards[n].answer;
    }
    numbers[table.number_count] = hold ? 1 : 0;
  }

  static FASTOPT_DEVICE void put_sums(const Args& table, int entry) {
    double* const numbers = table.entries[entry].numbers;
    int at = table.size_at;
    numbers[at++] = static_cast<double>(table.entries[entry].size);
    for (int stage = 0; stage < table.stages; ++stage) {
      const int summands = table.summands[stage];
      const double* const sums = table.sums[stage] + summands * (table.first + entry);
      for (int k = 0; k < summands; ++k) numbers[at++] = sums[k];
    }
  }
};

template <class T, class Array, class Its>
FASTOPT_DEVICE void load_element(const CudaItem& item, int64_t begin, int i, int arrays, T factor,
                                 const Its& column) {
  load_arrays<T, Array, 1>(item, begin, arrays, factor, Packets<1, 1>{i, i + 1}, column);
}

// A warp takes a chunk, and a thread one of the 32 lanes of its sums, as in tail.h. The chunks of a
// block are one item's.
template <class T, class Array, int columns, class Item = CudaItem>
struct PassKernel {
  using Args = ProgramTable<T, Item>;
  using V = Vec<T>;
  static constexpr int lanes = 32, warps = columns / lanes;
  static constexpr int places = max_program_arrays + max_summands + max_registers;

  struct Shared {
    int item;
    bool is_due;
    int64_t first, chunks;  // the first chunk, and how many the item has
    T factor;
    ProgramNumbers<T> numbers;
    double lane[max_summands][columns];
    T place[places][columns];
  };

  static FASTOPT_DEVICE void run(const Args& table, Shared& shared, const Block& block) {
    block.each([&](int thread) {
      if (thread != 0) return;
      shared.item = entry_at(table.items, table.count, block.index);
      const auto& item = table.items[shared.item];
      shared.first = (block.index - item.first_chunk) * warps;
      shared.chunks = (item.size + sum_chunk - 1) / sum_chunk;
      shared.is_due = is_due(table, shared.item);
      shared.factor = static_cast<T>(read(table.grad_factor));
    });
    block.each([&](int thread) { read_numbers(table, shared.item, thread, shared.numbers); });
    block.each([&](int thread) {
      if (thread < columns) measure(table, shared, thread);
    });
    for (int half = lanes / 2; half > 0; half /= 2) {
      block.each([&](int thread) {
        if (thread >= columns || thread % lanes >= half) return;
        for (int k = 0; k < table.summands; ++k) {
          double* const lane = &shared.lane[k][thread];
          lane[0] = lane[0] + lane[half];
        }
      });
    }
    block.each([&](int thread) {
      const int64_t chunk = shared.first + thread / lanes;
      if (thread >= columns || thread % lanes != 0 || chunk >= shared.chunks) return;
      for (int k = 0; k < table.summands; ++k) {
        table.items[shared.item].partials[k * shared.chunks + chunk] = shared.lane[k][thread];
      }
    });
  }

 private:
  static FASTOPT_DEVICE void measure(const Args& table, Shared& shared, int thread) {
    const Item& item = table.items[shared.item];
    const int64_t chunk = shared.first + thread / lanes, begin = chunk * sum_chunk;
    const int64_t rest = shared.is_due && chunk < shared.chunks ? item.size - begin : 0;
    const int count = static_cast<int>(rest < sum_chunk ? rest : sum_chunk);
    const Column<T, 1, columns> column(&shared.place[0][thread]);
    double sums[max_summands] = {};
    for (int i = thread % lanes; i < count; i += lanes) {
      load_element<T, Array>(item, begin, i, table.arrays, shared.factor, column);
      column.execute(table.code, table.length, shared.numbers);
#ifdef __CUDACC__
#pragma unroll
#endif
      for (int k = 0; k < max_summands; ++k) {
        if (k >= table.summands) continue;
        V v;
        column.get(table.arrays + k, &v);
        const double x = v.value;
        sums[k] = sums[k] + ((table.squares >> k & 1) != 0 ? x * x : x);
      }
    }
    for (int k = 0; k < max_summands; ++k) shared.lane[k][thread] = sums[k];
  }
};

FASTOPT_TARGET_END
