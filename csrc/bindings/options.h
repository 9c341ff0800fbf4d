// Options as Python passes them, with the ranges that rules give them (rules/rule.h). Errors name
// the option, what came and what is accepted.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <string>

#include "bindings/checks.h"
#include "bindings/rules.h"
#include "rules/list.h"

namespace fastopt {

using host::Range;

inline const char* name_of(Range range) {
  if (range == Range::any) return "any";
  if (range == Range::non_negative) return "non_negative";
  return range == Range::unit ? "unit" : "closed_unit";
}

inline bool accepts(Range range, double value) {
  if (range == Range::any) return !std::isnan(value);
  if (range == Range::closed_unit) return value >= 0 && value <= 1;
  return value >= 0 && (range != Range::unit || value < 1);
}

inline const char* describe(Range range) {
  if (range == Range::any) return "a number other than NaN";
  if (range == Range::closed_unit) return "a number in [0, 1]";
  return range == Range::unit ? "a number in [0, 1)" : "a number >= 0";
}

inline double number_in(Range range, const char* name, PyObject* object, Checks checks) {
  const double value = number(object, name, describe(range), "a number within a double's range");
  if (checks == Checks::ranges && !accepts(range, value)) {
    throw pybind11::value_error(std::string(name) + ": expected " + describe(range) + ", got " +
                                text(object));
  }
  return value;
}

// As many objects, of which a number is to be made each: a copy, since what makes a number of the
// first may change a list.
inline pybind11::tuple several(const char* name, PyObject* object, std::size_t count) {
  const auto message = [&] {
    const std::string number = count == 2 ? "two" : std::to_string(count);
    return std::string(name) + ": expected " + number + " numbers, got " + text(object);
  };
  auto items = pybind11::reinterpret_steal<pybind11::tuple>(PySequence_Tuple(object));
  if (!items) {
    take_refusal();
    throw pybind11::type_error(message());
  }
  if (items.size() != count) throw pybind11::value_error(message());
  return items;
}

inline bool flag(const char* name, PyObject* object) {
  const int truth = PyObject_IsTrue(object);
  if (truth < 0) {
    take_refusal();
    throw pybind11::type_error(std::string(name) + ": expected True or False, got " + text(object));
  }
  return truth != 0;
}

}  // namespace fastopt
