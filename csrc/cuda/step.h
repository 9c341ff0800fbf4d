// The one CUDA kernel of the update rules: a block takes a chunk of one parameter.
//
// All parameters of a launch are cut into chunks that are counted through, so that a launch is one
// row of blocks however many parameters there are. A block's first thread looks up where its chunk
// lies and computes the rule's scalars there, in double as on the CPU: so the number of the step,
// the rate and the gradient's factor may lie on the device, and nothing waits for them. Then each
// thread takes packets of 16 bytes of each array where all are aligned alike, and single elements
// before, behind, and where they are not.
#pragma once

#include <new>
#include <type_traits>

#include "cuda/arrays.h"
#include "cuda/launch.h"
#include "cuda/table.h"
#include "rules/update.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// Elements of a chunk: a multiple of every packet.
template <class Array>
constexpr int chunk_of = chunk_bytes / Array::most_bytes;

template <class Rule, class T, class Array, unsigned used>
struct StepKernel {
  using Args = StepTable;
  using V = Vec<T>;
  using Bound = Update<Rule, T, used>;

  // As many blocks as no kernel keeps a number in memory for.
  static constexpr bool is_wide = holds_halves<Array> && __builtin_popcount(used) > 2;
  static constexpr int resident = Array::most_bytes == 8 || is_wide ? 2
                                  : holds_mixes<Array>              ? 3
                                  : holds_halves<Array>             ? 4 - fewer_blocks
                                                                    : 4;
  static constexpr bool rounds = used != 0 && holds_halves<Array>;
  using Table = std::conditional_t<rounds, DrawTable, NoDraws>;  // of draws

  struct Shared {
    Table draws;
    alignas(Bound) unsigned char bound[sizeof(Bound)];
    Chunk chunk;
    int head, in_packets;  // elements: those before the packets, and those in them
    double dither_step;
  };

  static FASTOPT_DEVICE void run(const StepTable& table, Shared& shared, const Block& block) {
    block.each([&](int thread) {
      if (thread == 0) bind(table, static_cast<uint32_t>(block.index), shared);
    });
    if constexpr (rounds) {
      block.each([&](int thread) { shared.draws.make(shared.dither_step, thread); });
    }
    block.each([&](int thread) {
      const Worker worker(table.items[shared.chunk.item], shared);
      const int head = shared.head, behind = head + shared.in_packets, end = shared.chunk.size;
      worker.template elements<packet, 1>(head, behind, thread);
      for (int edge = 0; edge < 2; ++edge) {
        worker.template elements<1, packet>(edge == 0 ? 0 : behind, edge == 0 ? head : end, thread);
      }
    });
  }

 private:
  static constexpr int packet = Array::packet;

  static FASTOPT_DEVICE void bind(const StepTable& table, uint32_t index, Shared& shared) {
    const Chunk chunk = chunk_at(table.items, table.count, index, table.chunk);
    const CudaItem& item = table.items[chunk.item];
    shared.chunk = chunk;
    shared.dither_step = read(item.dither_step);
    if (table.found_inf != nullptr && *table.found_inf != 0) shared.chunk.size = 0;
    shared.head = head_of<Array, packet>(item, shared.chunk.size);
    // A packet's draws lie side by side where it begins at a multiple of its size.
    if (rounds && (item.first + shared.head) % packet != 0) shared.head = shared.chunk.size;
    shared.in_packets = (shared.chunk.size - shared.head) / packet * packet;
    new (shared.bound) Bound(rule_of<Rule>(table, item), read(table.grad_factor), table.ema_decay);
  }

  // What a thread keeps at hand.
  struct Worker {
    const Bound bound;
    const Array param, grad, ema;
    const Array states[max_states];
    const bool averages;
    const Table& draws;
    const HalfDitherPlaces places;  // of the chunk's elements in the whole parameter

    FASTOPT_DEVICE Worker(const CudaItem& item, const Shared& shared)
        : bound(*reinterpret_cast<const Bound*>(shared.bound)),
          param(item, 0, shared.chunk.begin),
          grad(item, 1, shared.chunk.begin),
          ema(item, ema_array, shared.chunk.begin),
          states{{item, 2, shared.chunk.begin},
                 {item, 3, shared.chunk.begin},
                 {item, 4, shared.chunk.begin},
                 {item, 5, shared.chunk.begin},
                 {item, 6, shared.chunk.begin}},
          averages(item.arrays[ema_array] != nullptr),
          draws(shared.draws),
          places(item.first + shared.chunk.begin) {}

    // This thread's part of [begin, end), which is a number of whole packets.
    template <int size, int packets>
    FASTOPT_DEVICE void elements(int begin, int end, int thread) const {
      constexpr int stride = block_threads * size * packets;
      for (int i = begin + thread * size; i < end; i += stride) {
        update(Packets<size, packets>{i, end});
      }
    }

   private:
    template <class Access>
    FASTOPT_DEVICE void update(Access access) const {
      typename Array::template Bits<Access> param_bits, grad_bits, state_bits[max_states];
      typename Array::template Bits<Access> ema_bits{};  // 0 where there is none: see cuda/eight.h
      param.load(access, param_bits);
      grad.load(access, grad_bits);
      for_states<used>([&](auto i) { states[i.index].load(access, state_bits[i.index]); });
      if (averages) ema.load(access, ema_bits);
      constexpr int at_once = Array::template at_once<Access>;
#ifdef __CUDACC__
#pragma unroll
#endif
      for (int k = 0; k < Access::lanes; k += at_once) {
        V p[at_once], g[at_once], s[max_states][at_once], a[at_once];
        param.template get<at_once>(param_bits, k, p);
        grad.template get<at_once>(grad_bits, k, g);
        for_states<used>([&](auto i) {
          states[i.index].template get<at_once>(state_bits[i.index], k, s[i.index]);
        });
        for (int n = 0; n < at_once; ++n) step(p[n], g[n], s, n);
        for_states<used>([&](auto i) {
          states[i.index].template put<at_once>(s[i.index], k, state_bits[i.index], access,
                                                DrawsOf<Table>(draws, places, i.index));
        });
        param.template put<at_once>(p, k, param_bits, access);
        if (!averages) continue;
        ema.template get<at_once>(ema_bits, k, a);
        for (int n = 0; n < at_once; ++n) a[n] = bound.averaged(a[n], p[n]);
        ema.template put<at_once>(a, k, ema_bits, access);
      }
      for_states<used>([&](auto i) { states[i.index].store(access, state_bits[i.index]); });
      param.store(access, param_bits);
      if (averages) ema.store(access, ema_bits);
    }

    // Element n of those at hand.
    template <class States>
    FASTOPT_DEVICE void step(V& p, V g, States& s, int n) const {
      V of_one[max_states];
      for_states<used>([&](auto i) { of_one[i.index] = s[i.index][n]; });
      bound.step(p, g, of_one);
      for_states<used>([&](auto i) { s[i.index][n] = of_one[i.index]; });
    }
  };
};

template <class Rule, class T, class Array>
struct StepKernels {
  using Table = StepTable;
  static constexpr int chunk = chunk_of<Array>, longer = 1;
  template <unsigned used>
  using Of = StepKernel<Rule, T, Array, used>;
};

FASTOPT_TARGET_END
