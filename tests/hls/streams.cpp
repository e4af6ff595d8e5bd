// SPDX-License-Identifier: Apache-2.0
// Two processes on two streams, in ways that must end or must not: the argument picks one.
#include <cstdio>
#include <cstring>

#include "emamba/dataflow.hpp"

namespace {

using ints = hls::stream<int>;

void produce(ints& to, int count) {
  for (int i = 0; i < count; ++i) {
    EMAMBA_TICK(3);
    to.write(i);
  }
}

void consume(ints& from, int count) {
  for (int i = 0; i < count; ++i) {
    EMAMBA_TICK(0);
    EMAMBA_TICK(0);
    if (from.read() != i) throw std::runtime_error("out of order");
  }
}

/// Reads all of `second` before `first`: stuck once `first` is full.
void consume_crosswise(ints& first, ints& second, int count) {
  consume(second, count);
  consume(first, count);
}

void produce_both(ints& first, ints& second, int count) {
  produce(first, count);
  produce(second, count);
}

}  // namespace

int main(int, char** argv) {
  EMAMBA_STREAM(first, 4, int);
  EMAMBA_STREAM(second, 4, int);
  emamba::Streams::all().watched = true;
  try {
    if (std::strcmp(argv[1], "flow") == 0) {
      EMAMBA_STAGE(produce, first, 100);
      EMAMBA_STAGE(consume, first, 100);
    } else if (std::strcmp(argv[1], "full") == 0) {
      EMAMBA_STAGE(produce_both, first, second, 5);
      EMAMBA_STAGE(consume_crosswise, first, second, 5);
    } else {
      EMAMBA_STAGE(consume, first, 1);
    }
    EMAMBA_RUN();
    std::printf("peak %zu, last written in cycle %lld\n", first.peak(),
                static_cast<long long>(first.write_cycles().back()));
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
  }
  return 0;
}
