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
#include "sluice/sandbox/setup_proxy.h"
#include "sluice/sandbox/spool.h"

namespace sluice::sandbox {

struct GuestSandboxParts {
  std::string id;
  std::string image;  // of the options it was made with
  Env image_env;      // what the image wants in every command's environment
  Capabilities capabilities;
  std::vector<std::string> warnings;
  std::unique_ptr<guest::Client> client;
  // Removes what the backend made; called once, after the link was closed. Where it is never called
  // (the object was just dropped), the end of the link must be enough.
  std::function<awaitable<Result<void>>()> destroy;
  // How often the kernel killed for the sandbox's memory limit; may be empty.
  std::function<uint64_t()> oom_kills;
  // Writes and reads what snapshots and works are kept in.
  std::shared_ptr<net::BlockingPool> spoolers;
  // The set-up network, closed by end_setup() and with the sandbox; null if there is none.
  std::shared_ptr<SetupProxy> setup_proxy;
};

// What a snapshot of a guest's sandbox holds: what its Client::pack() gave.
struct SnapshotContent {
  std::string image;  // Options::image of the sandbox it is from
  std::shared_ptr<const Spool> files;
};
inline constexpr uint64_t kMaxSnapshot = uint64_t{1} << 30;

// A command's environment with an image's: what the command names itself stays, and HOME and USER
// are never the image's. PATH is the command's own directories, then the image's, then the
// standard ones that are left.
Env with_image_env(Env env, const Env& image);

// Fills a fresh sandbox with a snapshot's files.
awaitable<Result<void>> restore(guest::Client* client, Snapshot snapshot);

std::unique_ptr<Sandbox> make_guest_sandbox(net::Shard* shard, GuestSandboxParts parts);

}  // namespace sluice::sandbox
