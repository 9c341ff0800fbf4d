// Replays a file of hashes on every target of this machine, at odd starts and on several threads.
#pragma once

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "cpu/dispatch.h"

namespace fastopt_test {

// Case: read(words) takes a line's words; `expected` is its hash. run(case, target, shift, threads)
// gives the hash of what the kernels make, whose arrays start `shift` elements into their memory.
// How many runs gave what was expected; 0 if one did not, or there were none.
template <class Case, class Run>
int replay(const char* path, Run run) {
  int passed = 0;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    Case c;
    std::istringstream words(line);
    c.read(words);
    for (const fastopt::Target& target : fastopt::targets()) {
      if (!target.supported()) continue;
      fastopt::set_target(target.name);
      for (int shift : {0, 1, 3}) {
        for (int threads : {1, 2, 3}) {
          const uint64_t got = run(c, target, shift, threads);
          if (got != c.expected) {
            std::printf("%s at shift %d on %d threads: got %016llx: %s\n", target.name, shift,
                        threads, static_cast<unsigned long long>(got), line.c_str());
            return 0;
          }
          ++passed;
        }
      }
    }
  }
  return passed;
}

// The program's end: its exit status.
inline int report(int passed, const char* what) {
  std::printf("%d %s equal the reference\n", passed, what);
  return passed > 0 ? 0 : 1;
}

}  // namespace fastopt_test
