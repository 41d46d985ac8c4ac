// SandboxJournal: which sandboxes an engine makes, written down before they are made, so that what
// a dead engine left can be named and removed, and what lives can be listed by anybody of the same
// user.
//
// One file per journal, one JSON object per line, appended: an entry is whole or the last one of a
// file. The file's name begins with its process's, which tells whether its owner lives, also behind
// a reused process id.
// Thread-safe.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "sluice/base/core/fd.h"
#include "sluice/base/core/result.h"
#include "sluice/sandbox/sandbox.h"

namespace sluice::sandbox {

class SandboxJournal {
 public:
  // In `directory`, made if it is not there (0700).
  static Result<std::unique_ptr<SandboxJournal>> open(const std::string& directory);
  // Removes the file if nothing of it is left.
  ~SandboxJournal();
  SandboxJournal(const SandboxJournal&) = delete;
  SandboxJournal& operator=(const SandboxJournal&) = delete;

  // kIo if it cannot be written: then nothing may be made.
  Result<void> creating(const std::string& backend, const std::string& id, const Labels& labels);
  void gone(const std::string& id);

  struct Entry {
    std::string backend, id;
    Labels labels;
    int64_t since = 0;  // seconds since 1970
    pid_t owner = 0;
    bool owner_lives = false;
  };
  // Of all engines' files in `directory`: what was to be made and is not known to be gone.
  static std::vector<Entry> list(const std::string& directory);
  // Forgets what dead owners wrote, once their sandboxes were reaped; how many entries those were.
  static int forget_dead(const std::string& directory);

 private:
  SandboxJournal(std::string path, Fd file) : path_(std::move(path)), file_(std::move(file)) {}
  Result<void> append(std::string line);

  const std::string path_;
  const Fd file_;
  std::mutex mutex_;
  int open_ = 0;
};

// A process's name that no other has: its process namespace, its id, its start.
std::string process_name(pid_t pid);

}  // namespace sluice::sandbox
