#include "sluice/gate/trainer_http/messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "sluice/json/raw.h"
#include "sluice/json/text.h"
#include "sluice/json/value.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/completion.h"
#include "sluice/llm/wire.h"

namespace sluice::gate::trainer_http {
namespace {

using llm::wire::append_list;
using llm::wire::Members;

constexpr size_t kMaxTake = 4096;
constexpr size_t kMaxReplies = 4096;
constexpr double kMaxWait = 300, kMaxLease = 3600, kMaxLifetime = 30 * 86'400.0;
constexpr size_t kMaxTools = 128;
constexpr size_t kMaxText = 4096;  // names, reasons, versions
constexpr std::string_view kDefaultTrainer = "default";
constexpr std::string_view kTrainersName =
    "must be a name: 1 to 64 of letters, digits, '.', '_', '-'";

Error wrong(std::string_view where, std::string_view what) {
  return Error(ErrorCode::kInvalidArgument, fmt::format("{}: {}", where, what),
               ErrorOrigin::kCaller);
}

// The members of one object of a message. The first mistake is kept; after it all are defaults.
class Fields {
 public:
  Fields(const json::Value& value, std::string where) : where_(std::move(where)) {
    object_ = value.if_object();
    if (object_ == nullptr) fail("", "must be an object");
  }

  const json::Value* find(std::string_view name) {
    known_.push_back(name);
    if (object_ == nullptr) return nullptr;
    const json::Value* value = object_->if_contains(name);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  std::optional<std::string> text(std::string_view name, size_t max = kMaxText) {
    const json::Value* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) {
      fail(name, "must be a string");
      return std::nullopt;
    }
    const auto& text = value->get_string();
    if (text.size() > max) {
      fail(name, fmt::format("is longer than {} bytes", max));
      return std::nullopt;
    }
    return std::string(text);
  }

  std::optional<bool> flag(std::string_view name) {
    const json::Value* value = find(name);
    if (value != nullptr && !value->is_bool()) fail(name, "must be true or false");
    return value == nullptr || !value->is_bool() ? std::nullopt : std::optional(value->get_bool());
  }

  std::optional<double> number(std::string_view name, double most) {
    const json::Value* value = find(name);
    if (value == nullptr) return std::nullopt;
    const double number = value->is_number() ? value->to_number<double>() : NAN;
    if (!(number >= 0 && number <= most)) {
      fail(name, fmt::format("must be a number from 0 to {}", most));
      return std::nullopt;
    }
    return number;
  }
  std::optional<Duration> seconds(std::string_view name, double most) {
    const auto value = number(name, most);
    if (!value) return std::nullopt;
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(*value));
  }
  std::optional<uint64_t> count(std::string_view name, double most = 9e15) {
    const auto value = number(name, most);
    if (value && std::trunc(*value) != *value) {
      fail(name, "must be a whole number");
      return std::nullopt;
    }
    return value ? std::optional(static_cast<uint64_t>(*value)) : std::nullopt;
  }

  const json::Array& list(std::string_view name, size_t most) {
    static const json::Array kEmpty;
    const json::Value* value = find(name);
    if (value == nullptr) return kEmpty;
    if (!value->is_array() || value->get_array().size() > most) {
      fail(name, fmt::format("must be a list of at most {}", most));
      return kEmpty;
    }
    return value->get_array();
  }
  std::vector<std::string> texts(std::string_view name, size_t most) {
    std::vector<std::string> out;
    for (const json::Value& each : list(name, most)) {
      if (!each.is_string() || each.get_string().empty() || each.get_string().size() > kMaxText) {
        fail(name, "must hold names");
        return {};
      }
      out.emplace_back(each.get_string());
    }
    return out;
  }

  // The place of a mistake in a part that another reader reads.
  std::string within(std::string_view name) const { return where_ + std::string(name); }
  void fail(std::string_view name, std::string_view what) {
    if (!mistake_) mistake_ = wrong(within(name).empty() ? "the message" : within(name), what);
  }
  Result<void> finish() {
    if (!mistake_ && object_ != nullptr) {
      for (const auto& [name, value] : *object_) {
        if (std::find(known_.begin(), known_.end(), std::string_view(name)) == known_.end()) {
          fail(std::string_view(name), "is not known here");
          break;
        }
      }
    }
    if (mistake_) return *mistake_;
    return {};
  }

