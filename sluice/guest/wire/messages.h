// What the frames say: requests, replies and reports as values, with their bytes.
//
// Each says its fields once (fields.h): encode() is for values of our own, decode() for bytes of a
// hostile peer. A request names its verb. No secret is ever part of an Error.
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
#include "sluice/guest/wire/fields.h"
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
// Paths and patterns by which an agent's work is named.
inline constexpr size_t kMaxWorkPlaces = 1024;
inline constexpr size_t kMaxSearchPath = 16 * 1024;
// Streams open at once, of both sides together.
inline constexpr size_t kMaxStreams = 16 * 1024;

// Streams of the host have odd numbers, streams of the guest even ones.
inline constexpr bool opened_by_host(uint32_t stream) {
  return stream % 2 == 1;
}

// --- the link -------------------------------------------------------------------------------

// What both hellos begin with. A version that differs is told from garbage.
void hello_fields(auto& v, auto& version) {
  constexpr uint32_t kMagic = 0x43494c53;  // "SLIC"
  uint32_t magic = kMagic;
  v.numbers(magic, version);
  if (magic != kMagic) v.fail("it is not a Sluice guest's");
  if (version != kVersion) {
    v.fail("the peer speaks version " + std::to_string(version) + ", this side version " +
           std::to_string(kVersion));
  }
}

struct HostHello {
  static constexpr char kName[] = "hello of the host";
  uint16_t version = kVersion;
  uint32_t lease_ms = 0;     // the guest ends itself when it heard nothing for so long
  uint64_t deadline_ms = 0;  // from now; 0: none
  // The sandbox has one uid for all: the guest switches to nobody (and protects itself less).
  bool single_user = false;
  uint64_t open_files = 0;  // RLIMIT_NOFILE of commands; 0: as the guest found it

  static void fields(auto& v, auto& m) {
    hello_fields(v, m.version);
    v.numbers(m.lease_ms, m.deadline_ms);
    v.flags(m.single_user);
    v.numbers(m.open_files);
  }
};

struct GuestHello {
  static constexpr char kName[] = "hello of the guest";
  uint16_t version = kVersion;
  bool owns_pid_namespace = false;  // the guest is pid 1: nothing can hide from kill_all
  uint32_t uid = 0;

  static void fields(auto& v, auto& m) {
    hello_fields(v, m.version);
    v.flags(m.owns_pid_namespace);
    v.numbers(m.uid);
  }
};

// The first frame on a new carrier of an old link.
struct Resume {
  static constexpr char kName[] = "resume";
  static constexpr size_t kLinkId = 16;
  std::string link;       // 16 random bytes that the host chose
  uint64_t received = 0;  // frames up to this number have arrived

  static void fields(auto& v, auto& m) {
    v.string(m.link, kLinkId);
    if (m.link.size() != kLinkId) v.fail("its link id is too short");
    v.numbers(m.received);
  }
};

// Every frame up to this number has arrived.
struct Ack {
  static constexpr char kName[] = "acknowledgement";
  uint64_t seq = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.seq); }
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
  kKillUser,
  kHandOver,
  kTakeWork,
  kPutWork,
  kMakeWay,
};
inline constexpr Verb kLastVerb = Verb::kMakeWay;

// Runs a command. Data of the host is its stdin, data of the guest its stdout; stderr has a stream
// of its own, opened by this. Reply: Started. Then Exit, once, whenever it ends.
struct Exec {
  static constexpr char kName[] = "exec";
  static constexpr Verb kVerb = Verb::kExec;
  std::vector<std::string> argv;
  std::vector<std::string> env;  // "NAME=value"
  std::string cwd;
  std::string user;
  uint64_t timeout_ms = 0;   // 0: none
  uint64_t output_cap = 0;   // per channel; of more the beginning and the end are sent
  uint32_t err_stream = 0;   // the number behind its own: its stream's + 2
  bool takes_input = false;  // else stdin is /dev/null
  // If argv[0] is not found, this many leading arguments are replaced by "sh", "-c" (for a script
  // that prefers bash); 0: no.
  uint8_t shell_prefix = 0;

