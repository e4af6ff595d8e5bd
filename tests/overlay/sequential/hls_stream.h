// SPDX-License-Identifier: Apache-2.0
// hls::stream without an end, for processes that run one after the other: how a vendor's C
// simulation runs a dataflow region.
#pragma once

#include <deque>

namespace hls {

template <class T>
class stream {
 public:
  explicit stream(const char* = "") {}
  T read() {
    const T value = items_.at(0);
    items_.pop_front();
    return value;
  }
  bool read_nb(T& value) {
    if (items_.empty()) return false;
    value = read();
    return true;
  }
  void write(const T& value) { items_.push_back(value); }
  bool empty() const { return items_.empty(); }

 private:
  std::deque<T> items_;
};

}  // namespace hls
