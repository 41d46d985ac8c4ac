#include "sluice/trace/jsonl.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <span>
#include <vector>

#include "sluice/base/core/check.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/fd.h"
#include "sluice/json/raw.h"
#include "sluice/json/text.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/wire.h"

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

constexpr size_t kMaxKept = 4 << 20;      // bytes that a held rollout keeps
constexpr size_t kMaxVectors = 64;        // of one writev(2); IOV_MAX is more
constexpr size_t kMaxParts = 64;          // of one body
constexpr size_t kLocated = 64;           // bodies whose parts are remembered
constexpr uint64_t kMaxAhead = 32 << 20;  // reserved on disk beyond a file's end
constexpr uint64_t kMinAhead = 1 << 20;

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

void append_padded(Bytes& out, uint64_t value, size_t digits) {
  const size_t start = out.size();
  out.resize(start + digits);
  for (size_t i = digits; i > 0; value /= 10) {
    out[start + --i] = static_cast<char>('0' + value % 10);
  }
}

// Where a piece of a body lies in the file of bodies.
struct Part {
  uint64_t offset = 0, size = 0;
};
using Parts = std::vector<Part>;

uint64_t size_of(const Parts& parts) {
  uint64_t size = 0;
  for (const Part& part : parts) size += part.size;
  return size;
}

// Appends `part`, as one with what stands before it in body and file.
void append_part(Parts& to, Part part) {
  if (part.size == 0) return;
  if (!to.empty() && to.back().offset + to.back().size == part.offset) {
    to.back().size += part.size;
  } else {
    to.push_back(part);
  }
}

