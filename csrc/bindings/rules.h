// The rules as the bindings see them: by name, with their options read from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "cpu/kernel.h"

namespace fastopt {

enum class Checks { none, ranges };  // whether options outside their range are refused

// Which of the numbers that a step is made of lie on a device.
struct NumbersThere {
  bool step = false, lr = false, kept = false;
  bool any() const { return step || lr || kept; }
  bool operator==(const NumbersThere& other) const {
    return step == other.step && lr == other.lr && kept == other.kept;
  }
};

// An update rule with its options.
class AnyRule {
 public:
  virtual ~AnyRule() = default;

  virtual int index() const = 0;                     // its place in every table (rules/list.h)
  virtual bool is_program() const { return false; }  // at_step() then holds a BoundProgram
  virtual bool has_norms() const = 0;                // or sums
  bool takes_packings() const { return is_program() || !has_norms(); }

  // The rule that devices have kernels of: of a rule with norms, a program, which reads the options
  // for itself.
  virtual AnyRule& on_devices() { return *this; }

  virtual int state_count() const = 0;
  virtual const char* state_name(int state) const = 0;

  // Sets every option from `group`; what that lacks, and a rate that lies on a device, to its
  // default. With Checks::none an option that is lacking is refused, but for a product, which a
  // state keeps. Throws pybind11::type_error, value_error or key_error that names the option.
  virtual void read_options(pybind11::handle group, Checks checks, bool lr_on_device = false) = 0;

  virtual std::shared_ptr<const void> options() const = 0;  // a copy of the rule's Options

  virtual bool uses(int state) const = 0;         // with these options
  virtual bool always_uses(int state) const = 0;  // whatever they are
  virtual bool is_square(int state) const = 0;    // never negative
  virtual bool counts_steps() const = 0;

  // The product that the rule keeps beside the step: its name, or nullptr; the one that came among
  // the options; and one with a step's factor in it, as it is stored.
  virtual const char* product_name() const = 0;
  virtual double product() const = 0;
  virtual double next_product(DType stored, double product, double step) const = 0;

  // The numbers beside the step that a rule in Python keeps for each parameter, in double.
  // advance() makes of them what they are after the step; at_step() is then of this step.
  virtual int kept_count() const { return 0; }
  virtual const char* kept_name(int) const { return nullptr; }
  virtual void advance(std::vector<double>&, double) {}

  // What kernels take: all scalars of step number `step`, after which the product is `product`,
  // rounded to what they compute in. It may hold pointers to what lives until forget_steps().
  virtual BoundRule at_step(DType compute, double step, double product) = 0;
  virtual void forget_steps() {}

  // Likewise where some of a program's numbers lie on a device, which computes what comes of them:
  // those that the step has there are, in this order, it, the rate, and what the rule keeps.
  virtual bool reads_lr_there() const { return false; }  // with these options
  virtual BoundRule at_step_there(DType compute, double step, const NumbersThere&) {
    return at_step(compute, step, 1);
  }

  // Whether advance() or at_step() would have to run Python code: a rule in Python may be traced.
  virtual bool runs_python(const std::vector<double>&, double) { return false; }
  virtual bool runs_python_there(double, const NumbersThere&) { return false; }
};

bool is_compiled(const std::string& name);

// Throws pybind11::value_error if there is no rule of this name.
std::unique_ptr<AnyRule> make_rule(const std::string& name);

}  // namespace fastopt
