// Replays tests/data/packed_hashes.txt on every target of this machine: Adam's steps with what is
// stored in other ways than as numbers of one type.
//
//     packed_hashes tests/data/packed_hashes.txt
//
// As kernel_hashes.cpp does for the rules; tests/installed/test_packed_hashes.py writes and checks
// the file. Each line names a kind, the shape of a parameter, where it begins in a whole one, and a
// hash.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <istream>
#include <iterator>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "inputs.h"
#include "numeric/dither.h"
#include "numeric/philox.h"
#include "replay.h"
#include "rules/list.h"

namespace {

using fastopt::block_size;
using fastopt::DType;
using fastopt::Master;
using fastopt::Way;
using fastopt::host::bfloat16;
using fastopt_test::computed;
using fastopt_test::finite_input;
using fastopt_test::hash;
using fastopt_test::hash_start;
using fastopt_test::hash_word;
using fastopt_test::replay;
using fastopt_test::report;
using fastopt_test::stored;
using Rule = fastopt::host::Adam<float>;

struct Case {
  std::string kind;
  int64_t rows, row, first_row;
  uint64_t expected;
  void read(std::istream& words) {
    words >> kind >> rows >> row >> first_row >> std::hex >> expected;
  }
  int64_t size() const { return rows * row; }
  int64_t blocks() const { return rows * ((row + block_size - 1) / block_size); }
};

constexpr uint64_t seed = 0x9e3779b97f4a7c15u;

fastopt::Kernel kernel_of(const fastopt::Target& target, Way way, int rule) {
  return target.kernels[static_cast<int>(way)][rule];
}

int index_of_adam() {
  const std::string names[] = {
#define FASTOPT_NAME(R) fastopt::host::R<float>::name,
      FASTOPT_RULES(FASTOPT_NAME)
#undef FASTOPT_NAME
  };
  int index = 0;
  while (names[index] != Rule::name) ++index;
  return index;
}

// Memory that `shift` elements stand before.
template <class T>
struct Array {
  std::vector<T> memory;
  int shift;
  Array(int64_t size, int shift, T value = T()) : memory(size + shift, value), shift(shift) {}
  T* data() { return memory.data() + shift; }
  int64_t size() const { return static_cast<int64_t>(memory.size()) - shift; }
};

// Finite ones.
template <class T>
Array<T> numbers(uint64_t array, int64_t size, int shift) {
  Array<T> made(size, shift);
  for (int64_t i = 0; i < size; ++i) made.data()[i] = stored<T>(finite_input<float>(array, i));
  return made;
}

template <class T>
uint64_t add(uint64_t h, Array<T>& array) {
  for (int64_t i = 0; i < array.size(); ++i) {
    const auto value = computed(array.data()[i]);
    h = hash(h, &value, 1);
  }
  return h;
}

// Two steps, of which `prepare` gets the numbers.
template <class Prepare>
void take_steps(fastopt::Item& item, int threads, Prepare prepare) {
  Rule::Options options;
  for (int step = 1; step <= 2; ++step) {
    fastopt::BoundRule bound;
    new (bound.rule) Rule(options, step);
    item.rule = &bound;
    prepare(step);
    std::vector<fastopt::Item> items = {item};
    fastopt::run(items, threads);
  }
}

// The parameter and its gradient are Stored.
template <class Stored>
uint64_t run_codes(const Case& c, const fastopt::Target& target, int index, int shift,
                   int threads) {
  constexpr bool is_half = sizeof(Stored) < sizeof(float);
  Array<Stored> param = numbers<Stored>(0, c.size(), shift),
                grad = numbers<Stored>(1, c.size(), shift);
  grad.data()[3] = stored<Stored>(std::numeric_limits<float>::quiet_NaN());
  Array<unsigned char> first(c.size(), shift), second(c.size(), shift);
  Array<float> first_scales(c.blocks(), shift), second_scales(c.blocks(), shift);
  fastopt::Packing packing;
  packing.scales[0] = first_scales.data();
  packing.scales[1] = second_scales.data();
  packing.row = c.row;
  packing.first_row = c.first_row;
  fastopt::Item item{};
  item.way = is_half ? Way::bfloat16_coded : Way::coded;
  item.kernel = kernel_of(target, item.way, index);
  item.packing = &packing;
  item.size = c.size();
  item.arrays[0] = param.data();
  item.arrays[1] = grad.data();
  item.arrays[2] = first.data();
  item.arrays[3] = second.data();
  const DType number = is_half ? DType::bfloat16 : DType::float32;
  const DType dtypes[] = {number, number, DType::signed8, DType::root8};
  std::copy(std::begin(dtypes), std::end(dtypes), item.dtypes);
  fastopt::Dither dither;
  packing.dither = &dither;
  take_steps(item, threads, [&](int step) {
    for (uint32_t i = 0; i < fastopt::dither_size; ++i) {
      dither.signed8[i] = fastopt::host::dither_entry<DType::signed8>(step, i);
      dither.root8[i] = fastopt::host::dither_entry<DType::root8>(step, i);
    }
  });
  uint64_t h = add(hash_start, param);
  for (Array<unsigned char>* codes : {&first, &second}) {
    for (int64_t i = 0; i < c.size(); ++i) h = hash_word(h, codes->data()[i]);
  }
  return add(add(h, first_scales), second_scales);
}

uint64_t run_halves(const Case& c, const fastopt::Target& target, int index, int shift,
                    int threads) {
  Array<bfloat16> param = numbers<bfloat16>(0, c.size(), shift);
  Array<bfloat16> grad = numbers<bfloat16>(1, c.size(), shift);
  Array<bfloat16> first(c.size(), shift), second(c.size(), shift);
  Array<uint16_t> low(c.size(), shift);
  const bool is_split = c.kind == "low_half";
  fastopt::Packing packing;
  packing.master = is_split ? Master::low_half : Master::stochastic;
  packing.master_data = low.data();
  packing.seed = seed;
  packing.index = c.first_row * c.row;
  fastopt::Item item{};
  item.way = is_split ? Way::split : Way::rounded;
  item.kernel = kernel_of(target, item.way, index);
  item.packing = &packing;
  item.size = c.size();
  void* const arrays[] = {param.data(), grad.data(), first.data(), second.data()};
  for (int array = 0; array < 4; ++array) {
    item.arrays[array] = arrays[array];
    item.dtypes[array] = DType::bfloat16;
  }
  fastopt::HalfDither dither;
  item.rounding = {&dither, c.first_row * c.row};
  take_steps(item, threads, [&](int step) {
    fastopt_test::fill(dither, step);
    packing.offset = uint64_t{1} << fastopt::offset_bits | static_cast<uint64_t>(step);
  });
  uint64_t h = add(add(add(hash_start, param), first), second);
  for (int64_t i = 0; is_split && i < c.size(); ++i) h = hash_word(h, low.data()[i]);
  return h;
}

uint64_t run_any(const Case& c, const fastopt::Target& target, int shift, int threads) {
  static const int index = index_of_adam();
  if (c.kind == "codes") return run_codes<float>(c, target, index, shift, threads);
  if (c.kind == "half_codes") return run_codes<bfloat16>(c, target, index, shift, threads);
  return run_halves(c, target, index, shift, threads);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: packed_hashes HASHES\n");
    return 2;
  }
  return report(replay<Case>(argv[1], run_any), "packed runs");
}
