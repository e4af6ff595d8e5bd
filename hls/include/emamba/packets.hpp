// SPDX-License-Identifier: Apache-2.0
// Both ends of the pipeline: packets of 64-bit words.
//   in:   header, then `count` words of a weights image, or `count` frames of int8
//   out:  for an inference int16 outputs, four to a word and each frame padded; then a status word
#pragma once

#include "emamba/chain.hpp"
#include "emamba/patches.hpp"

namespace emamba {

/// Words of one frame's answer.
constexpr int OUTPUT_WORDS = ANSWER_TOKENS * words_for(ANSWER_COUNT, 4);

/// For each bit of a CRC-32, those bits of a word, added to the CRC before it, whose parity it is.
struct CrcMasks {
  unsigned long long of[32];
};

constexpr CrcMasks make_crc_masks() {
  CrcMasks masks{};
  for (int from = 0; from < 64; ++from) {
    unsigned long long rest = 1ull << from;
    for (int step = 0; step < 64; ++step) rest = rest >> 1 ^ ((rest & 1) != 0 ? 0xedb88320ull : 0);
    for (int to = 0; to < 32; ++to) masks.of[to] |= (rest >> to & 1) << from;
  }
  return masks;
}

constexpr CrcMasks crc_masks = make_crc_masks();

/// CRC-32 (ISO-HDLC, as zlib's) of `crc`'s words and one more. Parities of constant sets of bits are
/// a few levels of logic, where 64 steps of a shift register would be taken for a long path: a loop
/// that carries a CRC is to keep its II of 1.
inline half_word_t crc32(half_word_t crc, word_t word) {
#pragma HLS INLINE
  const word_t sum = word ^ word_t(half_word_t(~crc));
  half_word_t next = 0;
  for (int bit = 0; bit < 32; ++bit) {
#pragma HLS UNROLL
    next |= half_word_t(parity(sum & word_t(crc_masks.of[bit])) ? 1u : 0u) << bit;
  }
  return ~next;
}

/// Sends a packet's parameters down the chain, its frames to `patches`. The status word starts as
/// the CRC-32 of the image that is loaded, in its high half.
inline void dispatch_stage(chain_t& in, chain_t& frames, chain_t& chain_out) {
  static half_word_t crc = 0;
  const Header header = read_header(in);
  const half_word_t load_count = header.load ? header.count : half_word_t(0);
  const half_word_t frame_count = header.load ? half_word_t(0) : header.count;
  chain_out.write(header_word(header));
  if (header.load) crc = 0;
load_words:
  for (half_word_t i = 0; i < load_count; ++i) {
#pragma HLS PIPELINE II = 1
    const word_t word = in.read();
    crc = crc32(crc, word);
    chain_out.write(word);
  }
frame_words:
  for (half_word_t i = 0; i < frame_count * FRAME_WORDS; ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::dispatch);
    frames.write(in.read());
  }
  chain_out.write(word_t(crc) << 32);
}

/// Makes words of what a kernel answers with: its outputs, or a tapped stage's tokens.
template <int WIDTH>
void collect_stage(token_stream_t<WIDTH, ANSWER_COUNT>& answers, chain_t& chain_in, chain_t& out) {
  constexpr int token_words = words_for(ANSWER_COUNT, 4);
  const Header header = read_header(chain_in);
  const half_word_t words = header.load ? half_word_t(0) : half_word_t(header.count * OUTPUT_WORDS);
  signed_t<WIDTH> answer[4 * token_words];
  int at = 0;  // word of its token
collect:
  for (half_word_t i = 0; i < words; ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(pipeline_depth::collect);
    if (at == 0) read_token<WIDTH, ANSWER_COUNT>(answers, answer);
    word_t word = 0;
    for (int lane = 3; lane >= 0; --lane) {
#pragma HLS UNROLL
      const int index = 4 * at + lane;
      const signed_t<WIDTH> value = index < ANSWER_COUNT ? answer[index] : signed_t<WIDTH>(0);
      word = word << 16 | word_t(unsigned(int(value)) & 0xffffu);
    }
    out.write(word);
    at = next_of(at, token_words);
  }
  out.write(chain_in.read());
}

}  // namespace emamba
