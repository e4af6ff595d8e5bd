// SPDX-License-Identifier: Apache-2.0
// Runs the stages of a top as cooperating processes on one thread, with a clock each.
//
// A process runs until a stream stops it: EMPTY on reading, FULL on writing. When none can go on,
// the error names every waiting process and its stream. `tick` at the head of a pipelined loop is
// one cycle of that process, and what it writes appears `pipeline_depth` cycles later, so that a run
// also gives cycles and FIFO occupancies, as far as every loop keeps its II of 1.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emamba {

/// Why a process cannot go on: nothing to read, or no room to write.
enum class Hold { empty, full };

/// What a process may have to wait for.
class Channel {
 public:
  virtual ~Channel() = default;
  virtual const std::string& name() const = 0;
  virtual bool is(Hold hold) const = 0;
};

class Simulation {
 public:
  /// Adds a process to the next `run`, or to the one under way.
  void spawn(std::string name, std::function<void()> body) {
    processes_.push_back(std::make_unique<Process>());
    processes_.back()->name = std::move(name);
    processes_.back()->body = std::move(body);
    prepare(*processes_.back());
  }

  /// Runs all processes to their end; throws `std::runtime_error` on deadlock. A top that is itself
  /// a process has spawned its stages into the run under way, and is done.
  void run() {
    if (inside()) return;
    bool unfinished = true;
    while (unfinished) {
      progress_ = false;
      unfinished = false;
      for (std::size_t i = 0; i < processes_.size(); ++i) {
        Process& process = *processes_[i];
        if (process.done) continue;
        if (!process.waits()) resume(process);
        if (!process.error.empty()) fail(process.name + ": " + process.error);
        unfinished = unfinished || !process.done;
      }
      if (unfinished && !progress_) fail(deadlock());
    }
    processes_.clear();
  }

  bool inside() const { return current_ != nullptr; }

  void tick(std::int64_t pipeline_depth) {
    ++current_->clock;
    current_->pipeline_depth = pipeline_depth;
  }

  /// Cycle in which the running process is; writes land `pipeline_depth` later.
  std::int64_t clock() const { return inside() ? current_->clock : 0; }
  std::int64_t pipeline_depth() const { return inside() ? current_->pipeline_depth : 0; }
  void wait_until(std::int64_t cycle) {
    if (inside()) current_->clock = std::max(current_->clock, cycle);
  }

  /// A stream has moved an item: somebody may go on.
  void progress() { progress_ = true; }

  /// Gives the other processes their turns while `channel` is in a state that holds this one up.
  void block(const Channel& channel, Hold hold) {
    while (channel.is(hold)) {
      if (!inside()) throw std::runtime_error(describe(channel, hold) + ", and no other process runs");
      current_->channel = &channel;
      current_->hold = hold;
      leave();
    }
    if (inside()) current_->channel = nullptr;
  }

 private:
  static constexpr std::size_t kStackBytes = 1 << 20;

  struct Process {
    std::string name;
    std::function<void()> body;
    const Channel* channel = nullptr;  // that it waits for
    Hold hold = Hold::empty;
    std::string error;
    bool done = false;
    std::int64_t clock = 0;
    std::int64_t pipeline_depth = 0;
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    void* fake_stack = nullptr;

    bool waits() const { return channel != nullptr && channel->is(hold); }
  };

  void prepare(Process& process) {
    // Not zeroed: most of it is never touched.
    process.stack.reset(new char[kStackBytes]);
    getcontext(&process.context);
    process.context.uc_stack.ss_sp = process.stack.get();
    process.context.uc_stack.ss_size = kStackBytes;
    process.context.uc_link = nullptr;
    makecontext(&process.context, &Simulation::enter, 0);
  }

  static void enter();

  void body() {
    finish_switch(nullptr);
    Process& self = *current_;
    try {
      self.body();
    } catch (const std::exception& error) {
      self.error = error.what();
    }
    self.done = true;
    progress_ = true;
    start_switch(nullptr, main_stack_, main_stack_bytes_);
    setcontext(&main_);
  }

  void resume(Process& process) {
    current_ = &process;
    start_switch(&main_fake_stack_, process.stack.get(), kStackBytes);
    swapcontext(&main_, &process.context);
    finish_switch(main_fake_stack_);
    current_ = nullptr;
  }

  void leave() {
    Process& self = *current_;
    start_switch(&self.fake_stack, main_stack_, main_stack_bytes_);
    swapcontext(&self.context, &main_);
    finish_switch(self.fake_stack);
    current_ = &self;
  }

#if defined(__SANITIZE_ADDRESS__)
  void start_switch(void** save, const void* bottom, std::size_t bytes) {
    __sanitizer_start_switch_fiber(save, bottom, bytes);
  }
  void finish_switch(void* saved) {
    const void* bottom = nullptr;
    std::size_t bytes = 0;
    __sanitizer_finish_switch_fiber(saved, &bottom, &bytes);
    if (inside() && bottom != current_->stack.get() && main_stack_ == nullptr) {
      main_stack_ = bottom;
      main_stack_bytes_ = bytes;
    }
  }
#else
  void start_switch(void**, const void*, std::size_t) {}
  void finish_switch(void*) {}
#endif

  static std::string describe(const Channel& channel, Hold hold) {
    return "stream " + channel.name() + (hold == Hold::empty ? " is EMPTY" : " is FULL");
  }

  std::string deadlock() const {
    std::string report = "deadlock:";
    for (const auto& process : processes_) {
      if (process->done) continue;
      report += " " + process->name + " waits, " + describe(*process->channel, process->hold) + ";";
    }
    report.pop_back();
    return report;
  }

  [[noreturn]] void fail(const std::string& what) {
    processes_.clear();
    throw std::runtime_error(what);
  }

  std::vector<std::unique_ptr<Process>> processes_;
  Process* current_ = nullptr;
  bool progress_ = false;
  ucontext_t main_;
  void* main_fake_stack_ = nullptr;
  const void* main_stack_ = nullptr;
  std::size_t main_stack_bytes_ = 0;
};

inline Simulation& simulation() {
  static Simulation instance;
  return instance;
}

inline void Simulation::enter() { simulation().body(); }

}  // namespace emamba
