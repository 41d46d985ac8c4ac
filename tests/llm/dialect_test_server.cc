// A model endpoint that speaks every dialect of sluice/llm and answers by script, so that vendors'
// SDKs and agents can be run against the codecs alone. For tests only: no limits, no keys.
//
//   POST /script   a JSON list of steps, one for each call to come; the list so far is dropped
//   GET /calls     what came: each request as the codec read it, and which answers it echoes
//
// A step is {"answer": ...} (as in docs/trace.md), {"problem": {"kind", "message", "end_agent"}} or
// {"hang_up": true}; each may ask for "keep_alives" before it and "every_ms" between those. A call
// for which there is no step is answered with "done".
#include <cstdio>
#include <deque>
#include <map>

#include "sluice/json/value.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/dialect.h"
#include "sluice/llm/gemini.h"
#include "sluice/llm/history.h"
#include "sluice/net/http_server.h"
#include "sluice/net/shard.h"
#include "sluice/net/socket.h"

namespace sluice {
namespace {

using net::awaitable;
using net::HttpRequest;
using net::ResponseWriter;

struct Step {
  std::optional<llm::Answer> answer;
  std::optional<llm::Problem> problem;  // neither: hang up
  int64_t keep_alives = 0;
  int64_t every_ms = 0;
};

struct Route {
  enum class Kind : uint8_t { kCall, kCount, kModels, kModel, kAlive, kUnknown };
  Kind kind = Kind::kUnknown;
  llm::Dialect dialect = llm::Dialect::kChat;
  llm::Target target;
};

// A call that was answered, and where its answer is to be found later.
struct Past {
  std::shared_ptr<const Bytes> body;
  llm::Peek peek;
  llm::HistoryMark mark;
  const llm::Codec* codec = nullptr;
  std::optional<llm::Answer> answer;
};

bool take(std::string_view& path, std::string_view prefix) {
  if (!path.starts_with(prefix)) return false;
  path.remove_prefix(prefix.size());
  return true;
}

// Three vendors list their models under one path; two of them give themselves away.
llm::Dialect vendor_of(const HttpRequest& request) {
  if (request.headers.get("x-goog-api-client")) return llm::Dialect::kGemini;
  if (request.headers.get("anthropic-version")) return llm::Dialect::kMessages;
  return llm::Dialect::kResponses;
}

Route model_route(const HttpRequest& request, std::string_view rest) {
  Route found;
  found.dialect = vendor_of(request);
  if (!take(rest, "/")) {
    found.kind = Route::Kind::kModels;
    return found;
  }
  const llm::GeminiUrl url = llm::read_gemini_url(rest, request.query());
  found.target = url.target;
  switch (url.verb) {
    case llm::GeminiUrl::Verb::kNone:
      found.kind = Route::Kind::kModel;
      return found;
    case llm::GeminiUrl::Verb::kGenerate:
      found.kind = Route::Kind::kCall;
      break;
    case llm::GeminiUrl::Verb::kCountTokens:
      found.kind = Route::Kind::kCount;
      break;
    case llm::GeminiUrl::Verb::kUnknown:
      break;
  }
  found.dialect = llm::Dialect::kGemini;
  return found;
}

Route route(const HttpRequest& request) {
  const std::string decoded = net::percent_decode(request.path()).value_or("");
  std::string_view path = decoded;
  const auto of = [](Route::Kind kind, llm::Dialect dialect) {
    return Route{kind, dialect, {}};
  };
  if (request.method == "HEAD") return of(Route::Kind::kAlive, llm::Dialect::kMessages);
  if (!take(path, "/v1beta")) take(path, "/v1");
  if (take(path, "/models")) return model_route(request, path);
  if (request.method != "POST") return {};
  if (path == "/chat/completions") return of(Route::Kind::kCall, llm::Dialect::kChat);
  if (path == "/responses") return of(Route::Kind::kCall, llm::Dialect::kResponses);
  if (path == "/responses/input_tokens") return of(Route::Kind::kCount, llm::Dialect::kResponses);
  if (path == "/messages") return of(Route::Kind::kCall, llm::Dialect::kMessages);
  if (path == "/messages/count_tokens") return of(Route::Kind::kCount, llm::Dialect::kMessages);
  return {};
}

Result<Step> read_step(const json::Value& value) {
  Step step;
  const json::Object* object = value.if_object();
  if (object == nullptr) return Error(ErrorCode::kInvalidArgument, "a step is an object");
  step.keep_alives = json::get_integer(*object, "keep_alives").value_or(0);
  step.every_ms = json::get_integer(*object, "every_ms").value_or(0);
  if (const json::Object* answer = json::get_object(*object, "answer")) {
    const std::string text = json::serialize(*answer);
    SLUICE_TRY(const json::Raw raw, json::read_value(text));
    SLUICE_TRY(step.answer, llm::answer_from_json(raw));
  }
  if (const json::Object* problem = json::get_object(*object, "problem")) {
    step.problem.emplace();
    step.problem->message = json::get_string(*problem, "message").value_or("");
    step.problem->end_agent = json::get_bool(*problem, "end_agent").value_or(false);
    const auto kind = json::get_string(*problem, "kind").value_or("internal");
    for (int code = 0; code < kErrorCodes; ++code) {
      if (to_string(static_cast<ErrorCode>(code)) == kind) {
        step.problem->kind = static_cast<ErrorCode>(code);
      }
    }
  }
  return step;
}

json::Value shown(const llm::Message& message) {
  json::Object out;
  out["role"] = std::string(to_string(message.role));
  const auto text = [&](const char* name, const std::string& value) {
    if (!value.empty()) out[name] = to_valid_utf8(value);
  };
  text("text", message.text);
  text("reasoning", message.reasoning);
  text("reasoning_seal", message.reasoning_seal);
  text("refusal", message.refusal);
  text("tool_call_id", message.tool_call_id);
  json::Array calls;
  for (const llm::ToolCall& call : message.tool_calls) {
    json::Object tool;
    tool["id"] = call.id;
    tool["name"] = call.name;
    tool["arguments"] = call.arguments;
    if (call.kind == llm::ToolCall::Kind::kCustom) tool["kind"] = "custom";
    if (!call.space.empty()) tool["namespace"] = call.space;
    calls.emplace_back(std::move(tool));
  }
  if (!calls.empty()) out["tool_calls"] = std::move(calls);
  return out;
}

class Server {
 public:
  explicit Server(net::Shard& shard)
      : http_(shard,
              [this](HttpRequest request, ResponseWriter* writer) {
                return handle(std::move(request), writer);
              },
              {}) {}

