// What dropout does with an element, as plain data that every target and the bindings share.
#pragma once

namespace fastopt {

// What an element x becomes whose draw keeps it; a dropped one gives +0, or `dropped`.
enum class DropoutForm : int {
  plain,          // scale x
  relu,           // scale max(x, 0)
  bias,           // scale (x + bias)
  residual,       // residual + scale x, and residual + 0
  bias_residual,  // residual + scale (x + bias), likewise
  alpha,          // scale x + shift
};
constexpr int dropout_form_count = 6;

// Rounded to the compute type once.
struct DropoutScalars {
  double scale = 1, shift = 0, dropped = 0;
};

}  // namespace fastopt
