// Replays tests/data/dropout_hashes.txt, and Philox's known answers, on every target of this
// machine.
//
//     dropout_hashes tests/data/dropout_hashes.txt tests/data/philox.txt
//
// As kernel_hashes.cpp does for the rules; tests/installed/test_dropout_hashes.py writes and checks
// the file. Each line names a form, a dtype, a size, p, an index, the length of a row or a bias,
// and a hash.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "inputs.h"
#include "numeric/half.h"
#include "numeric/philox.h"
#include "replay.h"

namespace {

using fastopt::DropoutForm;
using fastopt::DType;
using fastopt::host::bfloat16;
using fastopt::host::float16;
using fastopt_test::computed;
using fastopt_test::hash;
using fastopt_test::hash_start;
using fastopt_test::hash_word;
using fastopt_test::input_of;
using fastopt_test::replay;
using fastopt_test::report;
using fastopt_test::stored;

struct Case {
  std::string form, dtype;
  int64_t size, width;
  double p;
  uint64_t index, expected;
  void read(std::istream& words) {
    words >> form >> dtype >> size >> p >> index >> width >> std::hex >> expected;
  }
};

constexpr uint64_t seed = 0x9e3779b97f4a7c15u, offset = 0x00c0ffee12345678u;

fastopt::DropoutCall call_of(const Case& c) {
  static const std::vector<std::string> forms = {"plain",    "relu",          "bias",
                                                 "residual", "bias_residual", "alpha"};
  fastopt::DropoutCall call;
  call.size = c.size;
  call.seed = seed;
  call.offset = offset;
  call.index = c.index;
  call.columns = call.inner = c.width;
  call.threshold = fastopt::dropout_threshold(c.p);
  call.scalars.scale = fastopt::dropout_scale(call.threshold);
  for (std::size_t i = 0; i < forms.size(); ++i) {
    if (c.form == forms[i]) call.form = static_cast<DropoutForm>(i);
  }
  if (call.form == DropoutForm::alpha) call.scalars = fastopt::alpha_scalars(call.threshold);
  return call;
}

// One call whose arrays start `shift` elements into their buffers, with guards around the result.
template <class T>
uint64_t run_case(const Case& c, DType dtype, int shift, int threads) {
  constexpr int guard = 32;
  const T seven = stored<T>(7);
  std::vector<T> arrays[3];
  for (int array = 0; array < 3; ++array) {
    const int64_t size = array == 1 ? c.width : c.size;
    arrays[array].assign(size + shift, seven);
    for (int64_t i = 0; i < size; ++i) arrays[array][shift + i] = input_of<T>(array, i, true);
  }
  std::vector<T> out(c.size + shift + guard, seven);
  std::vector<unsigned char> mask((c.size + 7) / 8);

  fastopt::DropoutCall call = call_of(c);
  call.x = arrays[0].data() + shift;
  call.bias = arrays[1].data() + shift;
  call.residual = arrays[2].data() + shift;
  call.out = out.data() + shift;
  if (c.form == "rows") {
    fastopt::run_dropout_rows(call, dtype, threads);
  } else {
    call.mask_out = mask.data();
    fastopt::run_dropout(call, dtype, threads);
  }
  for (int64_t i = 0; i < shift + guard; ++i) {
    if (computed(out[i < shift ? i : c.size + i]) != 7) return 0;  // wrote outside
  }
  uint64_t h = hash_start;
  for (int64_t i = 0; i < c.size; ++i) {
    const auto value = computed(out[shift + i]);  // exact, so its bits tell as much
    h = hash(h, &value, 1);
  }
  for (unsigned char byte : mask) h = hash_word(h, byte);
  return h;
}

uint64_t run_any(const Case& c, const fastopt::Target&, int shift, int threads) {
  if (c.dtype == "float32") return run_case<float>(c, DType::float32, shift, threads);
  if (c.dtype == "float64") return run_case<double>(c, DType::float64, shift, threads);
  if (c.dtype == "bfloat16") return run_case<bfloat16>(c, DType::bfloat16, shift, threads);
  return run_case<float16>(c, DType::float16, shift, threads);
}

int replay_known_answers(std::ifstream file, const fastopt::Target& target) {
  int passed = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    int rounds;
    words >> rounds;
    uint64_t w[10];
    for (uint64_t& word : w) words >> std::hex >> word;
    const uint64_t block = w[0] | w[1] << 32, high = w[2] | w[3] << 32, key = w[4] | w[5] << 32;
    const fastopt::host::Philox plain(block, high, key, rounds);
    uint32_t got[4] = {plain.word[0], plain.word[1], plain.word[2], plain.word[3]};
    if (rounds == fastopt::host::dropout_rounds) (*target.philox)(key, high, block, got);
    for (int j = 0; j < 4; ++j) {
      if (got[j] != w[6 + j] || plain.word[j] != w[6 + j]) {
        std::printf("%s: wrong words: %s\n", target.name, line.c_str());
        return -1;
      }
    }
    ++passed;
  }
  return passed;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: dropout_hashes HASHES KNOWN_ANSWERS\n");
    return 2;
  }
  for (const fastopt::Target& target : fastopt::targets()) {
    if (target.supported() && replay_known_answers(std::ifstream(argv[2]), target) <= 0) return 1;
  }
  return report(replay<Case>(argv[1], run_any), "dropout runs");
}
