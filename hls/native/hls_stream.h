// SPDX-License-Identifier: Apache-2.0
// hls::stream for the native engine, which only loads parameters through one: words in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace hls {

template <class T>
class stream {
 public:
  stream(const T* words, std::size_t count) : next_(words), end_(words + count) {}

  T read() {
    if (next_ == end_) throw std::length_error("the weights image is too short for this network");
    return *next_++;
  }
  void write(const T&) {}
  std::size_t left() const { return std::size_t(end_ - next_); }

 private:
  const T* next_;
  const T* end_;
};

}  // namespace hls
