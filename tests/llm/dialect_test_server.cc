// A gate that speaks every dialect and answers by script, so that vendors' SDKs and agents can be
// run against it. For tests only. Prints two addresses: the endpoint's, and that of its control:
//
//   POST /script   a JSON list of steps, one for each call to come. What was before is closed and
//                  forgotten: a new rollout begins
//   GET /calls     what came: each call as the codec read it, which answers it echoes, how often it
//                  was sent again, and what became of it
//
// A step is {"answer": ...} (as in docs/trace.md), {"problem": {"kind", "message", "end_agent"}} or
// {"hang_up": true}, which breaks the agent's connections; the next step is then for the same call,
// when it is sent again. A step comes "after_ms", or after about so many "keep_alives"; an answer
// with "pieces_ms" is said in pieces of a few bytes, so long after one another. A call for which
// there is no step is answered with "done". A first step {"options": {...}} is none: without
// "resend_window_s" in it only a request that says so itself is taken for a delivered one sent
// again; who has hung up is waited for so long as "grace_ms" says, or a minute.
//
//   GET /total     how many calls of each dialect there were since the start
//
// The only argument, if there is one, is how long to wait between keep-alive frames, in
// milliseconds.
#include <cstdio>
#include <deque>
#include <map>
#include <set>

#include "sluice/gate/gate.h"
#include "sluice/json/value.h"
#include "sluice/llm/answer.h"
#include "sluice/llm/dialect.h"
#include "sluice/llm/history.h"
#include "sluice/net/http_server.h"
#include "sluice/net/shard.h"
#include "sluice/net/socket.h"
#include "sluice/net/wait.h"
#include "sluice/trace/recorder.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using net::awaitable;
using net::HttpRequest;
using net::ResponseWriter;

struct Step {
  std::optional<llm::Answer> answer;
  std::optional<llm::Refusal> refusal;  // neither: hang up
  Duration after{};
  Duration between_pieces{};
};

