#include "sluice/gate/trainer_http/messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "sluice/base/metrics.h"
#include "sluice/json/non_numbers.h"
#include "sluice/json/reader.h"
#include "sluice/json/text.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/completion.h"
#include "sluice/llm/continuation.h"
#include "sluice/llm/wire.h"

namespace sluice::gate::trainer_http {
namespace {

using json::Reader;
using llm::wire::append_list;
using llm::wire::Members;
using llm::wire::object;

constexpr size_t kMaxTake = 4096;
constexpr size_t kMaxReplies = 4096;
constexpr double kMaxWait = 300, kMaxLease = 3600, kMaxLifetime = 30 * 86'400.0;
constexpr size_t kMaxTools = 128;
constexpr size_t kMaxText = 4096;  // names, reasons, versions
constexpr size_t kMaxDescription = 64 * 1024;
constexpr auto kRefused = json::Unknown::kRefused;
constexpr std::string_view kDefaultTrainer = "default";

Error wrong(std::string_view where, std::string_view what) {
  return Error(ErrorCode::kInvalidArgument, fmt::format("{}: {}", where, what),
               ErrorOrigin::kCaller);
}

constexpr size_t kMaxMessage = 1 << 20;  // of those that hold no answers

// The whole of a small message, which may be left out.
Result<Reader> message_in(ByteView body) {
  if (body.size() > kMaxMessage) {
    return Error(ErrorCode::kTooLarge, fmt::format("JSON: more than {} bytes", kMaxMessage),
                 ErrorOrigin::kCaller);
  }
  SLUICE_TRY(const json::Raw raw, json::read_value(body.empty() ? "{}" : body));
  return Reader(raw, "", kRefused, kMaxText);
}

void append_request(Bytes& out, const llm::Request& request) {
  Members members(out);
  members.text("model", request.model);
  append_list(members["messages"], request.messages, [](Bytes& to, const llm::Message& message) {
    Members one(to);
    one.text("role", to_string(message.role));
    one.text("text", message.text);
    one.text_if_any("reasoning", message.reasoning);
    one.text_if_any("reasoning_seal", message.reasoning_seal);
    one.text_if_any("refusal", message.refusal);
    one.list_if_any("tool_calls", message.tool_calls,
                    [](Bytes& at, const llm::ToolCall& call) { llm::append_json(at, call); });
    one.text_if_any("tool_call_id", message.tool_call_id);
    // Images, and whatever else no other member says.
    if (!message.raw.empty()) one.raw("raw", message.raw);
  });
  members.list_if_any("tools", request.tools, [](Bytes& to, const llm::ToolOffer& tool) {
    Members one(to);
    one.text("name", tool.name);
    one.text_if_any("description", tool.description);
    if (!tool.parameters.empty()) one.raw("parameters", tool.parameters);
    one.text("kind", tool.kind);
    one.text_if_any("namespace", tool.space);
    one.raw("raw", tool.raw);
  });
  if (!request.tool_choice.empty()) members.raw("tool_choice", request.tool_choice);
  if (request.temperature) json::append_number(members["temperature"], *request.temperature);
  if (request.top_p) json::append_number(members["top_p"], *request.top_p);
  if (request.top_k) members.number("top_k", *request.top_k);
  if (request.max_tokens) members.number("max_tokens", *request.max_tokens);
  members.list_if_any("stop", request.stop);
}

void append_parent(Members& members, const llm::Parent& parent) {
  using llm::Continuation;
  members.text("parent", parent.id().value);
  const auto how = parent.how();
  members.text("continues", how ? to_string(how->how) : "unknown");
  if (how && how->how == Continuation::How::kRewritten) {
    members.number("rewritten_from", static_cast<int64_t>(how->from));
  }
}

void append_call(Bytes& out, const Item& item, const llm::Call& call, Canonical canonical) {
  Members members(out);
  members.text("type", "call");
  members.text("id", call.id.value);
  members.text("rollout", call.rollout.value);
  if (call.task) members.raw("task", *call.task);
  members.number("ordinal", call.ordinal);
  members.number("deliveries", item.deliveries);
  members.text_if_any("version", item.version);
  members.text_if_any("session", call.session.value);
  members.text_if_any("parent_session", call.session.parent);
  members.text("dialect", to_string(call.dialect));
  members.text("purpose", to_string(call.purpose));
  llm::Head::visit(call, [&](std::string_view name, const auto& value) {
    llm::wire::append_value(members[name], value);
  });
  members.text("digest", call.digest.hex());
  if (call.parent) append_parent(members, *call.parent);
  // What was only peeked into on its way in may be broken deeper down; it is then handed on as
  // bytes.
  if (const auto asked = call.asked(); !asked) {
    members.text("body_error", asked.error().message);
  } else if (json::read_value(**asked)) {
    members.raw("body", **asked);
  } else {
    members.text("body_base64", to_base64(**asked));
  }
  if (canonical == Canonical::kNo) return;
  if (const auto request = call.parse()) {
    append_request(members["request"], *request);
  } else {
    members.text("request_error", request.error().message);
  }
}

void append_about(Members& members, const About& about) {
  if (about.task) members.raw("task", *about.task);
  members.text_if_any("name", about.name);
  members.text_if_any("group", about.group);
}

void append_counters(Members& members, const Counters& counters) {
  members.number("calls", counters.calls);
  members.number("open", counters.open);
  members.number("turns", counters.turns);
  members.number("resends", counters.resends);
  members.number("rewrites", counters.rewrites);
  members.number("refused", counters.refused);
  members.number("rejected", counters.rejected);
  members.number("tokens", counters.tokens);
  members.number("bytes", counters.bytes);
  members.number("tool_calls", counters.tool_calls);
  members.flag("budget_exhausted", counters.budget_exhausted);
  if (counters.budget_exhausted) members.text("budget_reason", counters.budget_reason);
  members.flag("cancelled", counters.cancelled);
  Members outcomes(members["outcomes"]);
  for (const llm::Outcome outcome : llm::kOutcomes) {
    outcomes.number(to_string(outcome), counters.ended(outcome));
  }
}

void append_result(Members& members, const trace::ResultSummary& result) {
  if (result.reward) {
    json::append_number(members["reward"], *result.reward);
  } else {
    members.raw("reward", "null");
  }
  members.text_or_null("error_kind", result.error_kind);
  members.text_or_null("error", result.error);
}

void append_closed(Bytes& out, const Books& books) {
  Members members(out);
  members.text("type", "closed");
  members.text("rollout", books.rollout.value);
  append_about(members, books.about);
  append_result(members, books.result);
  Members counters(members["llm"]);
  append_counters(counters, books.counters);
}

void append_tool(Bytes& out, const Item& item, const ToolRequest& tool) {
  const std::chrono::duration<double> left =
      std::max<Duration>(tool.deadline.at() - Clock::now(), Duration::zero());
  Members members(out);
  members.text("type", "tool");
  members.text("id", tool.id.value);
  members.text("rollout", tool.rollout.value);
  members.number("deliveries", item.deliveries);
  members.text("tool", tool.tool);
  members.raw("arguments", tool.arguments);
  json::append_number(members["time_left_s"], left.count());
}

constexpr auto kErrorKinds = [] {
  std::array<ErrorCode, kErrorCodes> all{};
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<ErrorCode>(i);
  return all;
}();

void read(Reader& in, llm::Refusal& refusal) {
  refusal.message = in.text("message", "");
  refusal.end_agent = in.flag("end_agent").value_or(true);
  refusal.kind = in.one_of("kind", kErrorKinds, refusal.kind);
}

void read(Reader& in, ToolResult& result) {
  in.set_max_text(Reader::kAny);
  result.text = in.text("text", "");
  result.failed = in.flag("failed").value_or(false);
}

std::string part_in(Reader& in, std::string_view name) {
  const json::Raw* const value = in.find(name);
  if (value == nullptr) return {};
  auto text = json::to_text(*value, json::Halves::kKept);
  if (!text) in.fail(name, "must be a string");
  return std::move(text).value_or(std::string());
}

void read(Reader& in, llm::Piece& piece) {
  piece.reasoning = part_in(in, "reasoning");
  piece.text = part_in(in, "text");
}

// A completion's own object cannot say which version of the policy it is of.
void set_version(llm::Answer& answer, const std::optional<std::string>& version) {
  if (!version) return;
  for (llm::Choice& choice : answer.choices) {
    if (choice.versions.empty()) choice.versions.push_back({0, *version});
  }
}

Result<ReplyMessage> reply_from(Reader& in, std::string call) {
  const json::Raw* const answer = in.find("answer");
  const json::Raw* const completion = in.find("completion");
  const std::array ways{answer, completion, in.find("refusal"), in.find("tool_result"),
                        in.find("piece")};
  const auto version = in.text("version");
  const bool names_origin = in.find("origin") != nullptr;
  const llm::Origin origin = in.one_of("origin", llm::kOrigins, llm::Origin::kSampled);
  SLUICE_TRY_VOID(in.finish());
  if (call.empty()) return wrong("call", "must be the id of a call");
  if (std::count(ways.begin(), ways.end(), nullptr) + 1 != std::ssize(ways)) {
    return wrong("reply", "must hold one of answer, completion, refusal, tool_result, piece");
  }
  if (names_origin && completion == nullptr) {
    return wrong("origin", "stands beside a completion; an answer holds its own");
  }
  if (version && completion == nullptr && answer == nullptr) {
    return wrong("version", "stands beside a completion or an answer");
  }
  if (version && version->empty()) return wrong("version", "must be a name");
  ReplyMessage out;
  out.call = {std::move(call)};
  if (answer != nullptr || completion != nullptr) {
    SLUICE_TRY(llm::Answer given, answer != nullptr
                                      ? llm::answer_from_json(*answer, kRefused)
                                      : llm::answer_from_completion(*completion, origin));
    set_version(given, version);
    out.what = std::move(given);
  }
  in.object("refusal", [&](Reader& inner) { read(inner, out.what.emplace<llm::Refusal>()); });
  in.object("tool_result", [&](Reader& inner) { read(inner, out.what.emplace<ToolResult>()); });
  in.object("piece", [&](Reader& inner) { read(inner, out.what.emplace<llm::Piece>()); });
  SLUICE_TRY_VOID(in.finish());
  return out;
}

// Where a message was no JSON: Python's NaN, Infinity and -Infinity, for which null stands there.
struct Flaws {
  const char* text = nullptr;
  std::vector<size_t> places = {};

