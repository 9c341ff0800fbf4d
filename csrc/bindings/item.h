// Makes the items that a run works on from the tensors that it was given.
#pragma once

#include "bindings/rules.h"
#include "bindings/tensor.h"
#include "cpu/dispatch.h"
#include "cpu/kernel.h"
#include "numeric/dither.h"

namespace fastopt {

// What a kernel computes in for a parameter that is stored so.
inline DType compute_type(DType param) {
  return param == DType::float64 ? DType::float64 : DType::float32;
}

inline DType compute_type(const Item& item) { return compute_type(item.dtypes[0]); }

// Whether a gradient or state may be stored so beside its parameter: float64 only beside float64,
// anything else beside anything else.
inline bool stored_with(const DLTensor& view, const DLTensor& param) {
  if (dtype_of(view) < 0) return false;
  return compute_type(static_cast<DType>(dtype_of(view))) ==
         compute_type(static_cast<DType>(dtype_of(param)));
}

inline void set_array(Item& item, int array, const DLTensor& view) {
  item.arrays[array] = data_of(view);
  item.dtypes[array] = static_cast<DType>(dtype_of(view));
}

// What a state's dtype says of how it is coded (numeric/code8.h).
inline Coding coding_of(const DLTensor& view) {
  if (view.dtype.bits != 8 || view.dtype.lanes != 1) return Coding::none;
  if (view.dtype.code == kDLInt) return Coding::signed8;
  return view.dtype.code == kDLUInt ? Coding::root8 : Coding::none;
}

// The dither of a step.
inline void make_dither(double step, Dither& dither) {
  for (uint32_t i = 0; i < dither_size; ++i) {
    dither.signed8[i] = host::dither_entry<Coding::signed8>(step, i);
    dither.root8[i] = host::dither_entry<Coding::root8>(step, i);
  }
}

inline void make_dither(double step, HalfDither& dither) {
  for (uint32_t i = 0; i < dither_size; ++i) {
    dither.draws[i] = host::half_dither_entry(step, i);
  }
}

// Whether a state is stored in 16 bits.
inline bool has_half_states(const Item& item) {
  for (int state = 2; state < ema_array; ++state) {
    if (item.arrays[state] != nullptr && dtype_bytes[static_cast<int>(item.dtypes[state])] == 2) {
      return true;
    }
  }
  return false;
}

// Whether every state is in 8 bits, as such states are when they are made.
inline bool is_all_coded(const Item& item, const AnyRule& rule) {
  for (int state = 0; state < max_states; ++state) {
    const Coding coding = rule.is_square(state) ? Coding::root8 : Coding::signed8;
    if (item.arrays[2 + state] != nullptr && item.packing->codings[state] != coding) return false;
  }
  return item.packing->row > 0;
}

// Whether the parameter and what is not a state are stored so.
inline bool is_all_but_states(const Item& item, DType dtype) {
  for (int array : {0, 1, ema_array}) {
    if (item.arrays[array] != nullptr && item.dtypes[array] != dtype) return false;
  }
  return true;
}

// Whether all arrays but the parameter are stored so.
inline bool are_all(const Item& item, DType dtype) {
  for (int array = 1; array < max_arrays; ++array) {
    if (item.arrays[array] != nullptr && item.dtypes[array] != dtype) return false;
  }
  return true;
}

// What brings the elements of an item with a packing to its kernel.
inline Staged staged_of(const Item& item, const AnyRule& rule) {
  const Master master = item.packing->master;
  if (rule.index() < 0) return target().staged;
  const bool has_codes = item.packing->row > 0;
  if (master == Master::none && is_all_coded(item, rule)) {
    if (is_all_but_states(item, DType::float32)) return target().coded[rule.index()];
    if (is_all_but_states(item, DType::bfloat16)) return target().half_coded[rule.index()];
  }
  if (master == Master::stochastic && !has_codes && are_all(item, DType::bfloat16)) {
    return target().rounded[rule.index()];
  }
  return target().staged;
}

// Once all arrays are set.
inline void set_kernel(Item& item, const AnyRule& rule) {
  static_assert(static_cast<int>(Form::bfloat16) == static_cast<int>(DType::bfloat16));
  const DType param = item.dtypes[0];
  const bool is_mixed = param == DType::float16 || !are_all(item, param);
  const Form form = is_mixed ? Form::mixed : static_cast<Form>(param);
  item.form = form;
  rule.set_kernel(item);
  if (item.packing != nullptr) item.staged = staged_of(item, rule);
}

// Makes it an item with nothing but its parameter's array set; in its place, since a copy of what
// has just been stored in parts waits for the stores (bench/NOTES.md, 7d).
inline void begin_item(Item& item, const DLTensor& param) {
  item = {};
  item.size = element_count(param);
  set_array(item, 0, param);
}

}  // namespace fastopt
