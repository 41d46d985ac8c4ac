// Credit: how many bytes of a stream may be under way, so that one slow reader never blocks the
// others and nobody has to buffer more than a window per stream and direction. Both sides start
// with a full window; the receiver gives back what its consumer has taken.
//
// Plain values; any thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "sluice/base/core/result.h"

namespace sluice::guest::wire {

inline constexpr uint32_t kWindow = 256 * 1024;

// The sender's half.
class SendCredit {
 public:
  uint32_t available() const { return available_; }
  // REQUIRES: n <= available().
  void spend(size_t n) { available_ -= static_cast<uint32_t>(n); }
  // A grant beyond the window was never spent: kProtocol.
  Result<void> grant(uint32_t n) {
    if (n == 0 || n > kWindow - available_) {
      return Error(ErrorCode::kProtocol, "guest link: a grant of credit is beyond the window");
    }
    available_ += n;
    return {};
  }

 private:
  uint32_t available_ = kWindow;
};

// The receiver's half.
class ReceiveCredit {
 public:
  // `n` bytes came in. kProtocol if the sender had no credit for them.
  Result<void> received(size_t n) {
    if (n > open_) return Error(ErrorCode::kProtocol, "guest link: data beyond the credit");
    open_ -= static_cast<uint32_t>(n);
    return {};
  }
  // The consumer took `n` of them; returns the grant to send now, or 0. Grants are held back until
  // they are worth a frame.
  uint32_t consumed(size_t n) {
    owed_ += static_cast<uint32_t>(n);
    if (owed_ < kWindow / 2) return 0;
    const uint32_t grant = owed_;
    owed_ = 0;
    open_ += grant;
    return grant;
  }

 private:
  uint32_t open_ = kWindow;
  uint32_t owed_ = 0;
};

}  // namespace sluice::guest::wire
