// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"

namespace emamba {

/// The rows that give x and those that give z are folded alike and run side by side.
struct InProj {
  using F = Folds<d_inner, d_model, fold::in_proj_pe, fold::in_proj_simd>;
  static constexpr int WORDS = 1 + 2 * F::WORDS;
  folded_weight_t<F> x_weight;
  folded_weight_t<F> z_weight;
  Shift shift[2];
};

inline void load(InProj& p, chain_t& words) {
  load_shifts(words, p.shift);
  load_weight<InProj::F>(words, p.x_weight);
  load_weight<InProj::F>(words, p.z_weight);
}

/// One step of `x, z = q(weight norm)`: int8 (d_model) -> int8 (d_inner) each.
template <int SIZE, class Saturated>
void in_proj(const InProj& p, Step at, const act_t (&norm)[SIZE], acc_t (&x_acc)[InProj::F::PE],
             acc_t (&z_acc)[InProj::F::PE], act_t (&x)[InProj::F::PADDED_ROWS],
             act_t (&z)[InProj::F::PADDED_ROWS], Saturated& saturated) {
#pragma HLS INLINE
  using F = InProj::F;
  if (at.sf == 0) {
    start(x_acc);
    start(z_acc);
  }
  multiply_accumulate<F>(p.x_weight[at.index], norm, at.sf, x_acc);
  multiply_accumulate<F>(p.z_weight[at.index], norm, at.sf, z_acc);
  if (at.sf == F::SF - 1) {
    for (int pe = 0; pe < F::PE; ++pe) {
#pragma HLS UNROLL
      const int i = at.nf * F::PE + pe;
      x[i] = requantise<width::x, ACC_WIDTH>(x_acc[pe], p.shift[0], format::x, saturated);
      z[i] = requantise<width::z, ACC_WIDTH>(z_acc[pe], p.shift[1], format::z, saturated);
    }
  }
}

template <int BLOCK>
void in_proj_stage(token_stream_t<width::norm, d_model>& norms,
                   token_stream_t<width::x, d_inner>& xs, token_stream_t<width::z, d_inner>& zs,
                   chain_t& chain_in, chain_t& chain_out) {
  using F = InProj::F;
  static InProj p;
#pragma HLS ARRAY_PARTITION variable = p.x_weight complete dim = 2
#pragma HLS ARRAY_PARTITION variable = p.z_weight complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  act_t norm[d_model];
  acc_t x_acc[F::PE];
  acc_t z_acc[F::PE];
  act_t x[F::PADDED_ROWS];
  act_t z[F::PADDED_ROWS];
  Step at = FIRST_STEP;
in_proj:
  for (half_word_t i = 0; i < frames * (n_tokens * F::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::in_proj);
    if (at.index == 0) read_token<width::norm, d_model>(norms, norm);
    in_proj(p, at, norm, x_acc, z_acc, x, z, saturated);
    if (is_last<F>(at)) {
      write_token<width::x, d_inner>(xs, x);
      write_token<width::z, d_inner>(zs, z);
    }
    at = next_step<F>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
