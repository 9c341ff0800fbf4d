#include "cpu/normed.h"

#include <algorithm>
#include <cmath>

#include "cpu/copied.h"
#include "cpu/float_mode.h"
#include "cpu/norm.h"
#include "cpu/units.h"

namespace fastopt {
namespace {

double ratio_of(double param_squares, double update_squares) {
  if (param_squares == 0 || update_squares == 0) return 1;
  return std::sqrt(param_squares) / std::sqrt(update_squares);
}

// An item and what its norms say.
struct Normed {
  Item* of;
  double ratio = 1;
  const Item& item() const { return *of; }
  bool is_one_unit() const { return units_of(*of) <= 1; }
};

class Passes {
 public:
  explicit Passes(std::vector<Item>& items) {
    items_.reserve(items.size());
    for (Item& item : items) {
      units_.add(item);
      items_.push_back({&item});
    }
    param_squares_.resize(unit_chunks * units_.count());
    update_squares_.resize(unit_chunks * units_.count());
  }

  void run(int threads) {
    units_.each(items_, threads, [this](Normed& it, int64_t begin, int64_t end) {
      measure(it.item(), begin, end);
      if (!it.is_one_unit()) return;
      find_ratio(it);
      step(it, begin, end);
    });
    {
      FloatMode mode;
      for (Normed& it : items_) {
        if (!it.is_one_unit()) find_ratio(it);
      }
    }
    // What a thread has measured last may still lie in a cache.
    const auto take_step = [](const Normed& it, int64_t begin, int64_t end) {
      if (!it.is_one_unit()) step(it, begin, end);
    };
    units_.each(items_, threads, take_step, Order::backwards);
  }

 private:
  void measure(const Item& item, int64_t begin, int64_t end) {
    double squares[2];
    const Pass pass = {nullptr, squares};
    Item measured = item;
    measured.pass = &pass;
    for (int64_t i = begin; i < end; i += sum_chunk) {
      item.kernel(measured, i, std::min(i + sum_chunk, end));
      param_squares_[chunk_at(item, i)] = squares[0];
      update_squares_[chunk_at(item, i)] = squares[1];
    }
  }

  void find_ratio(Normed& it) {
    const int64_t first = chunk_at(it.item(), 0), chunks = chunks_of(it.item());
    it.ratio = ratio_of(sum_of_chunks(&param_squares_[first], chunks),
                        sum_of_chunks(&update_squares_[first], chunks));
  }

  static void step(const Normed& it, int64_t begin, int64_t end) {
    const Pass pass = {nullptr, nullptr, it.ratio};
    Item stepped = it.item();
    stepped.pass = &pass;
    step_elements(stepped, begin, end);
  }

  // The place of an element's chunk among all: only an item's last unit may lack some.
  static int64_t chunk_at(const Item& item, int64_t element) {
    return item.start * unit_chunks + element / sum_chunk;
  }

  std::vector<Normed> items_;
  Units units_;
  std::vector<double> param_squares_, update_squares_;  // of each chunk
};

}  // namespace

void run_normed(std::vector<Item>& items, int threads) { Passes(items).run(threads); }

}  // namespace fastopt