// Appends the bytes [begin, end) of the body that `of` is.
void append_range(Parts& to, const Parts& of, uint64_t begin, uint64_t end) {
  uint64_t at = 0;  // of the part's first byte in the body
  for (const Part& part : of) {
    const uint64_t from = std::clamp(begin, at, at + part.size) - at;
    const uint64_t until = std::clamp(end, at, at + part.size) - at;
    append_part(to, {part.offset + from, until - from});
    at += part.size;
  }
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

// A body that the file of bodies has.
class StoredBody final : public llm::Body::Store {
 public:
  StoredBody(std::shared_ptr<const Fd> file, Parts parts)
      : file_(std::move(file)), parts_(std::move(parts)) {}

  Result<Bytes> read() const override {
    Bytes out(size_of(parts_), '\0');
    char* to = out.data();
    for (Part part : parts_) {
      while (part.size > 0) {
        const ssize_t n = ::pread(file_->get(), to, part.size, static_cast<off_t>(part.offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno_error("read a request again from its rollout's trace", errno);
        if (n == 0) {
          return Error(ErrorCode::kIo,
                       "a request cannot be read again: its rollout's trace has been cut short");
        }
        to += n;
        part.offset += static_cast<uint64_t>(n);
        part.size -= static_cast<uint64_t>(n);
      }
    }
    return out;
  }

 private:
  const std::shared_ptr<const Fd> file_;
  const Parts parts_;
};

}  // namespace

// The file of request bodies.
class JsonlRecorder::Bodies {
 public:
  Result<void> open(const std::string& path) {
    auto file =
        std::make_shared<Fd>(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!*file) return errno_error("cannot open " + path, errno);
    SLUICE_TRY(end_, size_of(*file));
    fd_ = std::move(file);
    return {};
  }

  // For whoever reads bodies again, which may be after the trace was closed.
  const std::shared_ptr<const Fd>& file() const { return fd_; }

  // Where the next body goes.
  uint64_t end() const { return end_; }

  // One behind the other, from end() on: all of them or none.
  Result<void> append(std::span<const ByteView> pieces, uint64_t total) {
    reserve(total);
    const uint64_t start = end_;
    while (!pieces.empty()) {
      const size_t count = std::min(pieces.size(), kMaxVectors);
      if (auto done = write(pieces.first(count)); !done) {
        [[maybe_unused]] const int ignored = ::ftruncate(fd_->get(), static_cast<off_t>(start));
        end_ = start;
        return done;
      }
      pieces = pieces.subspan(count);
    }
    return {};
  }

  // Gives back what was reserved and not needed.
  void close() {
    if (fd_ && reserved_ > end_) {
      if (const auto size = size_of(*fd_)) {
        [[maybe_unused]] const int ignored = ::ftruncate(fd_->get(), static_cast<off_t>(*size));
      }
    }
    fd_.reset();
  }

 private:
  // Blocks in a row, and found before they are needed: half the work for the kernel.
  void reserve(uint64_t total) {
    const uint64_t end = end_ + total;
    if (end <= reserved_ || end < kMinAhead) return;
    const uint64_t ahead = std::min(end, kMaxAhead);
    const bool done = ::fallocate(fd_->get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(end_),
                                  static_cast<off_t>(total + ahead)) == 0;
    reserved_ = done ? end + ahead : UINT64_MAX;
  }

  Result<void> write(std::span<const ByteView> pieces) {
    std::array<iovec, kMaxVectors> vectors;
    uint64_t left = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      vectors[i] = {const_cast<char*>(pieces[i].data()), pieces[i].size()};
      left += pieces[i].size();
    }
    std::span<iovec> rest(vectors.data(), pieces.size());
    while (left > 0) {
      const ssize_t n = ::pwritev(fd_->get(), rest.data(), static_cast<int>(rest.size()),
                                  static_cast<off_t>(end_));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_error("write", errno);
      end_ += static_cast<uint64_t>(n);
      left -= static_cast<uint64_t>(n);
      for (auto took = static_cast<size_t>(n); took > 0;) {
        const size_t here = std::min(took, rest.front().iov_len);
        rest.front().iov_base = static_cast<char*>(rest.front().iov_base) + here;
        rest.front().iov_len -= here;
        took -= here;
        if (rest.front().iov_len == 0) rest = rest.subspan(1);
      }
    }
    return {};
  }

  std::shared_ptr<const Fd> fd_;
  uint64_t end_ = 0;
  uint64_t reserved_ = 0;
};

struct JsonlRecorder::Files {
  Fd lines;
  uint64_t lines_size = 0;
  Bodies bodies;
  Clock::time_point opened_at = Clock::now();
  std::optional<Error> error;  // the first
  bool closed = false;

  // What is not written yet.
  bool held = false;
  Bytes kept_lines;
  std::vector<std::shared_ptr<const Bytes>> kept_bodies;
  std::vector<ByteView> kept_pieces;  // of these
  std::vector<std::pair<llm::Body, std::shared_ptr<const StoredBody>>> kept_stores;
  uint64_t kept_pieces_size = 0;
  // Where kept lines refer to kept bodies: position and size.
  std::vector<std::pair<size_t, size_t>> kept_references;

  // The last bodies, by their calls' ordinals, the newest at the back.
  std::deque<std::pair<uint64_t, Parts>> located;

  // Keeps of a call's body what is to be written, and tells where all of it will be found.
  Parts locate(const llm::Call& call);

  // The time of day, since the epoch. One clock is enough to read for each line; the other is
  // looked at again every second, as it may be set.
  Duration wall(Clock::time_point now) {
    if (now - wall_read_at >= std::chrono::seconds(1)) {
      wall_read_at = now;
      wall_read = std::chrono::system_clock::now().time_since_epoch();
    }
    return wall_read + (now - wall_read_at);
  }
  Clock::time_point wall_read_at{};
  Duration wall_read{};

  // "2026-11-20T10:00:00" of the second in which the last line was made.
  std::time_t second = -1;
  std::string second_text;
};

// {"type":"...","at":"2026-11-20T10:00:00.123456Z","ms":12.345,...}
class JsonlRecorder::Line {
 public:
  Line(std::string_view type, Files& files) : text_(files.kept_lines) {
    const auto now = Clock::now();
    const auto since = std::chrono::duration_cast<std::chrono::microseconds>(files.wall(now));
    const std::time_t second = since.count() / 1'000'000;
    if (second != files.second) {
      files.second = second;
      files.second_text = fmt::format("{:%FT%T}", fmt::gmtime(second));
    }
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now - files.opened_at);
    text_.append("{\"type\":\"").append(type).append("\",\"at\":\"").append(files.second_text);
    append_padded(text_.append("."), static_cast<uint64_t>(since.count() % 1'000'000), 6);
    append_decimal(text_.append("Z\",\"ms\":"), static_cast<uint64_t>(us.count() / 1000));
    append_padded(text_.append("."), static_cast<uint64_t>(us.count() % 1000), 3);
  }
  ~Line() { text_.append("}\n"); }
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  Line& text(std::string_view name, std::string_view value) {
    json::append_string(key(name), value);
    return *this;
  }
  Line& optional_text(std::string_view name, std::string_view value) {
    return value.empty() ? *this : text(name, value);
  }
  Line& number(std::string_view name, uint64_t value) {
    append_decimal(key(name), value);
    return *this;
  }
  // What needs no escapes: names of ours, and ids.
  Line& word(std::string_view name, std::string_view value) {
    key(name).append("\"").append(value).append("\"");
    return *this;
  }
  // JSON that is on one line already.
  Line& json(std::string_view name, std::string_view value) {
    key(name).append(value);
    return *this;
  }
  // For the value, which has to be on one line.
  Bytes& key(std::string_view name) { return text_.append(",\"").append(name).append("\":"); }

 private:
  Bytes& text_;
};

