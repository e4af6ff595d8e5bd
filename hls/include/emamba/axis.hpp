// SPDX-License-Identifier: Apache-2.0
// The outermost shell of the kernel: AXI4-Stream packets and registers around the core. Whatever the
// host sends, the core is given whole packets, so that a call always ends as soon as its packet does.
#pragma once

#include <ap_axi_sdata.h>

#include "emamba/packets.hpp"

namespace emamba {

using axis_t = ap_axiu<64, 0, 0, 0>;
using axis_stream_t = hls::stream<axis_t>;
using flag_t = unsigned_t<1>;
using flag_stream_t = hls::stream<flag_t>;

constexpr int KEEP_ALL = 0xff;
// The stages count steps in 32 bits: that leaves 2^20 steps a frame.
constexpr int MAX_FRAMES = 4096;
// Cycles from one side of the shell to the other: modelled.
constexpr int SHELL_DEPTH = 2;

namespace command {
constexpr int clear = 2;  // forget errors and saturation; takes and gives no packet
}  // namespace command

// Bits of the register `errors`.
namespace error {
constexpr int input_short = 1 << 0;
constexpr int input_long = 1 << 1;
constexpr int unknown_command = 1 << 2;
constexpr int not_loaded = 1 << 3;
constexpr int wrong_count = 1 << 4;
}  // namespace error

/// One call as the registers ask for it.
struct Call {
  Header header;      // what the core is told: no frames where the call is refused
  half_word_t words;  // that the core then takes
  bool arrives;       // whether the host sends a packet
  half_word_t seen;   // error bits
};

/// An image has exactly IMAGE_WORDS words: with fewer or more, the stages would wait or overrun.
template <int IMAGE_WORDS>
Call read_call(half_word_t command, half_word_t count) {
#pragma HLS INLINE
  const bool load = command == command::load;
  const bool infer = command == command::infer;
  const bool fits = load ? count == IMAGE_WORDS : (count > 0 && count <= MAX_FRAMES);
  Call call;
  call.header.load = load && fits;
  call.header.count = (load || infer) && fits ? count : half_word_t(0);
  call.words = call.header.load ? call.header.count : half_word_t(call.header.count * FRAME_WORDS);
  call.arrives = (load || infer) && count > 0;
  call.seen = 0;
  if (!load && !infer && command != command::clear) call.seen = error::unknown_command;
  if ((load || infer) && !fits) call.seen = error::wrong_count;
  return call;
}

/// Takes one packet off the AXI4-Stream: a short one is filled up with zeros, what is left of a long
/// or refused one is dropped. `input_crc` is of the words that came and were not dropped.
template <int IMAGE_WORDS>
void take_packet(axis_stream_t& s_axis_in, half_word_t command, half_word_t count, chain_t& packet,
                 chain_t& plan, half_word_t& errors, half_word_t& input_crc) {
  static bool loaded = false;
  static half_word_t sticky = 0;
  const Call call = read_call<IMAGE_WORDS>(command, count);
  const half_word_t frames = call.header.load ? half_word_t(0) : call.header.count;
  plan.write(word_t(frames) << 32 | word_t(command == command::clear));
  packet.write(header_word(call.header));
  bool ended = !call.arrives;
  bool is_short = false;
  half_word_t crc = 0;
take_words:
  for (half_word_t i = 0; i < call.words; ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(SHELL_DEPTH);
    word_t word = 0;
    if (!ended) {
      const axis_t beat = s_axis_in.read();
      word = beat.data;
      crc = crc32(crc, word);
      ended = beat.last != 0;
      is_short = ended && (i + 1 < call.words || beat.keep != KEEP_ALL);
    }
    packet.write(word);
  }
  const bool is_long = call.words > 0 && !ended;
drop_words:
  while (!ended) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(SHELL_DEPTH);
    ended = s_axis_in.read().last != 0;
  }
  half_word_t seen = call.seen;
  if (is_short) seen |= error::input_short;
  if (is_long) seen |= error::input_long;
  if (call.header.load) loaded = !is_short && !is_long;
  if (frames > 0 && !loaded) seen |= error::not_loaded;
  sticky = command == command::clear ? half_word_t(0) : half_word_t(sticky | seen);
  errors = sticky;
  input_crc = crc;
}

/// Puts the answer on the AXI4-Stream, its CRC and its status word into registers.
inline void give_packet(chain_t& answer, chain_t& plan, axis_stream_t& m_axis_out,
                        flag_stream_t& done, half_word_t& interface_version, word_t& config_hash,
                        half_word_t& weights_crc, half_word_t& saturated,
                        half_word_t& answer_crc) {
  static half_word_t sticky = 0;
  const word_t planned = plan.read();
  const half_word_t words = half_word_t(planned >> 32) * OUTPUT_WORDS;
  const bool clear = (planned & 1) != 0;
  half_word_t crc = 0;
give_words:
  for (half_word_t i = 0; i < words; ++i) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(SHELL_DEPTH);
    axis_t beat;
    const word_t given = answer.read();
    crc = crc32(crc, given);
    beat.data = given;
    beat.keep = KEEP_ALL;
    beat.strb = KEEP_ALL;
    beat.last = i + 1 == words;
    m_axis_out.write(beat);
  }
  const word_t status = answer.read();
  sticky = clear ? half_word_t(status) : half_word_t(sticky | half_word_t(status));
  interface_version = emamba::interface_version;
  config_hash = emamba::config_hash;
  weights_crc = half_word_t(status >> 32);
  saturated = sticky;
  answer_crc = crc;
  done.write(1);
}

/// Counts the cycles from the start of a call to its `done`.
inline void count_cycles(flag_stream_t& done, half_word_t& cycles) {
  half_word_t count = 0;
  flag_t flag = 0;
count_cycles:
  while (!done.read_nb(flag)) {
#pragma HLS PIPELINE II = 1
    EMAMBA_TICK(0);
    ++count;
  }
  cycles = count;
}

}  // namespace emamba

/// The whole kernel (ip.cpp): one call takes at most one packet and gives at most one.
void emamba_kernel(emamba::axis_stream_t& s_axis_in, emamba::axis_stream_t& m_axis_out,
                   emamba::half_word_t command, emamba::half_word_t count,
                   emamba::half_word_t& interface_version, emamba::word_t& config_hash,
                   emamba::half_word_t& weights_crc, emamba::half_word_t& cycles,
                   emamba::half_word_t& errors, emamba::half_word_t& saturated,
                   emamba::half_word_t& input_crc, emamba::half_word_t& answer_crc);