 private:
  const json::Object* object_ = nullptr;
  std::string where_;
  std::vector<std::string_view> known_;
  std::optional<Error> mistake_;
};

Result<json::Value> parse_small(ByteView body) {
  if (body.empty()) return json::Value(json::Object());
  return json::parse(body);
}

void append_digest(Members& members, const Digest& digest) {
  members.text("digest", digest.hex());
}

void append_request(Bytes& out, const llm::Request& request) {
  Members members(out);
  members.text("model", request.model);
  append_list(members["messages"], request.messages, [&](const llm::Message& message) {
    Members one(out);
    one.text("role", to_string(message.role));
    const auto text = [&](std::string_view name, const std::string& value) {
      if (!value.empty()) one.text(name, value);
    };
    one.text("text", message.text);
    text("reasoning", message.reasoning);
    text("reasoning_seal", message.reasoning_seal);
    text("refusal", message.refusal);
    if (!message.tool_calls.empty()) {
      append_list(one["tool_calls"], message.tool_calls, [&](const llm::ToolCall& call) {
        Members tool(out);
        tool.text("id", call.id);
        tool.text("name", call.name);
        tool.text("arguments", call.arguments);
        if (call.kind == llm::ToolCall::Kind::kCustom) tool.text("kind", "custom");
        if (!call.space.empty()) tool.text("namespace", call.space);
        tool.close();
      });
    }
    text("tool_call_id", message.tool_call_id);
    // Images, and whatever else no other member says.
    if (!message.raw.empty()) one.raw("raw", message.raw);
    one.close();
  });
  if (!request.tools.empty()) members.raw("tools", request.tools);
  if (!request.tool_choice.empty()) members.raw("tool_choice", request.tool_choice);
  if (request.temperature) json::append_number(members["temperature"], *request.temperature);
  if (request.top_p) json::append_number(members["top_p"], *request.top_p);
  if (request.top_k) members.number("top_k", *request.top_k);
  if (request.max_tokens) members.number("max_tokens", *request.max_tokens);
  if (!request.stop.empty()) {
    append_list(members["stop"], request.stop,
                [&](const std::string& stop) { json::append_string(out, stop); });
  }
  members.close();
}

void append_call(Bytes& out, const Item& item, const llm::Call& call, Canonical canonical) {
  Members members(out);
  members.text("type", "call");
  members.text("id", call.id.value);
  members.text("rollout", call.rollout.value);
  if (call.task) members.raw("task", *call.task);
  members.number("ordinal", static_cast<int64_t>(call.ordinal));
  members.number("deliveries", item.deliveries);
  if (!item.version.empty()) members.text("version", item.version);
  if (!call.session.value.empty()) members.text("session", call.session.value);
  if (!call.session.parent.empty()) members.text("parent_session", call.session.parent);
  members.text("dialect", to_string(call.dialect));
  members.text("purpose", to_string(call.purpose));
  members.text("model", call.model);
  members.number("n", call.n);
  members.raw("stream", call.stream ? "true" : "false");
  append_digest(members, call.digest);
  // What was only peeked into on its way in may be broken deeper down; it is then handed on as
  // bytes.
  if (const auto asked = call.asked(); !asked) {
    members.text("body_error", asked.error().message);
  } else if (json::read_value(**asked)) {
    members.raw("body", **asked);
  } else {
    members.text("body_base64", to_base64(**asked));
  }
  if (canonical == Canonical::kYes) {
    if (const auto request = call.parse()) append_request(members["request"], *request);
  }
  members.close();
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
  members.close();
}

Result<ErrorCode> refusal_kind(std::string_view name) {
  for (int i = 0; i < kErrorCodes; ++i) {
    if (to_string(static_cast<ErrorCode>(i)) == name) return static_cast<ErrorCode>(i);
  }
  return wrong("refusal.kind", "is no such code");
}

Result<llm::Refusal> refusal_from(std::string_view text) {
  SLUICE_TRY(const json::Value value, json::parse(text));
  Fields in(value, "refusal.");
  llm::Refusal refusal;
  refusal.message = in.text("message").value_or("");
  refusal.end_agent = in.flag("end_agent").value_or(true);
  if (const auto kind = in.text("kind")) {
    SLUICE_TRY(refusal.kind, refusal_kind(*kind));
  }
  SLUICE_TRY_VOID(in.finish());
  return refusal;
}

Result<ToolResult> tool_result_from(const json::Raw& raw) {
  json::ParseLimits limits;
  limits.bytes = raw.text.size();
  SLUICE_TRY(const json::Value value, json::parse(raw.text, limits));
  Fields in(value, "tool_result.");
  ToolResult result;
  result.text = in.text("text", raw.text.size()).value_or("");
  result.failed = in.flag("failed").value_or(false);
  SLUICE_TRY_VOID(in.finish());
  return result;
}

Result<llm::Piece> piece_from(const json::Raw& raw) {
  json::ParseLimits limits;
  limits.bytes = raw.text.size();
  SLUICE_TRY(const json::Value value, json::parse(raw.text, limits));
  Fields in(value, "piece.");
  llm::Piece piece;
  piece.reasoning = in.text("reasoning", raw.text.size()).value_or("");
  piece.text = in.text("text", raw.text.size()).value_or("");
  SLUICE_TRY_VOID(in.finish());
  return piece;
}

bool is_given(const json::Raw* value) {
  return value != nullptr && !value->is(json::Type::kNull);
}

Result<llm::Origin> origin_from(const json::RawObject& fields) {
  const json::Raw* value = fields.find("origin");
  if (!is_given(value)) return llm::Origin::kSampled;
  const auto text = json::to_text(*value);
  for (const auto origin : {llm::Origin::kSampled, llm::Origin::kEdited, llm::Origin::kCanned,
                            llm::Origin::kInjected}) {
    if (text && to_string(origin) == *text) return origin;
  }
  return wrong("origin", "must be sampled, edited, canned or injected");
}

// A completion's own object cannot say which version of the policy it is of.
Result<void> read_version(const json::RawObject& fields, llm::Answer& answer) {
  const json::Raw* value = fields.find("version");
  if (!is_given(value)) return {};
  const auto version = json::to_text(*value);
  if (!version || version->empty() || version->size() > kMaxText) {
    return wrong("version", "must be a name");
  }
  for (llm::Choice& choice : answer.choices) {
    if (choice.versions.empty()) choice.versions.push_back({0, *version});
  }
  return {};
}

Result<ReplyMessage> reply_from(const json::RawObject& fields, std::string call) {
  constexpr std::array<std::string_view, 5> kWays{"answer", "completion", "refusal", "tool_result",
                                                  "piece"};
  for (const json::RawField& field : fields.fields) {
    const bool known = field.name == "call" || field.name == "origin" || field.name == "version" ||
                       std::find(kWays.begin(), kWays.end(), field.name) != kWays.end();
    if (!known) return wrong(field.name, "is not known here");
  }
  const auto ways = std::count_if(kWays.begin(), kWays.end(), [&](std::string_view way) {
    return fields.find(way) != nullptr;
  });
  if (call.empty()) return wrong("call", "must be the id of a call");
  if (ways != 1) {
    return wrong("reply", "must hold one of answer, completion, refusal, tool_result, piece");
  }
  if (is_given(fields.find("origin")) && fields.find("completion") == nullptr) {
    return wrong("origin", "stands beside a completion; an answer holds its own");
  }
  if (is_given(fields.find("version")) && fields.find("completion") == nullptr &&
      fields.find("answer") == nullptr) {
    return wrong("version", "stands beside a completion or an answer");
  }
  ReplyMessage out;
  out.call = {std::move(call)};
  if (const json::Raw* answer = fields.find("answer")) {
    SLUICE_TRY(llm::Answer given, llm::answer_from_json(*answer, llm::Unknown::kRefused));
    SLUICE_TRY_VOID(read_version(fields, given));
    out.what = std::move(given);
  } else if (const json::Raw* completion = fields.find("completion")) {
    SLUICE_TRY(const llm::Origin origin, origin_from(fields));
    SLUICE_TRY(llm::Answer given, llm::answer_from_completion(*completion, origin));
    SLUICE_TRY_VOID(read_version(fields, given));
    out.what = std::move(given);
  } else if (const json::Raw* refusal = fields.find("refusal")) {
    SLUICE_TRY(out.what, refusal_from(refusal->text));
  } else if (const json::Raw* piece = fields.find("piece")) {
    SLUICE_TRY(out.what, piece_from(*piece));
  } else {
    SLUICE_TRY(out.what, tool_result_from(*fields.find("tool_result")));
  }
  return out;
}

RepliesMessage::Each each_from(const json::Raw& value) {
  auto fields = json::fields(value);
  if (!fields) return {"", std::move(fields).error()};
  std::string call;
  if (const json::Raw* named = fields->find("call")) call = json::to_text(*named).value_or("");
  return {call, reply_from(*fields, call)};
}

Result<llm::Dialect> dialect_from(std::string_view name) {
  for (const auto dialect : {llm::Dialect::kChat, llm::Dialect::kResponses, llm::Dialect::kMessages,
                             llm::Dialect::kGemini}) {
    if (to_string(dialect) == name) return dialect;
  }
  return wrong("dialects", "knows chat, responses, messages and gemini");
}

Result<Budget> budget_from(const json::Value& value) {
  Fields in(value, "budget.");
  Budget budget;
  budget.calls = in.count("calls").value_or(budget.calls);
  budget.open_calls =
      static_cast<uint32_t>(in.count("open_calls", 1e6).value_or(budget.open_calls));
  budget.calls_per_second = in.number("calls_per_second", 1e6).value_or(budget.calls_per_second);
  budget.tokens = in.count("tokens").value_or(budget.tokens);
  budget.bytes = in.count("bytes").value_or(budget.bytes);
  budget.time = in.seconds("time_s", kMaxLifetime).value_or(budget.time);
  SLUICE_TRY_VOID(in.finish());
  return budget;
}

Result<ResendRules> resend_from(const json::Value& value) {
  Fields in(value, "resend.");
  ResendRules resend;
  resend.window = in.seconds("window_s", 3600).value_or(resend.window);
  resend.grace = in.seconds("grace_s", 3600).value_or(resend.grace);
  resend.ignore_fields = in.texts("ignore_fields", 32);
  SLUICE_TRY_VOID(in.finish());
  return resend;
}

Result<SessionHeaders> headers_from(const json::Value& value) {
  Fields in(value, "session_headers.");
  SessionHeaders headers;
  headers.session = in.text("session").value_or("");
  headers.parent = in.text("parent").value_or("");
  SLUICE_TRY_VOID(in.finish());
  return headers;
}

Result<OriginRule> origins_from(const json::Value& value) {
  Fields in(value, "origins.");
  OriginRule rule;
  const std::string tokens = in.text("tokens").value_or("required");
  const std::string accept = in.text("accept").value_or("any");
  if (tokens != "required" && tokens != "waived") in.fail("tokens", "must be required or waived");
  if (accept != "any" && accept != "sampled") in.fail("accept", "must be any or sampled");
  if (tokens == "waived") rule.tokens = OriginRule::Tokens::kWaived;
  if (accept == "sampled") rule.accept = OriginRule::Accept::kSampledOnly;
  SLUICE_TRY_VOID(in.finish());
  return rule;
}

Result<AnswerDelivery> delivery_from(const json::Value& value) {
  if (value.is_string() && value.as_string() == "whole") return AnswerDelivery::kWhole;
  if (value.is_string() && value.as_string() == "incremental") return AnswerDelivery::kIncremental;
  return wrong("delivery", "must be whole or incremental");
}

Result<PurposeRule> purpose_from(const json::Value& value) {
  Fields in(value, "purposes.");
  PurposeRule rule;
  const std::string name = in.text("purpose").value_or("main");
  bool known = false;
  for (const auto purpose : {llm::Purpose::kMain, llm::Purpose::kTitle, llm::Purpose::kSummary,
                             llm::Purpose::kSubagent, llm::Purpose::kProbe}) {
    if (to_string(purpose) != name) continue;
    rule.purpose = purpose;
    known = true;
  }
  if (!known) in.fail("purpose", "must be main, title, summary, subagent or probe");
  rule.has_tools = in.flag("has_tools");
  rule.has_parent_session = in.flag("has_parent_session");
  rule.system_contains = in.text("system_contains").value_or("");
  rule.canned = in.text("canned");
  SLUICE_TRY_VOID(in.finish());
  return rule;
}

// Tools whose calls the trainer answers.
Result<Tool> tool_from(const json::Value& value) {
  Fields in(value, "tools.");
  Tool tool;
  tool.name = in.text("name").value_or("");
  tool.description = in.text("description", 64 * 1024).value_or("");
  if (const json::Value* parameters = in.find("parameters")) {
    tool.parameters = json::serialize(*parameters);
  }
  tool.timeout = in.seconds("timeout_s", 3600).value_or(tool.timeout);
  SLUICE_TRY_VOID(in.finish());
  return tool;
}

template <class T>
using Read = Result<T> (*)(const json::Value&);

template <class T>
Result<void> read_part(Fields& in, std::string_view name, Read<T> read, T& out) {
  const json::Value* value = in.find(name);
  if (value == nullptr) return {};
  SLUICE_TRY(out, read(*value));
  return {};
}

Result<std::optional<std::string>> trainer_from(Fields& in) {
  auto name = in.text("trainer");
  if (name && !is_valid_id(*name)) return wrong("trainer", kTrainersName);
  return name;
}

void append_metric(Bytes& out, std::string_view name, std::string_view type, std::string_view help,
                   double value) {
  fmt::format_to(std::back_inserter(out), "# HELP {0} {2}\n# TYPE {0} {1}\n{0} {3}\n", name, type,
                 help, value);
}

}  // namespace

