// Sandbox, Job and Backend: an isolated place to run programs in, whoever provides it.
//
// A backend makes sandboxes and nothing else; GuestSandbox (guest_sandbox.h) implements Sandbox
// once for all of them over the guest's channel. How a program ended is a value (Exit); an Error
// means that the question could not be answered (bad argument, missing file, sandbox gone).
//
// Every object lives on the shard it was made on and is used from its thread only. Members that
// return an awaitable must be awaited before the object goes away. After close(), or when the
// sandbox is lost, every call fails at once with kClosed. The origin of an Error says whose doing
// it is: kSandbox what the sandbox itself says (its files, its limits), kEngine the loss of it, but
// kAgent or kTask where it died of the memory that an agent, or what was prepared, used up.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/result.h"
#include "sluice/net/executor.h"
#include "sluice/net/stream.h"

namespace sluice::net {
class Shard;
}

namespace sluice::sandbox {

using net::awaitable;

// Where things are and who is who in every sandbox, whichever backend made it.
inline constexpr char kHome[] = "/home/user";
inline constexpr char kWorkdir[] = "/home/user/workdir";
// The verifier's own directory: the name by which it is known, and what that leads to, a filesystem
// of its own that nobody but root gets at before hand_over().
inline constexpr char kVerifierDir[] = "/home/user/logs/verifier";
inline constexpr char kVerifierPlace[] = "/.verifier";
// With Network::kSetup: what commands are to have as https_proxy and http_proxy until end_setup().
inline constexpr uint16_t kSetupProxyPort = 3128;
inline constexpr char kSetupProxy[] = "http://127.0.0.1:3128";
inline constexpr char kSetupUser[] = "0";
inline constexpr char kAgentUser[] = "1000";
inline constexpr char kVerifyUser[] = "1001";
inline constexpr char kStandardPath[] =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// How a program ended. Normalised: 0 to 255 as it is, death by signal N is status -1 and signal N.
struct Exit {
  enum class Reason : uint8_t {
    kExited,
    kSignaled,
    kTimedOut,  // its deadline passed and its tree was killed
    kLost,      // the sandbox went away before the end was known
  };
  Reason reason = Reason::kExited;
  int status = 0;
  int signal = 0;
  bool oom = false;        // killed for its memory limit
  bool truncated = false;  // output over the cap was dropped

  bool ok() const { return reason == Reason::kExited && status == 0; }
};
std::string_view to_string(Exit::Reason reason);
// "exit code 3", "killed by signal 9", "timed out": for people.
std::string describe(const Exit& exit);

using Env = std::vector<std::pair<std::string, std::string>>;

// Bytes of a shell's script, or of any other argument or variable: the kernel takes no more.
inline constexpr size_t kMaxArgument = 128 * 1024 - 1;

enum class Channel : uint8_t { kOut, kErr };

struct Command {
  std::vector<std::string> argv;  // argv[0] is looked up in the command's own PATH
  Env env;                        // the whole environment: nothing is inherited
  std::string cwd = kWorkdir;
  std::string user = kAgentUser;  // a name or uid, as find_user() takes it
  Bytes input;                    // exec: stdin, then end of file. start: see Job::write_stdin
  Deadline deadline;              // then the whole tree is killed
  // Per channel. Of more the beginning and the end are kept (half of it, at most 1 MiB), and it is
  // said so.
  size_t output_cap = 16 * 1024 * 1024;
  // exec: gets what is printed as it comes, a piece of each channel at a time, instead of Output.
  std::function<awaitable<void>(Channel channel, Bytes piece)> take;
  enum class ImagePath : uint8_t { kAdded, kLeftOut };
  ImagePath image_path = ImagePath::kAdded;  // to PATH, what an image wants there

  // `script` run by a clean shell: bash --noprofile --norc -c. Where the sandbox has no bash, a
  // command of exactly this form runs as sh -c. `shell` may also be the whole path of a bash or sh.
  static Command shell(std::string script, const std::string& shell = "bash");
  bool is_shell() const;
};

struct Output {
  Exit exit;
  Bytes out, err;
  Duration wall{};
};

// A command in the background. Destroying it does not end the command (kill_all does).
class Job {
 public:
  using Channel = sandbox::Channel;

  virtual ~Job() = default;

