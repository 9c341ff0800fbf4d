// The blocks that a state in 8 bits is cut into.
#pragma once

#include <stdint.h>

#include "cpu/kernel.h"
#include "numeric/code8.h"
#include "target.h"

FASTOPT_TARGET_BEGIN

// A state's block, or what is left of one at a row's end.
struct Block {
  uint8_t* codes;
  float* scale;
  const uint32_t* dither;
};

// From element i on: a step's begins there, and the codes of one may be read from within.
FASTOPT_HOST_DEVICE Block block_at(const Item& item, int state, int64_t i) {
  const Packing& packing = *item.packing;
  const int64_t blocks = (packing.row + block_size - 1) / block_size;
  const int64_t number = i / packing.row * blocks + i % packing.row / block_size;
  const uint32_t in_whole = static_cast<uint32_t>(number + packing.first_row * blocks);
  const bool is_root = item.dtypes[2 + state] == DType::root8;
  const uint32_t* dither = is_root ? packing.dither->root8 : packing.dither->signed8;
  return {static_cast<uint8_t*>(item.arrays[2 + state]) + i, packing.scales[state] + number,
          dither + (in_whole * dither_factor >> 24)};
}

// Elements of a block from element i on, which lies before `end`.
FASTOPT_HOST_DEVICE int block_length(const Item& item, int64_t i, int64_t end) {
  const int64_t row = item.packing->row, place = i % row, rest = block_size - place % block_size;
  int64_t length = row - place < rest ? row - place : rest;
  if (end - i < length) length = end - i;
  return static_cast<int>(length);
}

FASTOPT_TARGET_END
