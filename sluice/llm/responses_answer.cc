#include "sluice/llm/responses_answer.h"

#include <fmt/format.h>

#include "sluice/llm/openai.h"
#include "sluice/llm/wire.h"

namespace sluice::llm::responses {

using wire::Members;

// One item of an answer's output. The answer outlives it.
struct Item {
  enum class Kind : uint8_t { kReasoning, kMessage, kCall };
  Kind kind = Kind::kMessage;
  size_t index = 0;
  std::string id;
  const ToolCall* call = nullptr;
};

// A part of an item that has text, and what the events about it are called.
struct PartKind {
  std::string_view type, field, index;
  std::string_view added, delta, text_done, done;
};

namespace {

constexpr PartKind kSummary{"summary_text",
                            "text",
                            "summary_index",
                            "response.reasoning_summary_part.added",
                            "response.reasoning_summary_text.delta",
                            "response.reasoning_summary_text.done",
                            "response.reasoning_summary_part.done"};
constexpr PartKind kText{"output_text",
                         "text",
                         "content_index",
                         "response.content_part.added",
                         "response.output_text.delta",
                         "response.output_text.done",
                         "response.content_part.done"};
constexpr PartKind kRefusal{"refusal",
                            "refusal",
                            "content_index",
                            "response.content_part.added",
                            "response.refusal.delta",
                            "response.refusal.done",
                            "response.content_part.done"};

std::vector<Item> items_of(const Envelope& envelope, const Choice& choice) {
  const Message& message = choice.message;
  std::vector<Item> items;
  const auto add = [&](Item::Kind kind, std::string_view prefix, const ToolCall* call) {
    const size_t index = items.size();
    items.push_back({kind, index, fmt::format("{}_{}{:02x}", prefix, envelope.id, index), call});
  };
  if (!message.reasoning.empty() || !message.reasoning_seal.empty()) {
    add(Item::Kind::kReasoning, "rs", nullptr);
  }
  // An empty answer is an empty message: something must be there to be echoed.
  if (!message.text.empty() || !message.refusal.empty() || message.tool_calls.empty()) {
    add(Item::Kind::kMessage, "msg", nullptr);
  }
  for (const ToolCall& call : message.tool_calls) {
    add(Item::Kind::kCall, call.kind == ToolCall::Kind::kCustom ? "ctc" : "fc", &call);
  }
  return items;
}

std::string_view status_of(Finish finish) {
  return finish == Finish::kLength || finish == Finish::kContentFilter ? "incomplete" : "completed";
}

void append_part(Bytes& out, const PartKind& kind, std::string_view text) {
  Members part(out);
  part.text("type", kind.type);
  if (&kind == &kText) {
    part.raw("annotations", "[]");
    part.raw("logprobs", "[]");
  }
  part.text(kind.field, text);
}

void append_content(Bytes& out, const Message& message) {
  wire::List parts(out);
  if (!message.text.empty() || message.refusal.empty()) {
    append_part(parts.next(), kText, message.text);
  }
  if (!message.refusal.empty()) append_part(parts.next(), kRefusal, message.refusal);
}

void append_call(Members& members, const ToolCall& call, std::string_view status, Stage stage) {
  const bool custom = call.kind == ToolCall::Kind::kCustom;
  std::string_view name = call.name;
  members.text("type", custom ? "custom_tool_call" : "function_call");
  members.text("status", status);
  members.text("call_id", call.id);
  if (!call.space.empty() && name.size() > call.space.size() + kBetween.size()) {
    name.remove_prefix(call.space.size() + kBetween.size());
    members.text("namespace", call.space);
  }
  members.text("name", name);
  members.text(custom ? "input" : "arguments", stage == Stage::kDone ? wire::sent_text(call) : "");
}

void append_item(Bytes& out, const Item& item, const Choice& choice, Stage stage) {
  const Message& message = choice.message;
  const bool done = stage == Stage::kDone;
  const std::string_view status = done ? status_of(choice.finish) : "in_progress";
  Members members(out);
  members.text("id", item.id);
  switch (item.kind) {
    case Item::Kind::kReasoning:
      members.text("type", "reasoning");
      members.text("encrypted_content", wire::seal_of(message));
      members["summary"].push_back('[');
      if (done && !message.reasoning.empty()) append_part(out, kSummary, message.reasoning);
      out.push_back(']');
      break;
    case Item::Kind::kMessage:
      members.text("type", "message");
      members.text("status", status);
      members.text("role", "assistant");
      if (done) {
        append_content(members["content"], message);
      } else {
        members.raw("content", "[]");
      }
      break;
    case Item::Kind::kCall:
      append_call(members, *item.call, status, stage);
      break;
  }
}

void append_usage(Bytes& out, const Usage& usage) {
  Members members(out);
  members.number("input_tokens", usage.prompt_tokens);
  members.raw("input_tokens_details", R"({"cached_tokens":0,"cache_write_tokens":0})");
  members.number("output_tokens", usage.completion_tokens);
  members.raw("output_tokens_details", R"({"reasoning_tokens":0})");
  members.number("total_tokens", usage.prompt_tokens + usage.completion_tokens);
}

std::string_view error_code(const Problem& problem) {
  // By this one Codex gives up at once.
  if (problem.end_agent) return "invalid_prompt";
  const int status = openai::error_status(problem);
  if (status == 429) return "rate_limit_exceeded";
  return status >= 500 ? "server_error" : "invalid_prompt";
}

// The response object. Of the request it repeats the model only; clients have the rest.
void append_response(Bytes& out, const Envelope& envelope, std::string_view status,
                     const Answer* answer, const Problem* problem) {
  Members members(out);
  members.text("id", "resp_" + envelope.id);
  members.text("object", "response");
  members.number("created_at", envelope.created);
  members.text("status", status);
  members.raw("background", "false");
  if (problem != nullptr) {
    Members error(members["error"]);
    error.text("code", error_code(*problem));
    error.text("message", problem->told());
  } else {
    members.raw("error", "null");
  }
  if (status == "incomplete") {
    const bool length = answer->choices.front().finish == Finish::kLength;
    members.raw("incomplete_details",
                length ? R"({"reason":"max_output_tokens"})" : R"({"reason":"content_filter"})");
  } else {
    members.raw("incomplete_details", "null");
  }
  members.raw("instructions", "null");
  members.raw("metadata", "{}");
  members.text("model", envelope.model);
  if (answer != nullptr) {
    const Choice& choice = answer->choices.front();
    wire::append_list(
        members["output"], items_of(envelope, choice),
        [&](Bytes& to, const Item& item) { append_item(to, item, choice, Stage::kDone); });
  } else {
    members.raw("output", "[]");
  }
  members.raw("parallel_tool_calls", "true");
  members.raw("previous_response_id", "null");
  members.raw("reasoning", R"({"effort":null,"summary":null})");
  members.raw("store", "false");
  members.raw("temperature", "null");
  members.raw("text", R"({"format":{"type":"text"}})");
  members.raw("tool_choice", R"("auto")");
  members.raw("tools", "[]");
  members.raw("top_p", "null");
  members.raw("truncation", R"("disabled")");
  if (answer != nullptr) {
    // Zeros where it is unknown: to OpenCode an answer without usage is not complete, and it asks
    // again, at once and for ever.
    append_usage(members["usage"], answer->usage.value_or(Usage()));
  } else {
    members.raw("usage", "null");
  }
}

}  // namespace

Bytes whole(const Envelope& envelope, const Answer& answer) {
  Bytes out;
  append_response(out, envelope, status_of(answer.choices.front().finish), &answer, nullptr);
  return out;
}

EventWriter::EventWriter(const Envelope& envelope)
    : envelope_(envelope), number_(envelope.keep_alives + envelope.sent.events) {
  // A first keep-alive frame is two events. Of pieces, sent.events has counted that in.
  if (!envelope.sent.any() && number_ > 0) ++number_;
}

Bytes EventWriter::rest(const Answer& answer) {
  open_if_new();
  const Choice& choice = answer.choices.front();
  for (const Item& each : items_of(envelope_, choice)) item(each, choice, Stage::kDone);
  const std::string_view status = status_of(choice.finish);
  response(status == "completed" ? "response.completed" : "response.incomplete", status, &answer);
  return std::move(out_);
}

Bytes EventWriter::piece(Envelope& envelope, const Message& so_far) {
  open_if_new();
  Choice choice;
  choice.message = so_far;
  for (const Item& each : items_of(envelope, choice)) {
    // Without text there is no message yet, and the last item goes on.
    if (each.kind == Item::Kind::kMessage && so_far.text.empty()) break;
    const bool last = each.kind == Item::Kind::kMessage || so_far.text.empty();
    item(each, choice, last ? Stage::kAdded : Stage::kDone);
  }
  // All but the keep-alive frames.
  envelope.sent.events = static_cast<uint32_t>(number_) - envelope.keep_alives;
  wire::note_sent(envelope.sent, so_far);
  return std::move(out_);
}

Bytes EventWriter::keep_alive() {
  if (opened()) {
    response("response.in_progress", "in_progress");
  } else {
    open_if_new();
  }
  return std::move(out_);
}

Bytes EventWriter::failure(const Problem& problem) {
  open_if_new();
  event("error", [&](Members& members) {
    openai::append_error_object(members["error"], problem);
    members.text("code", error_code(problem));
    members.text("message", problem.told());
    members.text_or_null("param", problem.param);
  });
  response("response.failed", "failed", nullptr, &problem);
  return std::move(out_);
}

// What every stream begins with: clients refuse one that begins otherwise.
void EventWriter::open_if_new() {
  if (opened()) return;
  response("response.created", "in_progress");
  response("response.in_progress", "in_progress");
}

// An event with `more` members.
template <class More>
void EventWriter::event(std::string_view type, More more) {
  wire::append_event(out_, type, [&](Members& members) {
    members.text("type", type);
    members.number("sequence_number", number_++);
    more(members);
  });
}

void EventWriter::response(std::string_view type, std::string_view status, const Answer* answer,
                           const Problem* problem) {
  event(type, [&](Members& members) {
    append_response(members["response"], envelope_, status, answer, problem);
  });
}

// An item, behind what was sent of it; unless it is done, up to what may still be added to.
void EventWriter::item(const Item& item, const Choice& choice, Stage upto) {
  const Sent& sent = envelope_.sent;
  size_t from = 0;
  if (item.kind == Item::Kind::kReasoning) from = sent.reasoning;
  if (item.kind == Item::Kind::kMessage) from = sent.text;
  // The reasoning was done when the text began.
  if (item.kind == Item::Kind::kReasoning && sent.text > 0) return;
  if (from == 0) whole_item("response.output_item.added", item, choice, Stage::kAdded);
  switch (item.kind) {
    case Item::Kind::kReasoning:
      if (const std::string& text = choice.message.reasoning; !text.empty()) {
        part(item, kSummary, 0, text, from, upto);
      }
      break;
    case Item::Kind::kMessage:
      content(item, choice.message, from, upto);
      break;
    case Item::Kind::kCall:
      arguments(item);
      break;
  }
  if (upto == Stage::kDone) {
    whole_item("response.output_item.done", item, choice, Stage::kDone);
  }
}

void EventWriter::whole_item(std::string_view type, const Item& item, const Choice& choice,
                             Stage stage) {
  event(type, [&](Members& members) {
    members.number("output_index", static_cast<int64_t>(item.index));
    append_item(members["item"], item, choice, stage);
  });
}

// An event about something inside an item.
template <class More>
void EventWriter::item_event(std::string_view type, const Item& item, More more) {
  event(type, [&](Members& members) {
    members.text("item_id", item.id);
    members.number("output_index", static_cast<int64_t>(item.index));
    more(members);
  });
}

void EventWriter::part(const Item& item, const PartKind& kind, int64_t at, std::string_view text,
                       size_t from, Stage upto) {
  const auto whole_part = [&](std::string_view type, std::string_view content) {
    item_event(type, item, [&](Members& members) {
      members.number(kind.index, at);
      append_part(members["part"], kind, content);
    });
  };
  const auto text_event = [&](std::string_view type, std::string_view field,
                              std::string_view content) {
    item_event(type, item, [&](Members& members) {
      members.number(kind.index, at);
      members.text(field, content);
      if (&kind == &kText) members.raw("logprobs", "[]");
    });
  };
  if (from == 0) whole_part(kind.added, "");
  if (text.size() > from) text_event(kind.delta, "delta", text.substr(from));
  if (upto != Stage::kDone) return;
  text_event(kind.text_done, kind.field, text);
  whole_part(kind.done, text);
}

void EventWriter::content(const Item& item, const Message& message, size_t from, Stage upto) {
  const bool has_text = !message.text.empty() || message.refusal.empty();
  if (has_text) part(item, kText, 0, message.text, from, upto);
  if (message.refusal.empty() || upto != Stage::kDone) return;
  part(item, kRefusal, has_text ? 1 : 0, message.refusal, 0, upto);
}

void EventWriter::arguments(const Item& item) {
  const bool custom = item.call->kind == ToolCall::Kind::kCustom;
  const std::string_view text = wire::sent_text(*item.call);
  if (!text.empty()) {
    item_event(
        custom ? "response.custom_tool_call_input.delta" : "response.function_call_arguments.delta",
        item, [&](Members& members) { members.text("delta", text); });
  }
  item_event(
      custom ? "response.custom_tool_call_input.done" : "response.function_call_arguments.done",
      item, [&](Members& members) { members.text(custom ? "input" : "arguments", text); });
}

}  // namespace sluice::llm::responses
