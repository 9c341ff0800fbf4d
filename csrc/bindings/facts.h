// What a rule says of itself, as data for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

void define_facts(pybind11::module_& m);

}  // namespace fastopt
