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

// Decoded numbers in a buffer that moves along with the elements; squares are left as their roots.
struct RootArray {
  using V = Vec<float>;
  float* const* first;  // where element 0 would be
  FASTOPT_HOST_DEVICE RootArray(void* const* arrays, const DType*, int array)
      : first(static_cast<float* const*>(arrays[array])) {}
  template <class Act>
  FASTOPT_HOST_DEVICE auto with(int64_t i, Act act) const {
    return act(*first + i);
  }
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
    void* arrays[max_arrays];
    for (int array = 0; array < max_arrays; ++array) arrays[array] = item_.arrays[array];
    for (int state = 0; state < max_states; ++state) arrays[2 + state] = &first_[state];
    const RuleLoop loop(*item_.rule, arrays, item_.dtypes);
    int pending = 0;  // elements of the block before, whose codes are not stored yet
    for (int64_t i = begin; i < end;) {
      const int length = block_length(item_, i, end);
      for_states([&](auto state) {
        now_[state.index].block = block_at(item_, state.index, i);
        now_[state.index].numbers = numbers_[buffer_][state.index];
        first_[state.index] = numbers_[buffer_][state.index] - i;
      });
      if (length == block_size && pending == block_size) {
        update_and_store(loop, i);
      } else {
        store_codes(pending);
        update_alone(loop, i, length);
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
  using RuleLoop = Loop<Rule, float, ArrayOf<float>, ArrayOf<float>, used, averages, RootArray>;
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
  FASTOPT_HOST_DEVICE void update_and_store(const RuleLoop& loop, int64_t i) {
    for (int k = 0; k < block_size; k += piece) {
      for_states([&](auto state) {
        const Coded &now = now_[state.index], &before = before_[state.index];
        __builtin_prefetch(now.block.codes + k + ahead);
        decode<state.coding>(now.block.codes + k, *now.block.scale, now.numbers + k, piece);
        encode<state.coding>(before.numbers + k, before.inverse, before.block.dither + k,
                             before.block.codes + k, piece);
      });
      loop.run(i + k, i + k + piece);
    }
  }

  FASTOPT_HOST_DEVICE void update_alone(const RuleLoop& loop, int64_t i, int length) {
    for_states([&](auto state) {
      const Coded& now = now_[state.index];
      decode_any<state.coding>(now.block.codes, *now.block.scale, now.numbers, length);
    });
    loop.run(i, i + length);
  }

  FASTOPT_HOST_DEVICE void store_codes(int length) {
    for_states([&](auto state) {
      const Coded& before = before_[state.index];
      encode_any<state.coding>(before.numbers, before.inverse, before.block.dither,
                               before.block.codes, length);
    });
  }

  const Item& item_;
  int buffer_ = 0;
  float* first_[max_states] = {};  // where the numbers of element 0 would be
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