  // How it ended, also long after it did; kTimedOut (an Error) if it runs on at the deadline.
  virtual awaitable<Result<Exit>> wait(Deadline deadline) = 0;
  // To the command itself; kNotFound when it has ended.
  virtual awaitable<Result<void>> signal(int number) = 0;
  // SIGKILL to everything that the command started and that can still be found as its own
  // descendant or session, daemons included. Idempotent.
  virtual awaitable<Result<void>> kill_tree() = 0;
  // Waits while the command does not read. kClosed when it closed its stdin or ended.
  virtual awaitable<Result<void>> write_stdin(Bytes bytes) = 0;
  virtual awaitable<Result<void>> close_stdin() = 0;
  // At most `max` bytes, at least one, or empty at the end of the channel. Unread output stops the
  // command once its credit (256 KiB) is used up. One reader per channel.
  virtual awaitable<Result<Bytes>> read_output(Channel channel, size_t max) = 0;
};

struct FileInfo {
  enum class Type : uint8_t { kFile, kDirectory, kSymlink, kOther };
  std::string path;  // as asked for; in list() relative to the directory
  Type type = Type::kFile;
  uint64_t size = 0;
  uint32_t mode = 0;  // permission bits
  uint32_t uid = 0, gid = 0;
};

struct WriteOptions {
  std::string user = kAgentUser;  // who writes, and who owns what is made
  uint32_t mode = 0644;
};

enum class Strictness : uint8_t {
  kPrefer,   // what cannot be enforced is listed in the sandbox's warnings
  kRequire,  // what cannot be enforced refuses the sandbox
};
struct Limit {
  uint64_t value = 0;
  Strictness strictness = Strictness::kPrefer;
};
struct Limits {
  std::optional<Limit> memory_bytes;
  std::optional<Limit> swap_bytes;  // on top of the memory
  std::optional<Limit> pids;
  std::optional<Limit> cpu_millis;  // 1500 is one and a half cores
  std::optional<Limit> disk_bytes;  // what the sandbox may write in all
  std::optional<Limit> disk_inodes;
  std::optional<Limit> open_files;  // per process

  // What a sandbox gets if nobody says otherwise, all kPrefer.
  static Limits defaults();
};

enum class Network : uint8_t {
  kNone,   // loopback only
  kSetup,  // an allow-listed proxy until end_setup(), then none
  kOpen,   // the host's
};
std::string_view to_string(Network network);

// A directory of the host, mounted read-only.
struct Bundle {
  std::string host_path;
  std::string guest_path;
};

using Labels = std::map<std::string, std::string>;

struct Options {
  std::string image;  // what it names is the backend's affair; "" is its default
  Limits limits = Limits::defaults();
  Network network = Network::kNone;
  // With kSetup: "packages.example.org", "*.example.org", "example.org:8443" (setup_proxy.h).
  std::vector<std::string> setup_hosts;
  std::vector<Bundle> bundles;
  Labels labels;
  Deadline deadline;  // the sandbox ends itself then, whatever happens to us
  // If set, HOME lives in this directory of the host and stays when the sandbox goes.
  std::string keep_files_in;
};

struct Capabilities {
  bool images = false;  // Options::image is understood
  bool limits = false;  // memory and pids can be enforced
  bool network_none = false;
  bool listen_passed = false;  // carried ports hand over the listening socket itself
  bool snapshots = false;
  bool guest_isolated = true;  // the agent runs under another uid than the guest
};

// A prepared state to clone from: the files of a sandbox, as Backend::clone() wants them. Processes
// and connections are not part of it. It outlives the sandbox, holds a file without a name as large
// as the files, and goes with its last copy; only the backend that made it can clone from it.
struct SnapshotContent;
struct Snapshot {
  std::string id;
  uint64_t bytes = 0;
  std::shared_ptr<const SnapshotContent> content;
};

// What of a sandbox's files is somebody's work: what lies at these paths and below, less what the
// patterns name below them (base/core/glob.h). Paths are absolute and normal; none is within
// another.
struct WorkPlaces {
  std::vector<std::string> paths;
  std::vector<std::string> exclude;
};
inline constexpr uint64_t kMaxWork = uint64_t{1} << 30;
inline constexpr uint64_t kMaxWorkEntries = 200'000;

// Work that was taken out of a sandbox, to be put into others of the same backend. As a snapshot,
// it outlives the sandbox.
struct WorkContent {
  virtual ~WorkContent() = default;
};
struct TakenWork {
  WorkPlaces places;
  uint64_t entries = 0;
  uint64_t left_out = 0;             // pipes, sockets, devices: they do not travel
  uint64_t changed_elsewhere = 0;    // if that was asked for
  std::vector<std::string> missing;  // the first of the places where nothing was
  std::shared_ptr<const WorkContent> content;
};

// Whether there can be any of an agent: there are none where none ever was.
enum class Leftovers : uint8_t { kKeep, kRemove };

// What a sandbox is for a verifier, once an agent's work was handed over.
struct HandedOver {
  std::string shell;  // the path of a bash or sh that the agent cannot change; "" if there is none
  std::string path;   // PATH: directories that he cannot change
  std::vector<std::string> notes;  // what was not as it should be, for people
};

class Sandbox {
 public:
  virtual ~Sandbox() = default;

  virtual const std::string& id() const = 0;
  virtual const Capabilities& capabilities() const = 0;
  // Limits and features that were preferred and could not be had, in plain words.
  virtual const std::vector<std::string>& warnings() const = 0;

  // Runs to the end or the deadline (then Exit::kTimedOut, with the output so far).
  virtual awaitable<Result<Output>> exec(Command command) = 0;
  virtual awaitable<Result<std::unique_ptr<Job>>> start(Command command) = 0;

