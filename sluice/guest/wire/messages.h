// What the frames say: requests, replies and reports as values, with their bytes.
//
// encode() is for values of our own, decode() for bytes of a hostile peer: it fails with kProtocol
// on anything that encode() would not have written. No secret is ever part of an Error.
//
// Plain values; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/result.h"
#include "sluice/guest/wire/frame.h"

namespace sluice::guest::wire {

inline constexpr uint16_t kVersion = 1;

// Limits of what a request may hold. Paths are the kernel's PATH_MAX; a whole argv with its
// environment is what execve(2) takes for certain.
inline constexpr size_t kMaxPath = 4096;
inline constexpr size_t kMaxUser = 256;
inline constexpr size_t kMaxRequest = 2 * 1024 * 1024 + 64 * 1024;
inline constexpr size_t kMaxArguments = 64 * 1024;
inline constexpr size_t kMaxArgument = 128 * 1024;
inline constexpr size_t kMaxMessage = 4096;
// Streams open at once, of both sides together.
inline constexpr size_t kMaxStreams = 16 * 1024;

// Streams of the host have odd numbers, streams of the guest even ones.
inline constexpr bool opened_by_host(uint32_t stream) {
  return stream % 2 == 1;
}

// --- the link -------------------------------------------------------------------------------

struct HostHello {
  uint16_t version = kVersion;
  uint32_t lease_ms = 0;     // the guest ends itself when it heard nothing for so long
  uint64_t deadline_ms = 0;  // from now; 0: none
  // The sandbox has one uid for all: the guest switches to nobody (and protects itself less).
  bool single_user = false;
  uint64_t open_files = 0;  // RLIMIT_NOFILE of commands; 0: as the guest found it

  Bytes encode() const;
  static Result<HostHello> decode(ByteView bytes);
};

struct GuestHello {
  uint16_t version = kVersion;
  bool owns_pid_namespace = false;  // the guest is pid 1: nothing can hide from kill_all
  uint32_t uid = 0;

  Bytes encode() const;
  static Result<GuestHello> decode(ByteView bytes);
};

// The first frame on a new carrier of an old link.
struct Resume {
  std::string link;       // 16 random bytes that the host chose
  uint64_t received = 0;  // frames up to this number have arrived

  Bytes encode() const;
  static Result<Resume> decode(ByteView bytes);
};

// --- requests (Open and More) ---------------------------------------------------------------

enum class Verb : uint8_t {
  kExec,
  kSignal,
  kKillTree,
  kKillAll,
  kRead,
  kWrite,
  kStat,
  kList,
  kResetDirectory,
  kGiveTree,
  kPack,
  kUnpack,
  kListen,
  kAccepted,  // guest to host
};

// Runs a command. Data of the host is its stdin, data of the guest its stdout; stderr has a stream
// of its own, opened by this. Reply: Started. Then Exit, once, whenever it ends.
struct Exec {
  std::vector<std::string> argv;
  std::vector<std::string> env;  // "NAME=value"
  std::string cwd;
  std::string user;
  uint64_t timeout_ms = 0;   // 0: none
  uint64_t output_cap = 0;   // per channel; what is over it is dropped
  uint32_t err_stream = 0;   // the number behind its own: its stream's + 2
  bool takes_input = false;  // else stdin is /dev/null
  // If argv[0] is not found, this many leading arguments are replaced by "sh", "-c" (for a script
  // that prefers bash); 0: no.
  uint8_t shell_prefix = 0;

  Bytes encode() const;
  static Result<Exec> decode(ByteView bytes);
};
struct Started {
  uint32_t pid = 0;

  Bytes encode() const;
  static Result<Started> decode(ByteView bytes);
};

// To the command of the stream `job`. Reply: empty; kNotFound when it has ended.
struct Signal {
  uint32_t job = 0;
  uint8_t number = 0;

  Bytes encode() const;
  static Result<Signal> decode(ByteView bytes);
};

// SIGKILL to the command of `job` and all it started. Reply, empty, when they are gone.
struct KillTree {
  uint32_t job = 0;

  Bytes encode() const;
  static Result<KillTree> decode(ByteView bytes);
};

// SIGKILL to everything in the sandbox but the guest. Reply, empty, when all are gone.
struct KillAll {
  Bytes encode() const { return {}; }
  static Result<KillAll> decode(ByteView bytes);
};

// The file verbs: all run as `user` in a process of their own.

// Reply: FileStat, then the content as data, then End. kTooLarge if there is more than `max`.
struct Read {
  std::string path;
  std::string user;
  uint64_t max = 0;

  Bytes encode() const;
  static Result<Read> decode(ByteView bytes);
};

// The host's data, up to its End, replaces the file in one step. Reply, empty, when it is there.
struct Write {
  std::string path;
  std::string user;
  uint32_t mode = 0;

  Bytes encode() const;
  static Result<Write> decode(ByteView bytes);
};

// Reply: FileStat.
struct Stat {
  std::string path;
  std::string user;

