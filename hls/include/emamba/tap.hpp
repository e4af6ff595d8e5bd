// SPDX-License-Identifier: Apache-2.0
// A debugging kernel answers with one stage's tokens instead of its outputs (`export hls --tap`), so
// that the same interface shows any stage on the board.
#pragma once

#include "emamba/patches.hpp"
#include "emamba/stream.hpp"

namespace emamba {

/// Copies a stage's tokens, TOKENS a frame.
template <int WIDTH, int COUNT, int TOKENS>
void tap_stage(token_stream_t<WIDTH, COUNT>& from, token_stream_t<WIDTH, COUNT>& on,
               token_stream_t<WIDTH, COUNT>& tapped, chain_t& chain_in, chain_t& chain_out) {
  NoParameters none;
  const half_word_t frames = begin_stage(none, chain_in, chain_out);
tap:
  for (half_word_t i = 0; i < frames * TOKENS; ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(1);
    signed_t<WIDTH> values[COUNT];
    read_token<WIDTH, COUNT>(from, values);
    write_token<WIDTH, COUNT>(on, values);
    write_token<WIDTH, COUNT>(tapped, values);
  }
  pass_status(chain_in, chain_out, 0);
}

/// Drops the outputs, whose place a tapped stage has taken.
inline void discard_stage(token_stream_t<width::output, n_outputs>& outputs, chain_t& chain_in,
                          chain_t& chain_out) {
  NoParameters none;
  const half_word_t frames = begin_stage(none, chain_in, chain_out);
discard:
  for (half_word_t i = 0; i < frames; ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(1);
    output_t output[n_outputs];
    read_token<width::output, n_outputs>(outputs, output);
  }
  pass_status(chain_in, chain_out, 0);
}

}  // namespace emamba
