// SPDX-License-Identifier: Apache-2.0
// Piecewise-linear tables (docs/numbers.md, "Tables"). The rule, slope times argument plus
// intercept, rounded and limited, is evaluated once for every argument while loading; the pipeline
// then looks up.
#pragma once

#include "emamba/chain.hpp"

namespace emamba {

/// Words of a table: its rows, padded to TABLE_ROWS.
constexpr int TABLE_WORDS = TABLE_ROWS;

/// Fills COPIES equal look-up memories; entry `i` is for the argument `first + stride * i`.
/// A word holds one row: how many arguments it covers (16 bits), slope (16), intercept (32).
template <int COPIES, int SIZE, class Value>
void load_table(chain_t& words, Value (&table)[COPIES][SIZE], int first, int stride,
                Shift shift, int low, int high) {
  int rows = 0;
  int left = 0;
  signed_t<16> slope = 0;
  acc_t intercept = 0;
load_table:
  for (int i = 0; i < SIZE; ++i) {
    if (left == 0) {
      const word_t row = words.read();
      ++rows;
      left = int(row & 0xffff);
      slope = signed_t<16>(int(row >> 16 & 0xffff));
      intercept = acc_t(int(half_word_t(row >> 32)));
    }
    --left;
    const acc_t line = narrow<ACC_WIDTH>(slope * (first + stride * i) + intercept);
    const acc_t value = shift_round<ACC_WIDTH>(line, shift);
    for (int copy = 0; copy < COPIES; ++copy) {
#pragma HLS UNROLL
      table[copy][i] = Value(value < low ? low : value > high ? high : int(value));
    }
  }
skip_padding:
  for (int i = rows; i < TABLE_ROWS; ++i) words.read();
}

}  // namespace emamba
