#include "cpu/normed.h"

#include <algorithm>
#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/float_mode.h"
#include "cpu/norm.h"
#include "cpu/parallel.h"

namespace fastopt {
namespace {

// What a thread takes of a tensor: little enough for all arrays to stay in a core's own cache,
// since a tensor that is no larger has its second pass right after the first.
constexpr int64_t unit_chunks = 4, unit_size = unit_chunks * sum_chunk;

constexpr int64_t units_at_once = 16;  // as many elements as a piece in cpu/parallel.cpp

int64_t units_of(const Item& item) { return (item.size + unit_size - 1) / unit_size; }

double ratio_of(double param_squares, double update_squares) {
  if (param_squares == 0 || update_squares == 0) return 1;
  return std::sqrt(param_squares) / std::sqrt(update_squares);
}

class Passes {
 public:
  explicit Passes(std::vector<Item>& items) : items_(items), ratios_(items.size()) {
    for (Item& item : items) {
      item.start = units_;
      units_ += units_of(item);
      elements_ += item.size;
    }
    param_squares_.resize(unit_chunks * units_);
    update_squares_.resize(unit_chunks * units_);
  }

  void run(int threads) {
    threads = usable_threads(elements_, threads);
    over_units(threads, [this](std::size_t i, int64_t begin, int64_t end) {
      measure(items_[i], begin, end);
      if (units_of(items_[i]) > 1) return;
      find_ratio(i);
      step(i, begin, end);
    });
    {
      FloatMode mode;
      for (std::size_t i = 0; i < items_.size(); ++i) {
        if (units_of(items_[i]) > 1) find_ratio(i);
      }
    }
    over_units(threads, [this](std::size_t i, int64_t begin, int64_t end) {
      if (units_of(items_[i]) > 1) step(i, begin, end);
    });
  }

 private:
  // act(i, begin, end) on the elements of every unit of item i.
  template <class Act>
  void over_units(int threads, Act act) {
    split(units_, units_at_once, threads, [&](int64_t begin, int64_t end) {
      const auto starts_after = [](int64_t unit, const Item& item) { return unit < item.start; };
      auto item = std::upper_bound(items_.begin(), items_.end(), begin, starts_after) - 1;
      for (int64_t unit = begin; unit < end; ++unit) {
        while (unit - item->start >= units_of(*item)) ++item;
        const int64_t from = (unit - item->start) * unit_size;
        act(item - items_.begin(), from, std::min(from + unit_size, item->size));
      }
    });
  }

  void measure(const Item& item, int64_t begin, int64_t end) {
    const DType compute = item.way == Way::float64 ? DType::float64 : DType::float32;
    const Sum sum_of_param = target().sums_of_squares[static_cast<int>(item.dtypes[0])];
    const Sum sum_of_update = target().sums_of_squares[static_cast<int>(compute)];
    const char* const param = static_cast<const char*>(item.arrays[0]);
    const int64_t bytes = dtype_bytes[static_cast<int>(item.dtypes[0])];
    alignas(64) double update[sum_chunk];  // or floats
    const Pass pass = {{update}};
    Item measured = item;
    measured.pass = &pass;
    for (int64_t i = begin; i < end; i += sum_chunk) {
      const int64_t stop = std::min(i + sum_chunk, end), chunk = chunk_at(item, i);
      item.kernel(measured, i, stop);
      param_squares_[chunk] = sum_of_param(param + i * bytes, stop - i);
      update_squares_[chunk] = sum_of_update(update, stop - i);
    }
  }

  void find_ratio(std::size_t i) {
    const int64_t first = chunk_at(items_[i], 0);
    const int64_t chunks = (items_[i].size + sum_chunk - 1) / sum_chunk;
    ratios_[i] = ratio_of(sum_of_chunks(&param_squares_[first], chunks),
                          sum_of_chunks(&update_squares_[first], chunks));
  }

  void step(std::size_t i, int64_t begin, int64_t end) {
    const Pass pass = {{}, ratios_[i]};
    Item stepped = items_[i];
    stepped.pass = &pass;
    stepped.kernel(stepped, begin, end);
  }

  // The place of an element's chunk among all: only an item's last unit may lack some.
  static int64_t chunk_at(const Item& item, int64_t element) {
    return item.start * unit_chunks + element / sum_chunk;
  }

  std::vector<Item>& items_;
  std::vector<double> ratios_;                          // of each item
  std::vector<double> param_squares_, update_squares_;  // of each chunk
  int64_t units_ = 0, elements_ = 0;
};

}  // namespace

void run_normed(std::vector<Item>& items, int threads) { Passes(items).run(threads); }

}  // namespace fastopt