  Bytes encode() const;
  static Result<Stat> decode(ByteView bytes);
};

// Data: FileStat after FileStat, each behind its length as a u16, then End. Reply: empty.
struct List {
  std::string path;
  std::string user;
  uint32_t depth = 0;
  uint64_t max = 0;

  Bytes encode() const;
  static Result<List> decode(ByteView bytes);
};

// Reply: empty.
struct ResetDirectory {
  std::string path;
  std::string user;
  uint32_t mode = 0;

  Bytes encode() const;
  static Result<ResetDirectory> decode(ByteView bytes);
};

// Reply: Count, of the files that were left alone.
struct GiveTree {
  std::string path;
  std::string user;

  Bytes encode() const;
  static Result<GiveTree> decode(ByteView bytes);
};
struct Count {
  uint64_t value = 0;

  Bytes encode() const;
  static Result<Count> decode(ByteView bytes);
};

// The sandbox's writable files as one stream. Data, then End. Reply: empty. kTooLarge over `max`.
struct Pack {
  uint64_t max = 0;

  Bytes encode() const;
  static Result<Pack> decode(ByteView bytes);
};

// The host's data, up to its End, is what a Pack gave: the files become those. Reply: empty.
struct Unpack {
  Bytes encode() const { return {}; }
  static Result<Unpack> decode(ByteView bytes);
};

struct FileStat {
  enum class Type : uint8_t { kFile, kDirectory, kSymlink, kOther };
  std::string path;
  Type type = Type::kFile;
  uint64_t size = 0;
  uint32_t mode = 0;
  uint32_t uid = 0, gid = 0;

  Bytes encode() const;
  static Result<FileStat> decode(ByteView bytes);
};

// Listens on 127.0.0.1:`port` (0: any). Reply: Listening. With pass_socket the listening socket
// itself comes with the reply; without, each connection is a stream that the guest opens.
struct Listen {
  uint16_t port = 0;
  bool pass_socket = false;

  Bytes encode() const;
  static Result<Listen> decode(ByteView bytes);
};
struct Listening {
  uint16_t port = 0;
  bool has_socket = false;

  Bytes encode() const;
  static Result<Listening> decode(ByteView bytes);
};

// A connection came in on the stream `listener`. There is no reply.
struct Accepted {
  uint32_t listener = 0;
  uint16_t peer_port = 0;

  Bytes encode() const;
  static Result<Accepted> decode(ByteView bytes);
};

// --- reports --------------------------------------------------------------------------------

struct Exit {
  enum class Reason : uint8_t { kExited, kSignaled, kTimedOut };
  Reason reason = Reason::kExited;
  uint8_t status = 0;  // with kExited
  uint8_t signal = 0;  // else

  Bytes encode() const;
  static Result<Exit> decode(ByteView bytes);
};

struct End {
  bool truncated = false;  // output over the cap was dropped

  Bytes encode() const;
  static Result<End> decode(ByteView bytes);
};

struct Close {
  enum class Reason : uint8_t { kDone, kReset };
  Reason reason = Reason::kDone;

  Bytes encode() const;
  static Result<Close> decode(ByteView bytes);
};

// An Error of the guest. Its code is one of the closed list; a message over kMaxMessage is cut.
struct Failure {
  Error error;

  Bytes encode() const;
  static Result<Failure> decode(ByteView bytes);
};

Bytes encode_credit(uint32_t bytes);
Result<uint32_t> decode_credit(ByteView bytes);
Bytes encode_ack(uint64_t seq);
Result<uint64_t> decode_ack(ByteView bytes);

// --- requests in pieces ---------------------------------------------------------------------

// A whole request as it goes into Open and More frames.
struct Request {
  Request() = default;
  Request(Verb v, Bytes b) : verb(v), body(std::move(b)) {}

  Verb verb = Verb::kExec;
  Bytes body;
};

// The payloads of the Open frame and of the More frames behind it. kTooLarge over kMaxRequest.
Result<std::vector<Bytes>> split(const Request& request);

// Puts them together again. Holds no more than what came.
class Assembler {
 public:
  // Whole requests come out; nothing while parts are missing. Between an Open and its last More no
  // other frame is allowed on the link's streams, which busy() tells.
  Result<std::optional<Request>> open(ByteView payload);
  Result<std::optional<Request>> more(ByteView payload);
  bool busy() const { return missing_ > 0; }

 private:
  Result<std::optional<Request>> take(ByteView part);
  Request request_;
  size_t missing_ = 0;
};

// The records of a List, fed in arbitrary pieces.
class ListDecoder {
 public:
  explicit ListDecoder(size_t max_entries) : max_entries_(max_entries) {}
  Result<void> feed(ByteView piece);
  // kProtocol if half a record is left.
  Result<std::vector<FileStat>> finish();

 private:
  size_t max_entries_;
  Bytes buffer_;
  std::vector<FileStat> entries_;
};
Bytes encode_list_entry(const FileStat& entry);

}  // namespace sluice::guest::wire
