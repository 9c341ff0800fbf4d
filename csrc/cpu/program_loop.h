// The loop that interprets a program (rules/program.h): an instruction works on a strip of every
// array, which stays in the first-level cache, so that the switch between instructions is paid once
// a strip.
//
// Arrays of the type that is computed in are worked on where they lie; of others, a strip is
// converted on its way in and out, and so is the strip at the end, which may be there in part only.
//
// Where all are bfloat16, the instructions themselves widen what they read: the even elements are
// one half of a strip, and the odd ones the other (simd/pair.h), which no instruction sees. What an
// array is to hold is rounded and stored beside the next roots or quotients (bench/NOTES.md, 22g).
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

// Half a strip of an operand and the other half, which as stored in bfloat16 are the even and the
// odd elements of the same words. Which it is, is no branch: floats are shifted by no bit, and keep
// all of them.
struct Halves {
  const char *first, *second;
  Words32 shift, mask;
  FASTOPT_HOST_DEVICE Halves(const void* data, bool stored, int half)
      : first(static_cast<const char*>(data)),
        second(stored ? first : first + sizeof(float) * half),
        shift(stored ? 16u : 0u),
        mask(stored ? 0xffff0000u : 0xffffffffu) {}
  FASTOPT_HOST_DEVICE Vec<float> load_first(int k) const {
    return float_of(shifted_left(Words32::load(first + sizeof(float) * k), shift));
  }
  FASTOPT_HOST_DEVICE Vec<float> load_second(int k) const {
    return float_of(Words32::load(second + sizeof(float) * k) & mask);
  }
};

