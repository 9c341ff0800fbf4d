// The optimizer that a step is of: all that C++ knows of it by name.
//
// Its groups, defaults and state are torch's; the rest is fastopt.optim._stepped.Stepped, which
// says what each does. None of these is asked on the fast path but the first three.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

class Stepped {
 public:
  using Handle = pybind11::handle;
  using Object = pybind11::object;

  explicit Stepped(const Object& optimizer) : optimizer_(optimizer) {}

  Object param_groups() const { return optimizer_.attr("param_groups"); }
  Object defaults() const { return optimizer_.attr("defaults"); }
  Object state() const { return optimizer_.attr("state"); }

  void missing_option(Handle group, Handle name) const { ask("_missing_option", group, name); }
  void check_storage(Handle group) const { ask("_check_storage", group); }
  Object as_dict(Handle mapping) const { return ask("_as_dict", mapping); }

  Object new_state(Handle group, Handle param, Handle name) const {
    return ask("_new_state", group, param, name);
  }
  Object converted(Handle group, Handle param, Handle name) const {
    return ask("_converted", group, param, name);
  }
  Object dtype_of_state(Handle group, Handle param, Handle name) const {
    return ask("_dtype_of_state", group, param, name);
  }
  Object first_index(Handle param) const { return ask("_first_index", param); }
  Object dense_copy(Handle tensor, Handle like, bool written) const {
    return ask("_dense_copy", tensor, like, written);
  }

  bool norm_is_local() const { return ask("_norm_is_local").template cast<bool>(); }
  double total_squares(Handle parts) const {
    return ask("_total_squares", parts).template cast<double>();
  }
  template <class Norm>  // a number or a tensor
  void set_grad_norm(const Norm& norm) const {
    ask("_set_grad_norm", norm);
  }

  void warn_unfused(Handle left_over) const { ask("_warn_unfused", left_over); }
  void step_with_torch(Handle left_over, double grad_scale) const {
    ask("_step_with_torch", left_over, grad_scale);
  }
  void check_copies(Handle group) const { ask("_check_copies", group); }
  void check_late_copies(Handle late) const { ask("_check_late_copies", late); }
  void write_late_copies(Handle late, Handle found_inf) const {
    ask("_write_late_copies", late, found_inf);
  }
  void copy_back(Handle tensor, Handle copy) const { ask("_copy_back", tensor, copy); }
  void bump_versions(Handle params) const { ask("_bump_versions", params); }

 private:
  template <class... Arguments>
  Object ask(const char* name, const Arguments&... arguments) const {
    return optimizer_.attr(name)(arguments...);
  }

  const Object& optimizer_;
};

}  // namespace fastopt
