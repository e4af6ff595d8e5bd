// SPDX-License-Identifier: Apache-2.0
// The stages as a batch engine for the host, behind a C ABI: frames in, outputs out. The same stage
// functions as the streaming top calls, whole frames at a time.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "emamba/conv1d.hpp"
#include "emamba/dt_proj.hpp"
#include "emamba/gate.hpp"
#include "emamba/head.hpp"
#include "emamba/in_proj.hpp"
#include "emamba/out_proj.hpp"
#include "emamba/patch_embed.hpp"
#include "emamba/patches.hpp"
#include "emamba/range_norm.hpp"
#include "emamba/selective_scan.hpp"
#include "emamba/x_proj.hpp"

namespace {

using namespace emamba;

struct Block {
  RangeNorm range_norm;
  InProj in_proj;
  Conv1d conv1d;
  XProj x_proj;
  DtProj dt_proj;
  SelectiveScan selective_scan;
  Gate gate;
  OutProj out_proj;
};

struct Model {
  PatchEmbed patch_embed;
  Block blocks[n_layer];
  HeadFc1 head_fc1;
  HeadFc2 head_fc2;
};

void load(Model& model, chain_t& words) {
  load(model.patch_embed, words);
  for (Block& block : model.blocks) {
    load(block.range_norm, words);
    load(block.in_proj, words);
    load(block.conv1d, words);
    load(block.x_proj, words);
    load(block.dt_proj, words);
    load(block.selective_scan, words);
    load(block.gate, words);
    load(block.out_proj, words);
  }
  load(model.head_fc1, words);
  load(model.head_fc2, words);
}

using Residuals = residual_t[n_tokens][PatchEmbed::F::PADDED_ROWS];
static_assert(int(PatchEmbed::F::PADDED_ROWS) == int(OutProj::F::PADDED_ROWS),
              "patch_embed and out_proj must pad the residual alike");

/// All steps of a stage.
template <class F, class Body>
__attribute__((noinline)) void for_each_step(const Body& body) {
  Step at = FIRST_STEP;
  for (int i = 0; i < F::STEPS; ++i) {
    body(at);
    at = next_step<F>(at);
  }
}

/// One token through one block; the residual is replaced.
inline void run_token(const Block& block, bool first, residual_t (&residual)[OutProj::F::PADDED_ROWS],
                      Window& window, States& states) {
  Unwatched none;
  act_t norm[d_model];
  const Statistics s = statistics(residual);
  for_each_step<RangeNorm::L>(
      [&](Step at) { range_norm(block.range_norm, at, s, residual, norm, none); });
  act_t x[d_inner];
  act_t z[d_inner];
  acc_t in_acc[InProj::F::PE];
  for_each_step<InProj::F>(
      [&](Step at) { in_proj(block.in_proj, at, norm, in_acc, x, z, none); });
  ScanInputs in;
  for_each_step<Conv1d::L>(
      [&](Step at) { conv1d(block.conv1d, at, first, x, window, in.u, none); });
  act_t projected[XProj::F::PADDED_ROWS];
  acc_t projected_acc[XProj::F::PE];
  for_each_step<XProj::F>(
      [&](Step at) { x_proj(block.x_proj, at, in.u, projected_acc, projected, none); });
  std::copy_n(projected + dt_rank, d_state, in.B);
  std::copy_n(projected + dt_rank + d_state, d_state, in.C);
  acc_t delta_acc[DtProj::F::PE];
  act_t delta[DtProj::F::PADDED_ROWS];
  for_each_step<DtProj::F>(
      [&](Step at) { dt_proj(block.dt_proj, at, projected, delta_acc, delta, none); });
  std::copy_n(delta, d_inner, in.delta);
  scan_acc_t scan_acc[SelectiveScan::PE];
  y_t y[d_inner];
  for_each_step<SelectiveScan>([&](Step at) {
    selective_scan(block.selective_scan, at, first, in, states, scan_acc, y, none);
  });
  act_t g[d_inner];
  for_each_step<Gate::L>([&](Step at) { gate(block.gate, at, y, z, g, none); });
  acc_t acc[OutProj::F::PE];
  for_each_step<OutProj::F>(
      [&](Step at) { out_proj(block.out_proj, at, g, residual, acc, residual, none); });
}

void run_frame(const Model& model, const std::int8_t* frame, std::int16_t* outputs) {
  Unwatched none;
  Residuals residuals;
  acc_t embed_acc[PatchEmbed::F::PE];
  for (int t = 0; t < n_tokens; ++t) {
    act_t token[patch_dim];
    for (int i = 0; i < patch_dim; ++i) token[i] = frame[patches(t, i)];
    for_each_step<PatchEmbed::F>([&](Step at) {
      patch_embed(model.patch_embed, at, token, embed_acc, residuals[t], none);
    });
  }
  for (const Block& block : model.blocks) {
    Window window;
    States states;
    for (int t = 0; t < n_tokens; ++t) run_token(block, t == 0, residuals[t], window, states);
  }
  acc_t fc1_acc[HeadFc1::F::NF][HeadFc1::F::PE];
  act_t hidden[HeadFc1::F::PADDED_ROWS];
  for (int t = 0; t < n_tokens; ++t) {
    for_each_step<HeadFc1::F>(
        [&](Step at) { head_fc1(model.head_fc1, t, at, residuals[t], fc1_acc, hidden, none); });
  }
  acc_t fc2_acc[HeadFc2::F::PE];
  output_t output[HeadFc2::F::PADDED_ROWS];
  for_each_step<HeadFc2::F>(
      [&](Step at) { head_fc2(model.head_fc2, at, hidden, fc2_acc, output, none); });
  std::copy_n(output, n_outputs, outputs);
}

/// A batch that several threads take frames from.
struct Batch {
  const std::int8_t* frames;
  std::int16_t* outputs;
  long count;
  std::atomic<long> next{0};
};

void run_batch(const Model& model, Batch& batch) {
  // Few frames at a time: the counter is shared, the frames are not.
  constexpr long chunk = 4;
  for (;;) {
    const long begin = batch.next.fetch_add(chunk);
    if (begin >= batch.count) return;
    for (long i = begin; i < std::min(begin + chunk, batch.count); ++i) {
      run_frame(model, batch.frames + i * FRAME_BYTES, batch.outputs + i * n_outputs);
    }
  }
}

/// Loaded parameters and the threads that help with large batches.
class Engine {
 public:
  Engine(const std::uint64_t* image, long words, int threads) : model_(std::make_unique<Model>()) {
    chain_t stream(image, std::size_t(words));
    load(*model_, stream);
    if (stream.left() > 0) throw std::length_error("the weights image is too long for this network");
    for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { help(); });
  }

