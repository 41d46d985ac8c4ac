#include "sluice/sandbox/sandbox_journal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <filesystem>
#include <map>

#include "sluice/base/core/bytes.h"
#include "sluice/base/core/syscalls.h"
#include "sluice/json/value.h"

namespace sluice::sandbox {
namespace {

constexpr size_t kMaxFile = 64 * 1024 * 1024;
constexpr char kSuffix[] = ".jsonl";

// In clock ticks since boot; empty for a process that is not there, or dead and not reaped.
std::string start_of(pid_t pid) {
  const auto stat = read_file("/proc/" + std::to_string(pid) + "/stat", 4096);
  if (!stat) return "";
  // Behind the name, which may hold anything: the state is the third field, the start the 22nd.
  size_t at = stat->rfind(')');
  if (at == Bytes::npos || at + 2 >= stat->size()) return "";
  at += 2;
  if ((*stat)[at] == 'Z' || (*stat)[at] == 'X') return "";
  for (int field = 3; field < 22; ++field) {
    at = stat->find(' ', at);
    if (at == Bytes::npos) return "";
    ++at;
  }
  return stat->substr(at, stat->find(' ', at) - at);
}

std::string namespace_of_processes() {
  struct stat st{};
  return ::stat("/proc/self/ns/pid", &st) == 0 ? std::to_string(st.st_ino) : "0";
}

// The files of a directory with their owners.
struct File {
  std::string path;
  pid_t owner = 0;
  bool lives = false;
};
std::vector<File> files_in(const std::string& directory) {
  std::vector<File> files;
  const Fd opened(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto names = names_in(opened.get());
  if (!names) return files;
  const std::string here = namespace_of_processes() + "-";
  for (std::string name : *names) {
    if (!name.ends_with(kSuffix)) continue;
    const std::string path = directory + "/" + name;
    name.resize(name.find('.'));
    // Of another process namespace nothing can be said: it counts as alive.
    const size_t one = name.find('-');
    const size_t two = name.find('-', one + 1);
    if (one == std::string::npos || two == std::string::npos) continue;
    const auto pid = parse_decimal(std::string_view(name).substr(one + 1, two - one - 1));
    if (!pid) continue;
    File file;
    file.path = path;
    file.owner = static_cast<pid_t>(*pid);
    file.lives = !name.starts_with(here) || process_name(file.owner) == name;
    files.push_back(std::move(file));
  }
  return files;
}

std::vector<SandboxJournal::Entry> entries_of(const File& file) {
  std::map<std::string, SandboxJournal::Entry> open;
  const auto content = read_file(file.path, kMaxFile);
  std::string_view rest = content ? std::string_view(*content) : std::string_view();
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    if (end == std::string_view::npos) break;  // torn: its sandbox was never asked for
    const auto value = json::parse(rest.substr(0, end));
    rest.remove_prefix(end + 1);
    const auto* object = value ? value->if_object() : nullptr;
    if (object == nullptr) continue;
    const std::string id(json::get_string(*object, "id").value_or(""));
    if (json::get_string(*object, "event") == "gone") {
      open.erase(id);
      continue;
    }
    SandboxJournal::Entry entry;
    entry.id = id;
    entry.backend = json::get_string(*object, "backend").value_or("");
    entry.since = json::get_integer(*object, "since").value_or(0);
    entry.owner = file.owner;
    entry.owner_lives = file.lives;
    if (const auto* labels = json::get_object(*object, "labels")) {
      for (const auto& [name, label] : *labels) {
        if (label.is_string()) entry.labels[std::string(name)] = label.as_string().c_str();
      }
    }
    open[id] = std::move(entry);
  }
  std::vector<SandboxJournal::Entry> entries;
  for (auto& [id, entry] : open) entries.push_back(std::move(entry));
  return entries;
}

}  // namespace

std::string process_name(pid_t pid) {
  return namespace_of_processes() + "-" + std::to_string(pid) + "-" + start_of(pid);
}

Result<std::unique_ptr<SandboxJournal>> SandboxJournal::open(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(directory).parent_path(), error);
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_error(directory, errno);
  }
  // A process may have several.
  for (int number = 1;; ++number) {
    const std::string path =
        directory + "/" + process_name(::getpid()) + "." + std::to_string(number) + kSuffix;
    Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600));
    if (file) return std::unique_ptr<SandboxJournal>(new SandboxJournal(path, std::move(file)));
    if (errno != EEXIST || number > 10'000) return errno_error(path, errno);
  }
}

SandboxJournal::~SandboxJournal() {
  if (open_ == 0) ::unlink(path_.c_str());
}

Result<void> SandboxJournal::append(std::string line) {
  line += '\n';
  return write_all(file_.get(), line);
}

Result<void> SandboxJournal::creating(const std::string& backend, const std::string& id,
                                      const Labels& labels) {
  json::Object named;
  for (const auto& [name, label] : labels) named[to_valid_utf8(name)] = to_valid_utf8(label);
  json::Object object;
  object["event"] = "creating";
  object["backend"] = backend;
  object["id"] = id;
  object["since"] = static_cast<int64_t>(::time(nullptr));
  object["labels"] = std::move(named);
  const std::lock_guard lock(mutex_);
  auto written = append(json::serialize(std::move(object)));
  if (!written) return std::move(written).error().within("write down which sandbox is made");
  ++open_;
  return {};
}

void SandboxJournal::gone(const std::string& id) {
  json::Object object;
  object["event"] = "gone";
  object["id"] = id;
  const std::lock_guard lock(mutex_);
  (void)append(json::serialize(std::move(object)));  // at worst it is looked for once more
  --open_;
}

std::vector<SandboxJournal::Entry> SandboxJournal::list(const std::string& directory) {
  std::vector<Entry> all;
  for (const File& file : files_in(directory)) {
    for (Entry& entry : entries_of(file)) all.push_back(std::move(entry));
  }
  return all;
}

int SandboxJournal::forget_dead(const std::string& directory) {
  int forgotten = 0;
  for (const File& file : files_in(directory)) {
    if (file.lives) continue;
    forgotten += static_cast<int>(entries_of(file).size());
    ::unlink(file.path.c_str());
  }
  return forgotten;
}

}  // namespace sluice::sandbox
