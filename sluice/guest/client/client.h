// Client: the host's side of a guest. It multiplexes everything that is asked of one sandbox over
// one link: commands, files, ports.
//
// The guest is taken for hostile: whatever breaks the protocol, exceeds its credit or names what
// does not exist closes the link with kProtocol, and what is held for one guest is bounded. When
// the link is closed, every pending call ends at once with the reason, every later one with
// kClosed.
//
// Lives on one shard; every member, and those of what it hands out, is called from that shard's
// thread. Handles (Process, FileReader, ...) may outlive the Client.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/client/link.h"
#include "sluice/guest/client/options.h"
#include "sluice/guest/wire/messages.h"
#include "sluice/net/shard.h"
#include "sluice/net/stream.h"

namespace sluice::guest {

enum class OutputChannel : uint8_t { kOut, kErr };
// Gets what a command prints as it comes, one piece of a channel after the other; the command waits
// meanwhile.
using TakeOutput = std::function<awaitable<void>(OutputChannel channel, Bytes piece)>;

// The client itself says the time-out, the second stream and whether there is input.
struct CommandRequest : wire::Exec {
  CommandRequest() {
    cwd = "/";
    user = "0";
    output_cap = 16 * 1024 * 1024;
  }
  Bytes input;
  Deadline deadline;
  TakeOutput take;  // of exec(), which collects it itself if there is none
};

struct CommandExit {
  wire::Exit exit;
  bool lost = false;  // the link went first
  bool truncated = false;
};

struct CommandOutput {
  CommandExit exit;
  Bytes out, err;
};

// A command in the background. Destroying it lets the command run on.
class Process {
 public:
  using Channel = OutputChannel;

  virtual ~Process() = default;
  virtual awaitable<Result<CommandExit>> wait(Deadline deadline) = 0;
  virtual awaitable<Result<void>> signal(int number) = 0;
  virtual awaitable<Result<void>> kill_tree() = 0;
  virtual awaitable<Result<void>> write_stdin(Bytes bytes) = 0;
  virtual awaitable<Result<void>> close_stdin() = 0;
  virtual awaitable<Result<Bytes>> read_output(Channel channel, size_t max) = 0;
};

// A file's content, or a pack's, as it comes, in bounded memory. Dropping it early ends the
// reading.
class PieceReader {
 public:
  virtual ~PieceReader() = default;
  // The next piece, or empty at the end.
  virtual awaitable<Result<Bytes>> read_some() = 0;
};

// A file's new content, or a pack to restore, in bounded memory. It takes effect by finish();
// dropping the writer before leaves a file as it was.
class PieceWriter {
 public:
  virtual ~PieceWriter() = default;
  virtual awaitable<Result<void>> write(ByteView piece) = 0;
  // REQUIRES: it was not called before.
  virtual awaitable<Result<void>> finish() = 0;
};

enum class Carry : uint8_t {
  kSocket,       // the guest hands over its listening socket, if the link passes descriptors
  kConnections,  // the guest accepts, the link carries the bytes
};

class Client {
 public:
  // Shakes hands with the guest at the other end.
  static awaitable<Result<std::unique_ptr<Client>>> connect(net::Shard* shard,
                                                            std::unique_ptr<Link> link,
                                                            ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  awaitable<Result<CommandOutput>> exec(CommandRequest request);
  awaitable<Result<std::unique_ptr<Process>>> start(CommandRequest request);

  awaitable<Result<std::unique_ptr<PieceReader>>> open_reader(std::string path, uint64_t max,
                                                              std::string user);
  awaitable<Result<std::unique_ptr<PieceWriter>>> open_writer(std::string path, uint32_t mode,
                                                              std::string user);
  awaitable<Result<wire::FileStat>> stat(std::string path, std::string user);
  awaitable<Result<std::vector<wire::FileStat>>> list(std::string path, uint32_t depth, size_t max,
                                                      std::string user);
  awaitable<Result<void>> reset_directory(std::string path, std::string user, uint32_t mode);
  awaitable<Result<uint64_t>> give_tree(std::string path, std::string user);

  // kTooLarge, while it is read, over `max` bytes.
  awaitable<Result<std::unique_ptr<PieceReader>>> pack(uint64_t max);
  // The guest's files become those that pack() gave, handed over in the same pieces or others.
  awaitable<Result<std::unique_ptr<PieceWriter>>> unpack();

  // An agent's work (wire::TakeWork). `taken`, which must outlive the reader, says of the whole
  // what the guest does, once its end was read.
  awaitable<Result<std::unique_ptr<PieceReader>>> take_work(wire::TakeWork request,
                                                            wire::WorkTaken* taken);
  awaitable<Result<std::unique_ptr<PieceWriter>>> put_work(wire::PutWork request);
  awaitable<Result<void>> make_way(std::string path, std::string below);

  awaitable<Result<std::unique_ptr<net::Listener>>> listen(uint16_t port, Carry carry);

  awaitable<Result<void>> kill_all();
  awaitable<Result<void>> kill_user(std::string user);
  awaitable<Result<wire::HandedOver>> hand_over(wire::HandOver request);

  // Closes the link: the guest ends and everything with it. Idempotent.
  void close();
  // Why the link is closed; an Error with an empty message while it is not.
  const Error& why_closed() const;
  // Asked once, when the link ends: whose doing that is. It is the origin of what fails for it
  // (kEngine where nobody is asked); what the guest itself says has kSandbox.
  void on_end(std::function<ErrorOrigin()> whose);

 private:
  explicit Client(std::shared_ptr<class ClientCore> core) : core_(std::move(core)) {}
  std::shared_ptr<class ClientCore> core_;
};

}  // namespace sluice::guest
