// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/matvec.hpp"
#include "emamba/stream.hpp"
#include "emamba/table.hpp"

namespace emamba {

struct Gate {
  using L = Lanes<d_inner, fold::gate_pe>;
  static constexpr int WORDS = 1 + TABLE_WORDS;
  gate_t silu[fold::silu_copies][SILU_SIZE];  // of arguments SILU_FIRST, SILU_FIRST + 1, ...
  Shift shift[2];                             // g, silu
};

inline void load(Gate& p, chain_t& words) {
  load_shifts(words, p.shift);
  constexpr int top = (1 << (width::gate - 1)) - 1;
  load_table(words, p.silu, SILU_FIRST, 1, p.shift[1], -top, top);
}

/// One step of `g = q(y silu(z))`: y int16, z int8 (d_inner) -> int8.
template <int Y_SIZE, int Z_SIZE, class Saturated>
void gate(const Gate& p, Step at, const y_t (&y)[Y_SIZE], const act_t (&z)[Z_SIZE],
          act_t (&g)[d_inner], Saturated& saturated) {
#pragma HLS INLINE
  constexpr int PE = Gate::L::PE;
  const Shift shift = p.shift[0];
  gate_t factor[PE];
#pragma HLS ARRAY_PARTITION variable = factor complete
  for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
    factor[pe] = p.silu[pe * fold::silu_copies / PE][z[at.nf * PE + pe] - SILU_FIRST];
  }
  for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
    const int i = at.nf * PE + pe;
    const acc_t product = acc_t(y[i] * factor[pe]);
    g[i] = requantise<width::g, ACC_WIDTH>(product, shift, format::g, saturated);
  }
}

template <int BLOCK>
void gate_stage(token_stream_t<width::y, d_inner>& ys, token_stream_t<width::z, d_inner>& zs,
                token_stream_t<width::g, d_inner>& gs, chain_t& chain_in, chain_t& chain_out) {
  using L = Gate::L;
  static Gate p;
#pragma HLS ARRAY_PARTITION variable = p.silu complete dim = 1
  const half_word_t frames = begin_stage(p, chain_in, chain_out);
  saturated_t saturated = 0;
  y_t y[d_inner];
#pragma HLS ARRAY_PARTITION variable = y complete
  act_t z[d_inner];
#pragma HLS ARRAY_PARTITION variable = z complete
  act_t g[d_inner];
#pragma HLS ARRAY_PARTITION variable = g complete
  Step at = FIRST_STEP;
gate:
  for (half_word_t i = 0; i < frames * (n_tokens * L::STEPS); ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::gate);
    if (at.index == 0) {
      read_token<width::y, d_inner>(ys, y);
      read_token<width::z, d_inner>(zs, z);
    }
    gate(p, at, y, z, g, saturated);
    if (is_last<L>(at)) write_token<width::g, d_inner>(gs, g);
    at = next_step<L>(at);
  }
  pass_status(chain_in, chain_out, saturated);
}

}  // namespace emamba