Result<Step> read_step(const json::Value& value, Duration keep_alive) {
  Step step;
  const json::Object* object = value.if_object();
  if (object == nullptr) return Error(ErrorCode::kInvalidArgument, "a step is an object");
  const std::set<std::string_view> known{"answer",   "problem",     "hang_up",
                                         "after_ms", "keep_alives", "pieces_ms"};
  for (const auto& member : *object) {
    if (known.contains(std::string_view(member.key()))) continue;
    return Error(ErrorCode::kInvalidArgument, "a step has no " + std::string(member.key()));
  }
  step.after = std::chrono::milliseconds(json::get_integer(*object, "after_ms").value_or(0));
  step.between_pieces =
      std::chrono::milliseconds(json::get_integer(*object, "pieces_ms").value_or(0));
  const int64_t keep_alives = json::get_integer(*object, "keep_alives").value_or(0);
  if (keep_alives > 0) step.after = keep_alives * keep_alive + keep_alive / 2;
  if (const json::Object* answer = json::get_object(*object, "answer")) {
    const std::string text = json::serialize(*answer);
    SLUICE_TRY(const json::Raw raw, json::read_value(text));
    SLUICE_TRY(step.answer, llm::answer_from_json(raw));
  }
  if (const json::Object* problem = json::get_object(*object, "problem")) {
    step.refusal.emplace();
    step.refusal->message = json::get_string(*problem, "message").value_or("");
    step.refusal->end_agent = json::get_bool(*problem, "end_agent").value_or(false);
    const auto kind = json::get_string(*problem, "kind").value_or("internal");
    for (int code = 0; code < kErrorCodes; ++code) {
      if (to_string(static_cast<ErrorCode>(code)) == kind) {
        step.refusal->kind = static_cast<ErrorCode>(code);
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
  text("raw", message.raw);
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

// A connection that the test can break.
class Breakable final : public net::Stream {
 public:
  Breakable(std::unique_ptr<net::Stream> inner, std::set<Breakable*>* all)
      : inner_(std::move(inner)), all_(all) {
    all_->insert(this);
  }
  ~Breakable() override { all_->erase(this); }

  awaitable<Result<size_t>> read_some(std::span<std::byte> into) override {
    return inner_->read_some(into);
  }
  awaitable<Result<void>> write_all(std::span<const std::byte> bytes) override {
    return inner_->write_all(bytes);
  }
  awaitable<Result<void>> drained(Deadline deadline) override { return inner_->drained(deadline); }
  void on_peer_closed(std::function<void(net::PeerClose)> callback) override {
    watcher_ = callback;
    inner_->on_peer_closed(std::move(callback));
  }
  void finish() override { inner_->finish(); }
  void close() override { inner_->close(); }
  std::string peer() const override { return inner_->peer(); }

  // As if the way to the agent had broken.
  void break_off() {
    inner_->close();
    if (const auto watcher = std::exchange(watcher_, {})) watcher(net::PeerClose::kReset);
  }

 private:
  const std::unique_ptr<net::Stream> inner_;
  std::set<Breakable*>* const all_;
  std::function<void(net::PeerClose)> watcher_;
};

// The listener of one rollout, fed from the one that all share.
class FedListener final : public net::Listener {
 public:
  explicit FedListener(FedListener** current) : current_(current) { *current_ = this; }
  ~FedListener() override {
    if (*current_ == this) *current_ = nullptr;
  }

  void feed(std::unique_ptr<net::Stream> stream) {
    waiting_.push_back(std::move(stream));
    changed_.notify();
  }
  awaitable<Result<std::unique_ptr<net::Stream>>> accept() override {
    while (waiting_.empty() && !closed_) co_await changed_.wait();
    if (closed_) co_return Error(ErrorCode::kClosed, "the listener is closed");
    std::unique_ptr<net::Stream> stream = std::move(waiting_.front());
    waiting_.pop_front();
    co_return stream;
  }
  void close() override {
    closed_ = true;
    changed_.notify();
  }
  std::string address() const override { return "fed"; }

 private:
  FedListener** const current_;
  std::deque<std::unique_ptr<net::Stream>> waiting_;
  net::Signal changed_;
  bool closed_ = false;
};

// What came, for /calls.
class Notes final : public trace::Recorder {
 public:
  void clear() {
    calls_.clear();
    past_.clear();
  }
  json::Value shown_calls() const {
    json::Array out;
    for (const auto& call : calls_) out.emplace_back(call);
    return out;
  }

  json::Value total() const {
    json::Object out;
    for (const auto& [dialect, calls] : total_) out[std::string(to_string(dialect))] = calls;
    return out;
  }

  std::function<void(const CallId&)> on_resend;

  void opened(const RolloutId&, const trace::RolloutInfo&) override {}
  void arrived(const llm::Call& call) override {
    ++total_[call.dialect];
    const llm::Codec& codec = *llm::find_codec(call.dialect);
    const auto body = call.body.in_memory();  // nothing puts it away here
    const auto peek = codec.peek(peeker_, *body, {call.model, call.stream, call.framing});
    json::Object out;
    if (!peek) {
      out["error"] = peek.error().message;
    } else {
      note(call, codec, *peek, out);
      past_[call.id] = {calls_.size(), body, *peek, llm::mark_of(*peek), &codec, {}};
    }
    calls_.push_back(std::move(out));
  }
  void answered(const llm::Call& call, const llm::Answer& answer) override {
    past_[call.id].answer = answer;
  }
  void ended(const llm::Call& call, llm::Outcome outcome, std::string_view) override {
    of(call.id)["outcome"] = std::string(to_string(outcome));
  }
  void confirmed(const llm::Call& call) override { of(call.id)["confirmed"] = true; }
  void event(const RolloutId&, const trace::Event& event) override {
    if (event.kind != "resend") return;
    const auto detail = json::parse(event.detail);
    const CallId id{std::string(*json::get_string(detail->get_object(), "call"))};
    json::Object& call = of(id);
    call["resends"] = json::get_integer(call, "resends").value_or(0) + 1;
    on_resend(id);
  }
  void closed(const RolloutId&, const trace::ResultSummary&) override {}
  void flush(const RolloutId&, net::Shard& shard, Flushed told) override {
    shard.post([told = std::move(told)] { told({}); });
  }
  std::string location(const RolloutId&) const override { return ""; }

 private:
  // A call, and where its answer is to be found later.
  struct Past {
    size_t index = 0;
    std::shared_ptr<const Bytes> body;
    llm::Peek peek;
    llm::HistoryMark mark;
    const llm::Codec* codec = nullptr;
    std::optional<llm::Answer> answer;
  };

  json::Object& of(const CallId& id) { return calls_.at(past_[id].index); }

  void note(const llm::Call& call, const llm::Codec& codec, const llm::Peek& peek,
            json::Object& out) {
    out["dialect"] = std::string(to_string(call.dialect));
    out["body"] = *call.body.in_memory();
    out["model"] = call.model;
    out["stream"] = call.stream;
    out["n"] = call.n;
    out["has_tools"] = peek.has_tools;
    out["system"] = codec.system_text(peek);
    if (const auto parsed = call.request()) {
      json::Array messages;
      for (const llm::Message& message : (*parsed)->messages) messages.push_back(shown(message));
      out["messages"] = std::move(messages);
      json::Array tools;
      for (const llm::ToolOffer& tool : (*parsed)->tools) tools.emplace_back(tool.name);
      out["tool_names"] = std::move(tools);
    } else {
      out["error"] = parsed.error().message;
    }
    std::set<size_t> echoes, extended;
    for (const auto& [id, past] : past_) {
      if (past.codec != &codec) continue;
      if (past.answer && llm::echoed_choice(codec, past.mark, *past.answer, peek.conversation)) {
        echoes.insert(past.index);
      }
      if (llm::extends(codec, past.peek.conversation, peek.conversation)) {
        extended.insert(past.index);
      }
    }
    out["echoes"] = json::Array(echoes.begin(), echoes.end());
    out["extends"] = json::Array(extended.begin(), extended.end());
  }

  json::Peeker peeker_;
  std::vector<json::Object> calls_;
  std::map<CallId, Past> past_;
  std::map<llm::Dialect, uint64_t> total_;
};

class Server;

class Scripted final : public gate::Policy {
 public:
  explicit Scripted(Server* server) : server_(server) {}
  void submit(std::shared_ptr<const llm::Call> call, gate::Reply reply) override;

 private:
  Server* const server_;
};

class Server {
 public:
  Server(net::Shard& shard, std::unique_ptr<net::Listener> endpoint, Duration keep_alive)
      : shard_(shard),
        keep_alive_(keep_alive),
        endpoint_(std::move(endpoint)),
        gate_(gate::make_gate(options(keep_alive))),
        control_(shard,
                 [this](HttpRequest request, ResponseWriter* writer) {
                   return handle(this, std::move(request), writer);
                 },
                 {}) {
    notes_.on_resend = [this](const CallId& call) {
      shard_.post([this, call] { came_back(call); });
    };
    open(default_rules());
    shard_.spawn(accept(this));
  }

  void serve_control(std::unique_ptr<net::Listener> listener) {
    control_.serve(std::move(listener));
  }

  void submit(const CallId& call, gate::Reply reply) {
    Step step;
    step.answer = llm::text_answer("done", llm::Origin::kCanned);
    if (!script_.empty()) {
      step = std::move(script_.front());
      script_.pop_front();
    }
    if (step.between_pieces > Duration::zero() && step.answer) {
      say_next(&late_.emplace_back(shard_.wheel(), std::move(reply), std::move(step), call));
    } else if (step.after > Duration::zero()) {
      Late& late = late_.emplace_back(shard_.wheel(), std::move(reply), std::move(step), call);
      late.timer.arm(Deadline::in(late.step.after), [this, &late] {
        answer(late.call, std::move(late.reply), std::move(late.step));
      });
    } else {
      answer(call, std::move(reply), std::move(step));
    }
  }

 private:
  struct Late {
    Late(net::Wheel& wheel, gate::Reply r, Step s, CallId c)
        : timer(wheel), reply(std::move(r)), step(std::move(s)), call(std::move(c)) {}
    net::Wheel::Timer timer;
    gate::Reply reply;
    Step step;
    CallId call;
    size_t said = 0;
  };

  static gate::ResendRules default_rules() {
    gate::ResendRules rules;
    rules.window = {};
    return rules;
  }

  static gate::GateOptions options(Duration keep_alive) {
    gate::GateOptions options;
    options.keep_alive = keep_alive;
    options.log = Logger::to_fd(2, LogLevel::kWarn);
    return options;
  }

  void open(const gate::ResendRules& resend) {
    rollout_ = RolloutId{"r" + std::to_string(++rollouts_)};
    gate::Registration registration;
    registration.id = rollout_;
    registration.shard = &shard_;
    registration.dialects = {llm::kDialects.begin(), llm::kDialects.end()};
    registration.budget.calls_per_second = 1000;
    registration.delivery = gate::AnswerDelivery::kIncremental;
    registration.resend = resend;
    registration.models = {"mock-model", "other-model"};
    registration.policy = std::make_shared<Scripted>(this);
    registration.recorder = &notes_;
    if (!gate_.for_operator.open(std::move(registration)) ||
        !gate_.for_operator.serve(rollout_, std::make_unique<FedListener>(&listener_))) {
      std::fprintf(stderr, "the gate does not open\n");
      std::abort();
    }
    gate_.for_operator.admit(rollout_);
  }

  static awaitable<void> accept(Server* self) {
    for (;;) {
      auto stream = co_await self->endpoint_->accept();
      if (!stream) co_return;
      auto breakable = std::make_unique<Breakable>(std::move(*stream), &self->connections_);
      if (self->listener_ != nullptr) self->listener_->feed(std::move(breakable));
    }
  }

  // A few bytes of the reasoning, then of the text, whatever characters they cut; in the end all.
  void say_next(Late* late) {
    constexpr size_t kBytes = 5;
    const llm::Message& message = late->step.answer->choices.at(0).message;
    const size_t all = message.reasoning.size() + message.text.size();
    if (late->said >= all) {
      answer(late->call, std::move(late->reply), std::move(late->step));
      return;
    }
    llm::Piece piece;
    if (late->said < message.reasoning.size()) {
      piece.reasoning = message.reasoning.substr(late->said, kBytes);
    } else {
      piece.text = message.text.substr(late->said - message.reasoning.size(), kBytes);
    }
    late->said += piece.reasoning.size() + piece.text.size();
    late->reply.piece(std::move(piece));
    late->timer.arm(Deadline::in(late->step.between_pieces), [this, late] { say_next(late); });
  }

  void answer(const CallId& call, gate::Reply reply, Step step) {
    if (step.answer) {
      reply.answer(std::move(*step.answer));
    } else if (step.refusal) {
      reply.refuse(std::move(*step.refusal));
    } else {
      hung_up_.emplace(call, std::move(reply));
      const auto connections = connections_;
      for (Breakable* connection : connections) {
        if (connections_.contains(connection)) connection->break_off();
      }
    }
  }

  void came_back(const CallId& call) {
    if (auto node = hung_up_.extract(call)) submit(call, std::move(node.mapped()));
  }

  static awaitable<void> handle(Server* self, HttpRequest request, ResponseWriter* writer) {
    net::HttpResponse response;
    if (request.path() == "/script") {
      co_await self->gate_.for_operator.close(self->rollout_);
      response = self->set_script(request.body);
    } else if (request.path() == "/total") {
      response = net::json_response(200, json::serialize(self->notes_.total()));
    } else {
      response = net::json_response(200, json::serialize(self->notes_.shown_calls()));
    }
    const auto sent = co_await writer->send(std::move(response));
    if (!sent) writer->abort();
  }

  net::HttpResponse set_script(const Bytes& body) {
    script_.clear();
    late_.clear();
    hung_up_.clear();
    notes_.clear();
    gate::ResendRules resend = default_rules();
    std::string mistake;
    const auto value = json::parse(body, {16 << 20, 64});
    if (value && value->is_array()) {
      for (const json::Value& element : value->get_array()) {
        const json::Object* object = element.if_object();
        const json::Object* options =
            object == nullptr ? nullptr : json::get_object(*object, "options");
        if (options != nullptr) {
          if (const auto seconds = json::get_integer(*options, "resend_window_s")) {
            resend.window = std::chrono::seconds(*seconds);
          }
          if (const auto ms = json::get_integer(*options, "grace_ms")) {
            resend.grace = std::chrono::milliseconds(*ms);
          }
          continue;
        }
        auto step = read_step(element, keep_alive_);
        if (step) {
          script_.push_back(std::move(*step));
        } else {
          mistake = step.error().message;
        }
      }
    } else {
      mistake = "no list of steps";
    }
    open(resend);
    if (mistake.empty()) return net::json_response(200, "{}");
    return net::json_response(400, json::serialize(json::Value(mistake)));
  }

  net::Shard& shard_;
  const Duration keep_alive_;
  const std::unique_ptr<net::Listener> endpoint_;
  gate::Handles gate_;
  net::HttpServer control_;
  Notes notes_;
  std::set<Breakable*> connections_;
  FedListener* listener_ = nullptr;  // the gate's
  RolloutId rollout_;
  int rollouts_ = 0;
  std::deque<Step> script_;
  std::deque<Late> late_;
  std::map<CallId, gate::Reply> hung_up_;
};

void Scripted::submit(std::shared_ptr<const llm::Call> call, gate::Reply reply) {
  server_->submit(call->id, std::move(reply));
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  const auto given = argc > 1 ? sluice::parse_decimal(argv[1]) : 20;
  if (!given || argc > 2) {
    std::fprintf(stderr, "usage: dialect_test_server [KEEP_ALIVE_MS]\n");
    return 2;
  }
  sluice::net::Shard shard;
  auto endpoint = sluice::net::listen_tcp(shard, "127.0.0.1", 0);
  auto control = sluice::net::listen_tcp(shard, "127.0.0.1", 0);
  if (!endpoint || !control) {
    std::fprintf(stderr, "cannot listen\n");
    return 1;
  }
  std::printf("%s %s\n", (*endpoint)->address().c_str(), (*control)->address().c_str());
  std::fflush(stdout);
  sluice::Server server(shard, std::move(*endpoint), std::chrono::milliseconds(*given));
  server.serve_control(std::move(*control));
  shard.run_until([] { return false; });  // until it is killed
  return 0;
}
