// Body: the bytes of a request, exactly as received. They are in memory until they are put away,
// which is possible once somebody keeps them elsewhere (a recorder, in its file), and are read
// again from then on, for as long as somebody holds what was read. An agent sends its whole
// conversation with every call, and calls wait long: ten thousand of them need not take gigabytes.
//
// A handle: copies are the same body. Any thread.
#pragma once

#include <cstddef>
#include <memory>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"

namespace sluice::llm {

class Body {
 public:
  // Where a body is kept besides. Any thread.
  class Store {
   public:
    virtual ~Store() = default;
    // kIo if it cannot be read any more.
    virtual Result<Bytes> read() const = 0;

   private:
    friend class Body;
    mutable std::weak_ptr<const Bytes> read_again_;  // by the lock of its body
  };

  // Less is not worth a file's trouble.
  static constexpr size_t kWorthPuttingAway = 16 * 1024;

  Body() : Body(std::make_shared<const Bytes>()) {}
  explicit Body(std::shared_ptr<const Bytes> bytes);  // not null

  size_t size() const;
  // Whoever has them has them for as long as it likes. They are read if they are not at hand, which
  // waits for the disk: a loop has them read elsewhere first. kIo if that fails.
  Result<std::shared_ptr<const Bytes>> bytes() const;
  // Null if they were put away.
  std::shared_ptr<const Bytes> in_memory() const;
  // The same, but what somebody has read again and holds is at hand too.
  std::shared_ptr<const Bytes> at_hand() const;

  // `store` has them, or will from now on.
  void kept_in(std::shared_ptr<const Store> store) const;
  // Lets go of the memory. False if nobody else keeps the bytes.
  bool put_away() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace sluice::llm
