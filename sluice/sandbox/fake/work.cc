// What a fake machine gives to others: its files, to a user, to a clone, as an agent's work.
#include <algorithm>

#include "sluice/base/core/glob.h"
#include "sluice/sandbox/fake/fake.h"

namespace sluice::sandbox::fake {
namespace {

struct FakeWork final : WorkContent {
  std::map<std::string, FakeFile> files;
};

bool belongs_to(const WorkPlaces& places, const std::string& path) {
  return std::any_of(places.paths.begin(), places.paths.end(), [&](const std::string& top) {
    return is_at_or_below(path, top) && !glob_covers(places.exclude, top, path);
  });
}

}  // namespace

Result<void> FakeMachine::give(const std::string& path, uint32_t uid) {
  SLUICE_TRY_VOID(alive());
  SLUICE_TRY_VOID(reach(path, 0, 0));
  for (auto& [name, file] : files_) {
    if (is_at_or_below(name, path)) file.uid = uid;
  }
  return {};
}

Result<HandedOver> FakeMachine::hand_over(const std::string& workdir) {
  SLUICE_TRY_VOID(alive());
  if (!reach(workdir, 0, 0)) put_directory(workdir);
  SLUICE_TRY_VOID(give(workdir, 1001));
  remove(kVerifierDir);
  put_directory(kVerifierDir, 1001, 0700);
  HandedOver done;
  done.shell = "/bin/bash";
  done.path = kStandardPath;
  return done;
}

Result<Snapshot> FakeMachine::snapshot() {
  SLUICE_TRY_VOID(alive());
  snapshot_ = files_;
  Snapshot taken;
  taken.id = id_;
  return taken;
}

Result<TakenWork> FakeMachine::take_work(WorkPlaces places) const {
  SLUICE_TRY_VOID(alive());
  if (no_work_) return *no_work_;
  auto content = std::make_shared<FakeWork>();
  for (const auto& [path, file] : files_) {
    if (belongs_to(places, path)) content->files.emplace(path, file);
  }
  TakenWork work;
  work.places = std::move(places);
  work.entries = content->files.size();
  work.content = std::move(content);
  return work;
}

Result<void> FakeMachine::put_work(const TakenWork& work, uint32_t uid) {
  SLUICE_TRY_VOID(alive());
  const auto content = std::dynamic_pointer_cast<const FakeWork>(work.content);
  if (!content) return Error(ErrorCode::kInvalidArgument, "a work of another backend");
  std::erase_if(files_, [&](const auto& entry) { return belongs_to(work.places, entry.first); });
  for (const auto& [path, file] : content->files) {
    files_[path] = file;
    files_[path].uid = uid;
  }
  return {};
}

Result<void> FakeMachine::plant(const std::string& path, Bytes content, uint32_t mode,
                                const std::string& below) {
  SLUICE_TRY_VOID(alive());
  const auto there = file(path);
  if (there && there->type != FileInfo::Type::kFile) {
    if (below.empty() || !is_at_or_below(path, below)) {
      return Error(ErrorCode::kFailedPrecondition, path + " is no file", ErrorOrigin::kSandbox);
    }
    remove(path);
  }
  put(path, std::move(content), 0, mode);
  return {};
}

}  // namespace sluice::sandbox::fake
