#include "bindings/lbfgs.h"

#include <pybind11/stl.h>

#include <deque>
#include <string>
#include <vector>

#include "bindings/checks.h"
#include "bindings/tensor.h"
#include "cpu/float_mode.h"
#include "cpu/lbfgs.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace fastopt {
namespace {

// The arrays of one call, held and checked: all of the first one's dtype.
class Arrays {
 public:
  explicit Arrays(int threads) : vectors_{DType::float32, -1, threads} {}

  // A whole vector: all of one size.
  void* vector(py::handle object, const std::string& name, bool written = false) {
    const DLTensor& view = add(object, name, written);
    const int64_t size = element_count(view);
    if (vectors_.size < 0) vectors_.size = size;
    if (size != vectors_.size) {
      throw py::value_error(name + ": expected " + std::to_string(vectors_.size) +
                            " elements like the other vectors, got " + std::to_string(size));
    }
    return data_of(view);
  }

  Curvature::Rows pairs(const py::list& steps, const py::list& changes, int64_t count) {
    if (static_cast<int64_t>(steps.size()) != count || changes.size() != steps.size()) {
      throw py::value_error("steps, changes: expected " + std::to_string(count) +
                            " vectors each, got " + std::to_string(steps.size()) + " and " +
                            std::to_string(changes.size()));
    }
    Curvature::Rows rows;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const std::string index = "[" + std::to_string(i) + "]";
      rows.push_back(vector(steps[i], "steps" + index));
      rows.push_back(vector(changes[i], "changes" + index));
    }
    return rows;
  }

  // Parts of a vector, which together have its size; zeros where None, as many as in `like`.
  std::vector<Piece> pieces(const py::list& objects, const py::list& like, const std::string& name,
                            bool written) {
    std::vector<Piece> all;
    int64_t size = 0;
    for (std::size_t i = 0; i < objects.size(); ++i) {
      const std::string place = name + "[" + std::to_string(i) + "]";
      const bool is_zero = objects[i].is_none();
      const DLTensor& view = add(is_zero ? like[i] : objects[i], place, written);
      all.push_back({is_zero ? nullptr : data_of(view), element_count(view)});
      size += all.back().size;
    }
    if (size != vectors_.size) {
      throw py::value_error(name + ": expected " + std::to_string(vectors_.size) +
                            " elements together, got " + std::to_string(size));
    }
    return all;
  }

  const Vectors& vectors() const { return vectors_; }

 private:
  const DLTensor& add(py::handle object, const std::string& name, bool written) {
    const Array& array = held_.emplace_back(object, name);
    const DLTensor& view = array.view();
    if (!on_cpu(view)) {
      throw py::value_error(name + ": expected memory of the CPU, got memory of " +
                            device_name(view));
    }
    const int dtype = dtype_of(view);
    const bool fits =
        dtype == static_cast<int>(DType::float32) || dtype == static_cast<int>(DType::float64);
    if (!fits || (held_.size() > 1 && dtype != static_cast<int>(vectors_.dtype))) {
      throw py::type_error(name + ": expected float32 or float64, the same for all, got " +
                           array.dtype());
    }
    vectors_.dtype = static_cast<DType>(dtype);
    check_layout(array, name, written);
    return view;
  }

  std::deque<Array> held_;
  Vectors vectors_;
};

py::tuple gather_pieces(const py::list& pieces, const py::list& like, py::handle out,
                        py::handle direction, int threads) {
  FloatMode mode;
  Arrays arrays(threads);
  void* to = arrays.vector(out, "out", true);
  const void* b = direction.is_none() ? nullptr : arrays.vector(direction, "direction");
  if (pieces.size() != like.size()) {
    throw py::value_error("pieces: expected as many as in like, " + std::to_string(like.size()) +
                          ", got " + std::to_string(pieces.size()));
  }
  const std::vector<Piece> parts = arrays.pieces(pieces, like, "pieces", false);
  Measures measures;
  {
    py::gil_scoped_release released;
    measures = gather(arrays.vectors(), parts, to, b);
  }
  return py::make_tuple(measures.largest, measures.sum, measures.dot);
}

