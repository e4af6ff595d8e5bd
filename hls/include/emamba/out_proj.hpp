// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"

namespace emamba {

struct OutProj {
  using F = Folds<d_model, d_inner, fold::out_proj_pe, fold::out_proj_simd>;
  static constexpr int WORDS = 1 + F::WORDS;
  folded_weight_t<F> weight;
  Shift shift[2];  // residual, the old residual to the accumulator (left)
};

inline void load(OutProj& p, chain_t& words) {
  load_shifts(words, p.shift);
  load_weight<OutProj::F>(words, p.weight);
}

/// One step of `residual = q(weight g + residual)`: int8 (d_inner) -> int16 (d_model).
template <int G_SIZE, int SIZE, class Saturated>
void out_proj(const OutProj& p, Step at, const act_t (&g)[G_SIZE], const residual_t (&old)[SIZE],
              acc_t (&acc)[OutProj::F::PE], residual_t (&residual)[OutProj::F::PADDED_ROWS],
              Saturated& saturated) {
#pragma HLS INLINE
  using F = OutProj::F;
  if (at.sf == 0) {
    for (int pe = 0; pe < F::PE; ++pe) {
#pragma HLS UNROLL
      const int i = at.nf * F::PE + pe;
      const residual_t added = i < d_model ? old[i] : residual_t(0);
      acc[pe] = shift_left<ACC_WIDTH>(acc_t(added), p.shift[1].left);
    }
  }
  multiply_accumulate<F>(p.weight[at.index], g, at.sf, acc);
  if (at.sf == F::SF - 1) {
    const Shift shift = p.shift[0];
    for (int pe = 0; pe < F::PE; ++pe) {
#pragma HLS UNROLL
      residual[at.nf * F::PE + pe] =
          requantise<width::residual, ACC_WIDTH>(acc[pe], shift, format::residual, saturated);
    }
  }
}

template <int BLOCK>
void out_proj_stage(token_stream_t<width::g, d_inner>& gs,
                    token_stream_t<width::residual, d_model>& skips,
                    token_stream_t<width::residual, d_model>& residuals, chain_t& chain_in,
                    chain_t& chain_out) {
  using F = OutProj::F;
  static OutProj p;
#pragma HLS ARRAY_PARTITION variable = p.weight complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  act_t g[d_inner];
#pragma HLS ARRAY_PARTITION variable = g complete
  residual_t old[d_model];
#pragma HLS ARRAY_PARTITION variable = old complete
  acc_t acc[F::PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  residual_t residual[F::PADDED_ROWS];
#pragma HLS ARRAY_PARTITION variable = residual complete
  Step at = FIRST_STEP;
out_proj:
  for (half_word_t i = 0; i < frames * (n_tokens * F::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::out_proj);
    if (at.index == 0) {
      read_token<width::g, d_inner>(gs, g);
      read_token<width::residual, d_model>(skips, old);
    }
    out_proj(p, at, g, old, acc, residual, saturated);
    if (is_last<F>(at)) write_token<width::residual, d_model>(residuals, residual);
    at = next_step<F>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
