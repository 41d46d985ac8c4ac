#include "sluice/trace/jsonl.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <span>
#include <utility>

#include "sluice/base/core/check.h"
#include "sluice/base/core/deadline.h"
#include "sluice/base/core/fd.h"
#include "sluice/json/raw.h"
#include "sluice/json/text.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/continuation.h"
#include "sluice/llm/wire.h"
#include "sluice/trace/body_file.h"
#include "sluice/trace/prompts.h"

namespace sluice::trace {
namespace {

// How long the writer waits for more when nobody waits for it.
constexpr auto kGather = std::chrono::milliseconds(10);
// Bytes, of bodies too, that are written without waiting for more: memory is dearer than a write.
constexpr size_t kMuch = 2 << 20;
// What a buffer may keep when it is empty. An answer may have been large.
constexpr size_t kKeptCapacity = 256 << 10;

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

void append_padded(Bytes& out, uint64_t value, size_t digits) {
  const size_t start = out.size();
  out.resize(start + digits);
  for (size_t i = digits; i > 0; value /= 10) {
    out[start + --i] = static_cast<char>('0' + value % 10);
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

// What a line says of a body, in front of its parts and behind them.
void append_reference(Bytes& out, const llm::Call& call) {
  append_decimal(out.append("{\"size\":"), call.body.size());
  out.append(",\"digest\":\"").append(call.digest.hex()).append("\",\"parts\":[");
}
constexpr std::string_view kReferenceEnd = "]}";

void append_parts(Bytes& out, const Parts& parts) {
  for (const Part& part : parts) {
    append_decimal(out.append(&part == parts.data() ? "[" : ",["), part.offset);
    append_decimal(out.append(","), part.size);
    out.append("]");
  }
}

// The last members of an answer.
void append_prompt(Bytes& out, const TurnIds& turn, Prompts& prompts) {
  const auto beginning = prompts.beginning_of(turn);
  if (beginning) {
    out.append(",\"prompt_after\":\"").append(beginning->call.value).append("\"");
  }
  const std::span<const int32_t> ids = turn.prompt;
  llm::wire::append_list(out.append(",\"prompt_ids\":"),
                         ids.subspan(beginning ? beginning->ids : 0));
  prompts.kept(turn, beginning);
}

}  // namespace

// What was told of a rollout and is not written yet.
struct JsonlRecorder::Said {
  Bytes lines;
  std::vector<ArrivedBody> bodies;
  // Of each of the bodies: where in the lines its reference begins, and how long that is up to the
  // parts, which the writer puts in.
  std::vector<std::pair<size_t, size_t>> references;
  // The ids of prompts, each with where in the lines the writer puts in what is to be kept of them.
  std::vector<std::pair<size_t, TurnIds>> prompts;
  std::vector<std::pair<net::Shard*, Flushed>> flushes;
  size_t bytes = 0;  // of lines, bodies and ids
  bool closed = false;
  bool events_left_out = false;

  void clear() {
    if (lines.capacity() > kKeptCapacity) lines = Bytes();
    lines.clear();
    bodies.clear();
    references.clear();
    prompts.clear();
    flushes.clear();
    bytes = 0;
    closed = events_left_out = false;
  }
};

// Who waits for a rollout to be recorded.
struct JsonlRecorder::Told {
  net::Shard* shard;
  Flushed told;
  std::optional<Error> error;
};

// What the writer works with, and keeps for the next batch.
struct JsonlRecorder::Batch {
  std::vector<std::shared_ptr<Track>> tracks;
  Said said;
  std::vector<std::shared_ptr<const Parts>> where;
  std::vector<Told> told;
  DiskUse* disk = nullptr;  // the track's

  Bytes lines;                                   // as they are written
  size_t composed = 0, bodies = 0, prompts = 0;  // of what was said, so far
};

// One rollout.
struct JsonlRecorder::Track {
  Track(RolloutId i, std::shared_ptr<FileCalls> files)
      : id(std::move(i)), bodies(std::move(files)) {}

  const RolloutId id;
  std::atomic<size_t> waiting = 0;  // bytes that were told and are not written

  std::mutex mutex;  // of what those who tell and the writer share
  Said said;
  std::shared_ptr<DiskUse> disk;  // never another, once there is one
  bool queued = false;            // stands in the queue
  bool forgotten = false;         // is, or will be at once, no longer the recorder's

  // The time of day, since the epoch. One clock is enough to read for each line; the other is
  // looked at again every second, as it may be set.
  Duration wall(Clock::time_point now) {
    if (now - wall_read_at >= std::chrono::seconds(1)) {
      wall_read_at = now;
      wall_read = std::chrono::system_clock::now().time_since_epoch();
    }
    return wall_read + (now - wall_read_at);
  }
  const Clock::time_point opened_at = Clock::now();
  Clock::time_point wall_read_at{};
  Duration wall_read{};
  // "2026-11-20T10:00:00" of the second in which the last line was made.
  std::time_t second = -1;
  std::string second_text;

  // The writer's alone.
  Fd lines;
  uint64_t lines_size = 0;
  BodyFile bodies;
  Prompts prompts;             // that are written
  std::optional<Error> error;  // the first
  std::optional<Error> lost;   // why something is not there that was told since the last flush
  bool closed = false;
  bool flushed = false;  // since it was closed
};

// A rollout's track, locked while one line is told of it.
struct JsonlRecorder::Locked {
  Locked(JsonlRecorder& recorder, const RolloutId& rollout)
      : lock(recorder.lock(rollout, track)), bytes(track->said.lines.size()) {}
  std::shared_ptr<Track> track;
  const std::unique_lock<std::mutex> lock;
  const size_t bytes;  // of lines before this one
};

// One line that is being told:
// {"type":"...","at":"2026-11-20T10:00:00.123456Z","ms":12.345,...}
class JsonlRecorder::Line : private Locked, public llm::wire::Members {
 public:
  Line(JsonlRecorder& recorder, const RolloutId& rollout, std::string_view type)
      : Locked(recorder, rollout), Members(track->said.lines), recorder_(recorder) {
    const auto now = Clock::now();
    const auto since = std::chrono::duration_cast<std::chrono::microseconds>(track->wall(now));
    const std::time_t second = since.count() / 1'000'000;
    if (second != track->second) {
      track->second = second;
      track->second_text = fmt::format("{:%FT%T}", fmt::gmtime(second));
    }
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(now - track->opened_at);
    word("type", type);
    Bytes& at = (*this)["at"].append("\"").append(track->second_text).append(".");
    append_padded(at, static_cast<uint64_t>(since.count() % 1'000'000), 6);
    at.append("Z\"");
    Bytes& ms = (*this)["ms"];
    append_decimal(ms, static_cast<uint64_t>(us.count() / 1000));
    append_padded(ms.append("."), static_cast<uint64_t>(us.count() % 1000), 3);
  }
  ~Line() {
    close();
    said().lines.push_back('\n');
    const size_t more = said().lines.size() - bytes + held_bytes_;
    said().bytes += more;
    track->waiting += more;
    if (track->disk) track->disk->bytes += more;
    const bool much = recorder_.queued_bytes_.fetch_add(more) + more > kMuch;
    recorder_.enqueue(track, much ? Hurry::kAtOnce : Hurry::kNone);
  }

  // What needs no escapes: names of ours, and ids.
  void word(std::string_view name, std::string_view value) {
    (*this)[name].append("\"").append(value).append("\"");
  }
  void count_in(std::shared_ptr<DiskUse> disk) { track->disk = std::move(disk); }
  // The call's body, of which the writer finds out where it lies.
  void body(const llm::Call& call) {
    auto held = call.body.in_memory();
    CHECK(held != nullptr);  // nobody else can have put it away
    held_bytes_ = held->size();
    Bytes& out = (*this)["body"];
    const size_t at = out.size();
    append_reference(out, call);
    said().references.emplace_back(at, out.size() - at);
    out.append(kReferenceEnd);
    said().bodies.push_back({call.ordinal, call.body, std::move(held), call.like});
  }
  // Of the ids of its prompt the writer finds out what is new.
  void answer(const llm::Call& call, const llm::Answer& answer) {
    Bytes& out = (*this)["answer"];
    llm::append_json(out, answer, llm::PromptIds::kLeftOut);
    if (answer.prompt_ids.empty()) return;
    TurnIds turn{call.id, answer.prompt_ids, std::nullopt};
    if (answer.choices.size() == 1) turn.completion = answer.choices.front().ids;
    held_bytes_ = turn.prompt.size() * sizeof(int32_t);
    said().prompts.emplace_back(out.size() - 1, std::move(turn));
  }
  Said& said() { return track->said; }

 private:
  JsonlRecorder& recorder_;
  size_t held_bytes_ = 0;
};

JsonlRecorder::JsonlRecorder(std::string directory, Logger log)
    : JsonlRecorder(std::move(directory), std::move(log), Options()) {}

JsonlRecorder::JsonlRecorder(std::string directory, Logger log, Options options)
    : directory_(std::move(directory)),
      log_(std::move(log)),
      options_(std::move(options)),
      thread_([this] { run(); }) {}

JsonlRecorder::~JsonlRecorder() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::string JsonlRecorder::path(const RolloutId& rollout, std::string_view suffix) const {
  return fmt::format("{}/{}{}", directory_, rollout.value, suffix);
}

std::string JsonlRecorder::location(const RolloutId& rollout) const {
  return path(rollout, ".jsonl");
}

bool JsonlRecorder::has(const RolloutId& rollout) const {
  return ::access(location(rollout).c_str(), F_OK) == 0;
}

size_t JsonlRecorder::rollouts() const {
  const std::lock_guard lock(mutex_);
  return tracks_.size();
}

// --- Those who tell ------------------------------------------------------------------------------

std::unique_lock<std::mutex> JsonlRecorder::lock(const RolloutId& rollout,
                                                 std::shared_ptr<Track>& track) {
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      auto& slot = tracks_[rollout];
      if (!slot) slot = std::make_shared<Track>(rollout, options_.files);
      track = slot;
    }
    std::unique_lock lock(track->mutex);
    if (!track->forgotten) return lock;
  }
}

// REQUIRES: the track's mutex is held.
void JsonlRecorder::enqueue(const std::shared_ptr<Track>& track, Hurry hurry) {
  const bool first = !std::exchange(track->queued, true);
  if (!first && (hurry == Hurry::kNone || hurry_)) return;
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    if (first) queue_.push_back(track);
    if (hurry == Hurry::kAtOnce) hurry_ = true;
    wake = writer_ == Writer::kSleeps || (writer_ == Writer::kGathers && hurry_);
    if (wake) writer_ = Writer::kWorks;
  }
  if (wake) changed_.notify_one();
}

