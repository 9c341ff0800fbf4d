// Makes the items that a run works on from the tensors that it was given.
#pragma once

#include "bindings/rules.h"
#include "bindings/tensor.h"
#include "cpu/dispatch.h"
#include "cpu/kernel.h"
#include "numeric/code8.h"
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

// Whether a copy of a parameter may be stored so: where one rounding is enough.
inline bool copied_to(const DLTensor& view, const DLTensor& param) {
  return stored_with(view, param) || dtype_of(view) == static_cast<int>(DType::float32);
}

inline void set_copy(Item& item, const DLTensor& view) {
  item.copy = data_of(view);
  item.copy_dtype = static_cast<DType>(dtype_of(view));
}

inline void set_array(Item& item, int array, const DLTensor& view) {
  item.arrays[array] = data_of(view);
  item.dtypes[array] = static_cast<DType>(dtype_of(view));
}

// The code that a state's tensor holds (numeric/code8.h); -1 if it holds none.
inline int code_of(const DLTensor& view) {
  if (view.dtype.bits != 8 || view.dtype.lanes != 1) return -1;
  if (view.dtype.code == kDLInt) return static_cast<int>(DType::signed8);
  return view.dtype.code == kDLUInt ? static_cast<int>(DType::root8) : -1;
}

// The dither of a step.
inline void make_dither(double step, Dither& dither) {
  for (uint32_t i = 0; i < dither_size; ++i) {
    dither.signed8[i] = host::dither_entry<DType::signed8>(step, i);
    dither.root8[i] = host::dither_entry<DType::root8>(step, i);
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

// Whether every array from `first` to before `end` that is there is stored so.
inline bool are_all(const Item& item, int first, int end, DType dtype) {
  for (int array = first; array < end; ++array) {
    if (item.arrays[array] != nullptr && item.dtypes[array] != dtype) return false;
  }
  return true;
}

// Whether every state is a code, as such states are when they are made.
inline bool are_all_codes(const Item& item, const AnyRule& rule) {
  for (int state = 0; state < max_states; ++state) {
    const DType code = rule.is_square(state) ? DType::root8 : DType::signed8;
    if (!are_all(item, 2 + state, 3 + state, code)) return false;
  }
  return true;
}

// The way of an item's arrays, where their dtypes say it all.
inline Way plain_way_of(const Item& item) {
  const DType param = item.dtypes[0];
  if (param == DType::float16 || !are_all(item, 1, max_arrays, param)) return Way::mixed;
  if (param == DType::float32) return Way::float32;
  return param == DType::float64 ? Way::float64 : Way::bfloat16;
}

inline Way packed_way_of(const Item& item, const AnyRule& rule) {
  const Master master = item.packing->master;
  if (master == Master::none && are_all_codes(item, rule)) {
    const auto others_are = [&item](DType dtype) {
      return are_all(item, 0, 2, dtype) && are_all(item, ema_array, max_arrays, dtype);
    };
    if (others_are(DType::float32)) return Way::coded;
    if (others_are(DType::bfloat16)) return Way::bfloat16_coded;
  }
  if (master == Master::low_half && item.packing->row == 0) return Way::split;
  const bool rounds = master == Master::stochastic;
  return rounds && are_all(item, 1, max_arrays, DType::bfloat16) ? Way::rounded : Way::packed;
}

// The way of what a packed item is unpacked to: float32 in place of masters and codes.
inline Way unpacked_way_of(const Item& item) {
  for (int array = 0; array < max_arrays; ++array) {
    const DType dtype = item.dtypes[array];
    if (item.arrays[array] == nullptr || dtype == DType::float32 || host::is_code(dtype)) continue;
    if (array > 0 || item.packing->master == Master::none) return Way::mixed;
  }
  return Way::float32;
}

// Once all arrays are set.
inline void set_kernel(Item& item, const AnyRule& rule) {
  const auto kernel = [&rule](Way way) {
    return target().kernels[static_cast<int>(way)][rule.index()];
  };
  const bool is_plain = item.packing == nullptr;
  item.way = is_plain ? plain_way_of(item) : packed_way_of(item, rule);
  if (kernel(item.way) == nullptr) item.way = is_plain ? Way::mixed : Way::packed;
  item.kernel = kernel(item.way);
  if (item.way == Way::packed) item.inner = kernel(unpacked_way_of(item));
}

// Why devices do not take it, or nullptr. A rule with norms updates by states as they are stored;
// its program, which devices run, by states as they are computed.
inline const char* unfit_for_devices(const AnyRule& rule, bool has_halves) {
  if (rule.is_program() || !rule.has_norms() || !has_halves) return nullptr;
  return "states in 16 bits of a rule with norms are for the CPU; devices take them in float32 "
         "(state_dtype)";
}

// Makes it an item with nothing but its parameter's array set; in its place, since a copy of what
// has just been stored in parts waits for the stores (bench/NOTES.md, 7d), and field by field,
// since the instruction by which compilers clear all of it takes 30 cycles to begin.
inline void begin_item(Item& item, const DLTensor& param) {
  item.way = Way::float32;
  item.kernel = item.inner = nullptr;
  item.rule = nullptr;
  for (void*& array : item.arrays) array = nullptr;
  for (DType& dtype : item.dtypes) dtype = DType::float32;
  item.packing = nullptr;
  item.rounding = {};
  item.pass = nullptr;
  item.copy = nullptr;
  item.copy_dtype = DType::float32;
  item.start = 0;
  item.size = element_count(param);
  set_array(item, 0, param);
}

}  // namespace fastopt