void append_item(Bytes& out, const Item& item, Canonical canonical) {
  if (const llm::Call* call = item.call()) {
    append_call(out, item, *call, canonical);
  } else if (const ToolRequest* tool = item.tool()) {
    append_tool(out, item, *tool);
  } else {
    const Ended& ended = *item.ended();
    Members members(out);
    members.text("type", "ended");
    members.text("rollout", ended.rollout.value);
    members.text("reason", ended.reason);
    members.close();
  }
}

void append_error(Bytes& out, const Error& error) {
  Members members(out);
  members.text("code", to_string(error.code));
  members.text("message", error.message);
  members.close();
}

void append_counters(Bytes& out, const Counters& counters) {
  Members members(out);
  const auto number = [&](std::string_view name, uint64_t value) {
    members.number(name, static_cast<int64_t>(value));
  };
  number("calls", counters.calls);
  number("open", counters.open);
  number("turns", counters.turns);
  number("resends", counters.resends);
  number("refused", counters.refused);
  number("tokens", counters.tokens);
  number("bytes", counters.bytes);
  number("tool_calls", counters.tool_calls);
  members.raw("budget_exhausted", counters.budget_exhausted ? "true" : "false");
  if (counters.budget_exhausted) members.text("budget_reason", counters.budget_reason);
  members.raw("cancelled", counters.cancelled ? "true" : "false");
  Members outcomes(members["outcomes"]);
  for (size_t i = 0; i < counters.outcomes.size(); ++i) {
    outcomes.number(to_string(static_cast<llm::Outcome>(i)),
                    static_cast<int64_t>(counters.outcomes[i]));
  }
  outcomes.close();
  members.close();
}

