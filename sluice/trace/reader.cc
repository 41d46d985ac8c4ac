#include "sluice/trace/reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <unordered_map>

#include "sluice/base/core/fd.h"
#include "sluice/json/reader.h"
#include "sluice/llm/answer.h"

namespace sluice::trace {
namespace {

constexpr size_t kMaxTrace = size_t{1} << 30;

// What is absent or of another type has its default: a trace is read as far as it goes.
void read(json::Reader& line, std::string_view name, std::string& to) {
  to = line.text(name, "");
}
void read(json::Reader& line, std::string_view name, uint32_t& to) {
  to = line.figure<uint32_t>(name);
}
void read(json::Reader& line, std::string_view name, bool& to) {
  to = line.flag(name).value_or(false);
}

std::optional<double> real(json::Reader& line, std::string_view name) {
  const json::Raw* value = line.find(name);
  return value == nullptr ? std::nullopt : json::to_double(*value);
}
double ms(json::Reader& line) {
  return real(line, "ms").value_or(0);
}

class Loader {
 public:
  explicit Loader(std::string path) { trace_.path = std::move(path); }

  void line(std::string_view text) {
    if (text.empty()) return;
    const auto value = json::read_value(text);
    if (value && value->is(json::Type::kObject)) {
      json::Reader line(*value, "");
      if (take(line)) return;
    }
    ++trace_.broken_lines;
  }

  Trace finish() && { return std::move(trace_); }
  bool understood() const { return understood_; }
  int64_t version() const { return version_; }

 private:
  bool take(json::Reader& line) {
    const std::string type = line.text("type", "");
    if (type.empty()) return false;
    understood_ = true;
    if (type == "opened") {
      version_ = std::max(version_, line.figure("version"));
      trace_.rollout.value = line.text("rollout", "");
      trace_.info = {line.text("task", ""), line.text("agent", ""),  line.text("group", ""),
                     line.text("mode", ""), line.text("policy", ""), line.text("name", "")};
      return true;
    }
    if (type == "closed") {
      trace_.summary =
          ResultSummary{real(line, "reward"), line.text("error_kind", ""), line.text("error", "")};
      return true;
    }
    if (type == "event") {
      const json::Raw* detail = line.find("detail");
      trace_.events.push_back({line.text("at", ""), ms(line), line.text("kind", ""),
                               detail == nullptr ? "null" : std::string(detail->text)});
      return true;
    }
    if (type == "arrived") return arrived(line);
    if (type == "answered" || type == "ended" || type == "confirmed") return later(type, line);
    return true;  // of a newer writer
  }

  // [[offset, size], ...]
  static Parts parts_of(json::Reader& body) {
    Parts parts;
    // As version 1 wrote them: in one piece.
    if (body.find("offset") != nullptr) {
      parts.push_back({body.figure<uint64_t>("offset"), body.figure<uint64_t>("size")});
    }
    for (const json::Raw& row : body.list("parts")) {
      const auto numbers = json::elements(row).value_or(std::vector<json::Raw>());
      if (numbers.size() == 2) parts.push_back({whole(numbers[0]), whole(numbers[1])});
    }
    return parts;
  }
  static uint64_t whole(const json::Raw& number) {
    return static_cast<uint64_t>(std::max<int64_t>(json::to_integer(number).value_or(0), 0));
  }

  bool arrived(json::Reader& line) {
    CallRecord call;
    call.id.value = line.text("call", "");
    if (call.id.empty() || by_id_.contains(call.id)) return false;
    call.ordinal = line.figure<uint64_t>("ordinal");
    call.session = {line.text("session", ""), line.text("parent_session", "")};
    call.parent.value = line.text("parent", "");
    call.dialect = llm::dialect_from(line.text("dialect", "")).value_or(llm::Dialect::kChat);
    call.purpose = line.one_of("purpose", llm::kPurposes, llm::Purpose::kMain);
    llm::Head::visit(call, [&](std::string_view name, auto& value) { read(line, name, value); });
    call.arrived_at = line.text("at", "");
    call.arrived_ms = ms(line);
    if (const json::Raw* raw = line.find("body"); raw && raw->is(json::Type::kObject)) {
      json::Reader body(*raw, "");
      call.body_size = body.figure<uint64_t>("size");
      call.digest = body.text("digest", "");
      call.body_parts = parts_of(body);
      call.has_body = true;
    }
    by_id_[call.id] = trace_.calls.size();
    trace_.calls.push_back(std::move(call));
    return true;
  }