template <class T, Way way>
class ProgramLoop {
 public:
  // Elements of a strip: as many chunks as there are, up to `longest`, or half of that where roots
  // and quotients are waited for, beside which the next strip is begun (bench/NOTES.md, 22h).
  static constexpr int chunk = 64, longest = 1024 / sizeof(T);

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
        pairs_(way == Way::bfloat16 && program_.summands == 0),
        longest_(program_.waits && way != Way::bfloat16 ? longest / 2 : longest) {
    for (int k = 0; k < max_registers; ++k) set_place(first_register + k, registers_[k]);
    for (int k = 0; k < program_.summands; ++k) {
      set_place(first_summand + k, static_cast<T*>(item.pass->summands[k]));
    }
    if (!pairs_) return;
    for (int k = 0; k < max_arrays; ++k) last_[k] = nullptr;
    for (int k = 0; k < program_.length; ++k) {
      if (code_[k].to < max_arrays) last_[code_[k].to] = code_ + k;
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
  static constexpr int places = first_register + max_registers;
  static constexpr int64_t ahead = 1024;  // bytes

  FASTOPT_HOST_DEVICE void run(Draws draws, int64_t begin, int64_t end) {
    draws_ = draws;
    whole_ = true;
    for (at_ = begin; end - at_ >= chunk; at_ += strip_) {
      const int64_t rest = (end - at_) / chunk * chunk;
      strip_ = rest < longest_ ? static_cast<int>(rest) : longest_;
      for_arrays([&](int array) { enter(array); });
      step();
      if constexpr (way == Way::mixed) for_arrays([&](int array) { leave(array); });
    }
    strip_ = chunk;
    if (const int rest = static_cast<int>(end - at_); rest > 0) {
      whole_ = false;
      for_arrays([&](int array) { enter_first(array, rest); });
      step();
      for_arrays([&](int array) { leave_first(array, rest); });
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

  FASTOPT_HOST_DEVICE void set_place(int place, T* data) {
    places_[place] = data;
    if constexpr (way == Way::bfloat16) set_source(place, data, false);
  }
  FASTOPT_HOST_DEVICE void set_source(int place, const void* data, bool stored) {
    sources_[place] = data;
    stored_[place] = stored;
  }

  // A strip, with the gradient's factor before the program and the average after it.
  FASTOPT_HOST_DEVICE void step() {
    if (factor_ != 1) {
      const V factor(factor_);
      each(grad_, 1, 1, 1, [&](V grad, V, V) { return factor * grad; });
      set_place(1, grad_);
    }
    execute();
    for (int k = 0; k < program_.summands; ++k) {
      set_place(first_summand + k, places_[first_summand + k] + strip_);
    }
    if (averages_) {
      const V decay(decay_), growth(growth_);
      each(places_[ema_array], ema_array, 0, 0,
           [&](V average, V param, V) { return decay * average + growth * param; });
      if (pairs_ && whole_) leave(ema_array);
    }
  }

  // Of operands in the places a, b, c.
  template <class Of>
  FASTOPT_HOST_DEVICE void each(T* to, int a, int b, int c, Of of) {
    if constexpr (way == Way::bfloat16) {
      const int half = strip_ / 2;
      const Halves x(sources_[a], stored_[a], half), y(sources_[b], stored_[b], half),
          z(sources_[c], stored_[c], half);
      for (int from = 0; from < half; from += chunk / 2) {
#pragma GCC unroll 4
        for (int n = 0; n < chunk / 2; n += V::lanes) {
          const int k = from + n;
          of(x.load_first(k), y.load_first(k), z.load_first(k)).store(to + k);
          of(x.load_second(k), y.load_second(k), z.load_second(k)).store(to + half + k);
        }
      }
    } else {
      const T *const x = places_[a], *const y = places_[b], *const z = places_[c];
      for (int from = 0; from < strip_; from += chunk) {
#pragma GCC unroll 8
        for (int n = 0; n < chunk; n += V::lanes) {
          const int k = from + n;
          of(V::load(x + k), V::load(y + k), V::load(z + k)).store(to + k);
        }
      }
    }
  }

  FASTOPT_HOST_DEVICE void execute() {
    const Instruction<T>* const end = code_ + program_.length;
    unsigned due = 0;
    for (const Instruction<T>* it = code_; it != end; ++it) {
      T* const to = places_[it->to];
      const V s(it->s), t(it->t), zero(0), one(1);
#define FASTOPT_CASE(name, result)                                                    \
  case Op::name:                                                                      \
    each(to, it->a, it->b, it->c,                                                     \
         [&]([[maybe_unused]] V x, [[maybe_unused]] V y, [[maybe_unused]] V z) -> V { \
           return result;                                                             \
         });                                                                          \
    break;
      switch (it->op) { FASTOPT_PROGRAM_RESULTS(FASTOPT_CASE) }
#undef FASTOPT_CASE
      if constexpr (way == Way::bfloat16) {
        if (it->to < max_arrays) {
          set_source(it->to, to, false);
          if (pairs_ && whole_ && it == last_[it->to]) due |= 1u << it->to;
        }
        if (due != 0 && waits(it->op)) leave_due(due);
      }
    }
    if constexpr (way == Way::bfloat16) leave_due(due);
  }

  // What is stored after a root or a quotient is, is rounded beside it.
  FASTOPT_HOST_DEVICE void leave_due(unsigned& due) {
    for (; due != 0; due &= due - 1) leave(__builtin_ctz(due));
  }

  // act(data) with an array's memory from the strip on, by what it is stored in.
  template <class Act>
  FASTOPT_HOST_DEVICE void stored(int array, Act act) const {
    void* const data = arrays_[array];
    if constexpr (way == Way::bfloat16) {
      act(static_cast<bfloat16*>(data) + at_);
    } else {
      if constexpr (way == Way::mixed) {
        if (dtypes_[array] == DType::bfloat16) return act(static_cast<bfloat16*>(data) + at_);
        if (dtypes_[array] == DType::float16) return act(static_cast<float16*>(data) + at_);
      }
      act(static_cast<T*>(data) + at_);
    }
  }

  // The array's strip, where the program finds it.
  FASTOPT_HOST_DEVICE void enter(int array) {
    stored(array, [&](auto* data) {
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
    if (pairs_) {
      places_[array] = buffers_[array];
      set_source(array, data, true);
    } else {
      place_widened(array, data);
    }
  }

  template <class Half>
  FASTOPT_HOST_DEVICE void place_widened(int array, const Half* data) {
    T* const to = buffers_[array];
    set_place(array, to);
    if constexpr (std::is_same_v<Half, bfloat16>) {
      if (pairs_) {
        for (int k = 0; k < strip_ / 2; k += V::lanes) {
          const Pair both = Pair::load(data + 2 * k);
          both.even.store(to + k);
          both.odd.store(to + strip_ / 2 + k);
        }
        return;
      }
    }
    for (int k = 0; k < strip_; k += V::lanes) V::load(data + k).store(to + k);
  }

  // Stores a strip that was converted.
  FASTOPT_HOST_DEVICE void leave(int array) {
    if (!is_written(array)) return;
    stored(array, [&](auto* data) {
      if (places_[array] == buffers_[array]) convert(array, strip_, data);
    });
  }

  // Stores a whole strip, of which `count` elements count; states in 16 bits by their draws.
  template <class Stored>
  FASTOPT_HOST_DEVICE void convert(int array, int count, Stored* data) {
    if (std::is_same_v<Stored, T> || array < 2 || array == ema_array) {
      return narrow<Stored>(places_[array], [=](auto x, int k) { x.store(data + k); });
    }
    if constexpr (!std::is_same_v<Stored, T>) {
      const uint16_t* draws = draws_[array - 2] + at_;
      uint16_t copied[chunk];
      if (count < strip_) {
        __builtin_memset(copied, 0, sizeof copied);
        __builtin_memcpy(copied, draws, count * sizeof *copied);
        draws = copied;
      }
      narrow<Stored>(places_[array], [=](auto x, int k) {
        Drawn<Stored> drawn{data + k, draws + k};
        x.store(&drawn);
      });
    }
  }

  // store(x, k) for the vectors of a strip that goes to Stored's from element k on.
  template <class Stored, class Store>
  FASTOPT_HOST_DEVICE void narrow(const T* from, Store store) const {
    if constexpr (std::is_same_v<Stored, bfloat16>) {
      if (pairs_) {
        const T* const odd = from + strip_ / 2;
        for (int k = 0; k < strip_ / 2; k += V::lanes) {
          store(Pair(V::load(from + k), V::load(odd + k)), 2 * k);
        }
        return;
      }
    }
    for (int k = 0; k < strip_; k += V::lanes) store(V::load(from + k), k);
  }

  // The same with the first `count` elements of a chunk, which is 0 behind them.
  FASTOPT_HOST_DEVICE void enter_first(int array, int count) {
    stored(array, [&](auto* data) {
      alignas(64) auto part = Chunk<decltype(*data)>();
      __builtin_memcpy(part.data, data, count * sizeof *data);
      place_widened(array, part.data);
    });
  }
  FASTOPT_HOST_DEVICE void leave_first(int array, int count) {
    if (!is_written(array)) return;
    stored(array, [&](auto* data) {
      alignas(64) Chunk<decltype(*data)> part;
      convert(array, count, part.data);
      __builtin_memcpy(data, part.data, count * sizeof *data);
    });
  }

  template <class Stored>
  struct Chunk;
  template <class Stored>
  struct Chunk<Stored&> {
    Stored data[chunk];
  };

  const BoundProgram& program_;
  const Instruction<T>* const code_;
  void* const* const arrays_;
  const DType* const dtypes_;
  const T factor_, decay_, growth_;
  const bool averages_;
  const bool pairs_;  // sums go in order
  const int longest_;

  // The strip that is worked on: its first element, how many there are, and their draws.
  int64_t at_ = 0;
  int strip_ = longest;
  Draws draws_ = nullptr;
  bool whole_ = true;

  T* places_[places];  // what an instruction writes to, and reads where that is not in sources_
  const void* sources_[places];
  bool stored_[places];  // as bfloat16

  const Instruction<T>* last_[max_arrays];  // that writes to an array

  alignas(64) T registers_[max_registers][longest];
  alignas(64) T buffers_[max_arrays][longest];  // of arrays that are converted
  alignas(64) T grad_[longest];                 // times its factor
};

template <class T, Way way>
void run_program(const Item& item, int64_t begin, int64_t end) {
  ProgramLoop<T, way>(item).run(item.rounding, begin, end);
}

FASTOPT_TARGET_END
