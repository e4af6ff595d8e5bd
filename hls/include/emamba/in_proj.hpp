// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"

namespace emamba {

/// A step gives rows of x and as many of z: its first lanes are x's, the others z's.
struct InProj {
  static constexpr int PE = fold::in_proj_pe;
  static_assert(d_inner % PE == 0, "PE must divide d_inner");
  using F = Folds<2 * d_inner, d_model, 2 * PE, fold::in_proj_simd>;
  static constexpr int WORDS = 1 + F::WORDS;
  folded_weight_t<F> weight;
  Shift shift[2];
};

inline void load(InProj& p, chain_t& words) {
  using F = InProj::F;
  load_shifts(words, p.shift);
  word_t word = 0;
  int at = 0;  // byte of the word
load_weight:
  for (int half = 0; half < 2; ++half) {  // x, then z
    for (int nf = 0; nf < F::NF; ++nf) {
      for (int pe = 0; pe < InProj::PE; ++pe) {
        for (int sf = 0; sf < F::SF; ++sf) {
          for (int simd = 0; simd < F::SIMD; ++simd) {
#pragma HLS PIPELINE II = 1
            if (at == 0) word = words.read();
            p.weight[nf * F::SF + sf][simd * F::PE + half * InProj::PE + pe] = signed_byte(word);
            word >>= 8;
            at = next_of(at, 8);
          }
        }
      }
    }
  }
}

/// One step of `x, z = q(weight norm)`: int8 (d_model) -> int8 (d_inner) each.
template <int SIZE, class Saturated>
void in_proj(const InProj& p, Step at, const act_t (&norm)[SIZE], acc_t (&acc)[InProj::F::PE],
             act_t (&x)[d_inner], act_t (&z)[d_inner], Saturated& saturated) {
#pragma HLS INLINE
  using F = InProj::F;
  if (at.sf == 0) start(acc);
  multiply_accumulate<F>(p.weight[at.index], norm, at.sf, acc);
  if (at.sf == F::SF - 1) {
    const Shift x_shift = p.shift[0];
    const Shift z_shift = p.shift[1];
    for (int pe = 0; pe < InProj::PE; ++pe) {
#pragma HLS UNROLL
      x[at.nf * InProj::PE + pe] =
          requantise<width::x, ACC_WIDTH>(acc[pe], x_shift, format::x, saturated);
    }
    for (int pe = 0; pe < InProj::PE; ++pe) {
#pragma HLS UNROLL
      z[at.nf * InProj::PE + pe] =
          requantise<width::z, ACC_WIDTH>(acc[InProj::PE + pe], z_shift, format::z, saturated);
    }
  }
}

template <int BLOCK>
void in_proj_stage(token_stream_t<width::norm, d_model>& norms,
                   token_stream_t<width::x, d_inner>& xs, token_stream_t<width::z, d_inner>& zs,
                   chain_t& chain_in, chain_t& chain_out) {
  using F = InProj::F;
  static InProj p;
#pragma HLS ARRAY_PARTITION variable = p.weight complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  act_t norm[d_model];
#pragma HLS ARRAY_PARTITION variable = norm complete
  acc_t acc[F::PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  act_t x[d_inner];
#pragma HLS ARRAY_PARTITION variable = x complete
  act_t z[d_inner];
#pragma HLS ARRAY_PARTITION variable = z complete
  Step at = FIRST_STEP;
in_proj:
  for (half_word_t i = 0; i < frames * (n_tokens * F::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::in_proj);
    if (at.index == 0) read_token<width::norm, d_model>(norms, norm);
    in_proj(p, at, norm, acc, x, z, saturated);
    if (is_last<F>(at)) {
      write_token<width::x, d_inner>(xs, x);
      write_token<width::z, d_inner>(zs, z);
    }
    at = next_step<F>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