  static void fields(auto& v, auto& m) {
    v.texts(m.argv, kMaxArguments, kMaxArgument);
    v.texts(m.env, kMaxArguments, kMaxArgument);
    v.text(m.cwd, kMaxPath);
    v.text(m.user, kMaxUser);
    v.numbers(m.timeout_ms, m.output_cap, m.err_stream);
    v.flags(m.takes_input);
    v.numbers(m.shell_prefix);
    if (m.argv.empty()) v.fail("its argv is empty");
    if (m.shell_prefix > m.argv.size()) v.fail("its prefix is longer than its argv");
  }
};
struct Started {
  static constexpr char kName[] = "reply to exec";
  uint32_t pid = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.pid); }
};

// To the command of the stream `command`. Reply: empty; kNotFound when it has ended.
struct Signal {
  static constexpr char kName[] = "signal";
  static constexpr Verb kVerb = Verb::kSignal;
  uint32_t command = 0;
  uint8_t number = 0;

  static void fields(auto& v, auto& m) {
    v.numbers(m.command, m.number);
    if (m.number < 1 || m.number > 64) v.fail("no such signal");
  }
};

// SIGKILL to the command and all it started. Reply, empty, when they are gone.
struct KillTree {
  static constexpr char kName[] = "kill_tree";
  static constexpr Verb kVerb = Verb::kKillTree;
  uint32_t command = 0;  // its stream

  static void fields(auto& v, auto& m) { v.numbers(m.command); }
};

// SIGKILL to everything in the sandbox but the guest. Reply, empty, when all are gone.
struct KillAll {
  static constexpr char kName[] = "kill_all";
  static constexpr Verb kVerb = Verb::kKillAll;

  static void fields(auto&, auto&) {}
};

// The same to every process of a user; where all are one, to everything but the guest.
struct KillUser {
  static constexpr char kName[] = "kill_user";
  static constexpr Verb kVerb = Verb::kKillUser;
  std::string user;

  static void fields(auto& v, auto& m) { v.text(m.user, kMaxUser); }
};

// The file verbs: all run as `user` in a process of their own.

void path_and_user(auto& v, auto& m) {
  v.text(m.path, kMaxPath);
  v.text(m.user, kMaxUser);
}

// No set-user-id, set-group-id or sticky bit is ever made on request.
void permissions(auto& v, auto& mode) {
  v.numbers(mode);
  if (mode > 0777) v.fail("a mode has more than permission bits");
}

// Reply: FileStat, then the content as data, then End. kTooLarge if there is more than `max`.
struct Read {
  static constexpr char kName[] = "read";
  static constexpr Verb kVerb = Verb::kRead;
  std::string path;
  std::string user;
  uint64_t max = 0;

  static void fields(auto& v, auto& m) {
    path_and_user(v, m);
    v.numbers(m.max);
  }
};

// The host's data, up to its End, replaces the file in one step. Reply, empty, when it is there.
struct Write {
  static constexpr char kName[] = "write";
  static constexpr Verb kVerb = Verb::kWrite;
  std::string path;
  std::string user;
  uint32_t mode = 0;

  static void fields(auto& v, auto& m) {
    path_and_user(v, m);
    permissions(v, m.mode);
  }
};

// Reply: FileStat.
struct Stat {
  static constexpr char kName[] = "stat";
  static constexpr Verb kVerb = Verb::kStat;
  std::string path;
  std::string user;

  static void fields(auto& v, auto& m) { path_and_user(v, m); }
};

// Data: FileStat after FileStat, each behind its length as a u16, then End. Reply: empty.
struct List {
  static constexpr char kName[] = "list";
  static constexpr Verb kVerb = Verb::kList;
  std::string path;
  std::string user;
  uint32_t depth = 0;
  uint64_t max = 0;

  static void fields(auto& v, auto& m) {
    path_and_user(v, m);
    v.numbers(m.depth, m.max);
  }
};

// Reply: empty.
struct ResetDirectory {
  static constexpr char kName[] = "reset_directory";
  static constexpr Verb kVerb = Verb::kResetDirectory;
  std::string path;
  std::string user;
  uint32_t mode = 0;

  static void fields(auto& v, auto& m) {
    path_and_user(v, m);
    permissions(v, m.mode);
  }
};

