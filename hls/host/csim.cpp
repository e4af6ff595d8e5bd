// SPDX-License-Identifier: Apache-2.0
// C simulation of the streaming top behind a C ABI: a packet of words in, a packet of words out.
// One model at a time, one caller at a time.
#include <cstdint>
#include <cstring>
#include <string>

#include "emamba/core.hpp"

namespace {

std::string error_text;
hls::stream<emamba::word_t>& input() {
  static hls::stream<emamba::word_t> stream("in");
  return stream;
}
hls::stream<emamba::word_t>& output() {
  static hls::stream<emamba::word_t> stream("out");
  return stream;
}

void check_leftovers() {
  for (const auto& [name, stream] : emamba::Streams::all().by_name) {
    if (name != "out" && stream->size() > 0) {
      throw std::runtime_error("stream " + name + " is left with " +
                               std::to_string(stream->size()) + " items");
    }
  }
}

emamba::WatchedStream& find(const char* name) {
  return *emamba::Streams::all().by_name.at(name);
}

}  // namespace

extern "C" {

/// Why the last call failed.
const char* emamba_csim_error() { return error_text.c_str(); }

/// Runs the core once on one packet. Streams keep to their depths if `bounded`, and keep their items
/// and cycles if `watched`. Returns the words of the answer, or -1.
long emamba_csim_run(const std::uint64_t* packet, long words, std::uint64_t* answer,
                     long answer_words, int bounded, int watched) {
  auto& streams = emamba::Streams::all();
  streams.bounded = bounded != 0;
  streams.watched = watched != 0;
  try {
    for (const auto& entry : streams.by_name) entry.second->clear();
    for (long i = 0; i < words; ++i) input().write(packet[i]);
    emamba_core(input(), output());
    check_leftovers();
    const long produced = long(output().size());
    if (produced > answer_words) {
      throw std::runtime_error("the answer has " + std::to_string(produced) + " words, room is for " +
                               std::to_string(answer_words));
    }
    for (long i = 0; i < produced; ++i) answer[i] = std::uint64_t(output().read());
    return produced;
  } catch (const std::exception& error) {
    error_text = error.what();
    return -1;
  }
}

/// Name of stream `index`, or null after the last.
const char* emamba_csim_stream(int index) {
  for (const auto& entry : emamba::Streams::all().by_name) {
    if (index-- == 0) return entry.first.c_str();
  }
  return nullptr;
}

long emamba_csim_depth(const char* name) { return long(find(name).depth()); }
long emamba_csim_peak(const char* name) { return long(find(name).peak()); }

/// The elements, `width` bits each, that went through a watched stream.
long emamba_csim_recorded(const char* name, int width, std::int32_t* elements, long room) {
  const auto recorded = find(name).recorded(width);
  if (long(recorded.size()) <= room) {
    std::memcpy(elements, recorded.data(), recorded.size() * sizeof(std::int32_t));
  }
  return long(recorded.size());
}

/// The cycles in which a watched stream was written.
long emamba_csim_cycles(const char* name, std::int64_t* cycles, long room) {
  const auto& written = find(name).write_cycles();
  if (long(written.size()) <= room) {
    std::memcpy(cycles, written.data(), written.size() * sizeof(std::int64_t));
  }
  return long(written.size());
}

}  // extern "C"
