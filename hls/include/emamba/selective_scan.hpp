// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"
#include "emamba/table.hpp"

namespace emamba {

/// PE channels times STATE states a step.
struct SelectiveScan {
  using L = Lanes<d_inner, fold::selective_scan_pe>;
  static constexpr int PE = L::PE;
  static constexpr int STATE = fold::selective_scan_state;
  static_assert(d_state % STATE == 0, "the state unroll must divide d_state");
  static constexpr int NF = L::NF;
  static constexpr int SF = d_state / STATE;
  static constexpr int STEPS = NF * SF;
  static constexpr int LANES = STATE * PE;
  static constexpr int WORDS = 1 + d_state * byte_words(d_inner) + byte_words(d_inner) + TABLE_WORDS;

  weight_t A[STEPS][LANES];  // lane `state * PE + channel`
  weight_t D[NF][PE];
  exp_t exp[fold::exp_copies][EXP_SIZE];  // of arguments 0, -1, -2, ...
  Shift shift[5];                         // dt_A, dBu, y, exp, D u to y's accumulator (left)
};

inline void load(SelectiveScan& p, chain_t& words) {
  using S = SelectiveScan;
  load_shifts(words, p.shift);
load_A:
  for (int state = 0; state < d_state; ++state) {
    word_t word = 0;
    for (int channel = 0; channel < d_inner; ++channel) {
#pragma HLS PIPELINE II = 1
      if (channel % 8 == 0) word = words.read();
      p.A[channel / S::PE * S::SF + state / S::STATE]
         [state % S::STATE * S::PE + channel % S::PE] = signed_byte(word);
      word >>= 8;
    }
  }
  load_bytes<d_inner>(words, p.D);
  load_table(words, p.exp, 0, -1, p.shift[3], 0, EXP_ONE);
}

/// What one token brings to the scan.
struct ScanInputs {
  act_t u[d_inner];
  act_t delta[d_inner];
  act_t B[d_state];
  act_t C[d_state];
};

/// The states of one frame, as laid out for A.
struct States {
  state_t h[SelectiveScan::STEPS][SelectiveScan::LANES];
};

/// dA of one lane: exp by look-up, 0..128 in units of 2^-7. `dt_A` is never above 0.
inline exp_t decay(const SelectiveScan& p, int lane, dt_A_t dt_A) {
#pragma HLS INLINE
  const int copy = lane * fold::exp_copies / SelectiveScan::LANES;
  return p.exp[copy][-int(dt_A) & (EXP_SIZE - 1)];
}

/// One step of `h = dA h + dB u; y = C h + D u`: int8 inputs -> y int16 (d_inner).
///
/// The state is computed in 24 bits, which y reads, and stored in 17.
template <class Saturated>
void selective_scan(const SelectiveScan& p, Step at, bool first, const ScanInputs& in,
                    States& states, scan_acc_t (&acc)[SelectiveScan::PE],
                    y_t (&y)[d_inner], Saturated& saturated) {
#pragma HLS INLINE
  using S = SelectiveScan;
  const int base = at.nf * S::PE;
  const int first_state = at.sf * S::STATE;
  Shift stored;
  stored.right = STATE_SHIFT;
  stored.left = 0;
  exp_t dA[S::LANES];
#pragma HLS ARRAY_PARTITION variable = dA complete
  dt_A_t dt_A[S::LANES];
#pragma HLS ARRAY_PARTITION variable = dt_A complete
arguments:
  for (int lane = 0; lane < S::LANES; ++lane) {
#pragma HLS UNROLL
    const acc_t product = acc_t(in.delta[base + lane % S::PE] * p.A[at.index][lane]);
    dt_A[lane] = requantise<width::dt_A, ACC_WIDTH>(product, p.shift[0], format::dt_A, saturated);
  }
decays:
  for (int lane = 0; lane < S::LANES; ++lane) {
#pragma HLS UNROLL
    dA[lane] = decay(p, lane, dt_A[lane]);
  }
channels:
  for (int pe = 0; pe < S::PE; ++pe) {
#pragma HLS UNROLL
    const int channel = base + pe;
    scan_acc_t sum = acc[pe];
    if (at.sf == 0) {
      const scan_acc_t Du = scan_acc_t(acc_t(p.D[at.nf][pe] * in.u[channel]));
      sum = shift_left<SCAN_ACC_WIDTH>(Du, p.shift[4].left);
    }
    const acc_t du = acc_t(in.delta[channel] * in.u[channel]);
    for (int s = 0; s < S::STATE; ++s) {
#pragma HLS UNROLL
      const int lane = s * S::PE + pe;
      const state_t h = first ? state_t(0) : states.h[at.index][lane];
      const h_wide_t dBu = requantise<width::dBu, ACC_WIDTH>(
          acc_t(du * in.B[first_state + s]), p.shift[1], format::dBu, saturated);
      const h_wide_t h_wide = saturate<width::h_wide, ACC_WIDTH>(
          narrow<ACC_WIDTH>(dA[lane] * h + dBu), format::h_wide, saturated);
      sum = narrow<SCAN_ACC_WIDTH>(sum + acc_t(in.C[first_state + s] * h_wide));
      states.h[at.index][lane] =
          requantise<width::h, ACC_WIDTH>(acc_t(h_wide), stored, format::h, saturated);
    }
    acc[pe] = sum;
    if (at.sf == S::SF - 1) {
      y[channel] = requantise<width::y, SCAN_ACC_WIDTH>(sum, p.shift[2], format::y, saturated);
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
#pragma HLS ARRAY_PARTITION variable = p.A complete dim = 2
#pragma HLS ARRAY_PARTITION variable = p.D complete dim = 2
#pragma HLS ARRAY_PARTITION variable = p.exp complete dim = 1
  static States states;
#pragma HLS ARRAY_PARTITION variable = states.h complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  ScanInputs in;
  scan_acc_t acc[S::PE];
  y_t y[d_inner];
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
