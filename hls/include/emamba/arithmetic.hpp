// SPDX-License-Identifier: Apache-2.0
// Rounding, shifting and saturating: the only three things that change a number's format.
// docs/numbers.md, "Three operations".
#pragma once

#include "emamba/config.hpp"

namespace emamba {

/// A rounding shift, loaded with the weights: to the right, or to the left where `right` is 0.
struct Shift {
  unsigned_t<6> right;
  unsigned_t<6> left;
};

/// Which formats have saturated, one bit each (`format::` in config.hpp).
using saturated_t = unsigned_t<32>;

/// Takes the place of `saturated_t` where nobody asks.
struct Unwatched {};

inline void mark(saturated_t& saturated, int format, bool clipped) {
#pragma HLS INLINE
  saturated |= saturated_t(clipped ? 1u : 0u) << format;
}

inline void mark(Unwatched&, int, bool) {}

/// `x * 2**left` in the accumulator's own width.
template <int WIDTH>
inline signed_t<WIDTH> shift_left(signed_t<WIDTH> x, unsigned_t<6> left) {
#pragma HLS INLINE
#ifdef EMAMBA_PLAIN_INTS
  const auto out = signed_t<WIDTH>(std::make_unsigned_t<signed_t<WIDTH>>(x) << left);
#ifdef EMAMBA_CHECK
  assert((out >> left) == x);
#endif
  return narrow<WIDTH>(out);
#else
  return x << left;
#endif
}

/// `x * 2**-shift`, rounded half up.
template <int WIDTH>
inline signed_t<WIDTH> shift_round(signed_t<WIDTH> x, Shift shift) {
#pragma HLS INLINE
  const signed_t<WIDTH> half = (signed_t<WIDTH>(1) << shift.right) >> 1;
  const signed_t<WIDTH> rounded = narrow<WIDTH>(shift_left<WIDTH>(x, shift.left) + half);
  return rounded >> shift.right;
}

/// `wide` clipped to the symmetric range of WIDTH bits.
template <int WIDTH, int WIDE, class Saturated>
inline signed_t<WIDTH> saturate(signed_t<WIDE> wide, int format, Saturated& saturated) {
#pragma HLS INLINE
  constexpr int top = (1 << (WIDTH - 1)) - 1;
  const bool above = wide > top;
  const bool below = wide < -top;
  mark(saturated, format, above || below);
  return above ? signed_t<WIDTH>(top) : below ? signed_t<WIDTH>(-top) : signed_t<WIDTH>(wide);
}

/// Ends a stage: one rounding shift and one saturation.
template <int WIDTH, int ACC, class Saturated>
inline signed_t<WIDTH> requantise(signed_t<ACC> acc, Shift shift, int format,
                                  Saturated& saturated) {
#pragma HLS INLINE
  return saturate<WIDTH, ACC>(shift_round<ACC>(acc, shift), format, saturated);
}

inline acc_t relu(acc_t x) {
#pragma HLS INLINE
  return x < 0 ? acc_t(0) : x;
}

}  // namespace emamba
