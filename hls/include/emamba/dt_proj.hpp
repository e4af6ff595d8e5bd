// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"

namespace emamba {

struct DtProj {
  using F = Folds<d_inner, dt_rank, fold::dt_proj_pe, fold::dt_proj_simd>;
  static constexpr int WORDS = 1 + F::WORDS + acc_words(F::ROWS);
  folded_weight_t<F> weight;
  acc_t bias[F::NF][F::PE];
  Shift shift[1];
};

inline void load(DtProj& p, chain_t& words) {
  load_shifts(words, p.shift);
  load_weight<DtProj::F>(words, p.weight);
  load_acc<DtProj::F::ROWS>(words, p.bias);
}

/// One step of `delta = q(max(weight dt + bias, 0))`: int8 (dt_rank) -> int8 (d_inner).
template <int SIZE, class Saturated>
void dt_proj(const DtProj& p, Step at, const act_t (&dt)[SIZE], acc_t (&acc)[DtProj::F::PE],
             act_t (&delta)[DtProj::F::PADDED_ROWS], Saturated& saturated) {
#pragma HLS INLINE
  using F = DtProj::F;
  if (at.sf == 0) start(acc, p.bias[at.nf]);
  multiply_accumulate<F>(p.weight[at.index], dt, at.sf, acc);
  if (at.sf == F::SF - 1) {
    const Shift shift = p.shift[0];
    for (int pe = 0; pe < F::PE; ++pe) {
#pragma HLS UNROLL
      delta[at.nf * F::PE + pe] =
          requantise<width::delta, ACC_WIDTH>(relu(acc[pe]), shift, format::delta, saturated);
    }
  }
}

template <int BLOCK>
void dt_proj_stage(token_stream_t<width::dt, dt_rank>& dts,
                   token_stream_t<width::delta, d_inner>& deltas, chain_t& chain_in,
                   chain_t& chain_out) {
  using F = DtProj::F;
  static DtProj p;
#pragma HLS ARRAY_PARTITION variable = p.weight complete dim = 2
#pragma HLS ARRAY_PARTITION variable = p.bias complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  act_t dt[dt_rank];
#pragma HLS ARRAY_PARTITION variable = dt complete
  acc_t acc[F::PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  act_t delta[F::PADDED_ROWS];
#pragma HLS ARRAY_PARTITION variable = delta complete
  Step at = FIRST_STEP;
dt_proj:
  for (half_word_t i = 0; i < frames * (n_tokens * F::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::dt_proj);
    if (at.index == 0) read_token<width::dt, dt_rank>(dts, dt);
    dt_proj(p, at, dt, acc, delta, saturated);
    if (is_last<F>(at)) write_token<width::delta, d_inner>(deltas, delta);
    at = next_step<F>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
