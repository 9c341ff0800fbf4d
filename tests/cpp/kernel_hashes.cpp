// Replays tests/data/kernel_hashes.txt: every rule on every target of this machine, without Python.
//
//     kernel_hashes tests/data/kernel_hashes.txt
//
// Each line of the file names a rule, a dtype and options, and gives a hash of the bits that
// fastopt.reference computes from inputs that are made here by the same integer arithmetic
// (tests/test_kernel_hashes.py writes and checks the file). So one short program shows on an
// emulated Arm, or under a sanitizer, that the kernels give NumPy's bits. Exit code 1 on the first
// difference.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "inputs.h"
#include "rules/list.h"
#include "simd/vec.h"

namespace {

using fastopt::DType;
using fastopt::host::Range;
using fastopt_test::hash;
using fastopt_test::input;

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
};

// Two steps on a parameter that starts `offset` elements into its buffer; guards on both sides.
template <template <class> class Rule, class T>
uint64_t run_case(const Case& c, int index, const fastopt::Target& target, int offset,
                  int threads) {
  typename Rule<T>::Options options;
  OptionSetter setter(c.options);
  options.visit(setter);
  constexpr int states = Rule<T>::state_count;
  constexpr int guard = 32;

  std::vector<std::vector<T>> buffers;
  const fastopt::Kernel kernel = target.kernels[index][sizeof(T) == 4 ? 0 : 1];
  fastopt::Item item{kernel, nullptr, {}, c.size, sizeof(T) == 4 ? DType::float32 : DType::float64};
  for (int array = 0; array < 2 + states; ++array) {
    if (array >= 2 && !Rule<T>::uses(options, array - 2)) continue;
    buffers.emplace_back(c.size + offset + guard, T(7));
    T* begin = buffers.back().data() + offset;
    for (int64_t i = 0; i < c.size; ++i) begin[i] = input<T>(array, i, array < 2);
    item.arrays[array] = begin;
  }
  for (double step = c.step; step < c.step + 2; ++step) {
    fastopt::BoundRule bound;
    new (bound.rule) Rule<T>(options, step);
    item.rule = &bound;
    std::vector<fastopt::Item> items = {item};
    fastopt::run(items, threads);
  }
  uint64_t h = 0xcbf29ce484222325u;
  for (std::size_t b = 0; b < buffers.size(); ++b) {
    for (int64_t i = 0; i < offset + guard; ++i) {
      if (buffers[b][i < offset ? i : c.size + i] != T(7)) return 0;  // wrote outside
    }
    if (b != 1) h = hash(h, buffers[b].data() + offset, c.size);
  }
  return h;
}

uint64_t run_any(const Case& c, const fastopt::Target& target, int offset, int threads) {
  int index = 0;
#define FASTOPT_RUN(R)                                                                  \
  if (c.rule == fastopt::host::R<float>::name) {                                        \
    return c.dtype == "float32"                                                         \
               ? run_case<fastopt::host::R, float>(c, index, target, offset, threads)   \
               : run_case<fastopt::host::R, double>(c, index, target, offset, threads); \
  }                                                                                     \
  ++index;
  FASTOPT_RULES(FASTOPT_RUN)
#undef FASTOPT_RUN
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: kernel_hashes FILE\n");
    return 2;
  }
  std::ifstream file(argv[1]);
  int passed = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    Case c;
    std::istringstream words(line);
    words >> c.rule >> c.dtype >> c.size >> c.step >> std::hex >> c.expected;
    std::getline(words, c.options);
    for (const fastopt::Target& target : fastopt::targets()) {
      if (!target.supported()) continue;
      for (int offset : {0, 1, 3}) {
        for (int threads : {1, 2, 3}) {
          const uint64_t got = run_any(c, target, offset, threads);
          if (got == c.expected) {
            ++passed;
            continue;
          }
          std::printf("%s at offset %d on %d threads: expected %016llx, got %016llx: %s\n",
                      target.name, offset, threads, static_cast<unsigned long long>(c.expected),
                      static_cast<unsigned long long>(got), line.c_str());
          return 1;
        }
      }
    }
  }
  std::printf("%d kernel runs equal the references\n", passed);
  return passed > 0 ? 0 : 1;
}
