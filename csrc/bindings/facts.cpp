#include "bindings/facts.h"

#include <memory>
#include <string>

#include "bindings/options.h"
#include "bindings/program_rule.h"
#include "bindings/rules.h"
#include "rules/list.h"
#include "simd/vec.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// Visits a rule's options and lists them in their order: the default and the range of each.
struct OptionLister {
  py::dict found;

  void operator()(const char* name, double value, Range range) {
    found[name] = py::make_tuple(value, name_of(range));
  }
  void operator()(const char* name, double first, double second, Range range) {
    found[name] = py::make_tuple(py::make_tuple(first, second), name_of(range));
  }
  void operator()(const char* name, bool value) { found[name] = py::make_tuple(value, "flag"); }
};

template <class Options>
py::dict options_of() {
  Options options;
  OptionLister lister;
  options.visit(lister);
  return lister.found;
}

py::dict options_of(const std::string& rule) {
#define FASTOPT_OPTIONS(Rule)                        \
  if (rule == host::Rule<float>::name) {             \
    return options_of<host::Rule<float>::Options>(); \
  }
  FASTOPT_RULES(FASTOPT_OPTIONS)
  FASTOPT_NORMED_RULES(FASTOPT_OPTIONS)
#undef FASTOPT_OPTIONS
  return options_of_program(rule);
}

py::dict facts_of(const std::string& name) {
  using namespace pybind11::literals;
  const std::unique_ptr<AnyRule> rule = make_rule(name);
  py::list states, required, squares, kept;
  for (int i = 0; i < rule->state_count(); ++i) {
    const py::str state = rule->state_name(i);
    states.append(state);
    if (rule->always_uses(i)) required.append(state);
    if (rule->is_square(i)) squares.append(state);
  }
  for (int k = 0; k < rule->kept_count(); ++k) kept.append(rule->kept_name(k));
  return py::dict("states"_a = states, "required"_a = required, "squares"_a = squares,
                  "product"_a = rule->product_name(), "kept"_a = kept,
                  "norms"_a = rule->has_norms(), "counts_steps"_a = rule->counts_steps(),
                  "options"_a = options_of(name));
}

}  // namespace

void define_facts(py::module_& m) {
  using namespace pybind11::literals;
  m.def("rule", &facts_of, "name"_a, "What a rule says of itself, with its default options.");
}

}  // namespace fastopt
