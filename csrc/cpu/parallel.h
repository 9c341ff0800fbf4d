// Runs a list of parameters as one concatenated index space, on one thread or on several.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "cpu/kernel.h"

namespace fastopt {

// Every item, once; all are of one rule. `threads` is an upper bound: small work stays on the
// calling thread, and so do arrays that lie in one memory, which are worked on in their order.
void run(std::vector<Item>& items, int threads);

// Whether something that is written lies in one memory with another array, as weights do that are
// tied by their data, or a gradient that is a parameter.
bool share_memory(const std::vector<Item>& items);

// How many of `threads` are worth waking for so many elements; 1 in a forked child.
int usable_threads(int64_t elements, int threads);

// Whether this process was forked from one that had loaded fastopt.
bool in_forked_child();

// body(begin, end) over [0, total) in the default floating-point mode. Each thread has an equal
// part, which it takes in pieces; one that is done takes pieces of the others. Backwards, each
// takes its last piece first.
enum class Order { forwards, backwards };
void split(int64_t total, int64_t piece, int threads,
           const std::function<void(int64_t, int64_t)>& body, Order order = Order::forwards);

}  // namespace fastopt
