#include "sluice/trace/jsonl.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "sluice/base/core/deadline.h"
#include "sluice/base/core/fd.h"
#include "sluice/json/raw.h"
#include "sluice/json/text.h"
#include "sluice/llm/answer.h"

namespace sluice::trace {
namespace {

// Directories of mode 0700 down to `path`; those that exist stay as they are.
Result<void> make_directories(const std::string& path) {
  if (path.empty() || ::access(path.c_str(), F_OK) == 0) return {};
  const std::string parent = std::filesystem::path(path).parent_path();
  if (parent != path) SLUICE_TRY_VOID(make_directories(parent));
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return errno_error("cannot make the trace directory " + path, errno);
  }
  return {};
}

Result<Fd> open_append(const std::string& path) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return errno_error("cannot open " + path, errno);
  return fd;
}

Result<uint64_t> size_of(const Fd& fd) {
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) return errno_error("cannot read a trace file's size", errno);
  return static_cast<uint64_t>(status.st_size);
}

// Appends all of `bytes` or nothing: what a full disk cut short is taken back.
Result<void> append_whole(const Fd& fd, uint64_t& size, ByteView bytes) {
  auto written = write_all(fd.get(), bytes);
  if (written) {
    size += bytes.size();
    return {};
  }
  // If even that fails, a reader finds one broken line.
  [[maybe_unused]] const int ignored = ::ftruncate(fd.get(), static_cast<off_t>(size));
  return written;
}

// `detail` as it may stand in a line: on one line if it is JSON, else as a string.
std::string one_line(std::string_view detail) {
  if (detail.empty()) return "null";
  if (!json::read_value(detail)) {
    Bytes text;
    json::append_string(text, detail);
    return text;
  }
  // A line break in valid JSON stands between tokens, never in a string.
  std::string out(detail);
  std::replace_if(out.begin(), out.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return out;
}

}  // namespace

struct JsonlRecorder::Files {
  Fd lines, bodies;
  uint64_t lines_size = 0, bodies_size = 0;
  Clock::time_point opened_at = Clock::now();
  std::optional<Error> error;  // the first
  bool closed = false;
};

// {"type":"...","at":"2026-11-20T10:00:00.123456Z","ms":12.345,...}
class JsonlRecorder::Line {
 public:
  Line(std::string_view type, Clock::time_point opened_at) {
    const auto now = std::chrono::system_clock::now();
    const auto since =
        std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch());
    const std::chrono::duration<double, std::milli> ms = Clock::now() - opened_at;
    fmt::format_to(std::back_inserter(text_), R"({{"type":"{}","at":"{:%FT%T}.{:06}Z","ms":{:.3f})",
                   type, fmt::gmtime(static_cast<std::time_t>(since.count() / 1'000'000)),
                   since.count() % 1'000'000, ms.count());
  }

  Line& text(std::string_view name, std::string_view value) {
    json::append_string(key(name), value);
    return *this;
  }
  Line& optional_text(std::string_view name, std::string_view value) {
    return value.empty() ? *this : text(name, value);
  }
  Line& number(std::string_view name, uint64_t value) {
    key(name).append(std::to_string(value));
    return *this;
  }
  // JSON that is on one line already.
  Line& json(std::string_view name, std::string_view value) {
    key(name).append(value);
    return *this;
  }

  Bytes finish() && {
    text_.append("}\n");
    return std::move(text_);
  }

 private:
  Bytes& key(std::string_view name) {
    text_.append(",\"").append(name).append("\":");
    return text_;
  }
  Bytes text_;
};

JsonlRecorder::JsonlRecorder(std::string directory, Logger log)
    : directory_(std::move(directory)), log_(std::move(log)) {}
JsonlRecorder::~JsonlRecorder() = default;

std::string JsonlRecorder::path(const RolloutId& rollout, std::string_view suffix) const {
  return fmt::format("{}/{}{}", directory_, rollout.value, suffix);
}

std::string JsonlRecorder::location(const RolloutId& rollout) const {
  return path(rollout, ".jsonl");
}

Result<void> JsonlRecorder::open_files(const RolloutId& rollout, Files& files) const {
  if (!is_valid_id(rollout.value)) {
    return Error(ErrorCode::kInvalidArgument, "a trace cannot be named after this rollout's id");
  }
  SLUICE_TRY_VOID(make_directories(directory_));
  SLUICE_TRY(files.lines, open_append(path(rollout, ".jsonl")));
  SLUICE_TRY(files.bodies, open_append(path(rollout, ".bodies")));
  SLUICE_TRY(files.lines_size, size_of(files.lines));
  SLUICE_TRY(files.bodies_size, size_of(files.bodies));
  // A line that an earlier process left torn must not swallow the next one. An empty line is none.
  if (files.lines_size > 0) return append_whole(files.lines, files.lines_size, "\n");
  return {};
}