bool JsonlRecorder::has_room(const RolloutId& rollout, size_t bytes) const {
  const size_t queued = queued_bytes_;
  if (queued + bytes <= options_.queue_bytes / 2) return true;  // whoever's it is
  const size_t free = options_.queue_bytes - std::min(queued, options_.queue_bytes);
  const std::lock_guard lock(mutex_);
  const auto it = tracks_.find(rollout);
  return bytes + (it == tracks_.end() ? 0 : it->second->waiting.load()) <= free;
}

void JsonlRecorder::opened(const RolloutId& rollout, const RolloutInfo& info) {
  Line line(*this, rollout, "opened");
  line.count_in(info.disk);
  line.number("version", kTraceVersion);
  line.text("rollout", rollout.value);
  line.text("task", info.task);
  line.text_if_any("name", info.name);
  line.text("agent", info.agent);
  line.text_if_any("group", info.group);
  line.text("mode", info.mode);
  line.text("policy", info.policy);
}

void JsonlRecorder::arrived(const llm::Call& call) {
  Line line(*this, call.rollout, "arrived");
  line.word("call", call.id.value);
  line.number("ordinal", static_cast<int64_t>(call.ordinal));
  line.text_if_any("session", call.session.value);
  line.text_if_any("parent_session", call.session.parent);
  if (call.parent) line.word("parent", call.parent->id().value);
  line.word("dialect", to_string(call.dialect));
  line.word("purpose", to_string(call.purpose));
  llm::Head::visit(call, [&](std::string_view name, const auto& value) {
    llm::wire::append_value(line[name], value);
  });
  line.body(call);
}

