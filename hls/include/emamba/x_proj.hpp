// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"

namespace emamba {

/// Rows in order: dt (dt_rank), B (d_state), C (d_state), each group with its own shift.
struct XProj {
  using F = Folds<dt_rank + 2 * d_state, d_inner, fold::x_proj_pe, fold::x_proj_simd>;
  static constexpr int WORDS = 1 + F::WORDS;
  folded_weight_t<F> weight;
  Shift shift[F::NF][F::PE];  // of each row's group
};

/// 0 for a row of dt, 1 of B, 2 of C.
inline int x_proj_group(int row) {
#pragma HLS INLINE
  return row < dt_rank ? 0 : row < dt_rank + d_state ? 1 : 2;
}

inline void load(XProj& p, chain_t& words) {
  Shift group_shift[3];
  load_shifts(words, group_shift);
  for (int row = 0; row < XProj::F::PADDED_ROWS; ++row) {
    p.shift[row / XProj::F::PE][row % XProj::F::PE] = group_shift[x_proj_group(row)];
  }
  load_weight<XProj::F>(words, p.weight);
}

/// One step of `dt, B, C = q(weight u)`: int8 (d_inner) -> int8, in one array in that order.
template <int SIZE, class Saturated>
void x_proj(const XProj& p, Step at, const act_t (&u)[SIZE], acc_t (&acc)[XProj::F::PE],
            act_t (&projected)[XProj::F::PADDED_ROWS], Saturated& saturated) {
#pragma HLS INLINE
  using F = XProj::F;
  if (at.sf == 0) start(acc);
  multiply_accumulate<F>(p.weight[at.index], u, at.sf, acc);
  if (at.sf == F::SF - 1) {
    for (int pe = 0; pe < F::PE; ++pe) {
#pragma HLS UNROLL
      const int row = at.nf * F::PE + pe;
      projected[row] = requantise<width::B, ACC_WIDTH>(
          acc[pe], p.shift[at.nf][pe], format::dt + x_proj_group(row), saturated);
    }
  }
}

template <int BLOCK>
void x_proj_stage(token_stream_t<width::u, d_inner>& us, token_stream_t<width::dt, dt_rank>& dts,
                  token_stream_t<width::B, d_state>& Bs, token_stream_t<width::C, d_state>& Cs,
                  chain_t& chain_in, chain_t& chain_out) {
  using F = XProj::F;
  static XProj p;
#pragma HLS ARRAY_PARTITION variable = p.weight complete dim = 2
#pragma HLS ARRAY_PARTITION variable = p.shift complete dim = 2
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  act_t u[d_inner];
#pragma HLS ARRAY_PARTITION variable = u complete
  acc_t acc[F::PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  act_t projected[F::PADDED_ROWS];
#pragma HLS ARRAY_PARTITION variable = projected complete
  Step at = FIRST_STEP;
x_proj:
  for (half_word_t i = 0; i < frames * (n_tokens * F::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::x_proj);
    if (at.index == 0) read_token<width::u, d_inner>(us, u);
    x_proj(p, at, u, acc, projected, saturated);
    if (is_last<F>(at)) {
      write_slice<width::dt, dt_rank>(dts, projected, 0);
      write_slice<width::B, d_state>(Bs, projected, dt_rank);
      write_slice<width::C, d_state>(Cs, projected, dt_rank + d_state);
    }
    at = next_step<F>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
