#include "bindings/lbfgs.h"

#include <pybind11/stl.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/checks.h"
#include "bindings/held.h"
#include "bindings/tensor.h"
#include "cpu/float_mode.h"
#include "cpu/lbfgs.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace fastopt {
namespace {

// The arrays of one call, all of the first one's dtype: they are taken, settled, and then looked at
// in the order in which they were taken.
class Arrays {
 public:
  explicit Arrays(int threads) : vectors_{DType::float32, -1, threads} {}

  void take(py::handle object, const std::string& name, bool is_zero = false) {
    taken_.push_back({held_.take(object, name), name, is_zero});
  }

  void take_pairs(const py::list& steps, const py::list& changes, int64_t count) {
    const py::tuple s(steps), y(changes);  // copies, for their elements may change the lists
    if (static_cast<int64_t>(s.size()) != count || y.size() != s.size()) {
      throw py::value_error("steps, changes: expected " + std::to_string(count) +
                            " vectors each, got " + std::to_string(s.size()) + " and " +
                            std::to_string(y.size()));
    }
    for (std::size_t i = 0; i < s.size(); ++i) {
      const std::string index = "[" + std::to_string(i) + "]";
      take(s[i], "steps" + index);
      take(y[i], "changes" + index);
    }
  }

  // Zeros where None, as many as in `like`.
  void take_pieces(const py::list& objects, const py::list& like, const std::string& name) {
    const py::tuple pieces(objects), alike(like);
    if (pieces.size() != alike.size()) {
      throw py::value_error(name + ": expected as many as in like, " +
                            std::to_string(alike.size()) + ", got " +
                            std::to_string(pieces.size()));
    }
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const bool is_zero = pieces[i].is_none();
      take(is_zero ? alike[i] : pieces[i], name + "[" + std::to_string(i) + "]", is_zero);
    }
  }

  void settle() { held_.settle(); }

  // A whole vector: all of one size.
  void* vector(bool written = false) {
    const std::string& name = taken_[next_].name;
    const DLTensor& view = checked(written);
    const int64_t size = element_count(view);
    if (vectors_.size < 0) vectors_.size = size;
    if (size != vectors_.size) {
      throw py::value_error(name + ": expected " + std::to_string(vectors_.size) +
                            " elements like the other vectors, got " + std::to_string(size));
    }
    return data_of(view);
  }

  // All that are left.
  Curvature::Rows pairs() {
    Curvature::Rows rows;
    while (next_ < taken_.size()) rows.push_back(vector());
    return rows;
  }

