// The lists of all rules. A new rule is one header and one line here.
//
// Tables of kernels hold them in this order, those with norms after the others, and then the rule
// that interprets programs (rules/program.h).
#pragma once

#include "rules/adadelta.h"
#include "rules/adagrad.h"
#include "rules/adam.h"
#include "rules/ema.h"
#include "rules/lamb.h"
#include "rules/limit.h"
#include "rules/lion.h"
#include "rules/nadam.h"
#include "rules/rmsprop.h"
#include "rules/sgd.h"

#define FASTOPT_RULES(X) \
  X(SGD)                 \
  X(Adagrad)             \
  X(RMSprop)             \
  X(Adam)                \
  X(Lion)                \
  X(Adadelta)            \
  X(NAdam)               \
  X(Ema)                 \
  X(Limit)

// Rules with norms. They have no CUDA kernels and keep no states in 8 bits.
#define FASTOPT_NORMED_RULES(X) X(LAMB)

namespace fastopt {
#define FASTOPT_ONE(Rule) +1
constexpr int normed_rules = FASTOPT_RULES(FASTOPT_ONE);  // the place of the first with norms
constexpr int program_rule = normed_rules + FASTOPT_NORMED_RULES(FASTOPT_ONE);
#undef FASTOPT_ONE
}  // namespace fastopt