  // Files are reached as the named user would, from inside. A symbolic link in the last component
  // is never followed. Errors: kNotFound, kPermissionDenied, kTooLarge, kInvalidArgument (a
  // directory, a device; the message says which).
  virtual awaitable<Result<void>> write_file(std::string path, Bytes content,
                                             WriteOptions options) = 0;  // makes parents
  virtual awaitable<Result<Bytes>> read_file(std::string path, size_t max, std::string user) = 0;
  virtual awaitable<Result<FileInfo>> stat(std::string path, std::string user) = 0;
  // What is below `path`, at most `depth` levels and `max` entries, in no order.
  virtual awaitable<Result<std::vector<FileInfo>>> list(std::string path, int depth, size_t max,
                                                        std::string user) = 0;

  // Makes `path` an empty directory of `user` with `mode`, whatever was there.
  virtual awaitable<Result<void>> reset_directory(std::string path, std::string user,
                                                  uint32_t mode) = 0;
  // Gives `path` and all below it to `user`. No link is followed; a file that also has a name
  // outside the tree keeps its owner and is counted in the result.
  virtual awaitable<Result<uint64_t>> give_tree(std::string path, std::string user) = 0;

  // When everything of kAgentUser was killed: makes what he left ready for kVerifyUser, whatever it
  // is. `workdir` (below kHome), its parents and kHome are directories that the verifier may pass;
  // the workdir and all in it is his, files of the agent's that have other names as copies;
  // kVerifierDir is his alone, and empty but for a directory "tmp". With Leftovers::kRemove, what
  // is kAgentUser's in places for everybody (/tmp and the like) and his IPC objects go. Where all
  // are one user, there is nothing to give, and places for everybody are emptied.
  virtual awaitable<Result<HandedOver>> hand_over(std::string workdir, Leftovers leftovers) = 0;

  // A listener on 127.0.0.1:`port` inside the sandbox (0: any free port), served out here.
  virtual awaitable<Result<std::unique_ptr<net::Listener>>> listen(uint16_t port) = 0;

  // With Network::kSetup: cuts the network. Must succeed before an agent starts.
  virtual awaitable<Result<void>> end_setup() = 0;
  // For a group: prepare once (uploads, setup), take this, close the sandbox, and clone() as often
  // as wanted. Files must not change meanwhile (kFailedPrecondition, if it is seen); call
  // kill_all() first where setup may have left something running. kTooLarge over 1 GiB of files.
  virtual awaitable<Result<Snapshot>> snapshot() = 0;

  // For a verifier that never shared a sandbox with the agent: the work as data, and into another.
  // Directories, files and links travel, with permission bits, times and holes; no link is
  // followed. REQUIRES: nothing runs that writes to the files.
  //
  // kTooLarge over kMaxWork bytes or kMaxWorkEntries. Files outside the places and the temporary
  // directories that changed during the last `changed_within` are counted, if it is not zero.
  virtual awaitable<Result<TakenWork>> take_work(WorkPlaces places, Duration changed_within) = 0;
  // What lies at the work's places goes, but for what is excluded; the work is put there as
  // `user`'s.
  virtual awaitable<Result<void>> put_work(TakenWork work, std::string user) = 0;
  // Writes a file as root. Within `below` ("": nowhere) whatever is in its way is removed, links
  // and what is no directory where there is to be one included; elsewhere that is
  // kFailedPrecondition.
  virtual awaitable<Result<void>> plant_file(std::string path, Bytes content, uint32_t mode,
                                             std::string below) = 0;

  // SIGKILL to every process in the sandbox but the guest; returns when they are gone.
  virtual awaitable<Result<void>> kill_all() = 0;
  // The same to those of one user; where all are one, to every process but the guest.
  virtual awaitable<Result<void>> kill_user(std::string user) = 0;

  // Destroys the sandbox. Idempotent; "already gone" is success. Pending calls end with kClosed.
  virtual awaitable<Result<void>> close() = 0;
};

// Makes sandboxes. Thread-safe: may be called on any shard; the sandbox lives on that shard.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  // What its sandboxes can do, as far as it is the same for all.
  virtual Capabilities capabilities() const = 0;
  virtual awaitable<Result<std::unique_ptr<Sandbox>>> create(net::Shard* shard,
                                                             Options options) = 0;
  // A fresh sandbox (its own processes, network, ids and limits: those of `options`) that starts
  // with the snapshot's files. `options` name the same image and bundles as the snapshot's.
  virtual awaitable<Result<std::unique_ptr<Sandbox>>> clone(net::Shard* shard, Snapshot snapshot,
                                                            Options options) = 0;
  // Whether there is the image that `options` name and it is one, as far as a look at it tells; the
  // error is of kTask, and so is create()'s for what shows later. Blocks for moments.
  virtual Result<void> check_image(const Options&) { return {}; }
  // Removes what dead engines left behind; how many sandboxes that were.
  virtual awaitable<Result<int>> reap() = 0;
};

}  // namespace sluice::sandbox
