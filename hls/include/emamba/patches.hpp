// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "emamba/chain.hpp"
#include "emamba/stream.hpp"

namespace emamba {

constexpr int FRAME_BYTES = input_height * input_width * input_channels;
constexpr int FRAME_WORDS = byte_words(FRAME_BYTES);

/// One frame as patches: element `i` of a token is channel `i % input_channels` of a pixel.
struct Patches {
  act_t values[n_tokens][patch_dim];
};

/// Puts byte `index` of a frame, (height, width, channels) in row-major order, into its patch.
inline void patches(Patches& frame, int index, act_t value) {
#pragma HLS INLINE
  constexpr int row_bytes = input_width * input_channels;
  constexpr int patch_row_bytes = patch * input_channels;
  const int row = index / row_bytes;
  const int along = index % row_bytes;
  const int token = row / patch * (input_width / patch) + along / patch_row_bytes;
  frame.values[token][row % patch * patch_row_bytes + along % patch_row_bytes] = value;
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
  Patches frame;
#pragma HLS ARRAY_PARTITION variable = frame.values complete dim = 2
frame:
  for (half_word_t f = 0; f < count; ++f) {
  take_words:
    for (int i = 0; i < FRAME_WORDS; ++i) {
#pragma HLS PIPELINE II = 1
      EMAMBA_TICK(pipeline_depth::patches);
      word_t word = frames.read();
      for (int byte = 0; byte < 8; ++byte) {
#pragma HLS UNROLL
        if (8 * i + byte < FRAME_BYTES) patches(frame, 8 * i + byte, signed_byte(word));
        word >>= 8;
      }
    }
  give_tokens:
    for (int t = 0; t < n_tokens; ++t) {
#pragma HLS PIPELINE II = 1
      EMAMBA_TICK(pipeline_depth::patches);
      write_token<width::input, patch_dim>(tokens, frame.values[t]);
    }
  }
  pass_status(chain_in, chain_out, 0);
}

}  // namespace emamba
