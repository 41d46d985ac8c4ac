// The local backend: sandboxes of Linux namespaces on this host, made by a helper program of its
// own (helper/helper.h), a guest inside as their first process.
//
// docs/sandboxes.md says what is isolated and how, and what is not claimed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "sluice/base/log.h"
#include "sluice/sandbox/local/plan.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::sandbox::local {

struct BackendOptions {
  Logger log;
  // Where it is written down which sandboxes are made (sandbox_journal.h); empty: nowhere.
  std::string journal_directory;
  // Where the images of tarballs are unpacked and kept; empty: there are none then.
  std::string image_directory;
  // How many sandboxes are begun ahead of being asked for, while some are: each holds what an idle
  // one does, for five seconds. 0: none.
  uint32_t ready = 4;
  // For tests: pretend that listening sockets cannot be passed, as with links that carry no
  // descriptors.
  bool carry_connections = false;
};

// As Backend::check_image(), which needs no helper for it.
Result<void> check_image(const std::string& image);

// Thread-safe, as every Backend. Starts one helper and one thread that reads its answers. The
// shards on which sandboxes are made must outlive it.
class Backend final : public sandbox::Backend {
 public:
  // Removes what dead engines left behind, then starts the helper. kUnsupported, with what to do,
  // where this host cannot have local sandboxes.
  static Result<std::unique_ptr<Backend>> start(BackendOptions options = {});
  // Everything that was made goes with the backend. Close the sandboxes before.
  ~Backend() override;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  std::string name() const override { return "local"; }
  Capabilities capabilities() const override;
  awaitable<Result<std::unique_ptr<Sandbox>>> create(net::Shard* shard, Options options) override;
  awaitable<Result<std::unique_ptr<Sandbox>>> clone(net::Shard* shard, Snapshot snapshot,
                                                    Options options) override;
  Result<void> check_image(const Options& options) override;
  awaitable<Result<int>> reap() override;

  // The helper's process, for tests and for `doctor`.
  int helper_pid() const;

 private:
  struct State;
  static awaitable<Result<std::unique_ptr<Sandbox>>> make(std::shared_ptr<State> state,
                                                          net::Shard* shard, Options options,
                                                          Snapshot snapshot);
  struct Asked;
  static awaitable<Result<Asked>> ask(std::shared_ptr<State> state, net::Shard* shard,
                                      Create request, Labels labels);
  static awaitable<Result<void>> remove(std::shared_ptr<State> state, net::Shard* shard,
                                        uint64_t number);
  explicit Backend(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

}  // namespace sluice::sandbox::local