void JsonlRecorder::answered(const llm::Call& call, const llm::Answer& answer) {
  Line line(*this, call.rollout, "answered");
  line.word("call", call.id.value);
  line.answer(call, answer);
}

void JsonlRecorder::ended(const llm::Call& call, llm::Outcome outcome, std::string_view detail) {
  Line line(*this, call.rollout, "ended");
  line.word("call", call.id.value);
  line.word("outcome", to_string(outcome));
  line.text_if_any("detail", detail);
}

void JsonlRecorder::confirmed(const llm::Call& call) {
  Line(*this, call.rollout, "confirmed").word("call", call.id.value);
}

void JsonlRecorder::event(const RolloutId& rollout, const Event& event) {
  if (!has_room(rollout, event.detail.size())) {
    std::shared_ptr<Track> track;
    const auto locked = lock(rollout, track);
    track->said.events_left_out = true;
    return;
  }
  Line line(*this, rollout, "event");
  line.text("kind", event.kind);
  line.raw("detail", one_line(event.detail));
}

void JsonlRecorder::closed(const RolloutId& rollout, const ResultSummary& summary) {
  Line line(*this, rollout, "closed");
  if (summary.reward) {
    json::append_number(line["reward"], *summary.reward);
  } else {
    line.raw("reward", "null");
  }
  line.text_if_any("error_kind", summary.error_kind);
  line.text_if_any("error", summary.error);
  line.said().closed = true;
}

