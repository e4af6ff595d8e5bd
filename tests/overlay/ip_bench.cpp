// SPDX-License-Identifier: Apache-2.0
// The whole kernel behind a C ABI: registers and one AXI4-Stream packet in, the same out.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "emamba/axis.hpp"

using namespace emamba;

namespace {

std::string error_text;
half_word_t interface_version_register = 0, weights_crc = 0, cycles = 0, errors = 0, saturated = 0;
word_t config_hash_register = 0;
std::vector<axis_t> answer;
long last_write_cycle = -1;

}  // namespace

extern "C" {

const char* ip_error() { return error_text.c_str(); }

/// One call: a packet of `words` with TLAST on its last, whose TKEEP is `last_keep`. Returns the
/// words that the kernel left on its input, or -1.
long ip_call(std::uint32_t command, std::uint32_t count, const std::uint64_t* words, long packet_words,
             int last_keep) {
  static axis_stream_t input("s_axis_in"), output("m_axis_out");
  Streams::all().watched = true;
  answer.clear();
  try {
    for (const auto& entry : Streams::all().by_name) entry.second->clear();
    for (long i = 0; i < packet_words; ++i) {
      axis_t beat;
      beat.data = words[i];
      beat.last = i + 1 == packet_words;
      beat.keep = i + 1 == packet_words ? last_keep : 0xff;
      beat.strb = beat.keep;
      input.write(beat);
    }
    emamba_kernel(input, output, command, count, interface_version_register, config_hash_register,
                  weights_crc, cycles, errors, saturated);
    last_write_cycle = output.write_cycles().empty() ? -1 : long(output.write_cycles().back());
    while (!output.empty()) answer.push_back(output.read());
    return long(input.size());
  } catch (const std::exception& error) {
    error_text = error.what();
    return -1;
  }
}

std::uint64_t ip_register(const char* name) {
  const std::string register_name(name);
  if (register_name == "interface_version") return std::uint64_t(interface_version_register);
  if (register_name == "config_hash") return std::uint64_t(config_hash_register);
  if (register_name == "weights_crc") return std::uint64_t(weights_crc);
  if (register_name == "cycles") return std::uint64_t(cycles);
  if (register_name == "errors") return std::uint64_t(errors);
  return std::uint64_t(saturated);
}

long ip_answer_words() { return long(answer.size()); }
std::uint64_t ip_answer_word(long i) { return std::uint64_t(answer[i].data); }
/// Bit 0: TLAST; from bit 1 on: TKEEP.
int ip_answer_flags(long i) { return int(answer[i].last) | int(answer[i].keep) << 1; }
long ip_last_write_cycle() { return last_write_cycle; }
/// The cycle in which a one-word stream of the shell was written.
long ip_write_cycle(const char* stream) {
  return long(Streams::all().by_name.at(stream)->write_cycles().at(0));
}

}  // extern "C"