  ~Engine() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
  }

  /// Thread-safe. The helpers serve one call at a time; others run on their own thread alone.
  void run(const std::int8_t* frames, std::int16_t* outputs, long count) {
    Batch batch{frames, outputs, count};
    const bool shared = count >= kShareFrom && !helpers_.empty() && offer(batch);
    run_batch(*model_, batch);
    if (shared) withdraw();
  }

 private:
  static constexpr long kShareFrom = 8;

  bool offer(Batch& batch) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (offered_ != nullptr || helping_ > 0) return false;
      offered_ = &batch;
      ++offers_;
    }
    wake_.notify_all();
    return true;
  }

  void withdraw() {
    std::unique_lock<std::mutex> lock(mutex_);
    offered_ = nullptr;
    idle_.wait(lock, [this] { return helping_ == 0; });
  }

  void help() {
    long seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stopping_ || (offered_ != nullptr && offers_ != seen); });
      if (stopping_) return;
      seen = offers_;
      Batch& batch = *offered_;
      ++helping_;
      lock.unlock();
      run_batch(*model_, batch);
      lock.lock();
      if (--helping_ == 0) idle_.notify_one();
    }
  }

  std::unique_ptr<Model> model_;
  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  Batch* offered_ = nullptr;
  long offers_ = 0;
  int helping_ = 0;
  bool stopping_ = false;
};

thread_local char error_text[256];

}  // namespace

extern "C" {

#define EMAMBA_EXPORT __attribute__((visibility("default")))

/// Why the last `emamba_native_open` of this thread gave null.
EMAMBA_EXPORT const char* emamba_native_error() { return error_text; }

/// An engine with the parameters of a weights image, or null. `threads` includes the caller's.
EMAMBA_EXPORT void* emamba_native_open(const std::uint64_t* image, long words, int threads) {
  try {
    return new Engine(image, words, threads);
  } catch (const std::exception& error) {
    std::snprintf(error_text, sizeof error_text, "%s", error.what());
    return nullptr;
  }
}

/// int8 (count, height, width, channels) -> int16 (count, n_outputs).
EMAMBA_EXPORT void emamba_native_run(void* engine, const std::int8_t* frames,
                                     std::int16_t* outputs, long count) {
  static_cast<Engine*>(engine)->run(frames, outputs, count);
}

EMAMBA_EXPORT void emamba_native_close(void* engine) { delete static_cast<Engine*>(engine); }

}  // extern "C"
