// The dither by which numbers are rounded to 8 bits (numeric/code8.h): bits of a hash.
#pragma once

#include <stdint.h>

#include "numeric/coding.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// Of a step's table (numeric/coding.h): in [0, 2^19) for signed8 and in [0, 2^18) for root8.
template <Coding coding>
FASTOPT_HOST_DEVICE uint32_t dither_entry(double step, uint32_t entry) {
  constexpr bool is_root = coding == Coding::root8;
  uint32_t h = static_cast<uint32_t>(static_cast<uint64_t>(step)) * 0x9E3779B1u;
  h += entry * 0x85EBCA77u + (is_root ? 0xC2B2AE3Du : 0u);
  h = (h ^ h >> 16) * 0x7FEB352Du;
  h = (h ^ h >> 15) * 0x846CA68Bu;
  h = h ^ h >> 16;
  return h >> (is_root ? 14 : 13);
}

FASTOPT_TARGET_END
