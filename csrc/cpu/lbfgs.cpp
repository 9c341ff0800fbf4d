#include "cpu/lbfgs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "cpu/dispatch.h"
#include "cpu/norm.h"
#include "cpu/parallel.h"

namespace fastopt {
namespace {

constexpr int64_t chunks_at_once = 16;  // for one thread

const VectorKernels& kernels_of(const Vectors& vectors) {
  return target().vectors[static_cast<int>(vectors.dtype)];
}

int64_t bytes_of(const Vectors& vectors) { return dtype_bytes[static_cast<int>(vectors.dtype)]; }

template <class Pointer>
Pointer at(const Vectors& vectors, Pointer data, int64_t element) {
  using Byte =
      std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return data == nullptr ? data : static_cast<Byte*>(data) + element * bytes_of(vectors);
}

// body(begin, count, sums) for every chunk; the sums of all of them, added up by the tree. `rows`
// is how many vectors a chunk's work reads.
template <class Body>
std::vector<double> sum_over_chunks(const Vectors& vectors, int64_t rows, int64_t sums, Body body,
                                    Order order = Order::forwards) {
  const int64_t chunks = (vectors.size + sum_chunk - 1) / sum_chunk;
  std::vector<double> partials(sums * chunks), totals(sums);
  split(
      chunks, chunks_at_once, usable_threads(vectors.size * rows, vectors.threads),
      [&](int64_t first, int64_t last) {
        std::vector<double> own(sums);
        for (int64_t i = first; i < last; ++i) {
          const int64_t c = order == Order::forwards ? i : first + last - 1 - i;
          const int64_t begin = c * sum_chunk;
          body(begin, std::min(sum_chunk, vectors.size - begin), own.data());
          for (int64_t s = 0; s < sums; ++s) partials[s * chunks + c] = own[s];
        }
      },
      order);
  for (int64_t s = 0; s < sums; ++s)
    totals[s] = sum_of_chunks(partials.data() + s * chunks, chunks);
  return totals;
}

// As `sum_over_chunks`, where a chunk's third number is not to be added up: the largest is wanted.
template <class Body>
Measures measure_chunks(const Vectors& vectors, int64_t rows, Body body,
                        Order order = Order::forwards) {
  std::vector<double> largest((vectors.size + sum_chunk - 1) / sum_chunk);
  const auto measure = [&](int64_t begin, int64_t count, double* totals) {
    double all[3];
    body(begin, count, all);
    totals[0] = all[0];
    totals[1] = all[1];
    largest[begin / sum_chunk] = all[2];
  };
  const std::vector<double> sums = sum_over_chunks(vectors, rows, 2, measure, order);
  Measures measures{sums[0], sums[1], 0};
  for (const double value : largest) {
    if (!(value < measures.largest) && !std::isnan(measures.largest)) measures.largest = value;
  }
  return measures;
}

// part(piece, offset in it, element, count) for what of the pieces lies in [begin, end).
template <class Part>
void each_part(const std::vector<Piece>& pieces, const std::vector<int64_t>& starts, int64_t begin,
               int64_t end, Part part) {
  auto i = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
  for (; i < static_cast<int64_t>(pieces.size()) && starts[i] < end; ++i) {
    const int64_t from = std::max(begin, starts[i]), to = std::min(end, starts[i] + pieces[i].size);
    if (from < to) part(pieces[i], from - starts[i], from, to - from);
  }
}

std::vector<int64_t> starts_of(const std::vector<Piece>& pieces) {
  std::vector<int64_t> starts;
  int64_t start = 0;
  for (const Piece& piece : pieces) {
    starts.push_back(start);
    start += piece.size;
  }
  return starts;
}

}  // namespace

Measures gather(const Vectors& vectors, const std::vector<Piece>& pieces, void* out,
                const void* b) {
  const std::vector<int64_t> starts = starts_of(pieces);
  const int64_t bytes = bytes_of(vectors);
  return measure_chunks(vectors, 3, [&](int64_t begin, int64_t count, double* sums) {
    each_part(pieces, starts, begin, begin + count,
              [&](const Piece& piece, int64_t offset, int64_t element, int64_t length) {
                void* to = at(vectors, out, element);
                if (piece.data == nullptr) {
                  std::memset(to, 0, length * bytes);
                } else {
                  std::memcpy(to, at(vectors, piece.data, offset), length * bytes);
                }
              });
    kernels_of(vectors).measure(at(vectors, out, begin), at(vectors, b, begin), count, sums);
  });
}

void move(const Vectors& vectors, const void* from, const void* direction, double t,
          const std::vector<Piece>& pieces) {
  const std::vector<int64_t> starts = starts_of(pieces);
  split(vectors.size, chunks_at_once * sum_chunk, usable_threads(vectors.size, vectors.threads),
        [&](int64_t begin, int64_t end) {
          each_part(pieces, starts, begin, end,
                    [&](const Piece& piece, int64_t offset, int64_t element, int64_t length) {
                      void* to = at(vectors, const_cast<void*>(piece.data), offset);
                      const void* start = from == nullptr ? to : at(vectors, from, element);
                      kernels_of(vectors).move(start, at(vectors, direction, element), t, to,
                                               length);
                    });
        });
}

std::vector<double> Curvature::observe(const Vectors& vectors, const void* grad, Rows pairs,
                                       const NewPair& pair) {
  pairs.push_back(pair.step);
  pairs.push_back(pair.change);
  const VectorKernels& kernels = kernels_of(vectors);
  const int64_t rows = static_cast<int64_t>(pairs.size()), count_of_pairs = rows / 2;
  const std::vector<double> sums =
      sum_over_chunks(vectors, rows, 2 * rows, [&](int64_t begin, int64_t count, double* totals) {
        const void* g = at(vectors, grad, begin);
        void* change = at(vectors, pair.change, begin);
        kernels.pair(g, at(vectors, pair.prev_grad, begin), at(vectors, pair.direction, begin),
                     pair.t, at(vectors, pair.step, begin), change, count);
        kernels.dots(pairs.data(), rows, begin, g, change, count, totals);
      });
  step_grad_.clear();
  change_grad_.clear();
  new_column_ = {};
  for (int64_t i = 0; i < count_of_pairs; ++i) {
    step_grad_.push_back(sums[4 * i]);
    new_column_.steps.push_back(sums[4 * i + 1]);
    change_grad_.push_back(sums[4 * i + 2]);
    new_column_.changes.push_back(sums[4 * i + 3]);
  }
  new_step_grad_ = step_grad_.back();
  new_change_grad_ = change_grad_.back();
  step_grad_.pop_back();
  change_grad_.pop_back();
  return {new_column_.steps.back(), new_column_.changes.back()};
}

void Curvature::keep() {
  if (new_column_.steps.size() != columns_.size() + 1) {
    throw std::logic_error("keep: there is no new pair: observe first");
  }
  columns_.push_back(new_column_);
  new_column_ = {};
  step_grad_.push_back(new_step_grad_);
  change_grad_.push_back(new_change_grad_);
}

void Curvature::drop_oldest() {
  if (columns_.empty()) throw std::logic_error("drop_oldest: there is no pair");
  const auto drop = [](std::vector<double>& values) { values.erase(values.begin()); };
  columns_.erase(columns_.begin());
  for (Column& column : columns_) {
    drop(column.steps);
    drop(column.changes);
  }
  for (std::vector<double>* values :
       {&step_grad_, &change_grad_, &new_column_.steps, &new_column_.changes}) {
    if (!values->empty()) drop(*values);
  }
}

void Curvature::restore(const Vectors& vectors, const Rows& pairs) {
  *this = {};
  for (std::size_t rows = 2; rows <= pairs.size(); rows += 2) {
    const std::vector<double> sums =
        sum_over_chunks(vectors, rows, 2 * rows, [&](int64_t begin, int64_t count, double* totals) {
          const void* change = at(vectors, pairs[rows - 1], begin);
          kernels_of(vectors).dots(pairs.data(), rows, begin, change, change, count, totals);
        });
    Column& column = columns_.emplace_back();
    for (std::size_t i = 0; i < rows; i += 2) {
      column.steps.push_back(sums[2 * i]);
      column.changes.push_back(sums[2 * i + 2]);
    }
  }
}

std::vector<double> Curvature::weights() const {
  const int64_t count = pairs();
  if (static_cast<int64_t>(step_grad_.size()) != count) {
    throw std::logic_error(
        "a direction needs the pairs' products with the gradient: observe first");
  }
  const auto step_change = [&](int64_t i, int64_t j) { return columns_[j].steps[i]; };
  const auto change_change = [&](int64_t i, int64_t j) {
    return columns_[std::max(i, j)].changes[std::min(i, j)];
  };
  double scale = 1;  // gamma, equation 7.20
  if (count > 0) scale = step_change(count - 1, count - 1) / change_change(count - 1, count - 1);

  // The first loop, q = -g less multiples of y; here its products with all s and y.
  std::vector<double> step_q(count), change_q(count), alpha(count);
  for (int64_t i = 0; i < count; ++i) {
    step_q[i] = -step_grad_[i];
    change_q[i] = -change_grad_[i];
  }
  for (int64_t j = count - 1; j >= 0; --j) {
    alpha[j] = step_q[j] / step_change(j, j);
    for (int64_t i = 0; i < j; ++i) step_q[i] = step_q[i] - alpha[j] * step_change(i, j);
    for (int64_t i = 0; i < count; ++i) change_q[i] = change_q[i] - alpha[j] * change_change(i, j);
  }
  // The second one, r = gamma q plus multiples of s; here its products with all y.
  std::vector<double> weights{-scale};
  for (double& product : change_q) product = scale * product;
  for (int64_t j = 0; j < count; ++j) {
    const double weight = alpha[j] - change_q[j] / step_change(j, j);
    for (int64_t i = j + 1; i < count; ++i) {
      change_q[i] = change_q[i] + weight * step_change(j, i);
    }
    weights.push_back(weight);
    weights.push_back(-(scale * alpha[j]));
  }
  return weights;
}

Measures Curvature::direction(const Vectors& vectors, const void* grad, const Rows& pairs,
                              void* out) const {
  const std::vector<double> factors = weights();
  Rows rows{grad};
  rows.insert(rows.end(), pairs.begin(), pairs.end());
  const VectorKernels& kernels = kernels_of(vectors);
  const int64_t count_of_rows = static_cast<int64_t>(rows.size());
  const auto combine = [&](int64_t begin, int64_t count, double* sums) {
    void* d = at(vectors, out, begin);
    kernels.combine(rows.data(), factors.data(), count_of_rows, begin, d, count);
    kernels.measure(d, at(vectors, grad, begin), count, sums);
  };
  // The pairs that `observe` has read last may still lie in a cache, and so may, for the next one,
  // those that are read last here (bench/NOTES.md, 25).
  return measure_chunks(vectors, count_of_rows, combine, Order::backwards);
}

}  // namespace fastopt
