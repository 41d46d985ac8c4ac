#include "sluice/llm/completion.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "sluice/json/reader.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/wire.h"

namespace sluice::llm {
namespace {

using json::Reader;

// Text, or an array of text parts.
std::string content_of(Reader& message) {
  const json::Raw* content = message.find("content");
  if (content == nullptr || !content->is(json::Type::kArray)) return message.text("content", "");
  std::string text;
  for (const json::Raw& element : message.list("content")) {
    Reader part(element, "content.");
    text += part.text("text", "");
  }
  return text;
}

// OpenAI sends them as a string; some servers as the object itself.
std::string arguments_of(Reader& function) {
  const json::Raw* arguments = function.find("arguments");
  if (arguments != nullptr && arguments->is(json::Type::kObject)) {
    return std::string(arguments->text);
  }
  return function.text("arguments", "");
}

void read_function(Reader& in, ToolCall& call) {
  call.name = in.text("name", "");
  call.arguments = arguments_of(in);
}

void read(Reader& in, ToolCall& call) {
  call.id = in.text("id", "");
  if (in.find("custom") != nullptr) {
    in.object("custom", [&](Reader& tool) {
      call.kind = ToolCall::Kind::kCustom;
      call.name = tool.text("name", "");
      call.arguments = tool.text("input", "");
    });
  } else if (in.find("function") != nullptr) {
    in.object("function", [&](Reader& tool) { read_function(tool, call); });
  } else {
    in.fail("function", "is missing");
  }
}

Finish finish_of(Reader& choice) {
  const std::string reason = choice.text("finish_reason", "");
  if (reason == "length") return Finish::kLength;
  if (reason == "tool_calls" || reason == "function_call") return Finish::kToolCalls;
  if (reason == "content_filter") return Finish::kContentFilter;
  if (reason == "abort" || reason == "error") {
    choice.fail("finish_reason", "the server broke off: sample again, or refuse the call");
  }
  return Finish::kStop;
}

// What a token's entry says of its id: "token_id:12", or a member of its own.
std::optional<int32_t> id_of(Reader& token) {
  for (const std::string_view name : {"token_id", "id"}) {
    if (token.find(name) != nullptr) return token.figure<int32_t>(name);
  }
  constexpr std::string_view kPrefix = "token_id:";
  const std::string text = token.text("token", "");
  if (!text.starts_with(kPrefix)) return std::nullopt;
  int32_t id = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + kPrefix.size(), end, id);
  return error == std::errc() && stop == end ? std::optional(id) : std::nullopt;
}

// vLLM writes -9999 where it has no logprob.
bool is_missing(float logprob) {
  return logprob <= -9998;
}

void read_logprobs(Reader& in, Choice& choice) {
  std::vector<int32_t> ids;
  in.objects("content", Reader::kAny, [&](Reader& token) {
    if (token.find("logprob") == nullptr) token.fail("logprob", "is missing");
    choice.logprobs.push_back(token.figure<float>("logprob"));
    if (const auto id = id_of(token)) ids.push_back(*id);
  });
  if (choice.ids.empty() && ids.size() == choice.logprobs.size()) choice.ids = std::move(ids);
  if (std::any_of(choice.logprobs.begin(), choice.logprobs.end(), is_missing)) {
    choice.logprobs.clear();
  }
}

// SGLang's: [logprob, id, text] each, the stop token included.
void read_triples(Reader& in, Choice& choice) {
  for (const json::Raw& element : in.list("output_token_logprobs")) {
    const auto triple = json::elements(element).value_or(std::vector<json::Raw>());
    const auto logprob = triple.size() < 2 ? std::nullopt : json::to_float(triple[0]);
    const auto id = triple.size() < 2 ? std::nullopt : json::to_integer(triple[1]);
    if (!logprob || !id || !std::in_range<int32_t>(*id)) {
      return in.fail("output_token_logprobs", "must hold [logprob, id, ...]");
    }
    choice.logprobs.push_back(*logprob);
    choice.ids.push_back(static_cast<int32_t>(*id));
  }
}

void read(Reader& in, Message& message) {
  message.text = content_of(in);
  message.refusal = in.text("refusal", "");
  // vLLM's newer name and everybody else's.
  message.reasoning = in.text("reasoning_content", "");
  if (message.reasoning.empty()) message.reasoning = in.text("reasoning", "");
  in.objects("tool_calls", Reader::kAny,
             [&](Reader& each) { read(each, message.tool_calls.emplace_back()); });
  if (!message.tool_calls.empty()) return;
  // The one call of older servers, which has no id.
  in.object("function_call",
            [&](Reader& each) { read_function(each, message.tool_calls.emplace_back()); });
}

void read(Reader& in, Choice& choice, std::vector<int32_t>& prompt_ids) {
  choice.finish = finish_of(in);
  if (in.find("message") == nullptr) {
    in.fail("message", "is missing (is this a chat.completion object, not a stream's chunk?)");
  }
  in.object("message", [&](Reader& message) { read(message, choice.message); });
  choice.ids = in.figures<int32_t>("token_ids");
  if (prompt_ids.empty()) prompt_ids = in.figures<int32_t>("prompt_token_ids");
  in.object("logprobs", [&](Reader& logprobs) { read_logprobs(logprobs, choice); });
  // SGLang gives both where both are asked for, and ids only here.
  if (!choice.ids.empty()) return;
  in.object("meta_info", [&](Reader& meta) {
    choice.logprobs.clear();
    read_triples(meta, choice);
  });
}

}  // namespace

Result<Answer> answer_from_completion(const json::Raw& value, Origin origin) {
  Reader in(value, "answer: completion.");
  Answer answer;
  answer.origin = origin;
  answer.prompt_ids = in.figures<int32_t>("prompt_token_ids");
  if (in.find("choices") == nullptr) in.fail("choices", "is missing");
  std::vector<std::pair<int64_t, Choice>> choices;
  for (const json::Raw& each : in.list("choices")) {
    auto& [index, choice] = choices.emplace_back();
    in.object(fmt::format("choices[{}]", choices.size() - 1), each, [&](Reader& inner) {
      read(inner, choice, answer.prompt_ids);
      index = inner.figure("index");
    });
  }
  std::sort(choices.begin(), choices.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [index, choice] : choices) answer.choices.push_back(std::move(choice));
  answer.usage = usage_in(in);
  SLUICE_TRY_VOID(in.finish());
  return answer;
}

}  // namespace sluice::llm
