#include "bindings/step/reading.h"

#include "bindings/step/states.h"
#include "cpu/overlap.h"

namespace fastopt {
namespace {

// Norms are of whole tensors, whose numbers are the parameter's own.
void check_norms(const Plan& plan, PyObject* param) {
  if (plan.has_master || plan.rounds_at_random) {
    throw Unfit{"master_weights and stochastic_rounding are not for a rule with norms"};
  }
  if (is_dtensor(param)) {
    throw Unfit{"a DTensor, of which this process may not know the norm (" +
                distribution_text(distribution(param)) + ")"};
  }
  if (py::hasattr(param, "_fsdp_flattened")) {
    throw Unfit{"of FullyShardedDataParallel, so that this process does not know its norm"};
  }
}

}  // namespace

Reading read(Memory& memory, Places& places, Kept& kept, const Plan& plan,
             const Candidate& candidate) {
  if (plan.has_norms) check_norms(plan, candidate.param);
  Reading reading(memory, places, plan, candidate.param);
  set_like_param(reading, 1, reading.place.laid_out(candidate.grad.ptr(), "grad", false), "grad");
  Entries entries(memory, kept, plan, reading.place, candidate);
  States(memory, kept, plan, candidate.param, entries, reading).read();
  reading.made = entries.take_made();
  if (reading.packing) reading.item.packing = &*reading.packing;  // until it has a lasting place
  if (reading.item.size > 0 && overlaps_itself(reading.item)) {
    throw Unfit{"shares memory with its gradient or a state, or they do"};
  }
  return reading;
}

}  // namespace fastopt
