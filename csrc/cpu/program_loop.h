// The loop that interprets a program (rules/program.h): an instruction works on a strip of every
// array, which stays in the first-level cache, so that the switch between instructions is paid once
// a strip.
//
// Arrays of the type that is computed in are worked on where they lie; of others, a strip is
// converted on its way in and out, and so is the strip at the end, which may be there in part only.
// Where all are bfloat16, a strip lies there with the even elements of two vectors before the odd
// ones (simd/pair.h), which no instruction sees.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "cpu/kernel.h"
#include "cpu/rounding.h"
#include "rules/program.h"
#include "rules/program_results.h"
#include "simd/pair.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

static_assert(first_summand == max_arrays, "the arrays are the first places");

template <class T, Way way>
class ProgramLoop {
 public:
  static constexpr int longest = 128, shortest = 64;  // elements of a strip

  // There is room for whole strips of each summand.
  FASTOPT_HOST_DEVICE explicit ProgramLoop(const Item& item)
      : program_(*reinterpret_cast<const BoundProgram*>(item.rule->rule)),
        code_(static_cast<const Instruction<T>*>(program_.code)),
        arrays_(item.arrays),
        dtypes_(item.dtypes),
        factor_(static_cast<T>(item.rule->tail.grad_factor)),
        decay_(static_cast<T>(item.rule->tail.ema_decay)),
        growth_(static_cast<T>(1 - item.rule->tail.ema_decay)),
        averages_(item.arrays[ema_array] != nullptr),
        pairs_(way == Way::bfloat16 && program_.summands == 0) {
    for (int k = 0; k < max_registers; ++k) places_[first_register + k] = registers_[k];
    for (int k = 0; k < program_.summands; ++k) {
      places_[first_summand + k] = static_cast<T*>(item.pass->summands[k]);
    }
  }

  FASTOPT_HOST_DEVICE void run(const Rounding& rounding, int64_t begin, int64_t end) {
    while (begin < end) {
      const Stretch stretch(rounding, begin, end);
      run(stretch.draws, begin, stretch.end);
      begin = stretch.end;
    }
  }

 private:
  using V = Vec<T>;
  using Draws = const uint16_t* const*;  // of each state
  static constexpr bool converts = way == Way::bfloat16 || way == Way::mixed;
  static constexpr int64_t ahead = 1024;  // bytes, as in cpu/loop.h

  FASTOPT_HOST_DEVICE void run(Draws draws, int64_t begin, int64_t end) {
    int64_t i = begin;
    for (strip_ = longest; strip_ >= shortest; strip_ /= 2) {
      for (; i + strip_ <= end; i += strip_) {
        for_arrays([&](int array) { enter(array, i); });
        step();
        if constexpr (converts) for_arrays([&](int array) { leave(array, draws, i); });
      }
    }
    strip_ = shortest;
    if (const int rest = static_cast<int>(end - i); rest > 0) {
      for_arrays([&](int array) { enter_first(array, i, rest); });
      step();
      for_arrays([&](int array) { leave_first(array, draws, i, rest); });
    }
  }

  template <class Act>
  FASTOPT_HOST_DEVICE void for_arrays(Act act) const {
    for (int array = 0; array < program_.arrays; ++array) act(array);
    if (averages_) act(ema_array);
  }

  FASTOPT_HOST_DEVICE bool is_written(int array) const {
    return array == ema_array || (program_.written >> array & 1) != 0;
  }

  // A strip, with the gradient's factor before the program and the average after it.
  FASTOPT_HOST_DEVICE void step() {
    if (factor_ != 1) {
      const V factor(factor_);
      const T* grad = places_[1];
      places_[1] = grad_;
      each(grad_, [=](int k) { return factor * V::load(grad + k); });
    }
    execute();
    for (int k = 0; k < program_.summands; ++k) places_[first_summand + k] += strip_;
    if (averages_) {
      const V decay(decay_), growth(growth_);
      T* const average = places_[ema_array];
      const T* param = places_[0];
      each(average,
           [=](int k) { return decay * V::load(average + k) + growth * V::load(param + k); });
    }
  }

  template <class Of>
  FASTOPT_HOST_DEVICE void each(T* to, Of of) const {
    const int end = strip_;
#pragma GCC unroll 4
    for (int k = 0; k < end; k += V::lanes) of(k).store(to + k);
  }

  FASTOPT_HOST_DEVICE void execute() const {
    const Instruction<T>* const end = code_ + program_.length;
    for (const Instruction<T>* it = code_; it != end; ++it) {
      T* const to = places_[it->to];
      const T *const a = places_[it->a], *const b = places_[it->b], *const c = places_[it->c];
      const V s(it->s), t(it->t), zero(0), one(1);
#define FASTOPT_CASE(name, result)                                                         \
  case Op::name:                                                                           \
    each(to, [=](int k) -> V {                                                             \
      [[maybe_unused]] const V x = V::load(a + k), y = V::load(b + k), z = V::load(c + k); \
      return result;                                                                       \
    });                                                                                    \
    break;
      switch (it->op) { FASTOPT_PROGRAM_RESULTS(FASTOPT_CASE) }
#undef FASTOPT_CASE
    }
  }

