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

Result<ToolCall> tool_call_of(const json::Raw& value, const std::string& where) {
  Reader in(value, where);
  ToolCall call;
  call.id = in.text("id", "");
  if (const json::Raw* custom = in.find("custom")) {
    Reader tool(*custom, where + "custom.");
    call.kind = ToolCall::Kind::kCustom;
    call.name = tool.text("name", "");
    call.arguments = tool.text("input", "");
    SLUICE_TRY_VOID(tool.finish());
  } else if (const json::Raw* function = in.find("function")) {
    Reader tool(*function, where + "function.");
    call.name = tool.text("name", "");
    call.arguments = arguments_of(tool);
    SLUICE_TRY_VOID(tool.finish());
  } else {
    in.fail("function", "is missing");
  }
  SLUICE_TRY_VOID(in.finish());
  return call;
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

Result<void> read_logprobs(const json::Raw& value, const std::string& where, Choice& choice) {
  Reader logprobs(value, where);
  std::vector<int32_t> ids;
  for (const json::Raw& element : logprobs.list("content")) {
    Reader token(element, where + "content.");
    if (token.find("logprob") == nullptr) token.fail("logprob", "is missing");
    choice.logprobs.push_back(token.figure<float>("logprob"));
    if (const auto id = id_of(token)) ids.push_back(*id);
    SLUICE_TRY_VOID(token.finish());
  }
  SLUICE_TRY_VOID(logprobs.finish());
  if (choice.ids.empty() && ids.size() == choice.logprobs.size()) choice.ids = std::move(ids);
  if (std::any_of(choice.logprobs.begin(), choice.logprobs.end(), is_missing)) {
    choice.logprobs.clear();
  }
  return {};
}

// SGLang's: [logprob, id, text] each, the stop token included.
Result<void> read_triples(const json::Raw& value, const std::string& where, Choice& choice) {
  Reader meta(value, where);
  for (const json::Raw& element : meta.list("output_token_logprobs")) {
    SLUICE_TRY(const std::vector<json::Raw> triple, json::elements(element));
    const auto logprob = triple.size() < 2 ? std::nullopt : json::to_float(triple[0]);
    const auto id = triple.size() < 2 ? std::nullopt : json::to_integer(triple[1]);
    if (!logprob || !id || !std::in_range<int32_t>(*id)) {
      meta.fail("output_token_logprobs", "must hold [logprob, id, ...]");
      break;
    }
    choice.logprobs.push_back(*logprob);
    choice.ids.push_back(static_cast<int32_t>(*id));
  }
  return meta.finish();
}

Result<Choice> choice_of(const json::Raw& value, const std::string& where, Answer& answer) {
  Reader in(value, where);
  Choice choice;
  choice.finish = finish_of(in);
  const json::Raw* message = in.find("message");
  if (message == nullptr) {
    in.fail("message", "is missing (is this a chat.completion object, not a stream's chunk?)");
    SLUICE_TRY_VOID(in.finish());
  }
  Reader said(*message, where + "message.");
  choice.message.text = content_of(said);
  choice.message.refusal = said.text("refusal", "");
  // vLLM's newer name and everybody else's.
  choice.message.reasoning = said.text("reasoning_content", "");
  if (choice.message.reasoning.empty()) choice.message.reasoning = said.text("reasoning", "");
  for (const json::Raw& element : said.list("tool_calls")) {
    SLUICE_TRY(ToolCall call, tool_call_of(element, where + "message.tool_calls."));
    choice.message.tool_calls.push_back(std::move(call));
  }
  SLUICE_TRY_VOID(said.finish());

  choice.ids = in.figures<int32_t>("token_ids");
  if (answer.prompt_ids.empty()) answer.prompt_ids = in.figures<int32_t>("prompt_token_ids");
  const json::Raw* logprobs = in.find("logprobs");
  const json::Raw* meta = in.find("meta_info");
  if (logprobs != nullptr) SLUICE_TRY_VOID(read_logprobs(*logprobs, where + "logprobs.", choice));
  // SGLang gives both where both are asked for, and ids only here.
  if (meta != nullptr && choice.ids.empty()) {
    choice.logprobs.clear();
    SLUICE_TRY_VOID(read_triples(*meta, where + "meta_info.", choice));
  }
  SLUICE_TRY_VOID(in.finish());
  return choice;
}

}  // namespace

Result<Answer> answer_from_completion(const json::Raw& value, Origin origin) {
  Reader in(value, "answer: completion.");
  Answer answer;
  answer.origin = origin;
  answer.prompt_ids = in.figures<int32_t>("prompt_token_ids");
  if (in.find("choices") == nullptr) in.fail("choices", "is missing");
  std::vector<std::pair<int64_t, Choice>> choices;
  for (const json::Raw& element : in.list("choices")) {
    const std::string where = fmt::format("answer: completion.choices[{}].", choices.size());
    SLUICE_TRY(Choice choice, choice_of(element, where, answer));
    Reader place(element, where);
    const int64_t index = place.figure("index");
    SLUICE_TRY_VOID(place.finish());
    choices.emplace_back(index, std::move(choice));
  }
  std::sort(choices.begin(), choices.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (auto& [index, choice] : choices) answer.choices.push_back(std::move(choice));
  if (const json::Raw* usage = in.find("usage")) {
    Reader figures(*usage, "answer: completion.usage.");
    answer.usage = Usage{figures.figure("prompt_tokens"), figures.figure("completion_tokens")};
    SLUICE_TRY_VOID(figures.finish());
  }
  SLUICE_TRY_VOID(in.finish());
  return answer;
}

}  // namespace sluice::llm