void JsonlRecorder::flush(const RolloutId& rollout, net::Shard& shard, Flushed told) {
  std::shared_ptr<Track> track;
  {
    const std::lock_guard lock(mutex_);
    const auto it = tracks_.find(rollout);
    if (it != tracks_.end()) track = it->second;
  }
  if (track) {
    const std::lock_guard lock(track->mutex);
    if (!track->forgotten) {
      track->said.flushes.emplace_back(&shard, std::move(told));
      return enqueue(track, Hurry::kAtOnce);
    }
  }
  shard.post([told = std::move(told)] { told({}); });
}

// --- The writer ----------------------------------------------------------------------------------

void JsonlRecorder::run() {
  Batch batch;
  std::unique_lock lock(mutex_);
  for (;;) {
    // It sleeps only after a while of nothing: a busy gate need not wake it for each batch.
    writer_ = Writer::kGathers;
    changed_.wait_for(lock, kGather, [this] { return stopping_ || hurry_; });
    if (queue_.empty()) {
      if (stopping_) return;
      writer_ = Writer::kSleeps;
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      continue;
    }
    writer_ = Writer::kWorks;
    hurry_ = false;
    batch.tracks.swap(queue_);
    lock.unlock();
    for (const auto& track : batch.tracks) write(*track, batch);
    batch.tracks.clear();
    tell(std::exchange(batch.told, {}));
    lock.lock();
  }
}

void JsonlRecorder::write(Track& track, Batch& batch) {
  Said& said = batch.said;
  {
    const std::lock_guard lock(track.mutex);
    std::swap(said, track.said);
    batch.disk = track.disk.get();
    track.queued = false;
  }
  if (!said.lines.empty() && !track.lines && !track.error) {
    if (auto opened = open_files(track); !opened) {
      track.lines.reset();
      fail(track, std::move(opened).error());
    }
  }
  const uint64_t before = track.lines_size + track.bodies.size();
  if (!said.lines.empty() && track.lines) append(track, batch);
  if (batch.disk != nullptr) {
    batch.disk->bytes += track.lines_size + track.bodies.size() - before - said.bytes;
  }
  if (!said.lines.empty() && !track.lines) track.lost = track.error;
  if (said.events_left_out && !track.error) {
    fail(track, Error(ErrorCode::kExhausted, "the disk was so slow that events were left out"));
    track.lost.reset();
  }
  if (said.closed) {
    track.lines.reset();
    track.bodies.close();
    track.closed = true;
  }
  for (auto& [shard, told] : said.flushes) {
    batch.told.push_back({shard, std::move(told), track.closed ? track.error : track.lost});
    track.flushed = track.closed;
  }
  if (!said.flushes.empty()) track.lost.reset();
  queued_bytes_ -= said.bytes;
  track.waiting -= said.bytes;
  said.clear();
  if (track.flushed) forget(track);
}

