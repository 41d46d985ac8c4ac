#include "sluice/llm/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "sluice/json/text.h"
#include "sluice/llm/dialect.h"
#include "sluice/llm/wire.h"

namespace sluice::llm {
namespace {

using json::Reader;
using wire::Members;

// As many bytes as a made answer may have before it is whole.
constexpr size_t kMaxSoFar = 64 << 20;
// What a server's arithmetic may make of the logarithm of 1.
constexpr float kMaxLogprob = 1e-3F;
constexpr int64_t kMaxTokens = int64_t{1} << 40;  // of one answer, by its own account

Error unfit(std::string what) {
  return Error(ErrorCode::kInvalidArgument, "answer: " + std::move(what), ErrorOrigin::kCaller);
}

bool has_negative(const std::vector<int32_t>& ids) {
  return std::any_of(ids.begin(), ids.end(), [](int32_t id) { return id < 0; });
}

// Agents believe it, and budgets add it up.
bool is_possible(const Usage& usage) {
  const auto possible = [](int64_t tokens) {
    return tokens >= 0 && tokens <= kMaxTokens;
  };
  return possible(usage.prompt_tokens) && possible(usage.completion_tokens);
}

Result<void> check(const Choice& choice) {
  if (has_negative(choice.ids)) return unfit("a token id is negative");
  if (!choice.logprobs.empty() && choice.logprobs.size() != choice.ids.size()) {
    return unfit(fmt::format("{} token ids and {} logprobs; there must be one for each id, or none",
                             choice.ids.size(), choice.logprobs.size()));
  }
  const auto wrong =
      std::find_if(choice.logprobs.begin(), choice.logprobs.end(),
                   [](float logprob) { return !std::isfinite(logprob) || logprob > kMaxLogprob; });
  if (wrong != choice.logprobs.end()) {
    return unfit(
        fmt::format("the logprob of token {} is {}; a logarithm of a probability is at most 0",
                    wrong - choice.logprobs.begin(), *wrong));
  }
  for (size_t i = 1; i < choice.versions.size(); ++i) {
    if (choice.versions[i].first_token < choice.versions[i - 1].first_token) {
      return unfit("version spans must be in the order of their tokens");
    }
  }
  // The first that counts from the prompt's beginning would claim nothing of the answer.
  if (!choice.ids.empty() && !choice.versions.empty() &&
      choice.versions.back().first_token >= choice.ids.size()) {
    return unfit(fmt::format("a version span begins at token {}, and it has {} tokens",
                             choice.versions.back().first_token, choice.ids.size()));
  }
  return {};
}

std::optional<Usage> usage_of_ids(const Answer& answer) {
  if (answer.prompt_ids.empty()) return std::nullopt;
  Usage usage;
  usage.prompt_tokens = static_cast<int64_t>(answer.prompt_ids.size());
  for (const Choice& choice : answer.choices) {
    if (choice.ids.empty()) return std::nullopt;
    usage.completion_tokens += static_cast<int64_t>(choice.ids.size());
  }
  return usage;
}

void append_choice(Bytes& out, const Choice& choice) {
  Members members(out);
  members.text("finish", to_string(choice.finish));
  members.text_if_any("text", choice.message.text);
  members.text_if_any("reasoning", choice.message.reasoning);
  members.text_if_any("reasoning_seal", choice.message.reasoning_seal);
  members.text_if_any("refusal", choice.message.refusal);
  const auto append_call = [](Bytes& to, const ToolCall& call) {
    append_json(to, call);
  };
  members.list_if_any("tool_calls", choice.message.tool_calls, append_call);
  members.list_if_any("withheld", choice.withheld, append_call);
  members.list_if_any("ids", choice.ids);
  members.list_if_any("logprobs", choice.logprobs);
  members.list_if_any("versions", choice.versions, [](Bytes& to, const VersionSpan& span) {
    Members version(to);
    version.number("first_token", int64_t{span.first_token});
    version.text("version", span.version);
  });
}

void read(Reader& in, ToolCall& call) {
  call.id = in.text("id", "");
  call.name = in.text("name", "");
  call.arguments = in.text("arguments", "");
  call.kind =
      in.one_of("kind", std::array{ToolCall::Kind::kFunction, ToolCall::Kind::kCustom}, call.kind);
  call.space = in.text("namespace", "");
  if (!call.space.empty() && !call.name.starts_with(call.space + "__")) {
    in.fail("namespace", "the name must begin with it and \"__\"");
  }
}

void read(Reader& in, Choice& choice) {
  choice.finish = in.one_of("finish", kFinishes, Finish::kStop);
  choice.message.text = in.text("text", "");
  choice.message.reasoning = in.text("reasoning", "");
  choice.message.reasoning_seal = in.text("reasoning_seal", "");
  choice.message.refusal = in.text("refusal", "");
  in.objects("tool_calls", Reader::kAny,
             [&](Reader& each) { read(each, choice.message.tool_calls.emplace_back()); });
  in.objects("withheld", Reader::kAny,
             [&](Reader& each) { read(each, choice.withheld.emplace_back()); });
  choice.ids = in.figures<int32_t>("ids");
  choice.logprobs = in.figures<float>("logprobs");
  in.objects("versions", Reader::kAny, [&](Reader& each) {
    choice.versions.push_back({each.figure<uint32_t>("first_token"), each.text("version", "")});
  });
}

// The half of a UTF-16 pair that stands in three bytes at `at`; 0 if none does.
uint32_t half_at(std::string_view text, size_t at) {
  if (at >= text.size() || text.size() - at < 3) return 0;
  const auto byte = [&](size_t i) {
    return static_cast<unsigned char>(text[at + i]);
  };
  if (byte(0) != 0xED || byte(1) < 0xA0 || (byte(2) & 0xC0) != 0x80) return 0;
  return 0xD000 | (byte(1) & 0x3FU) << 6 | (byte(2) & 0x3FU);
}

bool is_first_half(uint32_t half) {
  return half >= 0xD800 && half < 0xDC00;
}

// The text without a first half at its end, which may yet meet the other.
std::string_view without_half(std::string_view text) {
  if (text.size() >= 3 && is_first_half(half_at(text, text.size() - 3))) text.remove_suffix(3);
  return text;
}

// Adds to a text: halves that meet are a character, and one that stays alone is U+FFFD.
enum class Ends : uint8_t { kNo, kHere };
void append_part(std::string& text, std::string_view more, Ends ends) {
  size_t at = without_half(text).size();
  text.append(more);
  while ((at = text.find('\xED', at)) != std::string::npos) {
    const uint32_t half = half_at(text, at);
    const uint32_t other = half_at(text, at + 3);
    if (half == 0) {
      ++at;
    } else if (is_first_half(half) && other != 0 && !is_first_half(other)) {
      const uint32_t code = 0x10000 + ((half - 0xD800) << 10) + (other - 0xDC00);
      const std::array<char, 4> bytes{
          static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 0x3F)),
          static_cast<char>(0x80 | (code >> 6 & 0x3F)), static_cast<char>(0x80 | (code & 0x3F))};
      text.replace(at, 6, bytes.data(), bytes.size());
      at += bytes.size();
    } else if (is_first_half(half) && at + 3 == text.size() && ends == Ends::kNo) {
      return;
    } else {
      text.replace(at, 3, "\xEF\xBF\xBD");
      at += 3;
    }
  }
}

}  // namespace

