// What every array or number that Python passes must be. Errors name the argument, what came and
// what is accepted.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/tensor.h"

namespace fastopt {

std::string text(pybind11::handle object);  // its repr

// Clears the Python error that is set if it is an object's refusal to be a number or a truth, which
// the caller tells in words of its own. torch's tensors raise RuntimeError, too. All others, an
// interrupt or a lack of memory among them, come through as they are.
void take_refusal();

// Throws pybind11::type_error, or value_error for an int that no double can hold. Of literals, as
// every option of every step is read by it.
double number(pybind11::handle object, const char* name, const char* accepted,
              const char* accepted_if_too_large = nullptr);

// The device that it lies on (bindings/cuda.h), whose kernels take it.
int device_with_kernels(const Array& array, const std::string& name);

// That it lies where `other` does.
void check_same_device(const Array& array, const std::string& name, const Array& other,
                       const std::string& other_name);

void check_dtype(const Array& array, const std::string& name);

// Contiguous, aligned and, if it is to be written, writable.
void check_layout(const Array& array, const std::string& name, bool written);

}  // namespace fastopt