  size_t in(const json::Raw& value) const {
    if (places.empty()) return 0;
    const auto begin = static_cast<size_t>(value.text.data() - text);
    return static_cast<size_t>(std::count_if(places.begin(), places.end(), [&](size_t place) {
      return place >= begin && place - begin < value.text.size();
    }));
  }
};

RepliesMessage::Each each_from(Reader& in, const json::Raw& reply, const Flaws& flaws) {
  std::string call = in.text("call", "");
  if (flaws.in(reply) > 0) {
    return {call, wrong("reply", "is no JSON: NaN, Infinity and -Infinity are no numbers")};
  }
  return {call, reply_from(in, call)};
}

void read(Reader& in, Budget& budget) {
  budget.calls = in.count("calls").value_or(budget.calls);
  budget.open_calls =
      static_cast<uint32_t>(in.count("open_calls", 1e6).value_or(budget.open_calls));
  budget.calls_per_second = in.number("calls_per_second", 1e6).value_or(budget.calls_per_second);
  budget.tokens = in.count("tokens").value_or(budget.tokens);
  budget.bytes = in.count("bytes").value_or(budget.bytes);
  budget.time = in.seconds("time_s", kMaxLifetime).value_or(budget.time);
  budget.host_disk = in.count("host_disk_mb", 1e9).value_or(budget.host_disk >> 20) << 20;
}

void read(Reader& in, ResendRules& resend) {
  resend.window = in.seconds("window_s", 3600).value_or(resend.window);
  resend.grace = in.seconds("grace_s", 3600).value_or(resend.grace);
  resend.ignore_fields = in.names("ignore_fields", 32);
}

void read(Reader& in, SessionHeaders& headers) {
  headers.session = in.text("session", "");
  headers.parent = in.text("parent", "");
}

void read(Reader& in, OriginRule& rule) {
  if (in.is_second("tokens", {"required", "waived"})) rule.tokens = OriginRule::Tokens::kWaived;
  if (in.is_second("accept", {"any", "sampled"})) rule.accept = OriginRule::Accept::kSampledOnly;
}

void read(Reader& in, PurposeRule& rule) {
  rule.purpose = in.one_of("purpose", llm::kPurposes, rule.purpose);
  rule.has_tools = in.flag("has_tools");
  rule.has_parent_session = in.flag("has_parent_session");
  rule.system_contains = in.text("system_contains", "");
  rule.canned = in.text("canned");
}

// Tools whose calls the trainer answers.
void read(Reader& in, Tool& tool) {
  in.set_max_text(kMaxDescription);
  tool.name = in.text("name", "");
  tool.description = in.text("description", "");
  if (const json::Raw* parameters = in.find("parameters")) tool.parameters = parameters->text;
  tool.timeout = in.seconds("timeout_s", 3600).value_or(tool.timeout);
}

template <class T>
void read_part(Reader& in, std::string_view name, T& out) {
  in.object(name, [&](Reader& inner) { read(inner, out); });
}

template <class T>
void read_parts(Reader& in, std::string_view name, size_t most, std::vector<T>& out) {
  in.objects(name, most, [&](Reader& inner) { read(inner, out.emplace_back()); });
}

void append_error(Members& members, const Error& error) {
  Members inner(members["error"]);
  inner.text("code", to_string(error.code));
  inner.text("message", error.message);
}

std::string trainer_in(Reader& in, std::string_view otherwise) {
  auto name = in.text("trainer");
  if (name && !is_valid_id(*name)) {
    in.fail("trainer", "must be a name: 1 to 64 of letters, digits, '.', '_', '-'");
  }
  return std::move(name).value_or(std::string(otherwise));
}

Result<RepliesMessage> replies_in(const json::Raw& raw, const Flaws& flaws) {
  Reader in(raw, "", kRefused, kMaxText);
  RepliesMessage out;
  out.trainer = trainer_in(in, "");
  out.for_outcome = in.seconds("wait_s", kMaxWait);
  if (in.find("replies") == nullptr) {
    // What is wrong with the message is no mistake of its reply.
    SLUICE_TRY_VOID(in.so_far());
    out.replies.push_back(each_from(in, raw, flaws));
    return out;
  }
  const auto replies = in.list("replies", kMaxReplies);
  SLUICE_TRY_VOID(in.finish());
  out.replies.reserve(replies.size());
  size_t flawed = 0;
  for (const json::Raw& each : replies) {
    Reader reply(each, "", kRefused, kMaxText);
    out.replies.push_back(each_from(reply, each, flaws));
    flawed += flaws.in(each);
  }
  if (flawed < flaws.places.size()) return wrong("JSON", "NaN and Infinity are no numbers");
  return out;
}

}  // namespace

void append_item(Bytes& out, const Item& item, Canonical canonical) {
  if (const llm::Call* call = item.call()) {
    append_call(out, item, *call, canonical);
  } else if (const ToolRequest* tool = item.tool()) {
    append_tool(out, item, *tool);
  } else if (const Books* closed = item.closed()) {
    append_closed(out, *closed);
  } else {
    const Ended& ended = *item.ended();
    Members members(out);
    members.text("type", "ended");
    members.text("rollout", ended.rollout.value);
    members.text("reason", ended.reason);
    append_about(members, ended.about);
  }
}

Bytes error_json(const Error& error) {
  return object([&](Members& members) { append_error(members, error); });
}

Bytes results_json(const std::vector<ReplyResult>& results) {
  return object([&](Members& members) {
    append_list(members["results"], results, [](Bytes& to, const ReplyResult& result) {
      Members one(to);
      one.text("call", result.call);
      one.flag("accepted", !result.error);
      if (result.error) append_error(one, *result.error);
      if (result.outcome) one.text("outcome", to_string(*result.outcome));
    });
  });
}

Bytes opened_json(const http::SharedEndpoint::Opened& opened, std::string_view base_url) {
  return object([&](Members& members) {
    members.text("rollout", opened.rollout.value);
    members.text("url", fmt::format("{}/rollout/{}", base_url, opened.rollout.value));
    members.text("key", opened.key);
    members.number("expires_at", opened.expires.time_since_epoch().count());
  });
}

Bytes books_json(const Books& books) {
  return object([&](Members& members) {
    members.text("rollout", books.rollout.value);
    members.text("state", to_string(books.state));
    append_about(members, books.about);
    if (books.state == Books::State::kClosed) append_result(members, books.result);
    append_counters(members, books.counters);
  });
}

Bytes state_json(const TrainerState& state, const Totals& totals) {
  return object([&](Members& members) {
    members.flag("paused", state.paused);
    members.text("version", state.version);
    members.number("versions", state.versions);
    members.number("waiting", state.waiting);
    members.number("held", state.held);
    members.number("trainers", state.trainers);
    members.number("open_rollouts", totals.open_rollouts);
    members.number("open_calls", totals.open_calls);
  });
}

Bytes metrics_text(const TrainerState& state, const Totals& totals,
                   const trace::Recorder::Load& recorder) {
  Metrics metrics;
  const auto metric = [&](const std::string& name, const char* help, uint64_t value,
                          const MetricLabels& labels = {}) {
    if (name.ends_with("_total")) {
      metrics.counter("sluice_gate_" + name, help, labels).add(static_cast<double>(value));
    } else {
      metrics.gauge("sluice_gate_" + name, help, labels).set(static_cast<double>(value));
    }
  };
  metric("rollouts_total", "Rollouts opened.", totals.rollouts);
  metric("rollouts_open", "Rollouts open.", totals.open_rollouts);
  metric("calls_total", "Calls admitted, resends not counted.", totals.calls);
  metric("calls_open", "Calls that have not ended.", totals.open_calls);
  metric("resends_total", "Requests recognised as earlier ones.", totals.resends);
  metric("refused_total", "Requests refused before they were calls.", totals.refused);
  metric("rejected_total", "Trainers' replies to open calls that did not fit.", totals.rejected);
  metric("confirmed_total", "Answers found again in later requests.", totals.confirmed);
  metric("rewrites_total", "Calls whose agent had rewritten its history.", totals.rewrites);
  metric("tokens_total", "Tokens of delivered answers, prompts included.", totals.tokens);
  metric("request_bytes_total", "Bytes of calls' bodies.", totals.request_bytes);
  metric("put_away_bytes_total",
         "Bytes of waiting calls' bodies that the trace alone keeps, as the calls waited long.",
         totals.put_away_bytes);
  metric("answer_bytes_total", "Bytes of answers.", totals.answer_bytes);
  metric("tool_calls_total", "Calls of host tools.", totals.tool_calls);
  for (size_t i = 0; i < totals.outcomes.size(); ++i) {
    const std::string outcome(to_string(static_cast<llm::Outcome>(i)));
    metric("outcomes_total", "Ended calls by outcome.", totals.outcomes[i], {{"outcome", outcome}});
  }
  metric("ready", "Calls that wait for a trainer.", state.waiting);
  metric("held", "Items that trainers hold.", state.held);
  metric("trainers", "Named trainers that live or hold something.", state.trainers);
  metric("recorder_waiting_bytes", "Bytes that wait for the recorder's disk.",
         recorder.waiting_bytes);
  metric("incomplete_traces_total", "Rollouts of which something could not be recorded.",
         recorder.incomplete_traces);
  metric("paused", "1 in a pause.", state.paused ? 1 : 0);
  return metrics.text();
}

Result<TakeMessage> take_from_json(ByteView body) {
  SLUICE_TRY(Reader in, message_in(body));
  TakeMessage out;
  out.request.max = in.count("max", kMaxTake).value_or(1);
  if (out.request.max == 0) in.fail("max", "must be at least 1");
  out.wait = in.seconds("wait_s", kMaxWait).value_or(Duration::zero());
  Taker& taker = out.request.taker;
  taker.name = trainer_in(in, kDefaultTrainer);
  taker.lease = in.seconds("lease_s", kMaxLease).value_or(taker.lease);
  if (in.flag("afresh").value_or(false)) taker.start = Taker::Start::kAfresh;
  if (in.flag("canonical").value_or(false)) out.canonical = Canonical::kYes;
  out.request.closings = in.flag("rollouts").value_or(false);
  SLUICE_TRY_VOID(in.finish());
  return out;
}

Result<RepliesMessage> replies_from_json(ByteView body) {
  const auto raw = json::read_value(body);
  if (raw) return replies_in(*raw, {});
  // As Python writes it? One such reply spoils no other.
  const auto mended = json::without_non_numbers(body);
  const auto again = json::read_value(mended.text);
  if (mended.places.empty() || !again) return raw.error();
  return replies_in(*again, {mended.text.data(), mended.places});
}

Result<RegisterMessage> registration_from_json(ByteView body) {
  SLUICE_TRY(Reader in, message_in(body));
  RegisterMessage out;
  Registration& registration = out.registration;
  const auto id = in.text("id");
  if (id && id->empty()) in.fail("id", "must be an id, or left out");
  registration.id = {id.value_or("")};
  const auto dialects = in.names("dialects", llm::kDialects.size());
  registration.dialects = {llm::kDialects.begin(), llm::kDialects.end()};
  if (!dialects.empty()) registration.dialects.clear();
  for (const std::string& name : dialects) {
    const auto dialect = llm::dialect_from(name);
    if (!dialect) return wrong("dialects", "knows " + llm::dialect_names());
    registration.dialects.insert(*dialect);
  }
  if (auto models = in.names("models", 64); !models.empty())
    registration.models = std::move(models);
  read_part(in, "budget", registration.budget);
  read_part(in, "resend", registration.resend);
  read_part(in, "session_headers", registration.session_headers);
  read_part(in, "origins", registration.origins);
  if (in.is_second("delivery", {"whole", "incremental"})) {
    registration.delivery = AnswerDelivery::kIncremental;
  }
  if (in.is_second("cut_calls", {"withheld", "sent"})) registration.cut_calls = CutCalls::kSent;
  read_parts(in, "purposes", 64, registration.purposes);
  read_parts(in, "tools", kMaxTools, registration.tools);
  if (in.flag("tools_in_requests").value_or(false)) {
    registration.tools_in_requests = ToolsInRequests::kAdded;
  }
  registration.max_version_lag = in.count("max_version_lag");
  out.lifetime = in.seconds("lifetime_s", kMaxLifetime).value_or(std::chrono::hours(24));
  if (out.lifetime < std::chrono::seconds(1)) in.fail("lifetime_s", "must be at least 1");
  SLUICE_TRY_VOID(in.finish());
  return out;
}

Result<std::optional<std::string>> text_from_json(ByteView body, std::string_view name) {
  SLUICE_TRY(Reader in, message_in(body));
  auto text = in.text(name);
  SLUICE_TRY_VOID(in.finish());
  return text;
}

Result<std::string> trainer_from_json(ByteView body) {
  SLUICE_TRY(Reader in, message_in(body));
  std::string name = trainer_in(in, kDefaultTrainer);
  SLUICE_TRY_VOID(in.finish());
  return name;
}

Result<void> nothing_from_json(ByteView body) {
  SLUICE_TRY(Reader in, message_in(body));
  return in.finish();
}

Result<uint64_t> count_from_json(ByteView body, std::string_view name) {
  SLUICE_TRY(Reader in, message_in(body));
  const auto count = in.count(name);
  if (!count) in.fail(name, "is missing");
  SLUICE_TRY_VOID(in.finish());
  return *count;
}

}  // namespace sluice::gate::trainer_http
