// Which targets were built, which this machine supports, and which one is in use.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernel.h"

namespace fastopt {

// Every target of this build, the best first; "scalar" is last and always supported.
const std::vector<Target>& targets();

// The target in use: the first supported one, or the one that FASTOPT_CPU_TARGET names.
const Target& target();

// Chooses by name. Throws std::invalid_argument if there is no such target or it cannot run here.
void set_target(const std::string& name);

}  // namespace fastopt
