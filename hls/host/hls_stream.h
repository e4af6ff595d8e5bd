// SPDX-License-Identifier: Apache-2.0
// hls::stream for the host: bounded, named, and watched. Stands where a hardware compiler has its
// own header of this name.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "simulation.hpp"

namespace emamba {

/// What a bench may ask of any stream, whatever it carries.
class WatchedStream : public Channel {
 public:
  virtual std::size_t depth() const = 0;
  virtual std::size_t size() const = 0;
  virtual void clear() = 0;
  /// The recorded tokens as elements of `width` bits, sign extended.
  virtual std::vector<std::int32_t> recorded(int width) const = 0;
  /// Largest number of items waiting at once, in simulated time.
  virtual std::size_t peak() const = 0;
  virtual const std::vector<std::int64_t>& write_cycles() const = 0;
};

/// Every named stream of the program, and how they are to behave.
struct Streams {
  std::map<std::string, WatchedStream*> by_name;
  bool bounded = true;
  bool watched = false;  // keep items and cycles

  static Streams& all() {
    static Streams instance;
    return instance;
  }
};

}  // namespace emamba

namespace hls {

template <class T>
class stream : public emamba::WatchedStream {
 public:
  /// A depth of 0 is unbounded, for the ends that a bench holds.
  explicit stream(const char* name = "unnamed", std::size_t depth = 0)
      : name_(name), depth_(depth) {
    emamba::Streams::all().by_name[name_] = this;
  }
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;
  ~stream() override {
    auto& streams = emamba::Streams::all().by_name;
    const auto found = streams.find(name_);
    if (found != streams.end() && found->second == this) streams.erase(found);
  }

  T read() {
    emamba::simulation().block(*this, emamba::Hold::empty);
    const Item item = items_.front();
    items_.pop_front();
    auto& simulation = emamba::simulation();
    simulation.wait_until(item.cycle + 1);
    note_read(simulation.clock());
    simulation.progress();
    return item.value;
  }

  /// As hardware has it: false until the next item's cycle has passed. The answer is not known while
  /// nothing is under way, so others have their turn first.
  bool read_nb(T& value) {
    emamba::simulation().block(*this, emamba::Hold::empty);
    if (items_.front().cycle >= emamba::simulation().clock()) return false;
    value = read();
    return true;
  }

  void write(const T& value) {
    emamba::simulation().block(*this, emamba::Hold::full);
    auto& simulation = emamba::simulation();
    simulation.wait_until(slot_free_at() - simulation.pipeline_depth());
    const std::int64_t cycle = simulation.clock() + simulation.pipeline_depth();
    items_.push_back({value, cycle});
    ++writes_;
    if (emamba::Streams::all().watched) {
      recorded_.push_back(value);
      write_cycles_.push_back(cycle);
    }
    simulation.progress();
  }

  bool empty() const { return items_.empty(); }

  const std::string& name() const override { return name_; }
  bool is(emamba::Hold hold) const override {
    return hold == emamba::Hold::empty ? items_.empty() : is_full();
  }
  std::size_t depth() const override { return depth_; }
  std::size_t size() const override { return items_.size(); }
  const std::vector<std::int64_t>& write_cycles() const override { return write_cycles_; }

  void clear() override {
    items_.clear();
    recorded_.clear();
    write_cycles_.clear();
    read_cycles_.clear();
    last_reads_.clear();
    writes_ = 0;
    reads_ = 0;
  }

  std::size_t peak() const override {
    std::size_t peak = 0;
    std::size_t gone = 0;
    for (std::size_t i = 0; i < write_cycles_.size(); ++i) {
      while (gone < read_cycles_.size() && read_cycles_[gone] <= write_cycles_[i]) ++gone;
      peak = std::max(peak, i + 1 - std::min(gone, i));
    }
    return peak;
  }

  std::vector<std::int32_t> recorded(int width) const override {
    std::vector<std::int32_t> elements;
    for (const T& value : recorded_) append_elements(value, width, elements);
    return elements;
  }

 private:
  struct Item {
    T value;
    std::int64_t cycle;
  };

  bool is_full() const {
    return depth_ > 0 && emamba::Streams::all().bounded && items_.size() >= depth_;
  }

  /// The cycle from which the slot that the next write takes has been free.
  std::int64_t slot_free_at() const {
    if (depth_ == 0 || !emamba::Streams::all().bounded || writes_ < depth_) return 0;
    return last_reads_[writes_ - depth_ - (reads_ - last_reads_.size())] + 1;
  }

  void note_read(std::int64_t cycle) {
    ++reads_;
    if (depth_ > 0) {
      last_reads_.push_back(cycle);
      if (last_reads_.size() > depth_) last_reads_.pop_front();
    }
    if (emamba::Streams::all().watched) read_cycles_.push_back(cycle);
  }

  /// Of an AXI4-Stream transfer, its data.
  template <class Transfer>
  static auto append_elements(const Transfer& transfer, int width, std::vector<std::int32_t>& out)
      -> decltype(transfer.data, void()) {
    append_elements(transfer.data, width, out);
  }
#ifdef EMAMBA_PLAIN_INTS
  template <class Token>
  static auto append_elements(const Token& token, int, std::vector<std::int32_t>& out)
      -> decltype(token.values[0], void()) {
    for (const auto& element : token.values) out.push_back(std::int32_t(element));
  }
  static void append_elements(std::uint64_t word, int width, std::vector<std::int32_t>& out) {
    for (int at = 0; at < 64; at += width) {
      out.push_back(std::int32_t(std::int64_t(word << (64 - width - at)) >> (64 - width)));
    }
  }
#else
  template <class Token>
  static auto append_elements(const Token& token, int width, std::vector<std::int32_t>& out)
      -> decltype(token.to_uint64(), void()) {
    for (int at = 0; at < Token::width; at += width) {
      const std::uint64_t bits = Token(token >> at).to_uint64() << (64 - width);
      out.push_back(std::int32_t(std::int64_t(bits) >> (64 - width)));
    }
  }
#endif

  std::string name_;
  std::size_t depth_;
  std::deque<Item> items_;
  std::size_t writes_ = 0;
  std::size_t reads_ = 0;
  std::deque<std::int64_t> last_reads_;
  std::vector<T> recorded_;
  std::vector<std::int64_t> write_cycles_;
  std::vector<std::int64_t> read_cycles_;
};

}  // namespace hls
