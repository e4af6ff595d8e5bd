// SPDX-License-Identifier: Apache-2.0
// The chain passes through every stage in pipeline order and carries, for each call,
//   1. a header: command and count,
//   2. when loading, `count` words of parameters: each stage keeps its own and hands on the rest,
//   3. a status word, to which each stage adds what it has seen.
#pragma once

#include "emamba/arithmetic.hpp"
#include "emamba/dataflow.hpp"

namespace emamba {

using chain_t = hls::stream<word_t>;

struct Header {
  bool load;
  half_word_t count;  // words left to load, or frames to infer
};

inline word_t header_word(Header header) {
#pragma HLS INLINE
  return word_t(header.count) << 32 | word_t(header.load ? command::load : command::infer);
}

inline Header read_header(chain_t& chain) {
#pragma HLS INLINE
  const word_t word = chain.read();
  Header header;
  header.load = (word & 0xff) == command::load;
  header.count = half_word_t(word >> 32);
  return header;
}

/// Hands the header on, less the words that this stage keeps.
inline Header pass_header(chain_t& from, chain_t& to, int own_words) {
#pragma HLS INLINE
  const Header header = read_header(from);
  Header rest = header;
  if (header.load) rest.count = header.count - own_words;
  to.write(header_word(rest));
  return header;
}

/// Hands on the parameters of later stages.
inline void pass_words(chain_t& from, chain_t& to, half_word_t count) {
pass_words:
  for (half_word_t i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
    to.write(from.read());
  }
}

/// Hands the status on, with this stage's saturated formats added to its low half.
inline void pass_status(chain_t& from, chain_t& to, saturated_t saturated) {
#pragma HLS INLINE
  to.write(from.read() | word_t(saturated));
}

/// How every stage with parameters begins: it loads its own and hands on the rest, or learns how
/// many frames to infer, which is returned.
template <class Parameters>
half_word_t begin_stage(Parameters& parameters, chain_t& from, chain_t& to) {
#pragma HLS INLINE
  const Header header = pass_header(from, to, Parameters::WORDS);
  if (!header.load) return header.count;
  load(parameters, from);
  pass_words(from, to, header.count - Parameters::WORDS);
  return 0;
}

/// The value after `i` of a counter from 0 to count - 1.
inline int next_of(int i, int count) {
#pragma HLS INLINE
  return i == count - 1 ? 0 : i + 1;
}

/// Words that COUNT items of `PER_WORD` a word take.
constexpr int words_for(int count, int per_word) { return (count + per_word - 1) / per_word; }
constexpr int byte_words(int count) { return words_for(count, 8); }
constexpr int acc_words(int count) { return words_for(count, 2); }

inline signed_t<8> signed_byte(word_t word) {
#pragma HLS INLINE
  const int byte = int(word & 0xff);
  return signed_t<8>(byte < 128 ? byte : byte - 256);
}

/// One word of up to eight shifts, each a signed byte: positive to the right.
template <int COUNT>
void load_shifts(chain_t& words, Shift (&shifts)[COUNT]) {
  static_assert(COUNT <= 8, "the shifts of one stage must fit one word");
  word_t word = words.read();
load_shifts:
  for (int i = 0; i < COUNT; ++i) {
    const int shift = int(signed_byte(word));
    shifts[i].right = shift > 0 ? shift : 0;
    shifts[i].left = shift < 0 ? -shift : 0;
    word >>= 8;
  }
}

/// COUNT accumulator-wide numbers (biases, aligned beforehand), two to a word, PE lanes a row.
template <int COUNT, int PE, int ROWS>
void load_acc(chain_t& words, acc_t (&values)[ROWS][PE]) {
  static_assert(ROWS * PE >= COUNT, "the rows must hold every value");
  word_t word = 0;
  int at = 0;  // half of the word
load_acc:
  for (int row = 0; row < ROWS; ++row) {
    for (int pe = 0; pe < PE; ++pe) {
#pragma HLS PIPELINE II = 1
      if (row * PE + pe < COUNT) {
        if (at == 0) word = words.read();
        values[row][pe] = acc_t(int(half_word_t(word)));
        word >>= 32;
        at = next_of(at, 2);
      }
    }
  }
}

/// COUNT int8 numbers, eight to a word, PE lanes a row.
template <int COUNT, int PE, int ROWS>
void load_bytes(chain_t& words, weight_t (&values)[ROWS][PE]) {
  static_assert(ROWS * PE >= COUNT, "the rows must hold every value");
  word_t word = 0;
  int at = 0;  // byte of the word
load_bytes:
  for (int row = 0; row < ROWS; ++row) {
    for (int pe = 0; pe < PE; ++pe) {
#pragma HLS PIPELINE II = 1
      if (row * PE + pe < COUNT) {
        if (at == 0) word = words.read();
        values[row][pe] = signed_byte(word);
        word >>= 8;
        at = next_of(at, 8);
      }
    }
  }
}

}  // namespace emamba