  void serve(std::unique_ptr<net::Listener> listener) { http_.serve(std::move(listener)); }

 private:
  awaitable<void> handle(HttpRequest request, ResponseWriter* writer) {
    if (request.path() == "/script") {
      net::HttpResponse response = set_script(request.body);
      co_await send(writer, std::move(response));
      co_return;
    }
    if (request.path() == "/calls") {
      net::HttpResponse response = net::json_response(200, json::serialize(calls_));
      co_await send(writer, std::move(response));
      co_return;
    }
    const Route found = route(request);
    if (found.kind == Route::Kind::kCall) {
      co_await call(found, std::move(request), writer);
      co_return;
    }
    net::HttpResponse response = side_request(found, request);
    co_await send(writer, std::move(response));
  }

  static awaitable<void> send(ResponseWriter* writer, net::HttpResponse response) {
    const auto sent = co_await writer->send(std::move(response));
    if (!sent) writer->abort();
  }

  net::HttpResponse set_script(const Bytes& body) {
    const auto value = json::parse(body, {16 << 20, 64});
    if (!value || !value->is_array()) return net::json_response(400, "\"no list of steps\"");
    script_.clear();
    for (const json::Value& element : value->get_array()) {
      auto step = read_step(element);
      if (!step) return net::json_response(400, json::serialize(json::Value(step.error().message)));
      script_.push_back(std::move(*step));
    }
    calls_.clear();
    past_.clear();
    return net::json_response(200, "{}");
  }

  net::HttpResponse side_request(const Route& found, const HttpRequest& request) {
    const llm::Codec& codec = *llm::find_codec(found.dialect);
    const std::vector<std::string> names{"mock-model", "other-model"};
    switch (found.kind) {
      case Route::Kind::kModels:
        return net::json_response(200, codec.models(names));
      case Route::Kind::kModel:
        return net::json_response(200, codec.model(found.target.model));
      case Route::Kind::kAlive:
        return net::json_response(200, "");
      case Route::Kind::kCount: {
        auto counted = codec.count_tokens(peeker_, request.body, found.target);
        if (counted) return net::json_response(200, *counted);
        const auto reply = codec.error(llm::Problem::of(counted.error()));
        return net::json_response(reply.status, reply.body);
      }
      case Route::Kind::kCall:
      case Route::Kind::kUnknown:
        break;
    }
    llm::Problem problem;
    problem.kind = ErrorCode::kNotFound;
    problem.message = "no such path";
    const auto reply = codec.error(problem);
    return net::json_response(reply.status, reply.body);
  }

