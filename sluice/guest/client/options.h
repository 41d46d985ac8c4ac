// What the client of a guest is told: how patient it is, and how much it holds. Values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sluice/base/core/deadline.h"

namespace sluice::guest {

struct ClientOptions {
  // The guest kills everything and ends when it hears nothing for the lease; it is told something
  // every keep_alive.
  Duration lease = std::chrono::seconds(10);
  Duration keep_alive = std::chrono::seconds(3);
  // A guest that says nothing for so long is given up.
  Duration silence = std::chrono::seconds(30);
  // For what an honest guest does at once (a hello, the end of a command at its deadline).
  Duration patience = std::chrono::seconds(30);
  Deadline deadline;         // of the sandbox: the guest ends itself then
  bool single_user = false;  // the sandbox has one uid: nobody to switch to
  uint64_t open_files = 0;   // RLIMIT_NOFILE of commands; 0: as it is
  // What the guest may make us hold in all; over it the link is closed.
  size_t max_held = 256 * 1024 * 1024;
};

}  // namespace sluice::guest
