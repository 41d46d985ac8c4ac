// Helper: makes and removes the sandboxes of one backend, in a process of its own.
//
// A library inside somebody's multi-threaded program cannot fork safely, and a sandbox must die
// with the thread that made it (PR_SET_PDEATHSIG); so there is this: one thread, one socket to the
// engine, nothing else. It ends with its socket, and everything it made ends with it. It decides
// nothing; what it is told is still parsed as if it came from anybody.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/program/loop.h"
#include "sluice/sandbox/local/helper/cgroups.h"
#include "sluice/sandbox/local/helper/ranges.h"
#include "sluice/sandbox/local/plan.h"

namespace sluice::sandbox::local {

class Helper {
 public:
  explicit Helper(Fd socket);

  // Serves until the engine closes the socket, then removes everything.
  int run();

 private:
  struct Box {
    uint64_t id = 0;
    pid_t pid = -1;
    Fd process;  // a pidfd
    Fd report;   // until the guest runs
    Cgroups::Group group;
    Range range;
    std::string oom_file;
    Fd gate;                // until it is told what to be
    std::string name;       // of its control groups
    bool unwanted = false;  // it is to go
    std::optional<int> status;
    int removals = 0;
  };

  void on_message();
  Result<void> handle(const Message& message, std::vector<Fd>& fds);
  Result<void> set_up(Setup setup, std::vector<Fd>& fds);
  Result<void> create(const Create& create, Fd link);
  enum class Network : uint8_t { kOwn, kHosts };
  Result<std::unique_ptr<Box>> prepare(const std::string& name, Range range, Network network);
  Result<void> start(Box& box, Network network);
  Result<void> tell(Box& box, const Create& create, const Fd& link);
  Box& keep(std::unique_ptr<Box> box, uint64_t id);
  void discard(std::unique_ptr<Box> box);
  static void kill(const Box& box);
  std::unique_ptr<Box> take_ready();
  void refill();
  bool is_ready_one(const Box& box) const { return box.id >= kFirstReady; }
  Result<void> map_ids(const Box& box) const;
  static Result<Fd> image_mount(const std::string& root, const Box& box);
  Result<Range> range_for(const Create& create);
  Result<void> give_home(const std::string& path) const;
  void on_report(Box& box);
  void on_exit(Box& box);
  void remove(Box& box);
  void send(Message::Kind kind, const Bytes& body);
  void fail(const Error& error);

  Fd socket_;
  guest::program::Loop loop_;
  std::optional<Setup> setup_;
  Fd guest_;
  Cgroups cgroups_;
  std::optional<Ranges> ranges_;
  std::unordered_map<uint64_t, std::unique_ptr<Box>> boxes_;
  bool ending_ = false;
  // Sandboxes that were begun for nobody yet: what takes the kernel long (a network, joining
  // control groups) is done when one is asked for. Each is for a few seconds, so that it shows the
  // host as it is; with ids that no engine gives.
  static constexpr uint64_t kFirstReady = uint64_t{1} << 63;
  std::deque<uint64_t> ready_;
  uint64_t next_ready_ = kFirstReady;
  bool refilling_ = false;
};

}  // namespace sluice::sandbox::local
