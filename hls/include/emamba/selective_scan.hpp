// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"
#include "emamba/table.hpp"

namespace emamba {

/// PE channels times STATE states a step; lane `state * PE + channel` within it.
///
/// A decay, dA = exp(delta A), depends on a weight and on the 7 bits of delta alone, so it is
/// computed for every delta while loading: the scan then reads all states of a channel at once.
struct SelectiveScan {
  using L = Lanes<d_inner, fold::selective_scan_pe>;
  static constexpr int PE = L::PE;
  static constexpr int STATE = fold::selective_scan_state;
  static_assert(d_state % STATE == 0, "the state unroll must divide d_state");
  static constexpr int NF = L::NF;
  static constexpr int SF = d_state / STATE;
  static constexpr int STEPS = NF * SF;
  static constexpr int LANES = PE * STATE;
  static constexpr int WORDS = 1 + TABLE_WORDS + d_inner * byte_words(d_state) + byte_words(d_inner);

  decay_t decay[PE][NF * DELTA_VALUES * SF][STATE];  // row `(nf * DELTA_VALUES + delta) * SF + sf`
  weight_t D[NF][PE];
  Shift shift[5];  // dt_A, dBu, y, exp, D u to y's accumulator (left)
};

/// dA of every delta for one channel's STATE states: `exp(q(delta A))`, 0..128 in units of 2^-7.
inline void load_decays(SelectiveScan& p, const decay_t (&exp)[1][EXP_SIZE], int nf, int pe,
                        int sf, const weight_t (&A)[SelectiveScan::STATE]) {
  using S = SelectiveScan;
  Unwatched none;
  const Shift shift = p.shift[0];
  decay_t decays[S::STATE];
#pragma HLS ARRAY_PARTITION variable = decays complete
load_decays:
  for (int delta = 0; delta < DELTA_VALUES; ++delta) {
    for (int s = 0; s < S::STATE; ++s) {
#pragma HLS PIPELINE II = 1
      // Never above 0, since delta >= 0 and A <= 0.
      const int dt_A =
          requantise<width::dt_A, ACC_WIDTH>(acc_t(delta * A[s]), shift, 0, none);
      decays[s] = exp[0][-dt_A & (EXP_SIZE - 1)];
      if (s == S::STATE - 1) {
        for (int k = 0; k < S::STATE; ++k) {
#pragma HLS UNROLL
          p.decay[pe][(nf * DELTA_VALUES + delta) * S::SF + sf][k] = decays[k];
        }
      }
    }
  }
}

inline void load(SelectiveScan& p, chain_t& words) {
  using S = SelectiveScan;
  load_shifts(words, p.shift);
  decay_t exp[1][EXP_SIZE];  // of arguments 0, -1, -2, ...
  load_table(words, exp, 0, -1, p.shift[3], 0, EXP_ONE);
load_A:
  for (int nf = 0; nf < S::NF; ++nf) {
    for (int pe = 0; pe < S::PE; ++pe) {
      word_t word = 0;
      int at = 0;  // byte of the word
      for (int sf = 0; sf < S::SF; ++sf) {
        weight_t A[S::STATE];
#pragma HLS ARRAY_PARTITION variable = A complete
        for (int s = 0; s < S::STATE; ++s) {
          if (at == 0) word = words.read();
          A[s] = signed_byte(word);
          word >>= 8;
          at = next_of(at, 8);
        }
        load_decays(p, exp, nf, pe, sf, A);
      }
    }
  }
  load_bytes<d_inner>(words, p.D);
}

/// What one token brings to the scan.
struct ScanInputs {
  act_t u[d_inner];
  act_t delta[d_inner];
  act_t B[d_state];
  act_t C[d_state];
};

/// The states of one frame.
struct States {
  state_t h[SelectiveScan::STEPS][SelectiveScan::LANES];
};

/// One step of `h = dA h + dB u; y = C h + D u`: int8 inputs -> y int16 (d_inner).
///
/// The state is computed in 24 bits (h_wide), which y reads, and stored in 17.
template <class Saturated>
void selective_scan(const SelectiveScan& p, Step at, bool first, const ScanInputs& in,
                    States& states, scan_acc_t (&acc)[SelectiveScan::PE], y_t (&y)[d_inner],
                    Saturated& saturated) {
#pragma HLS INLINE
  using S = SelectiveScan;
  const int first_state = at.sf * S::STATE;
  const Shift dBu_shift = p.shift[1];
  const Shift y_shift = p.shift[2];
  const Shift D_shift = p.shift[4];
  Shift stored;
  stored.right = STATE_SHIFT;
  stored.left = 0;
  product_t du[S::PE];
#pragma HLS ARRAY_PARTITION variable = du complete
  dA_t dA[S::LANES];
#pragma HLS ARRAY_PARTITION variable = dA complete
  h_wide_t h_wide[S::LANES];
#pragma HLS ARRAY_PARTITION variable = h_wide complete
  for (int pe = 0; pe < S::PE; ++pe) {
#pragma HLS UNROLL
    const int channel = at.nf * S::PE + pe;
    const int row = (at.nf * DELTA_VALUES + int(in.delta[channel])) * S::SF + at.sf;
    du[pe] = narrow<PRODUCT_WIDTH>(in.delta[channel] * in.u[channel]);
    for (int s = 0; s < S::STATE; ++s) {
#pragma HLS UNROLL
      dA[s * S::PE + pe] = p.decay[pe][row][s];
    }
  }
  for (int s = 0; s < S::STATE; ++s) {
#pragma HLS UNROLL
    const act_t B = in.B[first_state + s];
    for (int pe = 0; pe < S::PE; ++pe) {
#pragma HLS UNROLL
      const int lane = s * S::PE + pe;
      const h_wide_t dBu = requantise<width::dBu, ACC_WIDTH>(acc_t(du[pe] * B), dBu_shift,
                                                             format::dBu, saturated);
      const state_t h = first ? state_t(0) : states.h[at.index][lane];
      h_wide[lane] = saturate<width::h_wide, ACC_WIDTH>(narrow<ACC_WIDTH>(dA[lane] * h + dBu),
                                                        format::h_wide, saturated);
      states.h[at.index][lane] =
          requantise<width::h, ACC_WIDTH>(acc_t(h_wide[lane]), stored, format::h, saturated);
    }
  }
  for (int pe = 0; pe < S::PE; ++pe) {
#pragma HLS UNROLL
    const product_t Du = narrow<PRODUCT_WIDTH>(p.D[at.nf][pe] * in.u[at.nf * S::PE + pe]);
    scan_acc_t sum =
        at.sf == 0 ? shift_left<SCAN_ACC_WIDTH>(scan_acc_t(Du), D_shift.left) : acc[pe];
#pragma GCC unroll 1024
    for (int s = 0; s < S::STATE; ++s) {
#pragma HLS UNROLL
      const acc_t read = acc_t(in.C[first_state + s] * h_wide[s * S::PE + pe]);
      sum = narrow<SCAN_ACC_WIDTH>(sum + read);
    }
    acc[pe] = sum;
  }
  if (at.sf == S::SF - 1) {
    for (int pe = 0; pe < S::PE; ++pe) {
#pragma HLS UNROLL
      y[at.nf * S::PE + pe] =
          requantise<width::y, SCAN_ACC_WIDTH>(acc[pe], y_shift, format::y, saturated);
    }
  }
}

template <int BLOCK>
void selective_scan_stage(token_stream_t<width::u, d_inner>& us,
                          token_stream_t<width::delta, d_inner>& deltas,
                          token_stream_t<width::B, d_state>& Bs,
                          token_stream_t<width::C, d_state>& Cs,
                          token_stream_t<width::y, d_inner>& ys, chain_t& chain_in,
                          chain_t& chain_out) {
  using S = SelectiveScan;
  static SelectiveScan p;
#pragma HLS ARRAY_PARTITION variable = p.decay complete dim = 1
#pragma HLS ARRAY_RESHAPE variable = p.decay complete dim = 3
#pragma HLS ARRAY_PARTITION variable = p.D complete dim = 2
  static States states;
#pragma HLS ARRAY_PARTITION variable = states.h complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  ScanInputs in;
#pragma HLS ARRAY_PARTITION variable = in.u complete
#pragma HLS ARRAY_PARTITION variable = in.delta complete
#pragma HLS ARRAY_PARTITION variable = in.B complete
#pragma HLS ARRAY_PARTITION variable = in.C complete
  scan_acc_t acc[S::PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  y_t y[d_inner];
#pragma HLS ARRAY_PARTITION variable = y complete
  Step at = FIRST_STEP;
  int token = 0;
selective_scan:
  for (half_word_t i = 0; i < frames * (n_tokens * S::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    // A state is read again S::STEPS iterations after it was written.
#pragma HLS DEPENDENCE variable = states.h inter distance = S::STEPS true
    EMAMBA_TICK(pipeline_depth::selective_scan);
    if (at.index == 0) {
      read_token<width::u, d_inner>(us, in.u);
      read_token<width::delta, d_inner>(deltas, in.delta);
      read_token<width::B, d_state>(Bs, in.B);
      read_token<width::C, d_state>(Cs, in.C);
    }
    selective_scan(p, at, token == 0, in, states, acc, y, saturated);
    if (is_last<S>(at)) {
      write_token<width::y, d_inner>(ys, y);
      token = next_of(token, n_tokens);
    }
    at = next_step<S>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