void append_state(Bytes& out, const TrainerState& state, const Totals& totals) {
  Members members(out);
  members.raw("paused", state.paused ? "true" : "false");
  members.text("version", state.version);
  const auto number = [&](std::string_view name, uint64_t value) {
    members.number(name, static_cast<int64_t>(value));
  };
  number("versions", state.versions);
  number("waiting", state.waiting);
  number("held", state.held);
  number("trainers", state.trainers);
  number("open_rollouts", totals.open_rollouts);
  number("open_calls", totals.open_calls);
  members.close();
}

Bytes metrics_text(const TrainerState& state, const Totals& totals) {
  Bytes out;
  const auto counter = [&](std::string_view name, std::string_view help, uint64_t value) {
    append_metric(out, name, "counter", help, static_cast<double>(value));
  };
  const auto gauge = [&](std::string_view name, std::string_view help, uint64_t value) {
    append_metric(out, name, "gauge", help, static_cast<double>(value));
  };
  counter("sluice_gate_rollouts_total", "Rollouts opened.", totals.rollouts);
  gauge("sluice_gate_rollouts_open", "Rollouts open.", totals.open_rollouts);
  counter("sluice_gate_calls_total", "Calls admitted, resends not counted.", totals.calls);
  gauge("sluice_gate_calls_open", "Calls that have not ended.", totals.open_calls);
  counter("sluice_gate_resends_total", "Requests recognised as earlier ones.", totals.resends);
  counter("sluice_gate_refused_total", "Requests refused before they were calls.", totals.refused);
  counter("sluice_gate_confirmed_total", "Answers found again in later requests.",
          totals.confirmed);
  counter("sluice_gate_tokens_total", "Tokens of delivered answers, prompts included.",
          totals.tokens);
  counter("sluice_gate_request_bytes_total", "Bytes of calls' bodies.", totals.request_bytes);
  counter("sluice_gate_put_away_bytes_total",
          "Bytes of waiting calls' bodies that the trace alone keeps, as the calls waited long.",
          totals.put_away_bytes);
  counter("sluice_gate_answer_bytes_total", "Bytes of answers.", totals.answer_bytes);
  counter("sluice_gate_tool_calls_total", "Calls of host tools.", totals.tool_calls);
  out +=
      "# HELP sluice_gate_outcomes_total Ended calls by outcome.\n"
      "# TYPE sluice_gate_outcomes_total counter\n";
  for (size_t i = 0; i < totals.outcomes.size(); ++i) {
    fmt::format_to(std::back_inserter(out), "sluice_gate_outcomes_total{{outcome=\"{}\"}} {}\n",
                   to_string(static_cast<llm::Outcome>(i)), totals.outcomes[i]);
  }
  gauge("sluice_gate_ready", "Calls that wait for a trainer.", state.waiting);
  gauge("sluice_gate_held", "Items that trainers hold.", state.held);
  gauge("sluice_gate_trainers", "Named trainers that live or hold something.", state.trainers);
  gauge("sluice_gate_paused", "1 in a pause.", state.paused ? 1 : 0);
  return out;
}