// Reply: Count, of the files that were left alone.
struct GiveTree {
  static constexpr char kName[] = "give_tree";
  static constexpr Verb kVerb = Verb::kGiveTree;
  std::string path;
  std::string user;

  static void fields(auto& v, auto& m) { path_and_user(v, m); }
};
struct Count {
  static constexpr char kName[] = "count";
  uint64_t value = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.value); }
};

// What an agent left is made ready for its verifier, whatever it is. Reply: HandedOver.
struct HandOver {
  static constexpr char kName[] = "hand_over";
  static constexpr Verb kVerb = Verb::kHandOver;
  std::string home, workdir;  // directories; `workdir` is below `home`
  std::string place;          // the verifier's own directory, emptied,
  std::string link;           // and the name below `home` by which it is known
  std::string user, from;     // the verifier, the agent
  // Directories that lose what is the agent's, as do System V's tables then.
  std::vector<std::string> shared;
  std::string path;  // as in PATH

  static void fields(auto& v, auto& m) {
    v.text(m.home, kMaxPath);
    v.text(m.workdir, kMaxPath);
    v.text(m.place, kMaxPath);
    v.text(m.link, kMaxPath);
    v.text(m.user, kMaxUser);
    v.text(m.from, kMaxUser);
    v.texts(m.shared, 64, kMaxPath);
    v.text(m.path, kMaxSearchPath);
  }
};
struct HandedOver {
  static constexpr char kName[] = "reply to hand_over";
  static constexpr size_t kMaxNotes = 16, kMaxNote = 512;
  std::string shell;               // bash, else sh, in a directory that the agent cannot change
  std::string path;                // those of the request's directories
  std::vector<std::string> notes;  // what was not as it should be, for people

  static void fields(auto& v, auto& m) {
    v.text(m.shell, kMaxPath);
    v.text(m.path, kMaxSearchPath);
    v.texts(m.notes, kMaxNotes, kMaxNote);
  }
};

// The sandbox's writable files as one stream. Data, then End. Reply: empty. kTooLarge over `max`.
struct Pack {
  static constexpr char kName[] = "pack";
  static constexpr Verb kVerb = Verb::kPack;
  uint64_t max = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.max); }
};

// The host's data, up to its End, is what a Pack gave: the files become those. Reply: empty.
struct Unpack {
  static constexpr char kName[] = "unpack";
  static constexpr Verb kVerb = Verb::kUnpack;

  static void fields(auto&, auto&) {}
};

// An agent's work (program/work.h): what lies at `paths` and below, less what `exclude` names
// (base/core/glob.h). Paths are absolute and have no dots in them.
void work_places(auto& v, auto& m) {
  v.texts(m.paths, kMaxWorkPlaces, kMaxPath);
  v.texts(m.exclude, kMaxWorkPlaces, kMaxPath);
}

// The work as data, then End. Reply: WorkTaken. kTooLarge over `max` bytes or `max_entries`.
struct TakeWork {
  static constexpr char kName[] = "take_work";
  static constexpr Verb kVerb = Verb::kTakeWork;
  std::vector<std::string> paths, exclude;
  uint64_t max = 0;
  uint64_t max_entries = 0;
  uint64_t changed_ms = 0;  // not 0: files elsewhere that changed in this time are counted

  static void fields(auto& v, auto& m) {
    work_places(v, m);
    v.numbers(m.max, m.max_entries, m.changed_ms);
  }
};
struct WorkTaken {
  static constexpr char kName[] = "reply to take_work";
  static constexpr size_t kMaxMissing = 16;
  uint64_t entries = 0;
  uint64_t left_out = 0;  // neither files nor directories nor links
  uint64_t changed = 0;
  std::vector<std::string> missing;  // the first of the request's paths where nothing was

  static void fields(auto& v, auto& m) {
    v.numbers(m.entries, m.left_out, m.changed);
    v.texts(m.missing, kMaxMissing, kMaxPath);
  }
};

// The host's data, up to its End, is what a TakeWork gave: it takes the place of what lies at
// `paths` and is not excluded, and belongs to `user`. Reply: empty.
struct PutWork {
  static constexpr char kName[] = "put_work";
  static constexpr Verb kVerb = Verb::kPutWork;
  std::vector<std::string> paths, exclude;
  std::string user;

