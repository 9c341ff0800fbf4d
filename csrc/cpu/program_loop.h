// The loop that interprets a program (rules/program.h): an instruction works on a strip of every
// array, which stays in the first-level cache, so that the switch between instructions is paid once
// a strip.
//
// Arrays of the type that is computed in are worked on where they lie; of others, a strip is
// converted on its way in and out, and so is the strip at the end, which may be there in part only.
#pragma once

#include <stdint.h>

#include "cpu/kernel.h"
#include "cpu/rounding.h"
#include "rules/program.h"
#include "rules/program_results.h"
#include "simd/vec.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

static_assert(first_summand == max_arrays, "the arrays are the first places");

template <class T>
class ProgramLoop {
 public:
  static constexpr int strip = 64;  // elements

  // `summands`: of element `begin` and those behind it, each with room for whole strips.
  FASTOPT_HOST_DEVICE ProgramLoop(const BoundRule& bound, void* const* arrays, const DType* dtypes,
                                  void* const* summands = nullptr)
      : program_(*reinterpret_cast<const BoundProgram*>(bound.rule)),
        code_(static_cast<const Instruction<T>*>(program_.code)),
        arrays_(arrays),
        dtypes_(dtypes),
        factor_(static_cast<T>(bound.tail.grad_factor)),
        decay_(static_cast<T>(bound.tail.ema_decay)),
        growth_(static_cast<T>(1 - bound.tail.ema_decay)),
        averages_(arrays[ema_array] != nullptr) {
    for (int k = 0; k < max_registers; ++k) places_[first_register + k] = registers_[k];
    for (int k = 0; k < program_.summands; ++k) {
      places_[first_summand + k] = static_cast<T*>(summands[k]);
    }
    for (int array = 0; array < program_.arrays; ++array) converts_ |= dtypes[array] != own;
    if (averages_) converts_ |= dtypes[ema_array] != own;
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
  static constexpr DType own = sizeof(T) == 4 ? DType::float32 : DType::float64;
  static constexpr int64_t ahead = 1024;  // bytes, as in cpu/loop.h

  FASTOPT_HOST_DEVICE void run(Draws draws, int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + strip <= end; i += strip) {
      for_arrays([&](int array) { enter(array, i); });
      step();
      if (converts_) for_arrays([&](int array) { leave(array, draws, i); });
    }
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
    for (int k = 0; k < program_.summands; ++k) places_[first_summand + k] += strip;
    if (averages_) {
      const V decay(decay_), growth(growth_);
      T* const average = places_[ema_array];
      const T* param = places_[0];
      each(average,
           [=](int k) { return decay * V::load(average + k) + growth * V::load(param + k); });
    }
  }

  template <class Of>
  FASTOPT_HOST_DEVICE static void each(T* to, Of of) {
#pragma GCC unroll 4
    for (int k = 0; k < strip; k += V::lanes) of(k).store(to + k);
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
    const DType dtype = dtypes_[array];
    void* const data = arrays_[array];
    if (dtype == own) return act(static_cast<T*>(data) + i);
    if constexpr (own == DType::float32) {
      if (dtype == DType::bfloat16) return act(static_cast<bfloat16*>(data) + i);
      act(static_cast<float16*>(data) + i);
    }
  }

  // The array's strip that begins at element i, where the program finds it.
  FASTOPT_HOST_DEVICE void enter(int array, int64_t i) {
    stored(array, i, [&](auto* data) {
      constexpr int bytes = strip * sizeof *data;
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
    each(buffers_[array], [=](int k) { return V::load(data + k); });
  }

  // Stores a strip that was converted.
  FASTOPT_HOST_DEVICE void leave(int array, Draws draws, int64_t i) {
    if (!is_written(array)) return;
    stored(array, i, [&](auto* data) {
      if (places_[array] == buffers_[array]) convert(array, draws, i, strip, data);
    });
  }

  // Stores a whole strip, of which `count` elements count; states in 16 bits by their draws.
  FASTOPT_HOST_DEVICE void convert(int array, Draws, int64_t, int, T* data) {
    for (int k = 0; k < strip; k += V::lanes) V::load(places_[array] + k).store(data + k);
  }
  template <class Half>
  FASTOPT_HOST_DEVICE void convert(int array, Draws draws, int64_t i, int count, Half* data) {
    const T* const from = places_[array];
    if (array < 2 || array == ema_array) {
      for (int k = 0; k < strip; k += V::lanes) V::load(from + k).store(data + k);
      return;
    }
    uint16_t own_draws[strip] = {};
    __builtin_memcpy(own_draws, draws[array - 2] + i, count * sizeof *own_draws);
    for (int k = 0; k < strip; k += V::lanes) {
      Drawn<Half> to{data + k, own_draws + k};
      V::load(from + k).store(&to);
    }
  }

  // The same with the first `count` elements of a strip, which is 0 behind them.
  FASTOPT_HOST_DEVICE void enter_first(int array, int64_t i, int count) {
    stored(array, i, [&](auto* data) {
      alignas(64) auto whole = Whole<decltype(*data)>();
      __builtin_memcpy(whole.data, data, count * sizeof *data);
      places_[array] = buffers_[array];
      each(buffers_[array], [&](int k) { return V::load(whole.data + k); });
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
    Stored data[strip];
  };

  const BoundProgram& program_;
  const Instruction<T>* const code_;
  void* const* const arrays_;
  const DType* const dtypes_;
  const T factor_, decay_, growth_;
  const bool averages_;
  bool converts_ = false;  // some array
  T* places_[first_register + max_registers];
  alignas(64) T registers_[max_registers][strip];
  alignas(64) T buffers_[max_arrays][strip];  // of arrays that are converted
  alignas(64) T grad_[strip];                 // times its factor
};

template <class T>
void run_program(const BoundRule& bound, void* const* arrays, const DType* dtypes,
                 const Rounding& rounding, int64_t begin, int64_t end) {
  ProgramLoop<T>(bound, arrays, dtypes).run(rounding, begin, end);
}

// The pass before a sum, which writes to no array.
template <class T>
void run_pass(const BoundRule& bound, void* const* arrays, const DType* dtypes, int64_t begin,
              int64_t end, void* const* summands) {
  ProgramLoop<T>(bound, arrays, dtypes, summands).run(Rounding{}, begin, end);
}

FASTOPT_TARGET_END
