#include "sluice/base/core/check.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace sluice {

void check_failed(const char* expression, const char* file, int line) {
  char text[512];
  const int n = std::snprintf(text, sizeof text, "sluice: CHECK(%s) failed at %s:%d\n", expression,
                              file, line);
  if (n > 0) {
    [[maybe_unused]] const auto ignored = ::write(
        2, text, static_cast<size_t>(n) < sizeof text ? static_cast<size_t>(n) : sizeof text - 1);
  }
  std::abort();
}

}  // namespace sluice
