// The dither by which states are rounded to 8 bits (numeric/code8.h) and to 16: bits of a hash.
#pragma once

#include <stdint.h>

#include "numeric/dtype.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// A step's part in every hash of it.
struct DitherStep {
  uint32_t part;
  FASTOPT_HOST_DEVICE DitherStep(double step)
      : part(static_cast<uint32_t>(static_cast<uint64_t>(step)) * 0x9E3779B1u) {}
};

// `kind` tells the tables of a step apart.
FASTOPT_HOST_DEVICE uint32_t dither_hash(DitherStep step, uint32_t kind, uint32_t number) {
  uint32_t h = step.part + (number * 0x85EBCA77u + kind);
  h = (h ^ h >> 16) * 0x7FEB352Du;
  h = (h ^ h >> 15) * 0x846CA68Bu;
  return h ^ h >> 16;
}

// Of a step's table (numeric/dtype.h).
template <DType coding>
FASTOPT_HOST_DEVICE uint32_t dither_entry(DitherStep step, uint32_t entry) {
  constexpr bool is_root = coding == DType::root8;
  const uint32_t drawn =
      dither_hash(step, is_root ? 0xC2B2AE3Du : 0u, entry) >> (is_root ? 14 : 13);
  return drawn - 0x40000000u;
}

// Of the table for 16 bits: half a hash.
FASTOPT_HOST_DEVICE uint32_t half_dither_pair(DitherStep step, uint32_t pair) {
  return dither_hash(step, 0x27D4EB2Fu, pair);
}
FASTOPT_HOST_DEVICE uint16_t half_dither_entry(DitherStep step, uint32_t entry) {
  return static_cast<uint16_t>(half_dither_pair(step, entry / 2) >> entry % 2 * 16);
}

// Which entries of that table elements take for a state: blocks and states begin at places of their
// own, so that neither rounds as another does.
struct HalfDitherPlaces {
  uint32_t start, in_block;  // of the first of them

  FASTOPT_HOST_DEVICE explicit HalfDitherPlaces(int64_t first)
      : start(static_cast<uint32_t>(static_cast<uint64_t>(first) / block_size) * dither_factor),
        in_block(static_cast<uint32_t>(static_cast<uint64_t>(first) % block_size)) {}

  // Of the one so many elements further on.
  FASTOPT_HOST_DEVICE uint32_t at(uint32_t further, int state) const {
    const uint32_t place = in_block + further, block = place / static_cast<uint32_t>(block_size);
    const uint32_t its_start = start + block * dither_factor + (static_cast<uint32_t>(state) << 29);
    return (its_start >> 24) + place % static_cast<uint32_t>(block_size);
  }
};
FASTOPT_HOST_DEVICE uint32_t half_dither_place(int64_t element, int state) {
  return HalfDitherPlaces(element).at(0, state);
}

FASTOPT_TARGET_END