  // All that are left: parts of a vector, which together have its size.
  std::vector<Piece> pieces(const std::string& name, bool written) {
    std::vector<Piece> all;
    int64_t size = 0;
    while (next_ < taken_.size()) {
      const bool is_zero = taken_[next_].is_zero;
      const DLTensor& view = checked(written);
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

  template <class Work>
  void run(Work work) const {
    held_.run(work);
  }

 private:
  struct Taken {
    const Array& array;
    std::string name;
    bool is_zero;
  };

  const DLTensor& checked(bool written) {
    const auto& [array, name, is_zero] = taken_[next_++];
    const DLTensor& view = array.view();
    if (!on_cpu(view)) {
      throw py::value_error(name + ": expected memory of the CPU, got memory of " +
                            device_name(view));
    }
    const int dtype = dtype_of(view);
    const bool fits =
        dtype == static_cast<int>(DType::float32) || dtype == static_cast<int>(DType::float64);
    if (!fits || (next_ > 1 && dtype != static_cast<int>(vectors_.dtype))) {
      throw py::type_error(name + ": expected float32 or float64, the same for all, got " +
                           array.dtype());
    }
    vectors_.dtype = static_cast<DType>(dtype);
    check_layout(array, name, written);
    return view;
  }

  Held held_;
  std::vector<Taken> taken_;
  std::size_t next_ = 0;
  Vectors vectors_;
};

// The inner products, which one thread at a time works on: a long call lets others run.
class Products {
 public:
  class Use {
   public:
    explicit Use(Products& products) : products_(products) {
      if (products.in_use_) {
        throw std::runtime_error(
            "L-BFGS: another thread is at work on the pairs of this optimizer; expected one thread "
            "at a time");
      }
      products.in_use_ = true;
    }
    ~Use() { products_.in_use_ = false; }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    Curvature* operator->() { return &products_.curvature_; }

   private:
    Products& products_;
  };

 private:
  Curvature curvature_;
  bool in_use_ = false;  // looked at under the GIL
};

py::tuple gather_pieces(const py::list& pieces, const py::list& like, py::handle out,
                        py::handle direction, int threads) {
  FloatMode mode;
  Arrays arrays(threads);
  arrays.take(out, "out");
  if (!direction.is_none()) arrays.take(direction, "direction");
  arrays.take_pieces(pieces, like, "pieces");
  arrays.settle();
  void* to = arrays.vector(true);
  const void* b = direction.is_none() ? nullptr : arrays.vector();
  const std::vector<Piece> parts = arrays.pieces("pieces", false);
  Measures measures;
  arrays.run([&] { measures = gather(arrays.vectors(), parts, to, b); });
  return py::make_tuple(measures.largest, measures.sum, measures.dot);
}

void move_params(const py::list& params, py::handle begin, py::handle direction, double t,
                 int threads) {
  FloatMode mode;
  Arrays arrays(threads);
  arrays.take(direction, "direction");
  if (!begin.is_none()) arrays.take(begin, "begin");
  arrays.take_pieces(params, params, "params");
  arrays.settle();
  const void* along = arrays.vector();
  const void* start = begin.is_none() ? nullptr : arrays.vector();
  const std::vector<Piece> parts = arrays.pieces("params", true);
  arrays.run([&] { move(arrays.vectors(), start, along, t, parts); });
}

py::tuple observe(Products& products, py::handle grad, py::handle prev_grad, py::handle direction,
                  double t, py::handle step, py::handle change, const py::list& steps,
                  const py::list& changes, int threads) {
  FloatMode mode;
  Products::Use curvature(products);
  Arrays arrays(threads);
  arrays.take(grad, "grad");
  arrays.take(prev_grad, "prev_grad");
  arrays.take(direction, "direction");
  arrays.take(step, "step");
  arrays.take(change, "change");
  arrays.take_pairs(steps, changes, curvature->pairs());
  arrays.settle();
  const void *g = arrays.vector(), *prev = arrays.vector(), *along = arrays.vector();
  void *made_step = arrays.vector(true), *made_change = arrays.vector(true);
  const Curvature::Rows rows = arrays.pairs();
  std::vector<double> sums;
  arrays.run([&] {
    sums = curvature->observe(arrays.vectors(), g, rows, {prev, along, t, made_step, made_change});
  });
  return py::make_tuple(sums[0], sums[1]);
}

void restore(Products& products, const py::list& steps, const py::list& changes, int threads) {
  FloatMode mode;
  Products::Use curvature(products);
  Arrays arrays(threads);
  arrays.take_pairs(steps, changes, static_cast<int64_t>(steps.size()));
  arrays.settle();
  const Curvature::Rows rows = arrays.pairs();
  arrays.run([&] { curvature->restore(arrays.vectors(), rows); });
}

py::tuple turn(Products& products, py::handle grad, const py::list& steps, const py::list& changes,
               py::handle out, int threads) {
  FloatMode mode;
  Products::Use curvature(products);
  Arrays arrays(threads);
  arrays.take(grad, "grad");
  arrays.take(out, "out");
  arrays.take_pairs(steps, changes, curvature->pairs());
  arrays.settle();
  const void* g = arrays.vector();
  void* d = arrays.vector(true);
  const Curvature::Rows rows = arrays.pairs();
  Measures measures;
  arrays.run([&] { measures = curvature->direction(arrays.vectors(), g, rows, d); });
  return py::make_tuple(measures.dot, measures.largest);
}

}  // namespace

void define_lbfgs(py::module_& m) {
  m.def(
      "gather", &gather_pieces, "pieces"_a, "like"_a, "out"_a, "direction"_a, "threads"_a,
      "Gradients end to end; their largest magnitude, sum of magnitudes, product with direction.");
  m.def("move", &move_params, "params"_a, "begin"_a, "direction"_a, "t"_a, "threads"_a,
        "params = begin + t direction.");
  py::class_<Products>(m, "Curvature", "The inner products of L-BFGS's pairs.")
      .def(py::init<>())
      .def("observe", &observe, "grad"_a, "prev_grad"_a, "direction"_a, "t"_a, "step"_a, "change"_a,
           "steps"_a, "changes"_a, "threads"_a,
           "step = t direction, change = grad - prev_grad; their s·y and y·y.")
      .def(
          "keep", [](Products& it) { Products::Use(it)->keep(); },
          "The pair observed last becomes the newest.")
      .def("drop_oldest", [](Products& it) { Products::Use(it)->drop_oldest(); })
      .def("restore", &restore, "steps"_a, "changes"_a, "threads"_a, "Start over from these pairs.")
      .def("direction", &turn, "grad"_a, "steps"_a, "changes"_a, "out"_a, "threads"_a,
           "out = -H grad; its product with grad and its largest magnitude.")
      .def(
          "weights", [](Products& it) { return Products::Use(it)->weights(); },
          "Those of grad, s_0, y_0, s_1, ... in -H grad.");
}

}  // namespace fastopt