  awaitable<void> call(Route found, HttpRequest request, ResponseWriter* writer) {
    const llm::Codec& codec = *llm::find_codec(found.dialect);
    auto body = std::make_shared<const Bytes>(request.body);
    const auto peek = codec.peek(peeker_, *body, found.target);
    if (!peek) {
      const auto reply = codec.error(llm::Problem::of(peek.error()));
      net::HttpResponse response = net::json_response(reply.status, reply.body);
      co_await send(writer, std::move(response));
      co_return;
    }
    llm::Call call;
    call.id = CallId::fresh();
    call.dialect = found.dialect;
    call.model = peek->model;
    call.n = peek->n;
    call.stream = peek->stream;
    call.stream_usage = peek->stream_usage;
    call.framing = peek->framing;
    call.arrived_at = std::chrono::system_clock::now();
    call.body = body;
    note(found, request, codec, *peek, call);

    Step step;
    step.answer = llm::text_answer("done", llm::Origin::kCanned);
    if (!script_.empty()) {
      step = std::move(script_.front());
      script_.pop_front();
    }
    Past past{body, *peek, llm::mark_of(*peek), &codec, {}};
    if (step.answer) {
      if (const auto done = llm::complete(*step.answer, call); !done) {
        step.answer.reset();
        step.problem.emplace().message = done.error().message;
      }
    }
    past.answer = step.answer;
    past_.push_back(std::move(past));

    llm::Envelope envelope = llm::envelope(call);
    bool started = false;
    for (int64_t i = 0; call.stream && i < step.keep_alives; ++i) {
      if (!started) {
        net::Headers headers({{"Content-Type", std::string(codec.stream_type(envelope))}});
        const auto begun = co_await writer->start(200, std::move(headers));
        if (!begun) co_return writer->abort();
        started = true;
      }
      Bytes frame = codec.keep_alive(envelope);
      ++envelope.keep_alives;
      const auto written = co_await writer->write(std::move(frame));
      if (!written) co_return writer->abort();
      const auto slept = co_await net::sleep_for(std::chrono::milliseconds(step.every_ms));
      if (!slept) co_return writer->abort();
    }
    if (!step.answer && !step.problem) co_return writer->abort();

    if (!started) {
      net::HttpResponse response = whole(codec, envelope, call, step);
      co_await send(writer, std::move(response));
      co_return;
    }
    std::vector<std::string> pieces;
    if (step.answer) {
      pieces.push_back(codec.streamed(envelope, *step.answer));
    } else {
      pieces = codec.streamed_error(envelope, *step.problem);
    }
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (i > 0) (void)co_await net::sleep_for(llm::kBetweenPieces);
      const auto written = co_await writer->write(std::move(pieces[i]));
      if (!written) co_return writer->abort();
    }
    const auto finished = co_await writer->finish();
    if (!finished) writer->abort();
  }

  static net::HttpResponse whole(const llm::Codec& codec, const llm::Envelope& envelope,
                                 const llm::Call& call, const Step& step) {
    net::HttpResponse response;
    if (!step.answer) {
      const auto reply = codec.error(*step.problem);
      return net::json_response(reply.status, reply.body);
    }
    response.headers.add("Content-Type", std::string(call.stream ? codec.stream_type(envelope)
                                                                 : "application/json"));
    response.body =
        call.stream ? codec.streamed(envelope, *step.answer) : codec.plain(envelope, *step.answer);
    return response;
  }

  void note(const Route& found, const HttpRequest& request, const llm::Codec& codec,
            const llm::Peek& peek, const llm::Call& call) {
    json::Object out;
    out["target"] = request.target;
    json::Object headers;
    for (const auto& [name, value] : request.headers.fields()) headers[name] = value;
    out["headers"] = std::move(headers);
    out["body"] = *call.body;
    out["dialect"] = std::string(to_string(found.dialect));
    out["model"] = peek.model;
    out["stream"] = peek.stream;
    out["n"] = peek.n;
    out["has_tools"] = peek.has_tools;
    out["system"] = codec.system_text(peek);
    if (const auto parsed = call.request()) {
      json::Array messages;
      for (const llm::Message& message : (*parsed)->messages) messages.push_back(shown(message));
      out["messages"] = std::move(messages);
      json::Array tools;
      for (const std::string& name : (*parsed)->tool_names) tools.emplace_back(name);
      out["tool_names"] = std::move(tools);
    } else {
      out["error"] = parsed.error().message;
    }
    json::Array echoes, extended;
    for (size_t i = 0; i < past_.size(); ++i) {
      const Past& past = past_[i];
      if (past.codec != &codec) continue;
      if (past.answer && llm::echoed_choice(codec, past.mark, *past.answer, peek.conversation)) {
        echoes.emplace_back(i);
      }
      if (llm::extends(codec, past.peek.conversation, peek.conversation)) extended.emplace_back(i);
    }
    out["echoes"] = std::move(echoes);
    out["extends"] = std::move(extended);
    calls_.emplace_back(std::move(out));
  }

  json::Peeker peeker_;
  std::deque<Step> script_;
  std::vector<Past> past_;
  json::Array calls_;
  net::HttpServer http_;
};

}  // namespace
}  // namespace sluice

int main() {
  sluice::net::Shard shard;
  auto listener = sluice::net::listen_tcp(shard, "127.0.0.1", 0);
  if (!listener) {
    std::fprintf(stderr, "%s\n", listener.error().message.c_str());
    return 1;
  }
  std::printf("%s\n", (*listener)->address().c_str());
  std::fflush(stdout);
  sluice::Server server(shard);
  server.serve(std::move(*listener));
  shard.run_until([] { return false; });  // until it is killed
  return 0;
}