Answer text_answer(std::string text, Origin origin) {
  Answer answer;
  answer.choices.emplace_back().message.text = std::move(text);
  answer.origin = origin;
  return answer;
}

Result<void> complete(Answer& answer, uint32_t n) {
  if (answer.choices.empty()) return unfit("it has no choice");
  if (answer.choices.size() > n) {
    return unfit(fmt::format("it has {} choices, the call asks for {}", answer.choices.size(), n));
  }
  if (has_negative(answer.prompt_ids)) return unfit("a token id of the prompt is negative");
  if (answer.usage && !is_possible(*answer.usage)) {
    return unfit(fmt::format("a usage of {} and {} tokens cannot be", answer.usage->prompt_tokens,
                             answer.usage->completion_tokens));
  }
  for (Choice& choice : answer.choices) {
    SLUICE_TRY_VOID(check(choice));
    choice.message.role = Role::kAssistant;
    // A trainer that parses tool calls out of sampled text knows only that sampling stopped, and a
    // server whose parser found none in the end may say that there are some. Agents run tools by
    // the finish reason; OpenCode asks again, for ever, where it promises what is not there.
    const bool calls_tools = !choice.message.tool_calls.empty();
    if (choice.finish == Finish::kStop && calls_tools) choice.finish = Finish::kToolCalls;
    if (choice.finish == Finish::kToolCalls && !calls_tools) choice.finish = Finish::kStop;
  }
  if (!answer.usage) answer.usage = usage_of_ids(answer);
  return {};
}