Result<TakeMessage> take_from_json(ByteView body) {
  SLUICE_TRY(const json::Value value, parse_small(body));
  Fields in(value, "");
  TakeMessage out;
  out.request.max = in.count("max", kMaxTake).value_or(1);
  if (out.request.max == 0) in.fail("max", "must be at least 1");
  out.wait = in.seconds("wait_s", kMaxWait).value_or(Duration::zero());
  Taker& taker = out.request.taker;
  SLUICE_TRY(const auto name, trainer_from(in));
  taker.name = name.value_or(std::string(kDefaultTrainer));
  taker.lease = in.seconds("lease_s", kMaxLease).value_or(taker.lease);
  if (in.flag("afresh").value_or(false)) taker.start = Taker::Start::kAfresh;
  if (in.flag("canonical").value_or(false)) out.canonical = Canonical::kYes;
  SLUICE_TRY_VOID(in.finish());
  return out;
}

Result<RepliesMessage> replies_from_json(ByteView body) {
  SLUICE_TRY(const json::Raw raw, json::read_value(body));
  SLUICE_TRY(const json::RawObject fields, json::fields(raw));
  RepliesMessage out;
  const json::Raw* list = fields.find("replies");
  // The members that are no part of a single reply are read as a message of their own.
  json::Object rest;
  for (const json::RawField& field : fields.fields) {
    const bool ours = field.name == "trainer" || field.name == "wait_s";
    if (!ours && list == nullptr) continue;
    if (&field.value == list || field.name == "replies") continue;
    SLUICE_TRY(rest[field.name], json::parse(field.value.text));
  }
  const json::Value around(std::move(rest));
  Fields in(around, "");
  SLUICE_TRY(const auto trainer, trainer_from(in));
  out.trainer = trainer.value_or("");
  out.for_outcome = in.seconds("wait_s", kMaxWait);
  SLUICE_TRY_VOID(in.finish());
  if (list == nullptr) {
    json::RawObject reply;
    for (const json::RawField& field : fields.fields) {
      if (field.name != "trainer" && field.name != "wait_s") reply.fields.push_back(field);
    }
    std::string call;
    if (const json::Raw* named = reply.find("call")) call = json::to_text(*named).value_or("");
    out.replies.push_back({call, reply_from(reply, call)});
    return out;
  }
  SLUICE_TRY(const std::vector<json::Raw> replies, json::elements(*list));
  if (replies.size() > kMaxReplies) {
    return wrong("replies", fmt::format("must be at most {}", kMaxReplies));
  }
  out.replies.reserve(replies.size());
  for (const json::Raw& each : replies) out.replies.push_back(each_from(each));
  return out;
}

