// SPDX-License-Identifier: Apache-2.0
// Checks a kernel against the golden vectors of its package: 0 if every number is equal.
//
//     testbench FOLDER          (as `emamba export hls` wrote it; the present folder by default)
//
// With EMAMBA_SIMULATE every stage is compared, otherwise (a vendor's C simulation) the outputs. With
// EMAMBA_IP the calls go through the whole kernel, registers and AXI4-Stream included.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef EMAMBA_IP
#include "emamba/axis.hpp"
#else
#include "emamba/core.hpp"
#include "emamba/packets.hpp"
#endif

namespace {

using emamba::word_t;

constexpr std::uint32_t kVersion = 1;
constexpr int kShown = 5;

struct Section {
  int width;
  std::vector<std::int32_t> elements;
};

struct Golden {
  std::uint32_t frames;
  std::uint32_t weights_crc;
  std::uint32_t saturated;
  std::map<std::string, Section> sections;
};

std::vector<std::uint8_t> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read; run `emamba export hls`");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Reads little-endian numbers one after the other.
class Reader {
 public:
  Reader(const std::string& path, std::vector<std::uint8_t> bytes)
      : path_(path), bytes_(std::move(bytes)) {}

  std::uint64_t number(int size) {
    if (at_ + std::size_t(size) > bytes_.size()) throw std::runtime_error(path_ + " is cut short");
    std::uint64_t value = 0;
    for (int i = 0; i < size; ++i) value |= std::uint64_t(bytes_[at_++]) << (8 * i);
    return value;
  }
  std::string text(int size) {
    std::string out;
    for (int i = 0; i < size; ++i) out += char(number(1));
    return out;
  }

 private:
  std::string path_;
  std::vector<std::uint8_t> bytes_;
  std::size_t at_ = 0;
};

Golden read_golden(const std::string& path) {
  Reader reader(path, read_file(path));
  if (reader.text(8) != "EMAMBAGV") throw std::runtime_error(path + " holds no golden vectors");
  const auto version = std::uint32_t(reader.number(4));
  if (version != kVersion) {
    throw std::runtime_error(path + " has version " + std::to_string(version) + ", this needs " +
                             std::to_string(kVersion) + "; run `emamba export hls` again");
  }
  Golden golden;
  golden.frames = std::uint32_t(reader.number(4));
  std::uint64_t hash = 0;
  for (int i = 0; i < 32; ++i) {
    const std::uint64_t byte = reader.number(1);
    if (i < 8) hash = hash << 8 | byte;
  }
  if (hash != emamba::config_hash) throw std::runtime_error(path + " belongs to another config.hpp");
  golden.weights_crc = std::uint32_t(reader.number(4));
  golden.saturated = std::uint32_t(reader.number(4));
  const auto sections = reader.number(4);
  for (std::uint64_t i = 0; i < sections; ++i) {
    const std::string name = reader.text(int(reader.number(4)));
    Section& section = golden.sections[name];
    section.width = int(reader.number(4));
    section.elements.resize(reader.number(4));
    for (auto& element : section.elements) element = std::int32_t(reader.number(4));
  }
  return golden;
}

#ifdef EMAMBA_IP

/// Throws unless `got` is the CRC-32 of the words, bit by bit.
void check_crc(const std::string& name, const std::vector<std::uint64_t>& words, std::uint32_t got) {
  std::uint32_t crc = ~0u;
  for (const std::uint64_t word : words) {
    for (int bit = 0; bit < 64; ++bit) {
      const bool odd = ((crc ^ std::uint32_t(word >> bit)) & 1) != 0;
      crc = crc >> 1 ^ (odd ? 0xedb88320u : 0);
    }
  }
  if (got != ~crc) {
    throw std::runtime_error(name + " must be " + std::to_string(~crc) + ", not " +
                             std::to_string(got));
  }
}

/// The answer to one packet, with the status word that the registers hold; throws where the kernel
/// sees an error.
std::vector<std::uint64_t> call(unsigned command, std::uint64_t count,
                                const std::vector<std::uint64_t>& payload) {
  static emamba::axis_stream_t in("in");
  static emamba::axis_stream_t out("out");
  for (std::size_t i = 0; i < payload.size(); ++i) {
    emamba::axis_t beat;
    beat.data = word_t(payload[i]);
    beat.keep = emamba::KEEP_ALL;
    beat.strb = emamba::KEEP_ALL;
    beat.last = i + 1 == payload.size();
    in.write(beat);
  }
  emamba::half_word_t version = 0, crc = 0, cycles = 0, errors = 0, saturated = 0;
  emamba::half_word_t input_crc = 0, answer_crc = 0;
  word_t hash = 0;
  emamba_kernel(in, out, command, std::uint32_t(count), version, hash, crc, cycles, errors, saturated,
                input_crc, answer_crc);
  if (errors != 0) throw std::runtime_error("errors must be 0, not " + std::to_string(int(errors)));
  std::vector<std::uint64_t> answer;
  while (!out.empty()) answer.push_back(std::uint64_t(out.read().data));
  check_crc("input_crc", payload, std::uint32_t(input_crc));
  check_crc("answer_crc", answer, std::uint32_t(answer_crc));
  answer.push_back(std::uint64_t(crc) << 32 | std::uint64_t(saturated));
  return answer;
}

#else

/// The answer to one packet.
std::vector<std::uint64_t> call(unsigned command, std::uint64_t count,
                                const std::vector<std::uint64_t>& payload) {
  static emamba::chain_t in("in");
  static emamba::chain_t out("out");
  in.write(word_t(count << 32 | command));
  for (const std::uint64_t word : payload) in.write(word_t(word));
  emamba_core(in, out);
  std::vector<std::uint64_t> answer;
  while (!out.empty()) answer.push_back(std::uint64_t(out.read()));
  return answer;
}

#endif

std::vector<std::uint64_t> read_image(const std::string& path) {
  Reader reader(path, read_file(path));
  std::vector<std::uint64_t> words(read_file(path).size() / 8);
  for (auto& word : words) word = reader.number(8);
  return words;
}

std::vector<std::uint64_t> pack_frames(const Golden& golden) {
  const auto& bytes = golden.sections.at("in").elements;
  std::vector<std::uint64_t> words(golden.frames * std::size_t(emamba::FRAME_WORDS), 0);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::size_t frame = i / emamba::FRAME_BYTES;
    const std::size_t at = i % emamba::FRAME_BYTES;
    words[frame * emamba::FRAME_WORDS + at / 8] |= std::uint64_t(bytes[i] & 0xff) << (at % 8 * 8);
  }
  return words;
}

