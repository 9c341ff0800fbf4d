#include "cpu/summed.h"

#include <algorithm>
#include <new>

#include "cpu/copied.h"
#include "cpu/cut.h"
#include "cpu/dispatch.h"
#include "cpu/float_mode.h"
#include "cpu/norm.h"
#include "cpu/units.h"

namespace fastopt {
namespace {

// One parameter's way through the stages.
class Stages {
 public:
  explicit Stages(const Item& item)
      : item_(item),
        program_(*item.rule->summed->program),
        numbers_(item.rule->summed->numbers),
        bound_(*item.rule),
        compute_(item.way == Way::float64 ? DType::float64 : DType::float32) {
    numbers_[program_.given()] = static_cast<double>(item.size);
    next_sum_ = program_.given() + 1;
    bind();
  }

  const Item& item() const { return item_; }
  bool is_last() const { return stage_ + 1 == program_.stages.size(); }

  // Elements [begin, end), where whole chunks begin, in this stage; the step cuts where it can.
  void run(int64_t begin, int64_t end) {
    if (is_last()) return run_last(cut(begin, item_), cut(end, item_));
    for (int64_t i = begin; i < end; i += sum_chunk) measure(i, std::min(i + sum_chunk, end));
  }

  // Whether it goes through another stage.
  bool is_due() const { return is_due_; }
  void take_turn() {
    is_due_ = !is_last();
    if (is_due_) go_on();
  }

  // Once all elements have been through a stage.
  void go_on() {
    const int64_t chunks = chunks_of(item_);
    for (std::size_t k = 0; k < partials_.size(); ++k) {
      numbers_[next_sum_++] = sum_of_chunks(partials_[k].data(), chunks);
    }
    ++stage_;
    bind();
  }

 private:
  void run_last(int64_t begin, int64_t end) {
    if (begin >= end) return;
    Item last = item_;
    last.rule = &bound_;
    step_elements(last, begin, end);
  }

  void bind() {
    const Traced::Stage& stage = program_.stages[stage_];
    program_.compute(stage_, numbers_);
    const void* code = nullptr;
    if (compute_ == DType::float32) {
      program_.bind(stage_, numbers_, floats_);
      code = floats_.data();
    } else {
      program_.bind(stage_, numbers_, doubles_);
      code = doubles_.data();
    }
    new (bound_.rule) BoundProgram(program_.bound(stage_, code));
    partials_.assign(stage.squares.size(), std::vector<double>(chunks_of(item_)));
  }

  void measure(int64_t begin, int64_t end) {
    constexpr int64_t longest_strip = 128;  // the last one is left whole
    using Room = double[max_summands][sum_chunk + longest_strip];
    alignas(64) static thread_local Room room;  // or floats
    void* summands[max_summands];
    for (int k = 0; k < max_summands; ++k) summands[k] = room[k];
    const Pass pass = {summands};
    Item measured = item_;
    measured.rule = &bound_;
    measured.pass = &pass;
    measured.arrays[ema_array] = nullptr;  // which is of the step
    measured.rounding = {};
    measured.kernel(measured, begin, end);
    const int compute = static_cast<int>(compute_);
    const std::vector<bool>& squares = program_.stages[stage_].squares;
    for (std::size_t k = 0; k < squares.size(); ++k) {
      partials_[k][begin / sum_chunk] =
          squares[k] ? target().sums_of_squares[compute](room[k], end - begin)
                     : sum_of(room[k], end - begin);
    }
  }

  double sum_of(const double* values, int64_t count) const {
    if (compute_ == DType::float64) return (*target().sum)(values, count);
    const float* floats = reinterpret_cast<const float*>(values);
    alignas(64) double doubles[sum_chunk];
    for (int64_t i = 0; i < count; ++i) doubles[i] = floats[i];
    return (*target().sum)(doubles, count);
  }

  const Item& item_;
  const Traced& program_;
  std::vector<double> numbers_;
  BoundRule bound_;
  const DType compute_;
  std::size_t stage_ = 0;
  bool is_due_ = true;
  int next_sum_;
  std::vector<Instruction<float>> floats_;
  std::vector<Instruction<double>> doubles_;
  std::vector<std::vector<double>> partials_;  // of each summand, by chunks
};

class Passes {
 public:
  explicit Passes(std::vector<Item>& items) {
    FloatMode mode;
    stages_.reserve(items.size());
    for (Item& item : items) {
      units_.add(item);
      stages_.emplace_back(item);
    }
  }

  void run(int threads) {
    units_.each(stages_, threads, [](Stages& it, int64_t begin, int64_t end) {
      it.run(begin, end);
      if (units_of(it.item()) > 1) return;
      while (!it.is_last()) {  // while it lies in the cache
        it.go_on();
        it.run(begin, end);
      }
    });
    while (any_left()) {
      {
        FloatMode mode;
        for (Stages& it : stages_) it.take_turn();
      }
      units_.each(stages_, threads, [](Stages& it, int64_t begin, int64_t end) {
        if (it.is_due()) it.run(begin, end);
      });
    }
  }

 private:
  bool any_left() const {
    return std::any_of(stages_.begin(), stages_.end(),
                       [](const Stages& it) { return !it.is_last(); });
  }

  std::vector<Stages> stages_;
  Units units_;
};

}  // namespace

void run_summed(std::vector<Item>& items, int threads) { Passes(items).run(threads); }

}  // namespace fastopt
