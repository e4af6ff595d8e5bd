// SPDX-License-Identifier: Apache-2.0
// Tokens on streams: a whole token in one transfer, its first element in the lowest bits. Arrays may
// be longer than the token, since folds pad them.
#pragma once

#include <hls_stream.h>

#include "emamba/config.hpp"

namespace emamba {

#ifdef EMAMBA_PLAIN_INTS

/// COUNT elements of WIDTH bits.
template <int WIDTH, int COUNT>
struct token_t {
  signed_t<WIDTH> values[COUNT];
};

#else

/// COUNT elements of WIDTH bits.
template <int WIDTH, int COUNT>
using token_t = ap_uint<WIDTH * COUNT>;

#endif

template <int WIDTH, int COUNT>
using token_stream_t = hls::stream<token_t<WIDTH, COUNT>>;

template <int WIDTH, int COUNT, int SIZE>
void read_token(token_stream_t<WIDTH, COUNT>& from, signed_t<WIDTH> (&values)[SIZE]) {
#pragma HLS INLINE
  static_assert(SIZE >= COUNT, "the array must hold the token");
  const token_t<WIDTH, COUNT> token = from.read();
  for (int i = 0; i < COUNT; ++i) {
#pragma HLS UNROLL
#ifdef EMAMBA_PLAIN_INTS
    values[i] = token.values[i];
#else
    values[i] = token.range(WIDTH * i + WIDTH - 1, WIDTH * i);
#endif
  }
}

template <int WIDTH, int COUNT, int SIZE>
void write_token(token_stream_t<WIDTH, COUNT>& to, const signed_t<WIDTH> (&values)[SIZE]) {
#pragma HLS INLINE
  static_assert(SIZE >= COUNT, "the array must hold the token");
  token_t<WIDTH, COUNT> token;
  for (int i = 0; i < COUNT; ++i) {
#pragma HLS UNROLL
#ifdef EMAMBA_PLAIN_INTS
    token.values[i] = values[i];
#else
    token.range(WIDTH * i + WIDTH - 1, WIDTH * i) = values[i];
#endif
  }
  to.write(token);
}

/// Sends the COUNT elements from `first` on.
template <int WIDTH, int COUNT, int SIZE>
void write_slice(token_stream_t<WIDTH, COUNT>& to, const signed_t<WIDTH> (&values)[SIZE],
                 int first) {
#pragma HLS INLINE
  signed_t<WIDTH> slice[COUNT];
  for (int i = 0; i < COUNT; ++i) {
#pragma HLS UNROLL
    slice[i] = values[first + i];
  }
  write_token<WIDTH, COUNT>(to, slice);
}

}  // namespace emamba
