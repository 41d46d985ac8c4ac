// The conformance suite: what sandbox.h says of every sandbox, tried on any backend, case by case,
// with the attack programs of tests/inside among them. `sluice sandboxes test` runs it, and so do
// the backends' own tests.
//
// It runs everything on one thread, on a shard of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sluice/sandbox/sandbox.h"

namespace sluice::sandbox::conformance {

struct Options {
  Backend* backend = nullptr;
  // The same backend where it carries connections instead of passing its listening socket; the
  // cases about ports run on both. May be null.
  Backend* carrying = nullptr;
  std::string matching;  // of the case's "area.name"; empty: all
  // What takes long or much room, as files of 1 GiB.
  enum class Size { kQuick, kWhole } size = Size::kQuick;
};

struct Outcome {
  std::string area, name;
  enum class State { kPassed, kFailed, kSkipped } state = State::kPassed;
  std::string why;  // not passed: what was expected, or what is not there
  Duration took{};
};

// Areas in their order, for whoever runs them one by one: Options::matching = "area.".
std::vector<std::string> areas();

// Runs the cases, tells of each as it ends, and returns them all.
std::vector<Outcome> run(const Options& options, const std::function<void(const Outcome&)>& tell);

}  // namespace sluice::sandbox::conformance
