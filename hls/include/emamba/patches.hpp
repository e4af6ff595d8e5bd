// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/chain.hpp"
#include "emamba/stream.hpp"

namespace emamba {

constexpr int FRAME_BYTES = input_height * input_width * input_channels;
constexpr int FRAME_WORDS = byte_words(FRAME_BYTES);

/// Byte of a frame, (height, width, channels) in row-major order, that is `element` of `token`.
inline int patches(int token, int element) {
#pragma HLS INLINE
  constexpr int tokens_across = input_width / patch;
  constexpr int patch_row_bytes = patch * input_channels;
  const int row = token / tokens_across * patch + element / patch_row_bytes;
  const int along = token % tokens_across * patch_row_bytes + element % patch_row_bytes;
  return row * (input_width * input_channels) + along;
}

struct NoParameters {
  static constexpr int WORDS = 0;
};

inline void load(NoParameters&, chain_t&) {}

/// Frames as words, eight int8 each and the last one padded, to tokens of one patch each.
inline void patches_stage(chain_t& frames, token_stream_t<width::input, patch_dim>& tokens,
                          chain_t& chain_in, chain_t& chain_out) {
  NoParameters none;
  const half_word_t count = begin_stage(none, chain_in, chain_out);
  // Registers: a token takes its bytes from anywhere.
  act_t frame[8 * FRAME_WORDS];
#pragma HLS ARRAY_PARTITION variable = frame complete
frame:
  for (half_word_t f = 0; f < count; ++f) {
  take_words:
    for (int i = 0; i < FRAME_WORDS; ++i) {
#pragma HLS PIPELINE II = 1
      EMAMBA_TICK(pipeline_depth::patches);
      word_t word = frames.read();
      for (int byte = 0; byte < 8; ++byte) {
#pragma HLS UNROLL
        frame[8 * i + byte] = signed_byte(word);
        word >>= 8;
      }
    }
  give_tokens:
    for (int t = 0; t < n_tokens; ++t) {
#pragma HLS PIPELINE II = 1
      EMAMBA_TICK(pipeline_depth::patches);
      act_t token[patch_dim];
      for (int i = 0; i < patch_dim; ++i) {
#pragma HLS UNROLL
        token[i] = frame[patches(t, i)];
      }
      write_token<width::input, patch_dim>(tokens, token);
    }
  }
  pass_status(chain_in, chain_out, 0);
}

}  // namespace emamba
