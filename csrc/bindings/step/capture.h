// CUDA graphs: what a captured step launches is replayed without the host, whose numbers every
// replay would take as they were.
#pragma once

#include <map>
#include <string>

#include "bindings/step/plan.h"

namespace fastopt {

// Whether a graph captures what a step gives its devices; each is asked once.
class Captures {
 public:
  bool on(int device);
  bool any() const { return any_; }  // of those so far
  void clear();

 private:
  std::map<int, bool> devices_;
  bool any_ = false;
};

// Throws for a number of a captured parameter's state that lies on the CPU, and would be the same
// in every replay.
[[noreturn]] void refuse_captured_number(const Plan& plan, const std::string& name);

// Throws for an entry of its state that every replay would make anew.
[[noreturn]] void refuse_captured_entry(const Plan& plan, const std::string& name, bool is_number);

}  // namespace fastopt
