// Inverted dropout: Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from
// overfitting, scaled at training time. Alpha dropout: Klambauer et al. 2017, Self-normalizing
// neural networks, section 3.
//
// Which elements are kept is drawn by simd/draws.h; what becomes of them stands here.
#pragma once

#include "rules/dropout_form.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// T is the compute type, float or double.
template <class T, DropoutForm form>
struct Dropout {
  static constexpr bool has_bias = form == DropoutForm::bias || form == DropoutForm::bias_residual;
  static constexpr bool has_residual =
      form == DropoutForm::residual || form == DropoutForm::bias_residual;

  // Whether dropping x, making it 0, is dropping the element.
  static constexpr bool drops_input = !has_bias && form != DropoutForm::alpha;

  T scale, shift, dropped;

  FASTOPT_HOST_DEVICE explicit Dropout(const DropoutScalars& scalars)
      : scale(static_cast<T>(scalars.scale)),
        shift(static_cast<T>(scalars.shift)),
        dropped(static_cast<T>(scalars.dropped)) {}

  template <class V, class Mask>
  FASTOPT_HOST_DEVICE V operator()(Mask kept, V x, [[maybe_unused]] V bias,
                                   [[maybe_unused]] V residual) const {
    if constexpr (has_bias) x = x + bias;
    V y = scale * x;
    if constexpr (form == DropoutForm::alpha) return select(kept, y + shift, V(dropped));
    if constexpr (form == DropoutForm::relu) y = select(V(T(0)) >= x, V(T(0)), y);  // NaN stays
    y = keep(kept, y);
    if constexpr (has_residual) y = residual + y;
    return y;
  }

  // Where drops_input: of an x that is 0 if it is dropped.
  template <class V>
  FASTOPT_HOST_DEVICE V operator()(V x, [[maybe_unused]] V residual) const {
    V y = scale * x;
    if constexpr (form == DropoutForm::relu) y = select(V(T(0)) >= x, V(T(0)), y);
    if constexpr (has_residual) y = residual + y;
    return y;
  }
};

FASTOPT_TARGET_END
