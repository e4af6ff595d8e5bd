// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"

namespace emamba {

struct Conv1d {
  using L = Lanes<d_inner, fold::conv1d_pe>;
  static constexpr int WORDS = 1 + d_conv * byte_words(d_inner) + acc_words(d_inner);
  weight_t weight[d_conv][L::STEPS][L::PE];  // tap 0 is the oldest token
  acc_t bias[L::STEPS][L::PE];
  Shift shift[1];
};

inline void load(Conv1d& p, chain_t& words) {
  load_shifts(words, p.shift);
  for (int tap = 0; tap < d_conv; ++tap) load_bytes<d_inner>(words, p.weight[tap]);
  load_acc<d_inner>(words, p.bias);
}

/// The last d_conv - 1 tokens of x, the newest last; zeros before a frame's first.
struct Window {
  act_t x[d_conv][Conv1d::L::STEPS][Conv1d::L::PE];  // the last row is unused
};

/// One step of `u[t] = q(bias + sum_k weight[k] x[t - (d_conv - 1) + k])`: int8 (d_inner) -> int8.
template <int SIZE, class Saturated>
void conv1d(const Conv1d& p, Step at, bool first, const act_t (&x)[SIZE], Window& window,
            act_t (&u)[d_inner], Saturated& saturated) {
#pragma HLS INLINE
  constexpr int PE = Conv1d::L::PE;
  const Shift shift = p.shift[0];
  acc_t acc[PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
    acc_t sum = narrow<ACC_WIDTH>(p.bias[at.nf][pe] +
                                  p.weight[d_conv - 1][at.nf][pe] * x[at.nf * PE + pe]);
    for (int tap = 0; tap < d_conv - 1; ++tap) {
#pragma HLS UNROLL
      const act_t old = first ? act_t(0) : window.x[tap][at.nf][pe];
      sum = narrow<ACC_WIDTH>(sum + p.weight[tap][at.nf][pe] * old);
    }
    acc[pe] = sum;
  }
  for (int tap = 0; tap < d_conv - 1; ++tap) {
#pragma HLS UNROLL
    for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
      const act_t newer = tap == d_conv - 2 ? x[at.nf * PE + pe] : window.x[tap + 1][at.nf][pe];
      window.x[tap][at.nf][pe] = first && tap < d_conv - 2 ? act_t(0) : newer;
    }
  }
  for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
    u[at.nf * PE + pe] = requantise<width::u, ACC_WIDTH>(acc[pe], shift, format::u, saturated);
  }
}

/// u goes to `x_proj` and to `selective_scan`.
template <int BLOCK>
void conv1d_stage(token_stream_t<width::x, d_inner>& xs,
                  token_stream_t<width::u, d_inner>& us_to_project,
                  token_stream_t<width::u, d_inner>& us_to_scan, chain_t& chain_in,
                  chain_t& chain_out) {
  using L = Conv1d::L;
  static Conv1d p;
#pragma HLS ARRAY_PARTITION variable = p.weight complete dim = 1
#pragma HLS ARRAY_PARTITION variable = p.weight complete dim = 3
#pragma HLS ARRAY_PARTITION variable = p.bias complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  static Window window;
#pragma HLS ARRAY_PARTITION variable = window.x complete dim = 1
#pragma HLS ARRAY_PARTITION variable = window.x complete dim = 3
  act_t x[d_inner];
#pragma HLS ARRAY_PARTITION variable = x complete
  act_t u[d_inner];
#pragma HLS ARRAY_PARTITION variable = u complete
  Step at = FIRST_STEP;
  int token = 0;
conv1d:
  for (half_word_t i = 0; i < frames * (n_tokens * L::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    // A window is read again L::STEPS iterations after it was written.
#pragma HLS DEPENDENCE variable = window.x inter distance = L::STEPS true
    EMAMBA_TICK(pipeline_depth::conv1d);
    if (at.index == 0) read_token<width::x, d_inner>(xs, x);
    conv1d(p, at, token == 0, x, window, u, saturated);
    if (is_last<L>(at)) {
      write_token<width::u, d_inner>(us_to_project, u);
      write_token<width::u, d_inner>(us_to_scan, u);
      token = next_of(token, n_tokens);
    }
    at = next_step<L>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
