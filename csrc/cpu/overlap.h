// Which arrays of a run lie in one memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/kernel.h"

namespace fastopt {

struct Bytes {
  const char *begin, *end;
  bool written;
};

inline bool operator==(const Bytes& a, const Bytes& b) {
  return a.begin == b.begin && a.end == b.end && a.written == b.written;
}

// Those of one array of an item, or of what is like one, which is there.
template <class AnyItem>
Bytes bytes_of(const AnyItem& item, int array) {
  const int64_t size = dtype_bytes[static_cast<int>(item.dtypes[array])];
  const char* begin = static_cast<const char*>(item.arrays[array]);
  return {begin, begin + item.size * size, array != 1};
}

// Two ranges that share memory, of which one is written, after sorting: the earlier and the later;
// null pointers if there are none. A Range is Bytes or more.
template <class Range>
std::pair<const Range*, const Range*> find_shared(std::vector<Range>& all) {
  std::sort(all.begin(), all.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  const Range *furthest = nullptr, *furthest_written = nullptr;
  for (const Range& bytes : all) {
    const Range* other = bytes.written ? furthest : furthest_written;
    if (other != nullptr && other->end > bytes.begin) return {other, &bytes};
    if (furthest == nullptr || bytes.end > furthest->end) furthest = &bytes;
    if (bytes.written && (furthest_written == nullptr || bytes.end > furthest_written->end)) {
      furthest_written = &bytes;
    }
  }
  return {};
}

// Whether something that is written lies in one memory with another array, as weights do that are
// tied by their data, or a gradient that is a parameter. Remembers its last answer: most steps are
// over the memory of the step before.
class SharedMemory {
 public:
  void clear() { count_ = 0; }

  template <class AnyItem>
  void add(const AnyItem& item) {
    for (int array = 0; array < max_arrays; ++array) {
      if (item.arrays[array] != nullptr) add(bytes_of(item, array));
    }
  }

  bool any() {
    if (count_ != all_.size()) {
      all_.resize(count_);
      is_new_ = true;
    }
    if (is_new_) {
      sorted_ = all_;
      answer_ = find_shared(sorted_).first != nullptr;
      is_new_ = false;
    }
    return answer_;
  }

 private:
  void add(const Bytes& bytes) {
    if (count_ == all_.size()) all_.push_back({});
    Bytes& its = all_[count_++];
    if (its == bytes) return;
    its = bytes;
    is_new_ = true;
  }

  std::vector<Bytes> all_, sorted_;
  std::size_t count_ = 0;  // of all_, what has been added
  bool is_new_ = false, answer_ = false;
};

// Whether an array that is written shares memory with another of the same item, other than element
// by element: what kernels make of it would depend on how many elements they take at a time.
inline bool overlaps_itself(const Item& item) {
  const char *begins[max_arrays], *ends[max_arrays];
  int count = 0;
  for (int array = 0; array < max_arrays; ++array) {
    if (item.arrays[array] == nullptr) continue;
    const auto [begin, end, written] = bytes_of(item, array);
    for (int i = 0; i < count; ++i) {
      const bool apart = ends[i] <= begin || end <= begins[i];
      if (!apart && (begins[i] != begin || ends[i] != end)) return true;
    }
    begins[count] = begin;
    ends[count++] = end;
  }
  return false;
}

}  // namespace fastopt