  bool later(std::string_view type, json::Reader& line) {
    const auto it = by_id_.find(CallId{line.text("call", "")});
    if (it == by_id_.end()) return false;
    CallRecord& call = trace_.calls[it->second];
    if (type == "answered") {
      const json::Raw* raw = line.find("answer");
      if (raw == nullptr) return false;
      auto answer = llm::answer_from_json(*raw);
      if (!answer) return false;
      const std::string after = json::Reader(*raw, "").text("prompt_after", "");
      const auto before = by_id_.find(CallId{after});
      if (!after.empty() && before == by_id_.end()) return false;
      call.prompt_after.reset();
      if (!after.empty()) call.prompt_after = before->second;
      call.answer = std::move(*answer);
      call.answered_ms = ms(line);
    } else if (type == "ended") {
      call.outcome = llm::from_string(llm::kOutcomes, line.text("outcome", ""));
      call.detail = line.text("detail", "");
      call.ended_ms = ms(line);
    } else {
      call.confirmed = true;
    }
    return true;
  }

  Trace trace_;
  std::unordered_map<CallId, size_t> by_id_;
  bool understood_ = false;
  int64_t version_ = 0;  // none is named
};

}  // namespace

const CallRecord* Trace::find(const CallId& id) const {
  for (const CallRecord& call : calls) {
    if (call.id == id) return &call;
  }
  return nullptr;
}

Result<Bytes> Trace::body(const CallRecord& call) const {
  if (!call.has_body) {
    return Error(ErrorCode::kNotFound, "the trace does not hold this call's request");
  }
  if (call.body_size > kMaxTrace) {
    return Error(ErrorCode::kTooLarge,
                 "the trace claims a request of " + std::to_string(call.body_size) + " bytes");
  }
  std::string file = path;
  if (file.ends_with(".jsonl")) file.resize(file.size() - 6);
  file += ".bodies";
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_error("cannot open " + file, errno);
  uint64_t size = 0;
  for (const Part& part : call.body_parts) size += std::min(part.size, kMaxTrace + 1);
  if (size != call.body_size) {
    return Error(ErrorCode::kProtocol, "the pieces of this request are not as long as it is");
  }
  auto body = FileCalls().read_parts(fd.get(), call.body_parts);
  if (!body) return std::move(body).error().within(file);
  return body;
}

Result<std::vector<int32_t>> Trace::prompt_ids(const CallRecord& call) const {
  std::vector<const CallRecord*> turns{&call};  // from the last to the first
  size_t size = 0;
  for (;;) {
    const CallRecord& turn = *turns.back();
    const bool last = turns.size() == 1;
    if (!turn.answer || (!last && turn.answer->choices.size() != 1)) {
      return Error(last ? ErrorCode::kNotFound : ErrorCode::kProtocol,
                   "the trace does not hold the ids of this call's prompt");
    }
    size += turn.answer->prompt_ids.size();
    if (!last) size += turn.answer->choices.front().ids.size();
    if (!turn.prompt_after) break;
    if (turns.size() > calls.size() || *turn.prompt_after >= calls.size()) {
      return Error(ErrorCode::kProtocol, "the turns of this prompt lead nowhere");
    }
    turns.push_back(&calls[*turn.prompt_after]);
  }
  if (size > kMaxTrace / sizeof(int32_t)) {
    return Error(ErrorCode::kTooLarge,
                 "the trace claims a prompt of " + std::to_string(size) + " tokens");
  }
  std::vector<int32_t> ids;
  ids.reserve(size);
  for (auto turn = turns.rbegin(); turn != turns.rend(); ++turn) {
    const llm::Answer& answer = *(*turn)->answer;
    ids.insert(ids.end(), answer.prompt_ids.begin(), answer.prompt_ids.end());
    if (*turn == &call) break;
    const auto& completion = answer.choices.front().ids;
    ids.insert(ids.end(), completion.begin(), completion.end());
  }
  return ids;
}

Result<Trace> load(const std::string& path) {
  SLUICE_TRY(const Bytes text, read_file(path, kMaxTrace));
  return parse(text, path);
}

Result<Trace> parse(std::string_view lines, std::string path) {
  Loader loader(path);
  while (!lines.empty()) {
    const size_t end = std::min(lines.find('\n'), lines.size());
    loader.line(lines.substr(0, end));
    lines.remove_prefix(std::min(end + 1, lines.size()));
  }
  if (!loader.understood()) {
    return Error(ErrorCode::kInvalidArgument, path + " is not a trace", ErrorOrigin::kCaller);
  }
  if (loader.version() > kTraceVersion) {
    return Error(ErrorCode::kUnsupported,
                 path + " is of version " + std::to_string(loader.version()) +
                     "; this program reads 1 to " + std::to_string(kTraceVersion),
                 ErrorOrigin::kCaller);
  }
  return std::move(loader).finish();
}

}  // namespace sluice::trace
