// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"

namespace emamba {

struct RangeNorm {
  using L = Lanes<d_model, fold::range_norm_pe>;
  static constexpr int WORDS = 1 + byte_words(d_model) + acc_words(d_model);
  weight_t gamma[L::STEPS][L::PE];
  acc_t beta[L::STEPS][L::PE];
  Shift shift[1];
};

inline void load(RangeNorm& p, chain_t& words) {
  load_shifts(words, p.shift);
  load_bytes<d_model>(words, p.gamma);
  load_acc<d_model>(words, p.beta);
}

/// What a token is normalised with.
struct Statistics {
  residual_t mean;
  unsigned_t<5> left;          // brings the range to UNIT_FRAC + 1 bits
  unsigned_t<17> reciprocal;   // of the range, 0 for a range of 0
};

/// Mean, rounded half up, and the reciprocal of max - min: one division a token.
template <int SIZE>
Statistics statistics(const residual_t (&x)[SIZE]) {
#pragma HLS INLINE
  acc_t total = 0;
  residual_t least = x[0];
  residual_t most = x[0];
  for (int i = 0; i < d_model; ++i) {
#pragma HLS UNROLL
    total = narrow<ACC_WIDTH>(total + x[i]);
    least = x[i] < least ? x[i] : least;
    most = x[i] > most ? x[i] : most;
  }
  // Adding a multiple of the divisor keeps the dividend positive, so that division rounds down.
  constexpr int lift = 1 << (width::residual - 1);
  const half_word_t dividend = half_word_t(int(2 * total + d_model + 2 * d_model * lift));
  const half_word_t range = half_word_t(int(most) - int(least));
  int left = 0;
  half_word_t divisor = range;
normalise_divisor:
  for (int step = 8; step > 0; step /= 2) {
#pragma HLS UNROLL
    if (divisor < (1u << (UNIT_FRAC + 1 - step))) {
      divisor <<= step;
      left += step;
    }
  }
  Statistics s;
  s.mean = residual_t(int(dividend / (2 * d_model)) - lift);
  s.left = left;
  s.reciprocal = range == 0 ? 0u : unsigned((half_word_t(1u << (2 * UNIT_FRAC)) / divisor));
  return s;
}

/// One step of `norm = q(gamma (x - mean) / (max - min) + beta)`: int16 -> int8 (d_model).
template <int SIZE, class Saturated>
void range_norm(const RangeNorm& p, Step at, const Statistics& s, const residual_t (&x)[SIZE],
                act_t (&norm)[d_model], Saturated& saturated) {
#pragma HLS INLINE
  constexpr int PE = RangeNorm::L::PE;
  const Shift shift = p.shift[0];
  Shift unit_shift;
  unit_shift.right = UNIT_FRAC;
  unit_shift.left = 0;
range_norm:
  for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
    const int i = at.nf * PE + pe;
    const acc_t centred = acc_t(x[i] - s.mean);
    const acc_t scaled =
        narrow<ACC_WIDTH>(shift_left<ACC_WIDTH>(centred, s.left) * acc_t(s.reciprocal));
    const acc_t unit = narrow<UNIT_FRAC + 2>(shift_round<ACC_WIDTH>(scaled, unit_shift));
    const acc_t acc = narrow<ACC_WIDTH>(unit * p.gamma[at.nf][pe] + p.beta[at.nf][pe]);
    norm[i] = requantise<width::norm, ACC_WIDTH>(acc, shift, format::norm, saturated);
  }
}

/// Also hands the residual on, for `out_proj` to add to.
template <int BLOCK>
void range_norm_stage(token_stream_t<width::residual, d_model>& residuals,
                      token_stream_t<width::norm, d_model>& norms,
                      token_stream_t<width::residual, d_model>& skips, chain_t& chain_in,
                      chain_t& chain_out) {
  using L = RangeNorm::L;
  static RangeNorm p;
#pragma HLS ARRAY_PARTITION variable = p.gamma complete dim = 2
#pragma HLS ARRAY_PARTITION variable = p.beta complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  residual_t x[d_model];
#pragma HLS ARRAY_PARTITION variable = x complete
  act_t norm[d_model];
#pragma HLS ARRAY_PARTITION variable = norm complete
  Step at = FIRST_STEP;
range_norm:
  for (half_word_t i = 0; i < frames * (n_tokens * L::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::range_norm);
    if (at.index == 0) {
      read_token<width::residual, d_model>(residuals, x);
      write_token<width::residual, d_model>(skips, x);
    }
    // Computed anew each step: kept in registers it would tie a step to the divider's latency.
    range_norm(p, at, statistics(x), x, norm, saturated);
    if (is_last<L>(at)) write_token<width::norm, d_model>(norms, norm);
    at = next_step<L>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
