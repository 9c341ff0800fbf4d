// Rules that Python made of functions (fastopt.rules), as the bindings see all rules.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "bindings/rules.h"

namespace fastopt {

// nullptr if Python has defined no rule of this name.
std::unique_ptr<AnyRule> make_program_rule(const std::string& name);

// The default and the range of each of its options, "flag" or a number's.
pybind11::dict options_of_program(const std::string& name);

void define_rules(pybind11::module_& m);

}  // namespace fastopt