Result<void> complete(Answer& answer, const Call& call) {
  SLUICE_TRY_VOID(complete(answer, call.n));
  if (const Codec* codec = find_codec(call.dialect)) codec->fit(call, answer);
  return {};
}

Result<void> append(Message& so_far, const Piece& piece) {
  if (!piece.reasoning.empty() && !so_far.text.empty()) {
    return Error(ErrorCode::kInvalidArgument, "piece: reasoning cannot come behind text",
                 ErrorOrigin::kCaller);
  }
  if (so_far.reasoning.size() + so_far.text.size() + piece.reasoning.size() + piece.text.size() >
      kMaxSoFar) {
    return Error(ErrorCode::kTooLarge,
                 fmt::format("piece: an answer has at most {} bytes", kMaxSoFar),
                 ErrorOrigin::kCaller);
  }
  append_part(so_far.reasoning, piece.reasoning, piece.text.empty() ? Ends::kNo : Ends::kHere);
  append_part(so_far.text, piece.text, Ends::kNo);
  return {};
}

Result<void> continues(const Message& so_far, const Answer& answer) {
  const auto no = [](std::string_view why) {
    return Error(ErrorCode::kInvalidArgument,
                 fmt::format("answer: does not go on from its pieces: {}", why),
                 ErrorOrigin::kCaller);
  };
  if (answer.choices.size() != 1) return no("they were of one choice");
  const Message& message = answer.choices.front().message;
  if (!message.reasoning.starts_with(without_half(so_far.reasoning))) {
    return no("its reasoning begins otherwise");
  }
  if (!message.text.starts_with(without_half(so_far.text))) return no("its text begins otherwise");
  if (!message.reasoning_seal.empty()) return no("a seal cannot come behind what it seals");
  if (so_far.text.empty()) return {};
  if (message.reasoning != so_far.reasoning) return no("it has more reasoning, behind text");
  if (!message.refusal.empty()) return no("a refusal cannot come behind text");
  return {};
}

Message whole_characters(Message so_far) {
  for (std::string* text : {&so_far.reasoning, &so_far.text}) {
    text->resize(without_half(*text).size());
    // Up to three bytes of a sequence whose first says that there are more.
    for (size_t back = 1; back <= 3 && back <= text->size(); ++back) {
      const auto byte = static_cast<unsigned char>((*text)[text->size() - back]);
      if ((byte & 0xC0) == 0x80) continue;
      const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
      if (length > back) text->resize(text->size() - back);
      break;
    }
  }
  return so_far;
}

void append_json(Bytes& out, const ToolCall& call) {
  Members tool(out);
  tool.text("id", call.id);
  tool.text("name", call.name);
  tool.text("arguments", call.arguments);
  if (call.kind == ToolCall::Kind::kCustom) tool.text("kind", "custom");
  tool.text_if_any("namespace", call.space);
}

void append_json(Bytes& out, const Answer& answer, PromptIds prompt_ids) {
  Members members(out);
  members.text("origin", to_string(answer.origin));
  wire::append_list(members["choices"], answer.choices, append_choice);
  if (answer.usage) {
    Members usage(members["usage"]);
    usage.number("prompt_tokens", answer.usage->prompt_tokens);
    usage.number("completion_tokens", answer.usage->completion_tokens);
  }
  if (prompt_ids == PromptIds::kWritten) members.list_if_any("prompt_ids", answer.prompt_ids);
}

Result<Answer> answer_from_json(const json::Raw& value, json::Unknown unknown) {
  Reader in(value, "answer: ", unknown);
  Answer answer;
  answer.origin = in.one_of("origin", kOrigins, Origin::kInjected);
  for (const json::Raw& each : in.list("choices")) {
    Choice& choice = answer.choices.emplace_back();
    in.object(fmt::format("choices[{}]", answer.choices.size() - 1), each,
              [&](Reader& inner) { read(inner, choice); });
  }
  answer.usage = usage_in(in);
  answer.prompt_ids = in.figures<int32_t>("prompt_ids");
  SLUICE_TRY_VOID(in.finish());
  return answer;
}

std::optional<Usage> usage_in(json::Reader& in) {
  std::optional<Usage> usage;
  in.object("usage", [&](Reader& figures) {
    usage = Usage{figures.figure("prompt_tokens"), figures.figure("completion_tokens")};
  });
  return usage;
}

}  // namespace sluice::llm
