// L-BFGS on flat vectors, with the same bits on every target and thread count.
//
// The two-loop recursion needs no vector but the result: every vector in it is a combination of the
// gradient g and the pairs (s_i, y_i), so its inner products follow from those of g, s_i and y_i
// with each other. Of these, the ones among pairs change by one row and one column an iteration. So
// an iteration reads the pairs twice: for their inner products with g and the new y, and to combine
// them. The recursion on vectors reads them twice, too, and its own vector 4 times for each pair.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernel.h"

namespace fastopt {

// Vectors of a call: `size` elements of one type, float32 or float64.
struct Vectors {
  DType dtype;
  int64_t size;
  int threads;
};

struct Measures {
  double sum, dot, largest;  // of |a|, of a b, and the largest |a|; NaN if an element is
};

// Part of a flat vector that lies elsewhere: a parameter's gradient, or zeros.
struct Piece {
  const void* data;
  int64_t size;
};

// out = the pieces end to end; its measures beside b, which may be nullptr.
Measures gather(const Vectors& vectors, const std::vector<Piece>& pieces, void* out, const void* b);

// The pieces that a flat vector is spread over: each element becomes from + t direction.
void move(const Vectors& vectors, const void* from, const void* direction, double t,
          const std::vector<Piece>& pieces);

// The step and the change of gradient from one iteration to the next, as they are to be made.
struct NewPair {
  const void *prev_grad, *direction;
  double t;
  void *step, *change;
};

// The pairs' inner products, and what follows from them. Holds no vector: the pairs come with each
// call, oldest first, s_0, y_0, s_1, y_1, ...
class Curvature {
 public:
  using Rows = std::vector<const void*>;

  int64_t pairs() const { return static_cast<int64_t>(columns_.size()); }

  // Makes a pair; takes its inner products and those of `grad` with it and the pairs kept.
  // Returns the pair's s·y and y·y.
  std::vector<double> observe(const Vectors& vectors, const void* grad, Rows pairs,
                              const NewPair& pair);

  // Keeps the pair that `observe` has made, as the newest. A sum s·y that is not positive would
  // make the approximation indefinite; whoever calls sees to it.
  void keep();

  void drop_oldest();

  // Starts over from these pairs.
  void restore(const Vectors& vectors, const Rows& pairs);

  // out = -H g, for the gradient that `observe` saw last if there are pairs. Measures out, beside
  // g.
  Measures direction(const Vectors& vectors, const void* grad, const Rows& pairs, void* out) const;

  // The weights of g, s_0, y_0, s_1, ... in -H g: Nocedal & Wright 2006, algorithm 7.4.
  std::vector<double> weights() const;

 private:
  struct Column {                        // of pair j, by i <= j
    std::vector<double> steps, changes;  // s_i·y_j, y_i·y_j
  };
  std::vector<Column> columns_;
  std::vector<double> step_grad_, change_grad_;  // s_i·g, y_i·g, of the pairs that are kept
  Column new_column_;
  double new_step_grad_ = 0, new_change_grad_ = 0;
};

}  // namespace fastopt
