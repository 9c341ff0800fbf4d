// L-BFGS's way into C++, for fastopt.optim.LBFGS.
//
//     gather(pieces, like, out, direction, threads) -> (largest |g|, sum of |g|, g·direction)
//     move(params, begin, direction, t, threads)
//     Curvature().observe(grad, prev_grad, direction, t, step, change, steps, changes, threads)
//                -> (s·y, y·y)
//                .keep()  .drop_oldest()  .restore(steps, changes, threads)
//                .direction(grad, steps, changes, out, threads) -> (g·out, largest |out|)
//                .weights() -> list of float           # of g, s_0, y_0, s_1, ..., for tests
//
// Vectors are C-contiguous on the CPU, all float32 or all float64, and of one size; `pieces` are
// gradients or None, as long as `like`, and `params` are spread over a vector in the same way.
// `begin` may be None: the parameters themselves. `steps` and `changes` list the pairs, oldest
// first.
//
// Raises TypeError or ValueError that names the argument before anything is written. Whoever calls
// tells autograd (torch.autograd.graph.increment_version) what was written.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

void define_lbfgs(pybind11::module_& m);

}  // namespace fastopt
