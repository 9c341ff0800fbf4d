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

#include "cuda/arrays.h"
#include "cuda/launch.h"
#include "cuda/table.h"
#include "rules/update.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

template <class Rule, class T, class Array, unsigned used>
struct StepKernel {
  using Args = StepTable;
  using V = Vec<T>;
  using Bound = Update<Rule, T, used>;

  struct Shared {
    alignas(Bound) unsigned char bound[sizeof(Bound)];
    Chunk chunk;
    int head, in_packets;  // elements: those before the packets, and those in them
    double dither_step;
  };

  static FASTOPT_DEVICE void run(const StepTable& table, Shared& shared, const Block& block) {
    block.each([&](int thread) {
      if (thread == 0) bind(table, static_cast<uint32_t>(block.index), shared);
    });
    block.each([&](int thread) {
      const Worker worker(table.items[shared.chunk.item], shared);
      const int head = shared.head, behind = head + shared.in_packets, end = shared.chunk.size;
      worker.template elements<packet, depth>(head, behind, thread);
      for (int edge = 0; edge < 2; ++edge) {
        worker.template elements<1, packet * depth>(edge == 0 ? 0 : behind, edge == 0 ? head : end,
                                                    thread);
      }
    });
  }

 private:
  static constexpr int packet = Array::packet;

  // With two arrays, a packet of each is too little to have on its way to a thread.
  static constexpr int depth = used == 0 ? 2 : 1;

  static FASTOPT_DEVICE void bind(const StepTable& table, uint32_t index, Shared& shared) {
    const Chunk chunk = chunk_at(table.items, table.count, index);
    const CudaItem& item = table.items[chunk.item];
    shared.chunk = chunk;
    shared.dither_step = read(item.dither_step);
    if (table.found_inf != nullptr && *table.found_inf != 0) shared.chunk.size = 0;
    shared.head = head_of<Array, packet>(item, shared.chunk.size);
    shared.in_packets = (shared.chunk.size - shared.head) / packet * packet;
    new (shared.bound) Bound(rule_of<Rule>(table, item), read(table.grad_factor), table.ema_decay);
  }

  // What a thread keeps at hand.
  struct Worker {
    const Bound bound;
    const Array param, grad, ema;
    const Array states[max_states];
    const bool averages;
    const double dither_step;
    const int64_t first;  // of the chunk's elements in the whole parameter

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
          dither_step(shared.dither_step),
          first(item.first + shared.chunk.begin) {}

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
      constexpr int lanes = Access::lanes;
      V p[lanes], g[lanes], s[max_states][lanes];
      param.load(access, p);
      grad.load(access, g);
      for_states<used>([&](auto i) { states[i.index].load(access, s[i.index]); });
      for (int k = 0; k < lanes; ++k) {
        V of_lane[max_states];
        for_states<used>([&](auto i) { of_lane[i.index] = s[i.index][k]; });
        bound.step(p[k], g[k], of_lane);
        for_states<used>([&](auto i) { s[i.index][k] = of_lane[i.index]; });
      }
      for_states<used>([&](auto i) {
        states[i.index].store(access, s[i.index], HalfDraws{dither_step, first, i.index});
      });
      if (averages) average(access, p);
      param.store(access, p);
    }

    template <class Access>
    FASTOPT_DEVICE void average(Access access, const V* p) const {
      V a[Access::lanes];
      ema.load(access, a);
      for (int k = 0; k < Access::lanes; ++k) a[k] = bound.averaged(a[k], p[k]);
      ema.store(access, a);
    }
  };
};

template <class Rule, class T, class Array>
struct StepKernels {
  using Table = StepTable;
  template <unsigned used>
  using Of = StepKernel<Rule, T, Array, used>;
};

FASTOPT_TARGET_END