Result<RegisterMessage> registration_from_json(ByteView body) {
  SLUICE_TRY(const json::Value value, parse_small(body));
  Fields in(value, "");
  RegisterMessage out;
  Registration& registration = out.registration;
  const auto id = in.text("id");
  if (id && id->empty()) in.fail("id", "must be an id, or left out");
  registration.id = {id.value_or("")};
  if (const auto names = in.texts("dialects", 4); !names.empty()) {
    registration.dialects.clear();
    for (const std::string& name : names) {
      SLUICE_TRY(const llm::Dialect dialect, dialect_from(name));
      registration.dialects.insert(dialect);
    }
  } else {
    registration.dialects = {llm::Dialect::kChat, llm::Dialect::kResponses, llm::Dialect::kMessages,
                             llm::Dialect::kGemini};
  }
  if (auto models = in.texts("models", 64); !models.empty())
    registration.models = std::move(models);
  SLUICE_TRY_VOID(read_part(in, "budget", budget_from, registration.budget));
  SLUICE_TRY_VOID(read_part(in, "resend", resend_from, registration.resend));
  SLUICE_TRY_VOID(read_part(in, "session_headers", headers_from, registration.session_headers));
  SLUICE_TRY_VOID(read_part(in, "origins", origins_from, registration.origins));
  SLUICE_TRY_VOID(read_part(in, "delivery", delivery_from, registration.delivery));
  for (const json::Value& each : in.list("purposes", 64)) {
    SLUICE_TRY(PurposeRule rule, purpose_from(each));
    registration.purposes.push_back(std::move(rule));
  }
  for (const json::Value& each : in.list("tools", kMaxTools)) {
    SLUICE_TRY(Tool tool, tool_from(each));
    registration.tools.push_back(std::move(tool));
  }
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
  SLUICE_TRY(const json::Value value, parse_small(body));
  Fields in(value, "");
  auto text = in.text(name);
  SLUICE_TRY_VOID(in.finish());
  return text;
}

Result<std::string> trainer_from_json(ByteView body) {
  SLUICE_TRY(const json::Value value, parse_small(body));
  Fields in(value, "");
  SLUICE_TRY(const auto name, trainer_from(in));
  SLUICE_TRY_VOID(in.finish());
  return name.value_or(std::string(kDefaultTrainer));
}

Result<void> nothing_from_json(ByteView body) {
  SLUICE_TRY(const json::Value value, parse_small(body));
  return Fields(value, "").finish();
}

Result<uint64_t> count_from_json(ByteView body, std::string_view name) {
  SLUICE_TRY(const json::Value value, parse_small(body));
  Fields in(value, "");
  const auto count = in.count(name);
  if (!count) in.fail(name, "is missing");
  SLUICE_TRY_VOID(in.finish());
  return *count;
}

}  // namespace sluice::gate::trainer_http