// The bodies first: a line never refers to bytes that are not there.
void JsonlRecorder::append(Track& track, Batch& batch) {
  Said& said = batch.said;
  if (!said.bodies.empty()) {
    if (auto done = track.bodies.append(said.bodies, batch.where); !done) {
      fail(track, std::move(done).error().within("while appending requests to a trace"));
    }
  }
  batch.composed = batch.bodies = batch.prompts = 0;
  Prompts written = track.prompts;
  auto done = append_lines(track, compose(track, batch, said.lines.size()));
  if (done) return;
  fail(track, std::move(done).error().within("while appending to a trace"));
  // What of it fits. Nothing may be built on what does not.
  batch.composed = batch.bodies = batch.prompts = 0;
  while (batch.composed < said.lines.size()) {
    track.prompts = written;
    const size_t end = said.lines.find('\n', batch.composed) + 1;
    if (append_lines(track, compose(track, batch, end))) written = track.prompts;
  }
  track.prompts = std::move(written);
}

// What was said, from where that ended last up to `end`, with what only the writer knows put in.
ByteView JsonlRecorder::compose(Track& track, Batch& batch, size_t end) {
  const Said& said = batch.said;
  Bytes& out = batch.lines;
  out.clear();
  const auto place = [end](const auto& places, size_t index) {
    return index < places.size() ? std::min(places[index].first, end) : end;
  };
  for (;;) {
    const size_t body = place(said.references, batch.bodies);
    const size_t prompt = place(said.prompts, batch.prompts);
    const size_t next = std::min(body, prompt);
    out.append(said.lines, batch.composed, next - batch.composed);
    batch.composed = next;
    if (next == end) break;
    if (next == prompt) {
      append_prompt(out, said.prompts[batch.prompts++].second, track.prompts);
      continue;
    }
    const size_t size = said.references[batch.bodies].second;
    const auto& parts = batch.where[batch.bodies++];
    if (parts) {
      append_parts(out.append(said.lines, body, size), *parts);
    } else {
      out.append("null");
    }
    batch.composed += size + (parts ? 0 : kReferenceEnd.size());
  }
  escape_line_ends(out);
  return out;
}

// All of them or nothing: what a full disk cut short is taken back.
Result<void> JsonlRecorder::append_lines(Track& track, ByteView lines) const {
  for (ByteView rest = lines; !rest.empty();) {
    const ssize_t n = options_.files->write(track.lines.get(), rest);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Error error = errno_error("write", errno);
      // If even that fails, a reader finds one broken line.
      (void)options_.files->truncate(track.lines.get(), track.lines_size);
      return error;
    }
    rest.remove_prefix(static_cast<size_t>(n));
  }
  track.lines_size += lines.size();
  return {};
}

Result<void> JsonlRecorder::open_files(Track& track) const {
  if (!is_valid_id(track.id.value)) {
    return Error(ErrorCode::kInvalidArgument, "a trace cannot be named after this rollout's id");
  }
  SLUICE_TRY_VOID(make_directories(directory_));
  const std::string lines = path(track.id, ".jsonl");
  track.lines.reset(options_.files->open(lines, O_WRONLY | O_APPEND));
  const int64_t size = track.lines ? options_.files->size(track.lines.get()) : -1;
  if (size < 0) return errno_error("cannot open " + lines, errno);
  track.lines_size = static_cast<uint64_t>(size);
  SLUICE_TRY_VOID(track.bodies.open(path(track.id, ".bodies")));
  // A line that an earlier process left torn must not swallow the next one. An empty line is none.
  if (size > 0) return append_lines(track, "\n");
  return {};
}

void JsonlRecorder::fail(Track& track, Error error) {
  if (!track.error) {
    log_.error("trace", "a trace is incomplete: " + error.message);
    ++incomplete_traces_;
    track.error = error;
  }
  track.lost = std::move(error);
}

void JsonlRecorder::forget(Track& track) {
  {
    const std::lock_guard lock(track.mutex);
    if (track.queued) return;  // more was told meanwhile
    track.forgotten = true;
  }
  const std::lock_guard lock(mutex_);
  tracks_.erase(track.id);
}

// One post to each shard.
void JsonlRecorder::tell(std::vector<Told> told) {
  std::map<net::Shard*, std::vector<Told>> by_shard;
  for (Told& each : told) by_shard[each.shard].push_back(std::move(each));
  for (auto& [shard, waiting] : by_shard) {
    shard->post([waiting = std::move(waiting)] {
      for (const Told& each : waiting) {
        each.told(each.error ? Result<void>(*each.error) : Result<void>());
      }
    });
  }
}

}  // namespace sluice::trace
