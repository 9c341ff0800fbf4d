#include "cpu/copied.h"

#include <algorithm>

#include "cpu/cut.h"
#include "cpu/dispatch.h"

namespace fastopt {
namespace {

constexpr int64_t strip_size = 1024;  // elements

}  // namespace

void step_elements(const Item& item, int64_t begin, int64_t end) {
  if (item.copy == nullptr) return item.kernel(item, begin, end);
  while (begin < end) {
    const int64_t stop = std::min(cut(begin + strip_size, item), end);
    item.kernel(item, begin, stop);
    target().copy(item, begin, stop);
    begin = stop;
  }
}

}  // namespace fastopt
