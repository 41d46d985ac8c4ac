// For tests of sandboxes on the real kernel: what happens where the kernel does not let them be.
//
// They fail there: a host that tests nothing must not look like one on which everything passed.
// With SLUICE_ALLOW_SKIPS in the environment they are skipped (CONTRIBUTING.md).
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>

// Ends the test, or the fixture's SetUp(). `why` says what the host refuses.
#define SLUICE_CANNOT_BE_TESTED(why)                                                        \
  do {                                                                                      \
    if (std::getenv("SLUICE_ALLOW_SKIPS") != nullptr) GTEST_SKIP() << (why);                \
    FAIL() << (why) << "\nNo sandboxes can be made here (`sluice doctor` says what to do);" \
           << " SLUICE_ALLOW_SKIPS=1 in the environment skips the tests that need them.";   \
  } while (false)