JsonlRecorder::JsonlRecorder(std::string directory, Logger log)
    : directory_(std::move(directory)), log_(std::move(log)) {}
JsonlRecorder::~JsonlRecorder() {
  for (const auto& [rollout, files] : rollouts_) write(*files);
}

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
  SLUICE_TRY_VOID(files.bodies.open(path(rollout, ".bodies")));
  SLUICE_TRY(files.lines_size, size_of(files.lines));
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

void JsonlRecorder::written(Files& files) {
  if (!files.held || files.kept_lines.size() + files.kept_pieces_size > kMaxKept) write(files);
}

void JsonlRecorder::write(Files& files) {
  Bytes& lines = files.kept_lines;
  if (files.lines && !files.kept_pieces.empty()) {
    // The bodies first: a line never refers to bytes that are not there.
    if (auto done = files.bodies.append(files.kept_pieces, files.kept_pieces_size); !done) {
      fail(files, std::move(done).error().within("while appending requests to a trace"));
      files.located.clear();
      files.kept_stores.clear();
      for (const auto& [at, size] : files.kept_references) {
        std::fill_n(lines.begin() + static_cast<ptrdiff_t>(at), size, ' ');
        lines.replace(at, 4, "null");
      }
    }
  }
  for (auto& [body, store] : files.kept_stores) body.kept_in(std::move(store));
  files.kept_stores.clear();
  files.kept_bodies.clear();
  files.kept_pieces.clear();
  files.kept_pieces_size = 0;
  files.kept_references.clear();
  if (files.lines && !lines.empty()) {
    if (auto done = append_whole(files.lines, files.lines_size, lines); !done) {
      fail(files, std::move(done).error().within("while appending to a trace"));
    }
  }
  // An answer may have been large.
  if (lines.capacity() > kMaxKept) lines = Bytes();
  lines.clear();
}

void JsonlRecorder::hold(const RolloutId& rollout) {
  files(rollout)->held = true;
}

void JsonlRecorder::release(const RolloutId& rollout) {
  const auto to = files(rollout);
  to->held = false;
  write(*to);
}

void JsonlRecorder::opened(const RolloutId& rollout, const RolloutInfo& info) {
  const auto to = files(rollout);
  Line("opened", *to)
      .number("version", 2)
      .text("rollout", rollout.value)
      .text("task", info.task)
      .text("agent", info.agent)
      .optional_text("group", info.group)
      .text("mode", info.mode)
      .text("policy", info.policy);
  written(*to);
}

