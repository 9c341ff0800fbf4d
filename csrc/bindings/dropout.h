// Dropout's way into C++, for fastopt.kernels and fastopt.nn.
//
//     dropout(x, out, p, seed, offset, index, threads, mask=None, mask_out=None, scale=None,
//             relu=False, fresh=False)
//     bias_dropout_add(x, bias, residual, out, p, seed, offset, index, threads, mask=None,
//                      mask_out=None)
//     alpha_dropout(x, out, p, seed, offset, index, threads, mask_out=None) -> float
//     dropout_rows(x, out, inner, p, seed, offset, index, threads)
//     dropout_mask(out, count, p, seed, offset, index, threads)
//     philox(seed, offset, block) -> tuple      # one block on the target in use, for tests
//
// Arrays are C-contiguous, all on the CPU or all on one CUDA device: x, out, bias and residual of
// one dtype (float32, float64, bfloat16, float16), out and residual of x's shape, bias of x's last
// dimension's size; bias and residual may be None. `out` may be x (or residual) and else shares
// memory with no other array. `mask` is read instead of drawing, `mask_out` is written: uint8,
// (elements + 7) 8 bytes, bit i % 8 of byte i 8 is 1 where element i is kept. dropout_mask's `out`
// is such an array with as many elements as `count` says, or of bool with one element each.
//
// `fresh` says that `out` is new memory, whose pages the system clears as they are written to: its
// stores go through the caches, where a page then already is.
//
// On a CUDA device, seed and offset may be tensors of one int64 there; nothing waits for them.
//
// A kept element is multiplied by 65536 / round(65536 (1 - p)), or by `scale` if it is given: so a
// backward pass is dropout(grad, grad_in, ...) with the forward pass's p, seed, offset and index;
// alpha_dropout returns the `scale` for its own.
//
// Raises TypeError or ValueError that names the argument before anything is written. Whoever calls
// tells autograd (torch.autograd.graph.increment_version) what was written.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

void define_dropout(pybind11::module_& m);

}  // namespace fastopt
