// Reads a parameter's states to what a kernel takes.
#pragma once

#include <cstdint>
#include <optional>

#include "bindings/item.h"
#include "bindings/step/clock.h"
#include "bindings/step/entries.h"
#include "bindings/step/reading.h"

namespace fastopt {

class States {
 public:
  States(Memory& memory, Kept& kept, const Plan& plan, PyObject* param, Entries& entries,
         Reading& reading)
      : memory_(memory),
        kept_(kept),
        plan_(plan),
        param_(param),
        entries_(entries),
        reading_(reading),
        clock_(memory, plan, reading.place, reading.counts) {}

  // Fills the reading's states and numbers.
  void read();

 private:
  void read_numbers(const CudaNumber& step);
  void read_rule_state(int i);
  void read_average();

  // How a parameter and its states are stored where that is more than a type (storage.cpp).
  bool is_stored_otherwise(int i, const View& view);
  bool begins_in_halves(int i);  // whether a state that is not there yet will be in 16 bits
  int ask_stored(int i);         // a DType, or Kept::codes, that the options ask for
  void drop_masters(PyObject* kept);
  void read_codes(int i, bool is_new);
  float* scales_of(PyObject* tensor);
  void read_master();
  void read_rounding();
  std::optional<uint64_t> find_first_index() const;
  uint64_t first_index() const;
  Packing& packing();

  Memory& memory_;
  Kept& kept_;
  const Plan& plan_;
  PyObject* const param_;
  Entries& entries_;
  Reading& reading_;
  Clock clock_;
};

// Sets an array of the reading's item to the memory of a gradient or state.
void set_like_param(Reading& reading, int array, const View& view, const char* name);

}  // namespace fastopt
