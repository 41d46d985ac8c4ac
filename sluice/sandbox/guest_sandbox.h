// GuestSandbox: Sandbox over a guest's link, whichever backend made the place and carries the link.
// A backend adds what only it knows: what the sandbox can do, what could not be had, and how to
// remove it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sluice/guest/client/client.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::sandbox {

struct GuestSandboxParts {
  std::string id;
  Capabilities capabilities;
  std::vector<std::string> warnings;
  std::unique_ptr<guest::Client> client;
  // Removes what the backend made; called once, after the link was closed. Where it is never called
  // (the object was just dropped), the end of the link must be enough.
  std::function<awaitable<Result<void>>()> destroy;
  // How often the kernel killed for the sandbox's memory limit; may be empty.
  std::function<uint64_t()> oom_kills;
  // Cuts the set-up network; empty if there is none.
  std::function<awaitable<Result<void>>()> end_setup;
};

std::unique_ptr<Sandbox> make_guest_sandbox(net::Shard* shard, GuestSandboxParts parts);

}  // namespace sluice::sandbox
