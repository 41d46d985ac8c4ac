// What the attack programs share: attempts, and how they ended.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <initializer_list>

// The programs, all in one executable (all.cc).
// clang-format off
#define SLUICE_INSIDE_PROGRAMS(X) \
  X(comet) \
  X(daemons) \
  X(eat) \
  X(guest_intrusion) \
  X(host_identity) \
  X(host_processes) \
  X(host_secrets) \
  X(kernel_settings) \
  X(mounts) \
  X(namespaces) \
  X(network) \
  X(set_user_id) \
  X(system_calls) \
  X(terminal)
// clang-format on
#define SLUICE_DECLARE_INSIDE(name) int inside_##name(int argc, char** argv);
SLUICE_INSIDE_PROGRAMS(SLUICE_DECLARE_INSIDE)
#undef SLUICE_DECLARE_INSIDE

namespace attack {

inline int broken = 0;

// An attempt that must fail. Returns whether it did.
inline bool must_fail(const char* what, long result) {
  if (result < 0) return true;
  std::printf("GOT THROUGH: %s (returned %ld)\n", what, result);
  broken = 1;
  return false;
}

// The same for one that must fail in a certain way.
inline void must_fail_with(const char* what, long result, int expected) {
  const int failure = errno;
  if (!must_fail(what, result)) return;
  if (failure == expected) return;
  std::printf("WRONG ERROR: %s: %s instead of %s\n", what, std::strerror(failure),
              std::strerror(expected));
  broken = 1;
}

inline void must_not(const char* what, bool happened) {
  if (!happened) return;
  std::printf("GOT THROUGH: %s\n", what);
  broken = 1;
}

}  // namespace attack
