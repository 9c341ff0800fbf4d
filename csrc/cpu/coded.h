// The loop for float32 parameters whose states are all stored in 8 bits: one pass over memory.
//
// A piece of elements is decoded into a buffer in the first-level cache, and the rule's loop works
// on that. A block's scale is known only when all of it has been updated, so its codes are stored
// while the next block is worked on, piece by piece in turns: the dividers, which roots and
// divisions keep busy, and the rest of the processor then work at the same time. The root that
// root8 stores is the one that the rule divides by, so the compiler takes it once.
#pragma once

#include <stdint.h>

#include "cpu/blocks.h"
#include "cpu/kernel.h"
#include "cpu/loop.h"
#include "numeric/code8.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// A buffer of decoded numbers, in which squares are left as their roots.
struct RootArray : ArrayOf<float> {
  using ArrayOf<float>::ArrayOf;
};
template <>
constexpr bool holds_roots<RootArray> = true;

// For pieces of any length; not inlined, so that all rules share them.
template <Coding coding>
__attribute__((noinline)) void decode_any(const uint8_t* from, float scale, float* to, int count) {
  decode<coding>(from, scale, to, count);
}
template <Coding coding>
__attribute__((noinline)) void encode_any(const float* x, float inverse, const uint32_t* dither,
                                          uint8_t* to, int count) {
  encode<coding>(x, inverse, dither, to, count);
}
template <Coding coding>
__attribute__((noinline)) BlockScale measure_any(float* x, int count) {
  return measure<coding>(x, count);
}

template <class Rule, unsigned used, bool averages>
class CodedLoop {
 public:
  FASTOPT_HOST_DEVICE explicit CodedLoop(const Item& item) : item_(item) {}

  FASTOPT_HOST_DEVICE void run(int64_t begin, int64_t end) {
    int pending = 0;  // elements of the block before, whose codes are not stored yet
    for (int64_t i = begin; i < end;) {
      const int length = block_length(item_, i, end);
      for_states([&](auto state) {
        now_[state.index].block = block_at(item_, state.index, i);
        now_[state.index].numbers = numbers_[buffer_][state.index];
      });
      if (length == block_size && pending == block_size) {
        update_and_store(i);
      } else {
        store_codes(pending);
        update_alone(i, length);
      }
      for_states([&](auto state) {
        Coded& now = now_[state.index];
        const BlockScale scale = measure_any<state.coding>(now.numbers, length);
        *now.block.scale = scale.scale;
        now.inverse = scale.inverse;
        before_[state.index] = now;
      });
      buffer_ ^= 1;
      pending = length;
      i += length;
    }
    store_codes(pending);
  }

 private:
  static constexpr int piece = 64;
  static constexpr int64_t ahead = 2048;  // elements, one byte each

  // A block of a state: its codes, and its numbers decoded and updated.
  struct Coded {
    Block block;
    float* numbers;
    float inverse;  // of the new scale
  };

  template <int i>
  struct State {
    static constexpr int index = i;
    static constexpr Coding coding =
        (Rule::squares >> i & 1) != 0 ? Coding::root8 : Coding::signed8;
  };
  template <class Act>
  FASTOPT_HOST_DEVICE static void for_states(Act act) {
    static_assert(max_states == 3);
    if constexpr ((used & 1) != 0) act(State<0>{});
    if constexpr ((used & 2) != 0) act(State<1>{});
    if constexpr ((used & 4) != 0) act(State<2>{});
  }

  // Updates a whole block and stores the codes of a whole one before it, piece by piece in turns.
  FASTOPT_HOST_DEVICE void update_and_store(int64_t i) {
    for (int k = 0; k < block_size; k += piece) {
      for_states([&](auto state) {
        const Coded &now = now_[state.index], &before = before_[state.index];
        __builtin_prefetch(now.block.codes + k + ahead);
        decode<state.coding>(now.block.codes + k, *now.block.scale, now.numbers + k, piece);
        encode<state.coding>(before.numbers + k, before.inverse, before.block.dither + k,
                             before.block.codes + k, piece);
      });
      update(i, k, piece);
    }
  }

  FASTOPT_HOST_DEVICE void update_alone(int64_t i, int length) {
    for_states([&](auto state) {
      const Coded& now = now_[state.index];
      decode_any<state.coding>(now.block.codes, *now.block.scale, now.numbers, length);
    });
    update(i, 0, length);
  }

  FASTOPT_HOST_DEVICE void store_codes(int length) {
    for_states([&](auto state) {
      const Coded& before = before_[state.index];
      encode_any<state.coding>(before.numbers, before.inverse, before.block.dither,
                               before.block.codes, length);
    });
  }

  // Elements from i + k on, the k-th of the block that begins at i.
  FASTOPT_HOST_DEVICE void update(int64_t i, int k, int size) {
    void* at[max_arrays];
    for (int array = 0; array < max_arrays; ++array) {
      at[array] = static_cast<float*>(item_.arrays[array]) + i + k;
    }
    for_states([&](auto state) { at[2 + state.index] = now_[state.index].numbers + k; });
    Loop<Rule, float, ArrayOf<float>, RootArray, used, averages>(*item_.rule, at, item_.dtypes)
        .run(0, size);
  }

  const Item& item_;
  int buffer_ = 0;
  Coded now_[max_states] = {}, before_[max_states] = {};
  alignas(64) float numbers_[2][max_states][block_size];
};

// Rules that keep nothing have nothing to code.
template <class Rule>
struct CodedLoops {
  template <unsigned used, bool averages>
  static void run(const Item& item, int64_t begin, int64_t end) {
    if constexpr (used != 0) CodedLoop<Rule, used, averages>(item).run(begin, end);
  }
};

template <class Rule>
void run_coded(const Item& item, int64_t begin, int64_t end) {
  choose_loop<Rule, CodedLoops<Rule>>(item.arrays, item, begin, end);
}

FASTOPT_TARGET_END
