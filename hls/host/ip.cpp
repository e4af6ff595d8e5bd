// SPDX-License-Identifier: Apache-2.0
// The whole kernel in C simulation behind a C ABI: registers and one AXI4-Stream packet in, the same
// out. One kernel a copy of the library, one caller at a time.
#include <cstdint>
#include <map>
#include <string>

#include "emamba/axis.hpp"

using namespace emamba;

namespace {

struct Registers {
  half_word_t interface_version = 0;
  word_t config_hash = 0;
  half_word_t weights_crc = 0, cycles = 0, errors = 0, saturated = 0, input_crc = 0, answer_crc = 0;
};

Registers registers;
std::string error_text;

axis_stream_t& input() {
  static axis_stream_t stream("s_axis_in");
  return stream;
}
axis_stream_t& output() {
  static axis_stream_t stream("m_axis_out");
  return stream;
}

axis_t beat_of(std::uint64_t data, bool last, int keep) {
  axis_t beat;
  beat.data = data;
  beat.last = last;
  beat.keep = keep;
  beat.strb = keep;
  return beat;
}

void check_leftovers() {
  for (const auto& [name, stream] : Streams::all().by_name) {
    if (stream != &output() && stream->size() > 0) {
      throw std::runtime_error("stream " + name + " is left with " +
                               std::to_string(stream->size()) + " items");
    }
  }
}

}  // namespace

extern "C" {

#define EMAMBA_EXPORT __attribute__((visibility("default")))

/// Why the last call failed.
EMAMBA_EXPORT const char* emamba_ip_error() { return error_text.c_str(); }

/// Whether streams keep the cycles of their writes.
EMAMBA_EXPORT void emamba_ip_watch(int watched) { Streams::all().watched = watched != 0; }

/// One call: a packet of `words` with TLAST on its last, whose TKEEP is `last_keep`. Returns the
/// words of the answer, or -1.
EMAMBA_EXPORT long emamba_ip_call(std::uint32_t command, std::uint32_t count,
                                  const std::uint64_t* words, long packet_words, int last_keep) {
  Registers& r = registers;
  try {
    for (const auto& entry : Streams::all().by_name) entry.second->clear();
    for (long i = 0; i < packet_words; ++i) {
      const bool last = i + 1 == packet_words;
      input().write(beat_of(words[i], last, last ? last_keep : KEEP_ALL));
    }
    emamba_kernel(input(), output(), command, count, r.interface_version, r.config_hash,
                  r.weights_crc, r.cycles, r.errors, r.saturated, r.input_crc, r.answer_crc);
    check_leftovers();
    return long(output().size());
  } catch (const std::exception& error) {
    error_text = error.what();
    return -1;
  }
}

/// Takes the answer: of each word its data, TLAST and TKEEP.
EMAMBA_EXPORT void emamba_ip_answer(std::uint64_t* words, std::uint8_t* last, std::uint8_t* keep) {
  for (long i = 0; !output().empty(); ++i) {
    const axis_t beat = output().read();
    words[i] = std::uint64_t(beat.data);
    last[i] = std::uint8_t(beat.last);
    keep[i] = std::uint8_t(beat.keep);
  }
}

/// The value of the output register `name`; false without one.
EMAMBA_EXPORT int emamba_ip_register(const char* name, std::uint64_t* value) {
  const Registers& r = registers;
  const std::map<std::string, word_t> values = {
      {"interface_version", r.interface_version},
      {"config_hash", r.config_hash},
      {"weights_crc", r.weights_crc},
      {"cycles", r.cycles},
      {"errors", r.errors},
      {"saturated", r.saturated},
      {"input_crc", r.input_crc},
      {"answer_crc", r.answer_crc},
  };
  const auto found = values.find(name);
  if (found == values.end()) return 0;
  *value = std::uint64_t(found->second);
  return 1;
}

/// The cycles in which a watched stream was written: at most `room` are copied, their number is
/// returned; -1 for an unknown stream.
EMAMBA_EXPORT long emamba_ip_cycles(const char* stream, std::int64_t* cycles, long room) {
  const auto found = Streams::all().by_name.find(stream);
  if (found == Streams::all().by_name.end()) return -1;
  const auto& written = found->second->write_cycles();
  for (long i = 0; i < room && i < long(written.size()); ++i) cycles[i] = written[i];
  return long(written.size());
}

}  // extern "C"
