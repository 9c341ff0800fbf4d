// Makes the items that a run works on from the tensors that it was given.
#pragma once

#include "bindings/rules.h"
#include "bindings/tensor.h"
#include "cpu/dispatch.h"
#include "cpu/kernel.h"

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

// The dither of a step: bits of a hash of (step, entry, code).
inline void make_dither(double step, Dither& dither) {
  const auto hash = [step](uint32_t entry, uint32_t code) {
    uint32_t h = static_cast<uint32_t>(static_cast<uint64_t>(step)) * 0x9E3779B1u;
    h += entry * 0x85EBCA77u + code * 0xC2B2AE3Du;
    h = (h ^ h >> 16) * 0x7FEB352Du;
    h = (h ^ h >> 15) * 0x846CA68Bu;
    return h ^ h >> 16;
  };
  for (uint32_t i = 0; i < dither_size; ++i) {
    dither.signed8[i] = hash(i, 0) >> 13;
    dither.root8[i] = hash(i, 1) >> 14;
  }
}

// Whether every state of a parameter is in 8 bits, as such states are when they are made.
inline bool is_all_coded(const Item& item, const AnyRule& rule) {
  if (item.packing->master != Master::none) return false;
  for (int state = 0; state < max_states; ++state) {
    const Coding coding = rule.is_square(state) ? Coding::root8 : Coding::signed8;
    if (item.arrays[2 + state] != nullptr && item.packing->codings[state] != coding) return false;
  }
  return item.packing->row > 0;
}

// Once all arrays are set. `packing` is the item's, or nullptr.
inline void set_kernel(Item& item, const AnyRule& rule, Packing* packing) {
  static_assert(static_cast<int>(Form::bfloat16) == static_cast<int>(DType::bfloat16));
  Form form = item.dtypes[0] == DType::float16 ? Form::mixed : static_cast<Form>(item.dtypes[0]);
  for (int array = 0; array < max_arrays; ++array) {
    const bool differs = item.dtypes[array] != item.dtypes[0];
    if (item.arrays[array] != nullptr && differs) form = Form::mixed;
  }
  if (packing != nullptr && packing->master == Master::stochastic) {
    bool all_bfloat = packing->row == 0;  // no state is coded
    for (int array = 1; array < max_arrays; ++array) {
      all_bfloat &= item.arrays[array] == nullptr || item.dtypes[array] == DType::bfloat16;
    }
    if (all_bfloat) {
      packing->master = Master::rounded_by_kernel;
      item.dtypes[0] = DType::bfloat16;
      form = Form::rounded;
    }
  }
  item.kernel = kernel_of(target(), rule.index(), form);
  if (packing != nullptr) {
    const bool coded = form == Form::float32 && is_all_coded(item, rule);
    item.staged = coded ? target().coded[rule.index()] : target().staged;
  }
}

// An item with its parameter's array set.
inline Item new_item(const DLTensor& param) {
  Item item{};
  item.size = element_count(param);
  set_array(item, 0, param);
  return item;
}

}  // namespace fastopt
