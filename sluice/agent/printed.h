// Printed: what a program prints, as it comes: the last of it in memory, and the whole of it, once
// it is more than that, in a file without a name, if it is to be kept. However much a program
// prints, it costs no more memory than this.
//
// Coroutines of one shard, one piece at a time.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "sluice/agent/events.h"
#include "sluice/sandbox/spool.h"

namespace sluice::agent {

using net::awaitable;

// Where what programs print is kept whole. Plain values.
struct OutputPlace {
  std::shared_ptr<net::BlockingPool> files;  // none: only the last of it is kept
  // Whether so much more may be written there; what is granted counts as written. None: always.
  std::function<bool(uint64_t bytes)> take;
};

class Printed {
 public:
  static constexpr size_t kTail = 64 * 1024;

  // The place, which may be null, must outlive it.
  explicit Printed(const OutputPlace* place) : place_(place) {}

  awaitable<void> add(Bytes piece);

  Bytes tail() const { return tail_.bytes(); }
  // Null if the tail is all there is, or all that is kept.
  std::shared_ptr<const sandbox::Spool> whole() const { return whole_; }
  // Why the whole is not whole; "" if it is.
  const std::string& lost() const { return lost_; }

 private:
  awaitable<void> keep(Bytes piece);

  const OutputPlace* const place_;
  Tail tail_{kTail};
  uint64_t size_ = 0;
  std::shared_ptr<sandbox::Spool> whole_;
  std::string lost_;
};

}  // namespace sluice::agent
