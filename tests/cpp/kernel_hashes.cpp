// Replays tests/data/kernel_hashes.txt: every rule on every target of this machine, without Python.
//
//     kernel_hashes tests/data/kernel_hashes.txt tests/data/rule_programs.txt
//
// Each line of the file names a rule, a dtype and options, and gives a hash of the bits that
// fastopt.reference computes from inputs that are made here by the same integer arithmetic
// (tests/installed/test_kernel_hashes.py writes and checks the files). Rules that are not compiled
// are run by the interpreter, as the programs that the second file has of them. So one short
// program shows on an emulated Arm, or under a sanitizer, that the kernels give NumPy's bits. Exit
// code 1 on the first difference.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <new>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "inputs.h"
#include "programs.h"
#include "replay.h"
#include "rules/list.h"
#include "simd/vec.h"

namespace {

using fastopt::DType;
using fastopt::dtype_bytes;
using fastopt::Way;
using fastopt::host::Range;
using fastopt_test::computed;
using fastopt_test::hash;
using fastopt_test::hash_start;
using fastopt_test::input_of;
using fastopt_test::Programs;
using fastopt_test::replay;
using fastopt_test::report;
using fastopt_test::stored;

// Sets options from words such as lr=0.001 or amsgrad=1.
class OptionSetter {
 public:
  explicit OptionSetter(const std::string& text) {
    std::istringstream words(text);
    for (std::string word; words >> word;) words_.push_back(word);
  }
  void operator()(const char* name, double& value, Range) { find(name, value); }
  void operator()(const char* name, bool& value) {
    double number = value;
    find(name, number);
    value = number != 0;
  }
  void operator()(const char*, double& first, double& second, Range) {
    find("beta1", first);
    find("beta2", second);
  }

 private:
  void find(const std::string& name, double& value) const {
    for (const std::string& word : words_) {
      if (word.rfind(name + "=", 0) == 0) value = std::stod(word.substr(name.size() + 1));
    }
  }
  std::vector<std::string> words_;
};

struct Case {
  std::string rule, dtype, options;
  int64_t size;
  double step;
  uint64_t expected;
  void read(std::istream& words) {
    words >> rule >> dtype >> size >> step >> std::hex >> expected;
    std::getline(words, options);
  }
};

// What param, grad and the states are stored in, by the name in the file.
struct Stored {
  const char* name;
  Way way;
  DType dtypes[fastopt::max_arrays];
};

constexpr DType f32 = DType::float32, f64 = DType::float64, b16 = DType::bfloat16,
                f16 = DType::float16;
constexpr Stored stores[] = {
    {"float32", Way::float32, {f32, f32, f32, f32, f32}},
    {"float64", Way::float64, {f64, f64, f64, f64, f64}},
    {"bfloat16", Way::bfloat16, {b16, b16, b16, b16, b16}},
    {"mixed", Way::mixed, {b16, f16, f32, b16, f16}},
};

// An array that starts `offset` elements into its buffer; guards on both sides.
class Buffer {
 public:
  Buffer(DType dtype, int64_t size, int offset)
      : dtype_(dtype),
        size_(size),
        offset_(offset),
        bytes_((offset + size + guard) * dtype_bytes[static_cast<int>(dtype)]) {
    with([&](auto* at) {
      for (int64_t i = 0; i < offset + size + guard; ++i) {
        at[i] = stored<std::decay_t<decltype(*at)>>(7);
      }
    });
  }
  // With 1 in the place of what a norm could not bear, if `tame`.
  void fill(uint64_t array, bool tame) {
    with([&](auto* at) {
      using T = std::decay_t<decltype(*at)>;
      for (int64_t i = 0; i < size_; ++i) {
        const T x = input_of<T>(array, i, array < 2);
        at[offset_ + i] = !tame || std::abs(computed(x)) <= 1000 ? x : stored<T>(1);
      }
    });
  }
  void* begin() { return bytes_.data() + offset_ * dtype_bytes[static_cast<int>(dtype_)]; }
  bool guarded() {
    bool same = true;
    with([&](auto* at) {
      for (int64_t i = 0; i < offset_ + guard; ++i) {
        same = same && computed(at[i < offset_ ? i : size_ + i]) == 7;
      }
    });
    return same;
  }
  uint64_t hash_on(uint64_t h) {
    with([&](auto* at) {
      for (int64_t i = 0; i < size_; ++i) {
        const auto value = computed(at[offset_ + i]);  // exact, so its bits tell as much
        h = hash(h, &value, 1);
      }
    });
    return h;
  }

 private:
  static constexpr int guard = 32;

  template <class Act>
  void with(Act act) {
    void* data = bytes_.data();
    if (dtype_ == f32) return act(static_cast<float*>(data));
    if (dtype_ == f64) return act(static_cast<double*>(data));
    if (dtype_ == b16) return act(static_cast<fastopt::host::bfloat16*>(data));
    return act(static_cast<fastopt::host::float16*>(data));
  }