  static void fields(auto& v, auto& m) {
    work_places(v, m);
    v.text(m.user, kMaxUser);
  }
};

// Makes the directories above `path`, and removes what is in a file's way there. Within `below`
// ("": nowhere) that is links as well and all that is no directory. Reply: empty.
struct MakeWay {
  static constexpr char kName[] = "make_way";
  static constexpr Verb kVerb = Verb::kMakeWay;
  std::string path;
  std::string below;

  static void fields(auto& v, auto& m) {
    v.text(m.path, kMaxPath);
    v.text(m.below, kMaxPath);
  }
};

struct FileStat {
  static constexpr char kName[] = "file status";
  enum class Type : uint8_t { kFile, kDirectory, kSymlink, kOther };
  std::string path;
  Type type = Type::kFile;
  uint64_t size = 0;
  uint32_t mode = 0;
  uint32_t uid = 0, gid = 0;

  static void fields(auto& v, auto& m) {
    v.text(m.path, kMaxPath);
    v.enumerator(m.type, Type::kOther);
    v.numbers(m.size, m.mode, m.uid, m.gid);
    if (m.mode > 07777) v.fail("a mode has more than permission bits");
  }
};

// Listens on 127.0.0.1:`port` (0: any). Reply: Listening. With pass_socket the listening socket
// itself comes with the reply; without, each connection is a stream that the guest opens.
struct Listen {
  static constexpr char kName[] = "listen";
  static constexpr Verb kVerb = Verb::kListen;
  uint16_t port = 0;
  bool pass_socket = false;

  static void fields(auto& v, auto& m) {
    v.numbers(m.port);
    v.flags(m.pass_socket);
  }
};
struct Listening {
  static constexpr char kName[] = "reply to listen";
  uint16_t port = 0;
  bool has_socket = false;

  static void fields(auto& v, auto& m) {
    v.numbers(m.port);
    v.flags(m.has_socket);
  }
};

// A connection came in on the stream `listener`. There is no reply.
struct Accepted {
  static constexpr char kName[] = "accepted";
  static constexpr Verb kVerb = Verb::kAccepted;
  uint32_t listener = 0;
  uint16_t peer_port = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.listener, m.peer_port); }
};

// --- reports --------------------------------------------------------------------------------

struct Exit {
  static constexpr char kName[] = "exit";
  enum class Reason : uint8_t { kExited, kSignaled, kTimedOut };
  Reason reason = Reason::kExited;
  uint8_t status = 0;  // with kExited
  uint8_t signal = 0;  // else

  static void fields(auto& v, auto& m) {
    v.enumerator(m.reason, Reason::kTimedOut);
    v.numbers(m.status, m.signal);
    if (m.reason == Reason::kExited ? m.signal != 0 : m.status != 0) {
      v.fail("it holds both a status and a signal");
    }
    if (m.reason == Reason::kSignaled && (m.signal < 1 || m.signal > 127)) {
      v.fail("no such signal");
    }
  }
};

struct End {
  static constexpr char kName[] = "end";
  bool truncated = false;  // output over the cap was dropped

  static void fields(auto& v, auto& m) { v.flags(m.truncated); }
};

// This many more bytes may be sent.
struct Credit {
  static constexpr char kName[] = "credit";
  uint32_t bytes = 0;

  static void fields(auto& v, auto& m) { v.numbers(m.bytes); }
};

struct Close {
  static constexpr char kName[] = "close";
  enum class Reason : uint8_t { kDone, kReset };
  Reason reason = Reason::kDone;

  static void fields(auto& v, auto& m) { v.enumerator(m.reason, Reason::kReset); }
};

// An Error of the guest. Its code is one of the closed list; a message over kMaxMessage is cut.
struct Failure {
  static constexpr char kName[] = "failure";
  Error error;

  static void fields(auto& v, auto& m) { v.error(m.error, kMaxMessage); }
};

// --- requests in pieces ---------------------------------------------------------------------

// A whole request as it goes into Open and More frames.
struct Request {
  Request() = default;
  Request(Verb v, Bytes b) : verb(v), body(std::move(b)) {}
  template <class M>
    requires requires { M::kVerb; }
  explicit Request(const M& message) : Request(M::kVerb, encode(message)) {}

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
