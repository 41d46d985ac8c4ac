// CHECK: an invariant of ours, on in every build. Never for outside input: that gets an Error.
#pragma once

namespace sluice {
[[noreturn]] void check_failed(const char* expression, const char* file, int line);
}

#define CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::sluice::check_failed(#condition, __FILE__, __LINE__))
