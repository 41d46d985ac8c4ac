#include "sluice/rollout/results_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "sluice/json/value.h"

namespace sluice::rollout {
namespace {

// Results hold outputs and small files; far more than any has.
constexpr size_t kMaxFile = size_t{8} << 30;
constexpr size_t kMaxLine = 256 << 20;
constexpr size_t kMaxDepth = 128;  // a task's metadata, and what it stands in
constexpr size_t kPiece = 1 << 20;

// Calls `take` for every whole line of `file`; how many bytes those are.
Result<uint64_t> read_lines(int file, const std::function<Result<void>(std::string_view)>& take) {
  Bytes pending;
  uint64_t whole = 0, number = 0;
  for (uint64_t at = 0;;) {
    const size_t had = pending.size();
    pending.resize(had + kPiece);
    const ssize_t n = ::pread(file, pending.data() + had, kPiece, static_cast<off_t>(at));
    if (n < 0) return errno_error("read", errno);
    pending.resize(had + static_cast<size_t>(n));
    if (n == 0) return whole;
    at += static_cast<uint64_t>(n);
    size_t begin = 0;
    for (size_t end; (end = pending.find('\n', begin)) != Bytes::npos; begin = end + 1) {
      ++number;
      auto taken = take(std::string_view(pending).substr(begin, end - begin));
      if (!taken) return std::move(taken).error().within(fmt::format("line {}", number));
    }
    pending.erase(0, begin);
    whole += begin;
    if (at > kMaxFile || pending.size() > kMaxLine) {
      return Error(ErrorCode::kTooLarge, "larger than any results are");
    }
  }
}

}  // namespace

Result<ResultLine> parse_line(std::string_view line) {
  SLUICE_TRY(const json::Value value, json::parse(line, {.bytes = kMaxLine, .depth = kMaxDepth}));
  const json::Object* root = value.if_object();
  const auto name = root != nullptr ? json::get_string(*root, "name") : std::nullopt;
  const auto task = root != nullptr ? json::get_string(*root, "task") : std::nullopt;
  if (!name || !task) return Error(ErrorCode::kProtocol, "it has no name or no task");
  ResultLine out;
  out.name = *name;
  out.task = *task;
  out.group = json::get_string(*root, "group").value_or("");
  out.why = json::get_string(*root, "why").value_or("");
  if (const json::Array* failed = json::get_array(*root, "failed_attempts")) {
    for (const json::Value& attempt : *failed) {
      const json::Object* row = attempt.if_object();
      if (row == nullptr) continue;
      const auto kind = json::get_string(*row, "error_kind");
      ++out.failed_attempts[std::string(kind.value_or("infrastructure"))];
      const auto id = json::get_string(*row, "rollout_id");
      if (id) out.rollouts.emplace_back(*id);
    }
  }
  if (const json::Object* result = json::get_object(*root, "result")) {
    out.has_result = true;
    out.error_kind = json::get_string(*result, "error_kind").value_or("");
    out.error = json::get_string(*result, "error").value_or("");
    out.reward = json::get_number(*result, "reward");
    out.reward_unusable = result->contains("reward_error");
    out.reward_clamped = result->contains("reward_clamped");
    out.wall_s = json::get_number(*result, "wall_s").value_or(0);
    if (const json::Object* llm = json::get_object(*result, "llm")) {
      out.turns = static_cast<uint64_t>(json::get_integer(*llm, "turns").value_or(0));
    }
    if (const auto id = json::get_string(*result, "rollout_id")) out.rollouts.emplace_back(*id);
  }
  return out;
}

std::string to_line(const Finished& finished, const std::string& task, const std::string& group) {
  json::Object out;
  out["name"] = finished.name;
  out["task"] = task;
  out["group"] = or_null(group);
  out["why"] = or_null(to_valid_utf8(finished.why));
  json::Array failed;
  for (const FailedAttempt& attempt : finished.failed_attempts) {
    json::Object row;
    row["rollout_id"] = attempt.rollout.value;
    row["error_kind"] = to_string(attempt.kind);
    row["error"] = to_valid_utf8(attempt.error);
    row["wall_s"] = to_seconds(attempt.wall);
    failed.push_back(std::move(row));
  }
  out["failed_attempts"] = std::move(failed);
  // The result is text already.
  std::string text = json::serialize(json::Value(std::move(out)));
  text.pop_back();
  text += R"(,"result":)" + (finished.result ? to_json(*finished.result) : "null") + "}";
  escape_line_ends(text);
  return text;
}

Result<ResultsFile> ResultsFile::open(const std::string& path, std::vector<ResultLine>* entries) {
  Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!file) return errno_error("open " + path, errno);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    return Error(ErrorCode::kFailedPrecondition,
                 path + " is in use: another sluice runs this batch");
  }
  auto whole = read_lines(file.get(), [&](std::string_view line) -> Result<void> {
    auto entry = parse_line(line);
    if (!entry) {
      return Error(ErrorCode::kProtocol, "no rollout's end: " + entry.error().message);
    }
    entries->push_back(std::move(*entry));
    return {};
  });
  if (!whole) return std::move(whole).error().within(path);
  if (::ftruncate(file.get(), static_cast<off_t>(*whole)) != 0) return errno_error(path, errno);
  // The file's name is to survive as its content does.
  const std::string directory = std::filesystem::path(path).parent_path().string();
  const Fd parent(::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) return errno_error("sync " + directory, errno);
  return ResultsFile(path, std::move(file));
}

Result<void> ResultsFile::append(std::string line) {
  line.push_back('\n');
  auto written = write_all(file_.get(), line);
  if (!written) return std::move(written).error().within(path_);
  if (::fdatasync(file_.get()) != 0) return errno_error("sync " + path_, errno);
  return {};
}

}  // namespace sluice::rollout