std::shared_ptr<JsonlRecorder::Files> JsonlRecorder::files(const RolloutId& rollout) {
  std::shared_ptr<Files> files;
  {
    const std::lock_guard lock(mutex_);
    auto& slot = rollouts_[rollout];
    if (!slot) slot = std::make_shared<Files>();
    files = slot;
  }
  if (!files->lines && !files->error) {
    if (auto opened = open_files(rollout, *files); !opened) {
      files->lines.reset();
      fail(*files, std::move(opened).error());
    }
  }
  return files;
}

void JsonlRecorder::fail(Files& files, Error error) {
  if (files.error) return;
  log_.error("trace", "a trace is incomplete: " + error.message);
  files.error = std::move(error);
}

void JsonlRecorder::append(Files& files, Line line) {
  if (!files.lines) return;
  const Bytes text = std::move(line).finish();
  if (auto done = append_whole(files.lines, files.lines_size, text); !done) {
    fail(files, std::move(done).error().within("while appending to a trace"));
  }
}

void JsonlRecorder::opened(const RolloutId& rollout, const RolloutInfo& info) {
  const auto to = files(rollout);
  Line line("opened", to->opened_at);
  line.number("version", 1)
      .text("rollout", rollout.value)
      .text("task", info.task)
      .text("agent", info.agent)
      .optional_text("group", info.group)
      .text("mode", info.mode)
      .text("policy", info.policy);
  append(*to, std::move(line));
}

void JsonlRecorder::arrived(const llm::Call& call) {
  const auto to = files(call.rollout);
  if (!to->lines) return;
  Line line("arrived", to->opened_at);
  line.text("call", call.id.value)
      .number("ordinal", call.ordinal)
      .optional_text("session", call.session.value)
      .optional_text("parent_session", call.session.parent)
      .text("dialect", to_string(call.dialect))
      .text("purpose", to_string(call.purpose))
      .text("model", call.model)
      .number("n", call.n)
      .json("stream", call.stream ? "true" : "false");
  // The body first: a line never refers to bytes that are not there.
  const uint64_t offset = to->bodies_size;
  if (auto done = append_whole(to->bodies, to->bodies_size, *call.body)) {
    line.json("body", fmt::format(R"({{"offset":{},"size":{},"digest":"{}"}})", offset,
                                  call.body->size(), call.digest.hex()));
  } else {
    fail(*to, std::move(done).error().within("while appending a request to a trace"));
    line.json("body", "null");
  }
  append(*to, std::move(line));
}

void JsonlRecorder::answered(const llm::Call& call, const llm::Answer& answer) {
  const auto to = files(call.rollout);
  Line line("answered", to->opened_at);
  Bytes text;
  llm::append_json(text, answer);
  line.text("call", call.id.value).json("answer", text);
  append(*to, std::move(line));
}

void JsonlRecorder::ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail) {
  const auto to = files(call.rollout);
  Line line("ended", to->opened_at);
  line.text("call", call.id.value)
      .text("outcome", to_string(outcome))
      .optional_text("detail", detail);
  append(*to, std::move(line));
}

void JsonlRecorder::confirmed(const llm::Call& call) {
  const auto to = files(call.rollout);
  Line line("confirmed", to->opened_at);
  line.text("call", call.id.value);
  append(*to, std::move(line));
}

void JsonlRecorder::event(const RolloutId& rollout, const Event& event) {
  const auto to = files(rollout);
  Line line("event", to->opened_at);
  line.text("kind", event.kind).json("detail", one_line(event.detail));
  append(*to, std::move(line));
}

void JsonlRecorder::closed(const RolloutId& rollout, const ResultSummary& summary) {
  const auto to = files(rollout);
  Line line("closed", to->opened_at);
  Bytes reward("null");
  if (summary.reward) {
    reward.clear();
    json::append_number(reward, *summary.reward);
  }
  line.json("reward", reward)
      .optional_text("error_kind", summary.error_kind)
      .optional_text("error", summary.error);
  append(*to, std::move(line));
  to->lines.reset();
  to->bodies.reset();
  to->closed = true;
}

Result<void> JsonlRecorder::flush(const RolloutId& rollout) {
  const std::lock_guard lock(mutex_);
  const auto it = rollouts_.find(rollout);
  if (it == rollouts_.end()) return {};
  const std::optional<Error> error = it->second->error;
  if (it->second->closed) rollouts_.erase(it);
  if (error) return *error;
  return {};
}

}  // namespace sluice::trace
