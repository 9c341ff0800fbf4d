#include "bindings/step/reading.h"

#include "bindings/step/copies.h"
#include "bindings/step/states.h"
#include "cpu/overlap.h"

namespace fastopt {
namespace {

// Norms are of whole tensors, whose numbers are the parameter's own.
void check_norms(const Plan& plan, PyObject* param) {
  if (!plan.rule->takes_packings() && (plan.has_master || plan.rounds_at_random)) {
    throw Unfit{"master_weights and stochastic_rounding are not for a rule with norms"};
  }
  if (is_dtensor(param)) {
    throw Unfit{"a DTensor, of which this process may not know the norm (" +
                distribution_text(distribution(param)) + ")"};
  }
  static PyObject* const flattened = PyUnicode_InternFromString("_fsdp_flattened");
  if (PyObject_HasAttr(param, flattened)) {  // which makes no exception where there is none
    throw Unfit{"of FullyShardedDataParallel, so that this process does not know its norm"};
  }
}

View grad_of(Memory& memory, Place& place, const Candidate& candidate) {
  if (candidate.grad) return place.laid_out(candidate.grad.ptr(), "grad", false);
  View view;
  if (memory.look_at_grad(candidate.param, &view) && place.is_like_param(view)) return view;
  return place.laid_out(TorchReader::get().grad(candidate.param).ptr(), "grad", false);
}

}  // namespace

Reading read(Memory& memory, Places& places, Kept& kept, const Plan& plan,
             const Candidate& candidate) {
  if (plan.has_norms) check_norms(plan, candidate.param);
  Reading reading(memory, places, plan, candidate.param);
  set_like_param(reading, 1, grad_of(memory, reading.place, candidate), "grad");
  Entries entries(memory, kept, plan, reading.place, candidate);
  States(memory, kept, plan, candidate.param, entries, reading).read();
  reading.made = entries.take_made();
  if (candidate.copy != nullptr && !memory.dry()) read_copy(memory, plan, candidate, reading);
  if (reading.packing) reading.item.packing = &*reading.packing;  // until it has a lasting place
  if (reading.item.size > 0 && overlaps_itself(reading.item)) {
    throw Unfit{"shares memory with its gradient or a state, or they do"};
  }
  if (reading.place.device != cpu_device) {
    const char* const unfit = unfit_for_devices(*plan.rule, reading.has_halves);
    if (unfit != nullptr) throw Unfit{unfit};
  }
  return reading;
}

}  // namespace fastopt
