// Reads one parameter of a step: itself, its gradient and its states, to an item that a kernel
// takes.
#pragma once

#include <pybind11/pybind11.h>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/cuda.h"
#include "bindings/rules.h"
#include "bindings/step/plan.h"
#include "bindings/step/stepped.h"
#include "bindings/step/work.h"
#include "bindings/tensor.h"

namespace fastopt {

// Why the kernels do not take a parameter, for people.
struct Unfit {
  std::string reason;
};

// Thrown by a reader that does not hold what it reads, where Python code would have to run, or
// where there is so much to do that other threads should.
struct MustHold {};

// Gathers into a scratch; makes new states, but does not insert them.
class ParamReader {
 public:
  // A dry reader makes no state and copies nothing.
  ParamReader(Spec& spec, Scratch& scratch, const Stepped& optimizer, bool dry);

  void begin_group(const Plan& plan);

  // The entry of optimizer.state, null if there is none or none is asked for. May run Python.
  py::object find_entries(PyObject* param);

  // Throws Unfit, after which the scratch is to be rolled back.
  void read(const Candidate& candidate);

  // Says that Python code is about to run, or memory to be worked on with the GIL released.
  void must_hold() const {
    if (!scratch_.holds && !dry_) throw MustHold{};
  }

  // Whether a graph captures what some parameter's device is given.
  bool met_a_graph() const { return met_a_graph_; }

  // Every process must list the same layouts, even if it has no gradient for a parameter.
  void note_layout(PyObject* param);

  // Whether parameters came in another order than their states since this was last asked. While
  // they do not, none can come twice: the keys of a dict differ.
  bool was_out_of_order() { return std::exchange(out_of_order_, false); }

 private:
  PyObject* local_param();
  PyObject* local_like_param(PyObject* tensor, const char* name);
  void check_norms() const;
  void read_local(PyObject* local);
  void check_device();
  bool is_captured();
  void check_not_captured(const std::string& name) const;
  void check_no_new_state(PyObject* name) const;
  bool is_beside_param(const View& view, bool always) const;
  void add_item(const CudaNumber& step);
  std::size_t cuda_group();

  bool keeps_state() const;
  bool look(PyObject* tensor, View* view);
  CudaNumber read_states();
  void read_rule_state(int i, bool empty);
  bool is_stored_otherwise(int i, const View& view);
  PyObject* convert_state(int i);
  void drop_masters(PyObject* kept);
  void set_coding(int i, Coding coding, bool is_new);
  void set_rounding(const CudaNumber& step);
  float* scales_of(PyObject* tensor);
  void read_master();
  void read_rounding();
  std::optional<uint64_t> find_first_index() const;
  uint64_t first_index() const;
  void read_average();
  void read_average_weight();
  PyObject* find_or_make(PyObject* name);
  PyObject* make_state(PyObject* name);
  CudaNumber count(PyObject* tensor, PyObject* name);
  void read_product(const CudaNumber& step, bool empty);
  void read_kept(double step, bool empty);
  CudaNumber beside_param(PyObject* tensor, const View& view, bool always = false) const;
  Scratch::Count counter(PyObject* tensor, const View* view, const char* name) const;

  void take(int array, PyObject* whole, const char* name);
  void set_state(int array, const View& view, const char* name);
  View laid_out(PyObject* whole, const char* name, bool written);
  Packing& packing();

  PyObject* hold(py::object object);
  py::object dense_copy(PyObject* tensor, py::handle like, bool written);
  std::string unreadable(PyObject* object) const;
  std::size_t rule_at(double step, DType compute);
  const Dither* dither_at(double step);
  const HalfDither* half_dither_at(double step);

  const bool dry_;
  Spec& spec_;
  Scratch& scratch_;
  const Stepped& optimizer_;
  const py::object state_;  // optimizer.state
  const TorchReader& reader_ = TorchReader::get();
  CudaLibrary& cuda_ = CudaLibrary::get();

  // Of the group.
  PyObject* group_ = nullptr;
  AnyRule* rule_ = nullptr;
  bool has_norms_ = false, keeps_state_ = false;
  TailOptions tail_;
  DeviceNumber lr_;
  StateDtype wanted_ = StateDtype::own;
  unsigned used_ = 0;  // a bit for each state that the options use
  bool has_master_ = false, rounds_at_random_ = false;
  bool capturable_ = false, counts_on_device_ = false;
  bool lr_on_host_ = false;
  bool is_on_cuda_ = false;  // some parameter
  // What the latest rule and dither were made for.
  double last_step_ = -1, last_product_ = 0, last_dither_ = -1, last_half_dither_ = -1;
  DType last_compute_ = DType::float32;
  std::vector<double> last_kept_;

  // Of the parameter.
  PyObject* param_ = nullptr;
  View view_{};
  int device_ = cpu_device;
  bool captured_ = false;     // by a graph
  PyObject* like_ = nullptr;  // what view_ is of: the parameter, its local part or a dense copy
  Item item_{};
  Packing* packing_ = nullptr;          // the item's, if it needs one
  CudaNumber dither_step_ = {};         // on a device: as in CudaItem
  const uint64_t* rounding_ = nullptr;  // likewise
  std::optional<Entries> entries_;
  Scratch::NewState fresh_;
  bool made_rule_state_ = false;
  bool has_halves_ = false;  // states in 16 bits, of no elements, too
  CudaNumber product_ = {};
  py::object distribution_;  // null if it is no DTensor
  int layout_ = Layouts::plain;

  int64_t elements_ = 0;  // of all items so far
  bool met_a_graph_ = false;
  std::map<int, bool> captures_;  // of the devices so far
  Py_ssize_t state_position_ = 0;
  bool out_of_order_ = false;
};

}  // namespace fastopt
