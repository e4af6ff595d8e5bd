// SPDX-License-Identifier: Apache-2.0
// The head flattens the tokens; its first layer is summed token by token, so nothing waits for the
// whole frame.
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"

namespace emamba {

struct HeadFc1 {
  using F = Folds<head_width, d_model, fold::head_fc1_pe, fold::head_fc1_simd>;  // of one token
  static constexpr int WORDS = 1 + n_tokens * F::WORDS + acc_words(F::ROWS);
  weight_t weight[n_tokens * F::STEPS][F::SIMD * F::PE];
  acc_t bias[F::NF][F::PE];
  Shift shift[2];  // head.input, head.hidden
};

inline void load(HeadFc1& p, chain_t& words) {
  using F = HeadFc1::F;
  load_shifts(words, p.shift);
  for (int token = 0; token < n_tokens; ++token) {
    load_weight<F>(words, p.weight, token * F::STEPS);
  }
  load_acc<F::ROWS>(words, p.bias);
}

/// One step of `head.input = q(residual)`, `head.hidden = q(max(weight v + bias, 0))`: a token's
/// residual, int16 (d_model), is added to `acc`; the last token's steps give int8 (head_width).
template <int SIZE, class Saturated>
void head_fc1(const HeadFc1& p, int token, Step at, const residual_t (&residual)[SIZE],
              acc_t (&acc)[HeadFc1::F::NF][HeadFc1::F::PE],
              act_t (&hidden)[HeadFc1::F::PADDED_ROWS], Saturated& saturated) {
#pragma HLS INLINE
  using F = HeadFc1::F;
  const Shift input_shift = p.shift[0];
  act_t x[F::SIMD];
#pragma HLS ARRAY_PARTITION variable = x complete
  for (int simd = 0; simd < F::SIMD; ++simd) {
#pragma HLS UNROLL
    x[simd] = requantise<width::head_input, ACC_WIDTH>(acc_t(residual[at.sf * F::SIMD + simd]),
                                                       input_shift, format::head_input, saturated);
  }
  if (token == 0 && at.sf == 0) start(acc[at.nf], p.bias[at.nf]);
  multiply_accumulate<F>(p.weight[token * F::STEPS + at.index], x, 0, acc[at.nf]);
  if (token == n_tokens - 1 && at.sf == F::SF - 1) {
    const Shift shift = p.shift[1];
    for (int pe = 0; pe < F::PE; ++pe) {
#pragma HLS UNROLL
      hidden[at.nf * F::PE + pe] = requantise<width::head_hidden, ACC_WIDTH>(
          relu(acc[at.nf][pe]), shift, format::head_hidden, saturated);
    }
  }
}

inline void head_fc1_stage(token_stream_t<width::residual, d_model>& residuals,
                           token_stream_t<width::head_hidden, head_width>& hiddens,
                           chain_t& chain_in, chain_t& chain_out) {
  using F = HeadFc1::F;
  static HeadFc1 p;
#pragma HLS ARRAY_PARTITION variable = p.weight complete dim = 2
#pragma HLS ARRAY_PARTITION variable = p.bias complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  residual_t residual[d_model];
#pragma HLS ARRAY_PARTITION variable = residual complete
  acc_t acc[F::NF][F::PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  act_t hidden[F::PADDED_ROWS];
#pragma HLS ARRAY_PARTITION variable = hidden complete
  Step at = FIRST_STEP;
  int token = 0;
head_fc1:
  for (half_word_t i = 0; i < frames * (n_tokens * F::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::head_fc1);
    if (at.index == 0) read_token<width::residual, d_model>(residuals, residual);
    head_fc1(p, token, at, residual, acc, hidden, saturated);
    if (is_last<F>(at)) {
      if (token == n_tokens - 1) write_token<width::head_hidden, head_width>(hiddens, hidden);
      token = next_of(token, n_tokens);
    }
    at = next_step<F>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

struct HeadFc2 {
  using F = Folds<n_outputs, head_width, fold::head_fc2_pe, fold::head_fc2_simd>;
  static constexpr int WORDS = 1 + F::WORDS + acc_words(F::ROWS);
  folded_weight_t<F> weight;
  acc_t bias[F::NF][F::PE];
  Shift shift[1];
};

inline void load(HeadFc2& p, chain_t& words) {
  load_shifts(words, p.shift);
  load_weight<HeadFc2::F>(words, p.weight);
  load_acc<HeadFc2::F::ROWS>(words, p.bias);
}

/// One step of `output = q(weight hidden + bias)`: int8 (head_width) -> int16 (n_outputs).
template <int SIZE, class Saturated>
void head_fc2(const HeadFc2& p, Step at, const act_t (&hidden)[SIZE],
              acc_t (&acc)[HeadFc2::F::PE], output_t (&output)[HeadFc2::F::PADDED_ROWS],
              Saturated& saturated) {
#pragma HLS INLINE
  using F = HeadFc2::F;
  if (at.sf == 0) start(acc, p.bias[at.nf]);
  multiply_accumulate<F>(p.weight[at.index], hidden, at.sf, acc);
  if (at.sf == F::SF - 1) {
    const Shift shift = p.shift[0];
    for (int pe = 0; pe < F::PE; ++pe) {
#pragma HLS UNROLL
      output[at.nf * F::PE + pe] =
          requantise<width::output, ACC_WIDTH>(acc[pe], shift, format::output, saturated);
    }
  }
}

inline void head_fc2_stage(token_stream_t<width::head_hidden, head_width>& hiddens,
                           token_stream_t<width::output, n_outputs>& outputs, chain_t& chain_in,
                           chain_t& chain_out) {
  using F = HeadFc2::F;
  static HeadFc2 p;
#pragma HLS ARRAY_PARTITION variable = p.weight complete dim = 2
#pragma HLS ARRAY_PARTITION variable = p.bias complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  act_t hidden[head_width];
#pragma HLS ARRAY_PARTITION variable = hidden complete
  acc_t acc[F::PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  output_t output[F::PADDED_ROWS];
#pragma HLS ARRAY_PARTITION variable = output complete
  Step at = FIRST_STEP;
head_fc2:
  for (half_word_t i = 0; i < frames * F::STEPS; ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::head_fc2);
    if (at.index == 0) read_token<width::head_hidden, head_width>(hiddens, hidden);
    head_fc2(p, at, hidden, acc, output, saturated);
    if (is_last<F>(at)) write_token<width::output, n_outputs>(outputs, output);
    at = next_step<F>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
