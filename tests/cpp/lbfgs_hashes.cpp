// Replays tests/data/lbfgs_hashes.txt on every target of this machine: one iteration's passes.
//
//     lbfgs_hashes tests/data/lbfgs_hashes.txt
//
// As kernel_hashes.cpp does for the rules; tests/installed/test_lbfgs_hashes.py writes and checks
// the file. Each line names a dtype, a size, a number of pairs, and a hash.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <istream>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/lbfgs.h"
#include "inputs.h"
#include "replay.h"

namespace {

using fastopt::Curvature;
using fastopt::DType;
using fastopt::Measures;
using fastopt::Piece;
using fastopt::Vectors;
using fastopt_test::finite_input;
using fastopt_test::hash;
using fastopt_test::hash_start;
using fastopt_test::replay;
using fastopt_test::report;

struct Case {
  std::string dtype;
  int64_t size, pairs;
  uint64_t expected;
  void read(std::istream& words) { words >> dtype >> size >> pairs >> std::hex >> expected; }
};

constexpr double t = 0.3;

// A vector that starts `shift` elements into its memory. Its numbers are finite.
template <class T>
struct Vector {
  std::vector<T> memory;
  int shift;

  Vector(int64_t size, int shift) : memory(size + shift, T(7)), shift(shift) {}
  Vector(int64_t size, int shift, uint64_t array) : Vector(size, shift) {
    for (int64_t i = 0; i < size; ++i) data()[i] = finite_input<T>(array, i);
  }
  T* data() { return memory.data() + shift; }
  int64_t size() const { return static_cast<int64_t>(memory.size()) - shift; }
};

template <class T>
uint64_t add(uint64_t h, Vector<T>& vector) {
  return hash(h, vector.data(), vector.size());
}

uint64_t add(uint64_t h, const Measures& measures) {
  const double numbers[] = {measures.sum, measures.dot, measures.largest};
  return hash(h, numbers, 3);
}

// The pairs are those of a function that curves upwards: y = s times something positive.
template <class T>
uint64_t run_case(const Case& c, DType dtype, int shift, int threads) {
  const Vectors vectors{dtype, c.size, threads};
  Vector<T> grad(c.size, shift), prev(c.size, shift, 1), direction(c.size, shift, 2);
  Vector<T> step(c.size, shift), change(c.size, shift), out(c.size, shift);
  std::vector<Vector<T>> kept;
  for (int64_t k = 0; k < c.pairs; ++k) {
    Vector<T>& s = kept.emplace_back(c.size, shift, 3 + 2 * k);
    Vector<T> y(c.size, shift, 4 + 2 * k);
    for (int64_t i = 0; i < c.size; ++i) y.data()[i] = s.data()[i] * std::abs(y.data()[i]);
    kept.push_back(std::move(y));
  }
  Curvature::Rows pairs;
  for (Vector<T>& vector : kept) pairs.push_back(vector.data());

  // The second of three parameters has no gradient.
  Vector<T> whole(c.size, shift, 0);
  const int64_t first = c.size / 3, last = c.size - first / 2;
  const std::vector<Piece> pieces{
      {whole.data(), first}, {nullptr, last - first}, {whole.data() + last, c.size - last}};
  uint64_t h = add(hash_start, gather(vectors, pieces, grad.data(), direction.data()));
  h = add(h, grad);

  Curvature curvature;
  curvature.restore(vectors, pairs);
  const std::vector<double> products = curvature.observe(
      vectors, grad.data(), pairs, {prev.data(), direction.data(), t, step.data(), change.data()});
  h = add(add(hash(h, products.data(), 2), step), change);
  h = add(h, curvature.direction(vectors, grad.data(), pairs, out.data()));
  h = add(h, out);
  move(vectors, nullptr, out.data(), t,
       {{whole.data(), first}, {whole.data() + first, c.size - first}});
  return add(h, whole);
}

uint64_t run_any(const Case& c, const fastopt::Target&, int shift, int threads) {
  return c.dtype == "float32" ? run_case<float>(c, DType::float32, shift, threads)
                              : run_case<double>(c, DType::float64, shift, threads);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: lbfgs_hashes HASHES\n");
    return 2;
  }
  return report(replay<Case>(argv[1], run_any), "runs of L-BFGS's passes");
}