void move_params(const py::list& params, py::handle begin, py::handle direction, double t,
                 int threads) {
  FloatMode mode;
  Arrays arrays(threads);
  const void* along = arrays.vector(direction, "direction");
  const void* start = begin.is_none() ? nullptr : arrays.vector(begin, "begin");
  const std::vector<Piece> parts = arrays.pieces(params, params, "params", true);
  py::gil_scoped_release released;
  move(arrays.vectors(), start, along, t, parts);
}

py::tuple observe(Curvature& curvature, py::handle grad, py::handle prev_grad, py::handle direction,
                  double t, py::handle step, py::handle change, const py::list& steps,
                  const py::list& changes, int threads) {
  FloatMode mode;
  Arrays arrays(threads);
  const void* g = arrays.vector(grad, "grad");
  const NewPair pair{arrays.vector(prev_grad, "prev_grad"), arrays.vector(direction, "direction"),
                     t, arrays.vector(step, "step", true), arrays.vector(change, "change", true)};
  const Curvature::Rows rows = arrays.pairs(steps, changes, curvature.pairs());
  std::vector<double> products;
  {
    py::gil_scoped_release released;
    products = curvature.observe(arrays.vectors(), g, rows, pair);
  }
  return py::make_tuple(products[0], products[1]);
}

void restore(Curvature& curvature, const py::list& steps, const py::list& changes, int threads) {
  FloatMode mode;
  Arrays arrays(threads);
  const Curvature::Rows rows = arrays.pairs(steps, changes, static_cast<int64_t>(steps.size()));
  py::gil_scoped_release released;
  curvature.restore(arrays.vectors(), rows);
}

py::tuple turn(const Curvature& curvature, py::handle grad, const py::list& steps,
               const py::list& changes, py::handle out, int threads) {
  FloatMode mode;
  Arrays arrays(threads);
  const void* g = arrays.vector(grad, "grad");
  void* d = arrays.vector(out, "out", true);
  const Curvature::Rows rows = arrays.pairs(steps, changes, curvature.pairs());
  Measures measures;
  {
    py::gil_scoped_release released;
    measures = curvature.direction(arrays.vectors(), g, rows, d);
  }
  return py::make_tuple(measures.dot, measures.largest);
}

}  // namespace

void define_lbfgs(py::module_& m) {
  m.def(
      "gather", &gather_pieces, "pieces"_a, "like"_a, "out"_a, "direction"_a, "threads"_a,
      "Gradients end to end; their largest magnitude, sum of magnitudes, product with direction.");
  m.def("move", &move_params, "params"_a, "begin"_a, "direction"_a, "t"_a, "threads"_a,
        "params = begin + t direction.");
  py::class_<Curvature>(m, "Curvature", "The inner products of L-BFGS's pairs.")
      .def(py::init<>())
      .def("observe", &observe, "grad"_a, "prev_grad"_a, "direction"_a, "t"_a, "step"_a, "change"_a,
           "steps"_a, "changes"_a, "threads"_a,
           "step = t direction, change = grad - prev_grad; their s·y and y·y.")
      .def("keep", &Curvature::keep, "The pair observed last becomes the newest.")
      .def("drop_oldest", &Curvature::drop_oldest)
      .def("restore", &restore, "steps"_a, "changes"_a, "threads"_a, "Start over from these pairs.")
      .def("direction", &turn, "grad"_a, "steps"_a, "changes"_a, "out"_a, "threads"_a,
           "out = -H grad; its product with grad and its largest magnitude.")
      .def("weights", &Curvature::weights, "Those of grad, s_0, y_0, s_1, ... in -H grad.");
}

}  // namespace fastopt
