// How tensors lie over the processes of a job: torch.distributed.tensor.DTensor, by its local part.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

namespace fastopt {

// Exactly a DTensor, no subclass. Never imports torch.distributed.tensor: before somebody has, no
// object is one.
bool is_dtensor(PyObject* object);

// The tensor in this process's memory; it lives at least as long as `dtensor`.
pybind11::object local_part(PyObject* dtensor);

// How a DTensor is cut up: its mesh, its placements and the shape of the whole.
pybind11::object distribution(PyObject* dtensor);

// Whether the same elements lie at the same place of the same process.
bool same_distribution(const pybind11::object& a, const pybind11::object& b);

// For people: "torch.Size([7, 3]), placements (Shard(dim=0),), DeviceMesh(...)".
std::string distribution_text(const pybind11::object& distribution);

// The ways in which the DTensors of one step are cut up, in the order in which they were met.
class Layouts {
 public:
  static constexpr int plain = -1;  // no DTensor at all

  struct Layout {
    pybind11::object mesh, placements;
    bool partial;  // the tensor is a sum over processes, not a part of each
  };

  int index_of(const pybind11::object& distribution);
  const Layout& operator[](int index) const { return layouts_[index]; }
  int size() const { return static_cast<int>(layouts_.size()); }
  void clear() { layouts_.clear(); }

 private:
  std::vector<Layout> layouts_;
};

}  // namespace fastopt