  // act(data) with an array's memory from element i on, by what it is stored in.
  template <class Act>
  FASTOPT_HOST_DEVICE void stored(int array, int64_t i, Act act) const {
    void* const data = arrays_[array];
    if constexpr (way == Way::bfloat16) {
      act(static_cast<bfloat16*>(data) + i);
    } else {
      if constexpr (way == Way::mixed) {
        if (dtypes_[array] == DType::bfloat16) return act(static_cast<bfloat16*>(data) + i);
        if (dtypes_[array] == DType::float16) return act(static_cast<float16*>(data) + i);
      }
      act(static_cast<T*>(data) + i);
    }
  }

  // The array's strip that begins at element i, where the program finds it.
  FASTOPT_HOST_DEVICE void enter(int array, int64_t i) {
    stored(array, i, [&](auto* data) {
      const int bytes = strip_ * static_cast<int>(sizeof *data);
      for (int byte = 0; byte < bytes; byte += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(data) + byte + ahead);
      }
      place(array, data);
    });
  }
  FASTOPT_HOST_DEVICE void place(int array, T* data) { places_[array] = data; }
  template <class Half>
  FASTOPT_HOST_DEVICE void place(int array, const Half* data) {
    places_[array] = buffers_[array];
    widen(data, buffers_[array]);
  }

  template <class Half>
  FASTOPT_HOST_DEVICE void widen(const Half* from, T* to) const {
    if constexpr (std::is_same_v<Half, bfloat16>) {
      if (pairs_) {
        for (int k = 0; k < strip_; k += Pair::lanes) {
          const Pair both = Pair::load(from + k);
          both.even.store(to + k);
          both.odd.store(to + k + V::lanes);
        }
        return;
      }
    }
    each(to, [=](int k) { return V::load(from + k); });
  }

  // store(x, k) for the vectors of a strip that goes to Half's from element k on.
  template <class Half, class Store>
  FASTOPT_HOST_DEVICE void narrow(const T* from, Store store) const {
    if constexpr (std::is_same_v<Half, bfloat16>) {
      if (pairs_) {
        for (int k = 0; k < strip_; k += Pair::lanes) {
          store(Pair(V::load(from + k), V::load(from + k + V::lanes)), k);
        }
        return;
      }
    }
    for (int k = 0; k < strip_; k += V::lanes) store(V::load(from + k), k);
  }

  // Stores a strip that was converted.
  FASTOPT_HOST_DEVICE void leave(int array, Draws draws, int64_t i) {
    if (!is_written(array)) return;
    stored(array, i, [&](auto* data) {
      if (places_[array] == buffers_[array]) convert(array, draws, i, strip_, data);
    });
  }

  // Stores a whole strip, of which `count` elements count; states in 16 bits by their draws.
  template <class Stored>
  FASTOPT_HOST_DEVICE void convert(int array, Draws draws, int64_t i, int count, Stored* data) {
    const T* const from = places_[array];
    if (std::is_same_v<Stored, T> || array < 2 || array == ema_array) {
      return narrow<Stored>(from, [=](auto x, int k) { x.store(data + k); });
    }
    if constexpr (!std::is_same_v<Stored, T>) {
      const uint16_t* own_draws = draws[array - 2] + i;
      uint16_t copied[shortest];
      if (count < strip_) {
        __builtin_memset(copied, 0, sizeof copied);
        __builtin_memcpy(copied, own_draws, count * sizeof *copied);
        own_draws = copied;
      }
      narrow<Stored>(from, [=](auto x, int k) {
        Drawn<Stored> drawn{data + k, own_draws + k};
        x.store(&drawn);
      });
    }
  }

  // The same with the first `count` elements of a strip, which is 0 behind them.
  FASTOPT_HOST_DEVICE void enter_first(int array, int64_t i, int count) {
    stored(array, i, [&](auto* data) {
      alignas(64) auto whole = Whole<decltype(*data)>();
      __builtin_memcpy(whole.data, data, count * sizeof *data);
      places_[array] = buffers_[array];
      widen(whole.data, buffers_[array]);
    });
  }
  FASTOPT_HOST_DEVICE void leave_first(int array, Draws draws, int64_t i, int count) {
    if (!is_written(array)) return;
    stored(array, i, [&](auto* data) {
      alignas(64) Whole<decltype(*data)> whole;
      convert(array, draws, i, count, whole.data);
      __builtin_memcpy(data, whole.data, count * sizeof *data);
    });
  }

  template <class Stored>
  struct Whole;
  template <class Stored>
  struct Whole<Stored&> {
    Stored data[shortest];
  };

  const BoundProgram& program_;
  const Instruction<T>* const code_;
  void* const* const arrays_;
  const DType* const dtypes_;
  const T factor_, decay_, growth_;
  const bool averages_;
  const bool pairs_;  // sums go in order
  int strip_ = longest;
  T* places_[first_register + max_registers];
  alignas(64) T registers_[max_registers][longest];
  alignas(64) T buffers_[max_arrays][longest];  // of arrays that are converted
  alignas(64) T grad_[longest];                 // times its factor
};

template <class T, Way way>
void run_program(const Item& item, int64_t begin, int64_t end) {
  ProgramLoop<T, way>(item).run(item.rounding, begin, end);
}

FASTOPT_TARGET_END