  DType dtype_;
  int64_t size_;
  int offset_;
  std::vector<unsigned char> bytes_;
};

// Two steps of a rule whose kernels stand at `index`: bind() puts what they take of a step in its
// place. Bit i of `used` is set if there is array i.
template <class Bind>
uint64_t run_steps(const Case& c, const Stored& types, int index, unsigned used, bool norms,
                   const fastopt::Target& target, int offset, int threads, Bind bind) {
  std::vector<Buffer> buffers;
  fastopt::Item item{};
  item.way = norms && types.way == Way::bfloat16 ? Way::mixed : types.way;
  item.kernel = target.kernels[static_cast<int>(item.way)][index];
  item.size = c.size;
  for (int array = 0; used >> array != 0; ++array) {
    if ((used >> array & 1) == 0) continue;
    item.dtypes[array] = types.dtypes[array];
    buffers.emplace_back(types.dtypes[array], c.size, offset);
    buffers.back().fill(array, norms);
    item.arrays[array] = buffers.back().begin();  // stays where it is when the vector grows
  }
  fastopt::HalfDither dither;
  item.rounding.dither = &dither;
  for (double step = c.step; step < c.step + 2; ++step) {
    fastopt_test::fill(dither, step);
    fastopt::BoundRule bound;
    bound.has_norms = norms;
    bind(bound, step);
    item.rule = &bound;
    std::vector<fastopt::Item> items = {item};
    fastopt::run(items, threads);
  }
  uint64_t h = hash_start;
  for (std::size_t b = 0; b < buffers.size(); ++b) {
    if (!buffers[b].guarded()) return 0;  // wrote outside
    if (b != 1) h = buffers[b].hash_on(h);
  }
  return h;
}

template <template <class> class Rule, class T, bool norms>
uint64_t run_case(const Case& c, const Stored& types, int index, const fastopt::Target& target,
                  int offset, int threads) {
  typename Rule<T>::Options options;
  OptionSetter setter(c.options);
  options.visit(setter);
  double product = 1;
  if constexpr (fastopt::host::keeps_product<Rule<T>>) {
    setter(Rule<T>::product, product, Range::unit);
  }
  unsigned used = 0b11;
  for (int state = 0; state < Rule<T>::state_count; ++state) {
    used |= unsigned{Rule<T>::uses(options, state)} << (2 + state);
  }
  const auto bind = [&](fastopt::BoundRule& bound, double step) {
    new (bound.rule) Rule<T>(fastopt::host::rule_at<Rule<T>>(options, step, product));
  };
  return run_steps(c, types, index, used, norms, target, offset, threads, bind);
}

template <class T>
uint64_t run_program(const Case& c, const Stored& types, const Programs& programs,
                     const fastopt::Target& target, int offset, int threads) {
  std::vector<fastopt::Instruction<T>> code;
  const auto at = [&](double step) { return programs.find({c.rule, step, c.options}); };
  if (at(c.step) == programs.end() || at(c.step + 1) == programs.end()) return 0;
  const auto bind = [&](fastopt::BoundRule& bound, double step) {
    const fastopt_test::Program& program = at(step)->second;
    code = program.rounded<T>();
    const int length = static_cast<int>(code.size());
    new (bound.rule) fastopt::BoundProgram{code.data(),     length, program.arrays,
                                           program.written, 0,      program.waits()};
  };
  const unsigned used = (1u << at(c.step)->second.arrays) - 1;
  return run_steps(c, types, fastopt::program_rule, used, false, target, offset, threads, bind);
}

uint64_t run_any(const Case& c, const Programs& programs, const fastopt::Target& target, int offset,
                 int threads) {
  const Stored* types = stores;
  while (c.dtype != types->name) {
    if (++types == std::end(stores)) return 0;
  }
  const auto run = [&](auto run_case, int index) {
    return run_case(c, *types, index, target, offset, threads);
  };
#define FASTOPT_RUN(R)                                                                        \
  if (c.rule == fastopt::host::R<float>::name) {                                              \
    return types->way == Way::float64 ? run(run_case<fastopt::host::R, double, norms>, index) \
                                      : run(run_case<fastopt::host::R, float, norms>, index); \
  }                                                                                           \
  ++index;
  int index = 0;
  {
    constexpr bool norms = false;
    FASTOPT_RULES(FASTOPT_RUN)
  }
  {
    constexpr bool norms = true;
    FASTOPT_NORMED_RULES(FASTOPT_RUN)
  }
#undef FASTOPT_RUN
  return types->way == Way::float64
             ? run_program<double>(c, *types, programs, target, offset, threads)
             : run_program<float>(c, *types, programs, target, offset, threads);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: kernel_hashes HASHES PROGRAMS\n");
    return 2;
  }
  const Programs programs = fastopt_test::read_programs(argv[2]);
  const auto run = [&](const Case& c, const fastopt::Target& target, int offset, int threads) {
    return run_any(c, programs, target, offset, threads);
  };
  return report(replay<Case>(argv[1], run), "kernel runs");
}
