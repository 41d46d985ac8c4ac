// Defer: runs a function when the scope ends.
//
//   Defer unmount([&] { umount2(path, MNT_DETACH); });
//   ...
//   unmount.cancel();  // all went well
#pragma once

#include <utility>

namespace sluice {

template <class F>
class [[nodiscard]] Defer {
 public:
  explicit Defer(F f) : f_(std::move(f)) {}
  ~Defer() {
    if (armed_) f_();
  }
  Defer(const Defer&) = delete;
  Defer& operator=(const Defer&) = delete;
  void cancel() { armed_ = false; }

 private:
  F f_;
  bool armed_ = true;
};

}  // namespace sluice