/// The elements of an answer's tokens: the outputs, or a tapped stage.
std::vector<std::int32_t> unpack_answer(const Golden& golden,
                                        const std::vector<std::uint64_t>& answer) {
  constexpr std::size_t token_words = emamba::words_for(emamba::ANSWER_COUNT, 4);
  std::vector<std::int32_t> elements;
  for (std::size_t token = 0; token < golden.frames * emamba::ANSWER_TOKENS; ++token) {
    for (std::size_t i = 0; i < emamba::ANSWER_COUNT; ++i) {
      const std::uint64_t word = answer.at(token * token_words + i / 4);
      elements.push_back(std::int16_t(word >> (i % 4 * 16)));
    }
  }
  return elements;
}

/// Prints the first mismatches; returns whether there are none.
bool equal(const std::string& name, const std::vector<std::int32_t>& wanted,
           const std::vector<std::int32_t>& got) {
  if (got.size() != wanted.size()) {
    std::printf("%s: must have %zu elements, not %zu\n", name.c_str(), wanted.size(), got.size());
    return false;
  }
  int wrong = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (got[i] != wanted[i] && wrong++ < kShown) {
      std::printf("%s[%zu]: must be %d, not %d\n", name.c_str(), i, wanted[i], got[i]);
    }
  }
  return wrong == 0;
}

bool check(const std::string& folder) {
  const Golden golden = read_golden(folder + "/golden.bin");
  const auto image = read_image(folder + "/weights.bin");
  const std::uint64_t loaded = call(emamba::command::load, image.size(), image).back();
  bool ok = equal("weights_crc", {std::int32_t(golden.weights_crc)}, {std::int32_t(loaded >> 32)});
#ifdef EMAMBA_SIMULATE
  emamba::Streams::all().watched = true;
#endif
  const auto answer = call(emamba::command::infer, golden.frames, pack_frames(golden));
  ok = equal("saturated", {std::int32_t(golden.saturated)}, {std::int32_t(answer.back())}) && ok;
  ok = equal("answer", golden.sections.at(emamba::answer_stream).elements,
             unpack_answer(golden, answer)) &&
       ok;
#ifdef EMAMBA_SIMULATE
  for (const auto& [name, section] : golden.sections) {
    if (name == "in") continue;
    const auto* stream = emamba::Streams::all().by_name.at(name);
    ok = equal(name, section.elements, stream->recorded(section.width)) && ok;
  }
#endif
  if (ok) std::printf("%u frames, %zu sections: equal\n", golden.frames, golden.sections.size());
  return ok;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return check(argc > 1 ? argv[1] : ".") ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "testbench: %s\n", error.what());
    return 1;
  }
}
