// SPDX-License-Identifier: Apache-2.0
// How the top names its streams and stages. A compiler for hardware sees a static stream with its
// depth, and a call; a simulation on the host (EMAMBA_SIMULATE) runs every stage as a process of
// its own, so that streams can be bounded as they are in hardware.
#pragma once

#include <hls_stream.h>

#define EMAMBA_PRAGMA(text) _Pragma(#text)

#ifdef EMAMBA_SIMULATE

#include "simulation.hpp"

#define EMAMBA_STREAM(name, tokens, ...) static hls::stream<__VA_ARGS__> name(#name, tokens)
#define EMAMBA_BRAM_STREAM EMAMBA_STREAM
#define EMAMBA_STAGE(stage, ...) emamba::simulation().spawn(#stage, [&] { stage(__VA_ARGS__); })
#define EMAMBA_RUN() emamba::simulation().run()
#define EMAMBA_TICK(pipeline_depth) emamba::simulation().tick(pipeline_depth)

#else

#define EMAMBA_STREAM(name, tokens, ...)       \
  static hls::stream<__VA_ARGS__> name(#name); \
  EMAMBA_PRAGMA(HLS STREAM variable = name depth = tokens)
#define EMAMBA_BRAM_STREAM(name, tokens, ...) \
  EMAMBA_STREAM(name, tokens, __VA_ARGS__);   \
  EMAMBA_PRAGMA(HLS BIND_STORAGE variable = name type = fifo impl = bram)
#define EMAMBA_STAGE(stage, ...) stage(__VA_ARGS__)
#define EMAMBA_RUN()
#define EMAMBA_TICK(pipeline_depth)

#endif
