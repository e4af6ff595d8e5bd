// SPDX-License-Identifier: Apache-2.0
// Runs the native engine on files, where no Python loads a library: another processor, emulated.
//
//     native_main WEIGHTS FRAMES OUTPUTS THREADS
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "emamba/config.hpp"

extern "C" {
const char* emamba_native_error();
void* emamba_native_open(const std::uint64_t* image, long words, int threads);
void emamba_native_run(void* engine, const std::int8_t* frames, std::int16_t* outputs, long count);
void emamba_native_close(void* engine);
}

namespace {

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: native_main WEIGHTS FRAMES OUTPUTS THREADS\n");
    return 2;
  }
  const std::string weights = read_file(argv[1]);
  const std::string frames = read_file(argv[2]);
  std::vector<std::uint64_t> image(weights.size() / 8);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    image[i / 8] |= std::uint64_t(std::uint8_t(weights[i])) << (i % 8 * 8);
  }
  void* engine = emamba_native_open(image.data(), long(image.size()), std::atoi(argv[4]));
  if (engine == nullptr) {
    std::fprintf(stderr, "native_main: %s\n", emamba_native_error());
    return 1;
  }
  constexpr int frame_bytes = emamba::input_height * emamba::input_width * emamba::input_channels;
  const long count = long(frames.size()) / frame_bytes;
  std::vector<std::int16_t> outputs(std::size_t(count) * emamba::n_outputs);
  emamba_native_run(engine, reinterpret_cast<const std::int8_t*>(frames.data()), outputs.data(),
                    count);
  emamba_native_close(engine);
  std::ofstream(argv[3], std::ios::binary)
      .write(reinterpret_cast<const char*>(outputs.data()), long(outputs.size() * 2));
  return 0;
}