Parts JsonlRecorder::Files::locate(const llm::Call& call) {
  const std::shared_ptr<const Bytes> body = call.body.in_memory();
  CHECK(body != nullptr);  // nobody else can have put it away
  const uint64_t size = body->size();
  const uint64_t end = bodies.end() + kept_pieces_size;
  ByteView piece = *body;
  Parts parts;
  parts.reserve(4);
  if (call.like) {
    const auto same = [&](const auto& entry) {
      return entry.first == call.like->ordinal;
    };
    const auto base = std::find_if(located.rbegin(), located.rend(), same);
    const uint64_t base_size = base == located.rend() ? 0 : size_of(base->second);
    const uint64_t prefix = call.like->prefix;
    const uint64_t suffix = call.like->suffix;
    if (prefix + suffix <= std::min(size, base_size)) {
      append_range(parts, base->second, 0, prefix);
      append_part(parts, {end, size - prefix - suffix});
      append_range(parts, base->second, base_size - suffix, base_size);
      piece = piece.substr(prefix, size - prefix - suffix);
    }
  }
  if (parts.empty() || parts.size() > kMaxParts) {
    piece = *body;
    parts.clear();
    append_part(parts, {end, size});
  }
  if (!piece.empty()) {
    kept_bodies.push_back(body);
    kept_pieces.push_back(piece);
    kept_pieces_size += piece.size();
  }
  if (size >= llm::Body::kWorthPuttingAway) {
    kept_stores.emplace_back(call.body, std::make_shared<StoredBody>(bodies.file(), parts));
  }
  located.emplace_back(call.ordinal, parts);
  if (located.size() > kLocated) located.pop_front();
  return parts;
}

void JsonlRecorder::arrived(const llm::Call& call) {
  const auto to = files(call.rollout);
  if (!to->lines) return;
  {
    Line line("arrived", *to);
    line.word("call", call.id.value)
        .number("ordinal", call.ordinal)
        .optional_text("session", call.session.value)
        .optional_text("parent_session", call.session.parent)
        .word("dialect", to_string(call.dialect))
        .word("purpose", to_string(call.purpose));
    llm::Head::visit(call, [&](std::string_view name, const auto& value) {
      llm::wire::append_value(line.key(name), value);
    });
    const Parts parts = to->locate(call);
    Bytes& out = line.key("body");
    const size_t at = out.size();
    append_decimal(out.append("{\"size\":"), call.body.size());
    out.append(",\"digest\":\"").append(call.digest.hex()).append("\",\"parts\":[");
    for (const Part& part : parts) {
      append_decimal(out.append(&part == parts.data() ? "[" : ",["), part.offset);
      append_decimal(out.append(","), part.size);
      out.append("]");
    }
    out.append("]}");
    to->kept_references.emplace_back(at, out.size() - at);
  }
  written(*to);
}

void JsonlRecorder::answered(const llm::Call& call, const llm::Answer& answer) {
  const auto to = files(call.rollout);
  {
    Line line("answered", *to);
    line.word("call", call.id.value);
    llm::append_json(line.key("answer"), answer);
  }
  written(*to);
}

void JsonlRecorder::ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail) {
  const auto to = files(call.rollout);
  Line("ended", *to)
      .word("call", call.id.value)
      .word("outcome", to_string(outcome))
      .optional_text("detail", detail);
  written(*to);
}

void JsonlRecorder::confirmed(const llm::Call& call) {
  const auto to = files(call.rollout);
  Line("confirmed", *to).word("call", call.id.value);
  written(*to);
}

void JsonlRecorder::event(const RolloutId& rollout, const Event& event) {
  const auto to = files(rollout);
  Line("event", *to).text("kind", event.kind).json("detail", one_line(event.detail));
  written(*to);
}

void JsonlRecorder::closed(const RolloutId& rollout, const ResultSummary& summary) {
  const auto to = files(rollout);
  Bytes reward("null");
  if (summary.reward) {
    reward.clear();
    json::append_number(reward, *summary.reward);
  }
  Line("closed", *to)
      .json("reward", reward)
      .optional_text("error_kind", summary.error_kind)
      .optional_text("error", summary.error);
  write(*to);
  to->lines.reset();
  to->bodies.close();
  to->located.clear();
  to->closed = true;
}

Result<void> JsonlRecorder::flush(const RolloutId& rollout) {
  const std::lock_guard lock(mutex_);
  const auto it = rollouts_.find(rollout);
  if (it == rollouts_.end()) return {};
  write(*it->second);
  const std::optional<Error> error = it->second->error;
  if (it->second->closed) rollouts_.erase(it);
  if (error) return *error;
  return {};
}

}  // namespace sluice::trace
