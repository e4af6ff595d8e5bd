// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"

namespace emamba {

struct PatchEmbed {
  using F = Folds<d_model, patch_dim, fold::patch_embed_pe, fold::patch_embed_simd>;
  static constexpr int WORDS = 1 + F::WORDS + acc_words(F::ROWS);
  folded_weight_t<F> weight;
  acc_t bias[F::NF][F::PE];
  Shift shift[1];
};

inline void load(PatchEmbed& p, chain_t& words) {
  load_shifts(words, p.shift);
  load_weight<PatchEmbed::F>(words, p.weight);
  load_acc<PatchEmbed::F::ROWS>(words, p.bias);
}

/// One step of `residual = q(weight x + bias)`: int8 (patch_dim) -> int16 (d_model).
template <int SIZE, class Saturated>
void patch_embed(const PatchEmbed& p, Step at, const act_t (&x)[SIZE],
                 acc_t (&acc)[PatchEmbed::F::PE], residual_t (&residual)[PatchEmbed::F::PADDED_ROWS],
                 Saturated& saturated) {
#pragma HLS INLINE
  using F = PatchEmbed::F;
  if (at.sf == 0) start(acc, p.bias[at.nf]);
  multiply_accumulate<F>(p.weight[at.index], x, at.sf, acc);
  if (at.sf == F::SF - 1) {
    const Shift shift = p.shift[0];
    for (int pe = 0; pe < F::PE; ++pe) {
#pragma HLS UNROLL
      residual[at.nf * F::PE + pe] =
          requantise<width::residual, ACC_WIDTH>(acc[pe], shift, format::residual, saturated);
    }
  }
}

inline void patch_embed_stage(token_stream_t<width::input, patch_dim>& tokens,
                              token_stream_t<width::residual, d_model>& residuals,
                              chain_t& chain_in, chain_t& chain_out) {
  using F = PatchEmbed::F;
  static PatchEmbed p;
#pragma HLS ARRAY_PARTITION variable = p.weight complete dim = 2
#pragma HLS ARRAY_PARTITION variable = p.bias complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  act_t x[patch_dim];
#pragma HLS ARRAY_PARTITION variable = x complete
  acc_t acc[F::PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  residual_t residual[F::PADDED_ROWS];
#pragma HLS ARRAY_PARTITION variable = residual complete
  Step at = FIRST_STEP;
patch_embed:
  for (half_word_t i = 0; i < frames * (n_tokens * F::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::patch_embed);
    if (at.index == 0) read_token<width::input, patch_dim>(tokens, x);
    patch_embed(p, at, x, acc, residual, saturated);
    if (is_last<F>(at)) write_token<width::residual, d_model>(residuals, residual);
    at = next_step<F>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
