// SPDX-License-Identifier: Apache-2.0
// Matrix times vector, folded: PE rows times SIMD columns a step.
#pragma once

#include "emamba/chain.hpp"

namespace emamba {

/// How a ROWS x COLS matrix is cut: NF row folds of PE rows, each SF column folds of SIMD columns.
/// Rows beyond ROWS are zero.
template <int ROWS_, int COLS_, int PE_, int SIMD_>
struct Folds {
  static_assert(PE_ >= 1, "PE must be at least 1");
  static_assert(SIMD_ >= 1 && COLS_ % SIMD_ == 0, "SIMD must divide the columns of the matrix");
  static constexpr int ROWS = ROWS_;
  static constexpr int COLS = COLS_;
  static constexpr int PE = PE_;
  static constexpr int SIMD = SIMD_;
  static constexpr int NF = (ROWS + PE - 1) / PE;
  static constexpr int SF = COLS / SIMD;
  static constexpr int STEPS = NF * SF;
  static constexpr int PADDED_ROWS = NF * PE;
  static constexpr int WORDS = byte_words(ROWS * COLS);
};

/// How CHANNELS independent elements are cut: NF steps of PE lanes.
template <int CHANNELS, int PE_>
struct Lanes {
  static_assert(PE_ >= 1 && CHANNELS % PE_ == 0, "PE must divide the channels");
  static constexpr int PE = PE_;
  static constexpr int NF = CHANNELS / PE;
  static constexpr int SF = 1;
  static constexpr int STEPS = NF;
};

/// One step of a token. Invariant: index == nf * SF + sf.
struct Step {
  int index;
  int nf;
  int sf;
};

constexpr Step FIRST_STEP = {0, 0, 0};

template <class F>
Step next_step(Step at) {
#pragma HLS INLINE
  const bool row_ends = at.sf == F::SF - 1;
  Step next;
  next.index = next_of(at.index, F::STEPS);
  next.sf = row_ends ? 0 : at.sf + 1;
  next.nf = row_ends ? next_of(at.nf, F::NF) : at.nf;
  return next;
}

template <class F>
bool is_last(Step at) {
#pragma HLS INLINE
  return at.index == F::STEPS - 1;
}

/// Weights of a folded matrix: one row a step, lane `column * PE + row` within it.
template <class F>
using folded_weight_t = weight_t[F::STEPS][F::SIMD * F::PE];

/// A row-major matrix, eight int8 to a word, into its folds, from row `first` of `weight` on.
template <class F, int ALL_STEPS>
void load_weight(chain_t& words, weight_t (&weight)[ALL_STEPS][F::SIMD * F::PE], int first = 0) {
  word_t word = 0;
  int at = 0;  // byte of the word
load_weight:
  for (int nf = 0; nf < F::NF; ++nf) {
    for (int pe = 0; pe < F::PE; ++pe) {
      for (int sf = 0; sf < F::SF; ++sf) {
        for (int simd = 0; simd < F::SIMD; ++simd) {
#pragma HLS PIPELINE II = 1
          if (nf * F::PE + pe < F::ROWS) {
            if (at == 0) word = words.read();
            weight[first + nf * F::SF + sf][simd * F::PE + pe] = signed_byte(word);
            word >>= 8;
            at = next_of(at, 8);
          }
        }
      }
    }
  }
}

/// Adds one step of `weight x` to `acc`; `sf` is the column fold. Two products of int8 fit 16 bits.
template <class F, int SIZE>
void multiply_accumulate(const weight_t (&weight)[F::SIMD * F::PE], const act_t (&x)[SIZE], int sf,
                         acc_t (&acc)[F::PE]) {
#pragma HLS INLINE
  const int first = sf * F::SIMD;
multiply_accumulate:
  for (int pe = 0; pe < F::PE; ++pe) {
#pragma HLS UNROLL
    // Summed on its own: a tree of adders, and one addition in the loop's recurrence.
    acc_t sum = 0;
    // On a host: with the columns unrolled, the rows vectorise.
#pragma GCC unroll 1024
    for (int col = 0; col + 1 < F::SIMD; col += 2) {
#pragma HLS UNROLL
      const product_t even = narrow<PRODUCT_WIDTH>(weight[col * F::PE + pe] * x[first + col]);
      const product_t odd =
          narrow<PRODUCT_WIDTH>(weight[(col + 1) * F::PE + pe] * x[first + col + 1]);
      sum = narrow<ACC_WIDTH>(sum + narrow<PAIR_WIDTH>(even + odd));
    }
    if (F::SIMD % 2 == 1) {
      const int last = F::SIMD - 1;
      sum = narrow<ACC_WIDTH>(sum + weight[last * F::PE + pe] * x[first + last]);
    }
    acc[pe] = narrow<ACC_WIDTH>(acc[pe] + sum);
  }
}

/// Sets `acc` to the biases of a row fold, or to 0.
template <int PE>
void start(acc_t (&acc)[PE], const acc_t (&bias)[PE]) {
#pragma HLS INLINE
  for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
    acc[pe] = bias[pe];
  }
}

template <int PE>
void start(acc_t (&acc)[PE]) {
#pragma HLS INLINE
  for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
    acc[pe] = 0;
  }
}

}  // namespace emamba
