// The two WebSockets: /ws, where each frame of the client gets one frame, and /mcp, which carries
// bare JSON-RPC. Each connection is a session of its own.
#include <fmt/format.h>

#include <deque>
#include <exception>

#include "sluice/base/core/defer.h"
#include "sluice/env/core.h"
#include "sluice/env/documents.h"
#include "sluice/env/python_text.h"

namespace sluice::env {
namespace {

using net::WebSocket;
namespace websocket = net::websocket;

constexpr size_t kMaxTogether = 32 * 1024;  // bytes of answers that go out together
constexpr size_t kMaxWaitingCalls = 64;     // JSON-RPC requests behind the one that runs

// --- /ws -----------------------------------------------------------------------------------------

std::string error_frame(std::string_view code, std::string_view message, json::Object more = {}) {
  json::Object data;
  data["message"] = message;
  data["code"] = code;
  for (auto& field : more) data[field.key()] = std::move(field.value());
  json::Object out;
  out["type"] = "error";
  out["data"] = std::move(data);
  return python::compact(out);
}

std::string validation_frame(const Mistakes& problems) {
  json::Object more;
  more["errors"] = to_json(problems);
  return error_frame("VALIDATION_ERROR", "Invalid message", std::move(more));
}

// `data` is JSON already.
std::string frame(std::string_view type, std::string_view data) {
  std::string out;
  out.reserve(type.size() + data.size() + 24);
  out.append(R"({"type":")").append(type).append(R"(","data":)").append(data).append("}");
  return out;
}

const json::Object* frame_schema(std::string_view type) {
  static const json::Object schemas = parse_document(R"({
    "reset": {"type": "object", "additionalProperties": false,
              "properties": {"type": {"const": "reset"}, "data": {"type": "object", "default": {}}}},
    "step": {"type": "object", "additionalProperties": false, "required": ["data"],
             "properties": {"type": {"const": "step"}, "data": {"type": "object"}}},
    "state": {"type": "object", "additionalProperties": false,
              "properties": {"type": {"const": "state"}}},
    "close": {"type": "object", "additionalProperties": false,
              "properties": {"type": {"const": "close"}}},
    "mcp": {"type": "object", "additionalProperties": false, "required": ["data"],
            "properties": {"type": {"const": "mcp"}, "data": {"type": "object"}}}})");
  return json::get_object(schemas, type);
}

awaitable<std::string> rpc_frame(Core* core, std::shared_ptr<EnvSession> session,
                                 json::Value message) {
  RpcReply reply;
  auto request = parse_rpc(message);
  if (request) {
    RpcContext context;
    context.session = std::move(session);
    reply = co_await handle_rpc(core, std::move(*request), std::move(context));
  } else {
    reply.error = std::move(request.error());
  }
  co_return frame("mcp", to_text(reply));
}

std::string state_frame(EnvSession& session) {
  session.touch();
  auto state = session.environment().state();
  if (!state) return error_frame("EXECUTION_ERROR", to_valid_utf8(state.error().message));
  return frame("state", python::compact(*state));
}

std::string observation_frame(const StepAnswer& answer) {
  return answer.failed ? error_frame("EXECUTION_ERROR", answer.text)
                       : frame("observation", answer.text);
}

// A frame that has been looked at.
struct Frame {
  enum class Kind : uint8_t { kAnswered, kClose, kReset, kStep, kRpc } kind = Kind::kAnswered;
  std::string answer;  // if it needs no work
  json::Value data;    // of a reset or a request
  Action action;       // of a step
};

Frame answered(std::string text) {
  Frame frame;
  frame.answer = std::move(text);
  return frame;
}

// What can be answered at once is.
Frame look_at(Core* core, EnvSession& session, std::string_view text) {
  json::ParseLimits limits;
  limits.bytes = core->options.websocket.message_bytes;
  auto parsed = json::parse(text, limits);
  if (!parsed) {
    return answered(error_frame("INVALID_JSON", "Invalid " + parsed.error().message));
  }
  Mistakes problems;
  if (!parsed->is_object()) {
    problems.push_back(Mistake{"dict_type", {}, "Input should be a valid dictionary"});
    return answered(validation_frame(problems));
  }
  const json::Object& message = parsed->get_object();
  const json::Value* type = message.if_contains("type");
  std::string_view name;
  if (type != nullptr && type->is_string()) name = type->get_string();
  // The most frequent one, with nothing to be wrong.
  if (name == "state" && message.size() == 1) return answered(state_frame(session));
  const json::Object* schema = frame_schema(name);
  if (schema == nullptr) {
    const std::string unknown = type == nullptr ? "" : python::str(*type);
    return answered(error_frame("UNKNOWN_TYPE", "Unknown message type: " + unknown));
  }
  json::Value checked = check(*schema, *parsed, {}, Naming::kModel, &problems);
  if (!problems.empty()) return answered(validation_frame(problems));
  if (name == "state") return answered(state_frame(session));
  Frame frame;
  if (name == "close") {
    frame.kind = Frame::Kind::kClose;
    return frame;
  }
  frame.data = std::move(checked.get_object()["data"]);
  frame.kind = name == "mcp" ? Frame::Kind::kRpc : Frame::Kind::kReset;
  if (name == "step") {
    frame.kind = Frame::Kind::kStep;
    frame.action = parse_action(frame.data.get_object(), core->factory.info(), &problems);
    if (!problems.empty()) return answered(validation_frame(problems));
  }
  return frame;
}

awaitable<std::string> work_on(Core* core, std::shared_ptr<EnvSession> session, Frame frame) {
  if (frame.kind == Frame::Kind::kRpc) {
    co_return co_await rpc_frame(core, std::move(session), std::move(frame.data));
  }
  StepAnswer answer;
  if (frame.kind == Frame::Kind::kReset) {
    answer =
        co_await take_reset(core, std::move(session), std::move(frame.data.get_object()), nullptr);
  } else {
    answer = co_await take_step(core, std::move(session), std::move(frame.action), std::nullopt,
                                nullptr);
  }
  co_return observation_frame(answer);
}

// A failure of ours in one frame leaves the session as it is.
std::string internal_error(Core* core, const EnvSession& session, const std::exception& e) {
  core->log.error("env", "a frame could not be handled",
                  {{"session", session.id()}, {"what", e.what()}});
  return error_frame("EXECUTION_ERROR", "internal error");
}

Frame look_at_safely(Core* core, EnvSession& session, std::string_view text) {
  try {
    return look_at(core, session, text);
  } catch (const std::exception& e) {
    return answered(internal_error(core, session, e));
  }
}

awaitable<std::string> work_on_safely(Core* core, std::shared_ptr<EnvSession> session,
                                      Frame frame) {
  try {
    co_return co_await work_on(core, session, std::move(frame));
  } catch (const std::exception& e) {
    co_return internal_error(core, *session, e);
  }
}

// Why a conversation is over, when it is neither the client's doing nor a fault.
SocketClose close_for(CancelReason reason) {
  if (reason == CancelReason::kStopping) return {websocket::kGoingAway, "the server is stopping"};
  if (reason == CancelReason::kRequested) return {websocket::kNormal, "the session was ended"};
  return {};
}

// What a session on a socket needs to hear: that it is to end, and that the client is gone.
void tie(Core* core, WebSocket* socket, const std::shared_ptr<EnvSession>& session,
         CancelReason* ended_by) {
  session->on_end = [socket, ended_by](CancelReason reason) {
    if (*ended_by == CancelReason::kNone) *ended_by = reason;
    socket->stop_reading();
  };
  if (core->options.on_client_gone == OnClientGone::kCancel) {
    socket->on_ended([session] { session->cancel_calls(CancelReason::kClientGone); });
  }
}

void untie(Core* core, WebSocket* socket, const std::shared_ptr<EnvSession>& session,
           CancelReason ended_by) {
  session->on_end = nullptr;
  socket->on_ended(nullptr);
  core->sessions.close_later(
      session, ended_by == CancelReason::kNone ? CancelReason::kClientGone : ended_by);
}

// A client that has left is not worked for, whatever it had sent before.
bool is_in_vain(Core* core, WebSocket* socket) {
  return core->options.on_client_gone == OnClientGone::kCancel && socket->ended();
}

// False: nobody reads them any more.
awaitable<bool> send_answers(WebSocket* socket, Bytes* answers) {
  if (answers->empty()) co_return true;
  Bytes frames = std::exchange(*answers, {});
  const auto sent = co_await socket->send_appended(std::move(frames));
  co_return sent.has_value();
}

awaitable<SocketClose> converse(Core* core, WebSocket* socket, std::string client) {
  auto opened = co_await core->sessions.open(EnvSession::Kind::kWebSocket, std::move(client));
  if (!opened) {
    SessionRefusal& refusal = opened.error();
    const char* const codes[] = {"CAPACITY_REACHED", "FACTORY_ERROR", "SESSION_ERROR"};
    const auto sent = co_await socket->send(
        WebSocket::Kind::kText, error_frame(codes[static_cast<size_t>(refusal.kind)],
                                            std::move(refusal.message), std::move(refusal.data)));
    co_return SocketClose{};
  }
  const std::shared_ptr<EnvSession> session = *opened;
  CancelReason ended_by = CancelReason::kNone;
  tie(core, socket, session, &ended_by);
  const Defer leave([&] { untie(core, socket, session, ended_by); });
  // Frames that came together are answered together. What takes time holds up no answer before it.
  Bytes answers;
  for (bool there = true; there;) {
    auto message = socket->take();
    if (!message) {
      there = co_await send_answers(socket, &answers);
      if (!there) break;
      auto read = co_await socket->read();
      if (!read) break;
      message = std::move(*read);
    }
    if (is_in_vain(core, socket)) break;
    Frame frame;
    if (message->kind == WebSocket::Kind::kText) {
      frame = look_at_safely(core, *session, message->data);
    } else {
      frame = answered(error_frame("SESSION_ERROR", "'text'"));
      there = false;
    }
    if (frame.kind == Frame::Kind::kClose) break;
    std::string answer = std::move(frame.answer);
    if (frame.kind != Frame::Kind::kAnswered) {
      there = co_await send_answers(socket, &answers);
      if (!there) break;
      answer = co_await work_on_safely(core, session, std::move(frame));
    }
    if (answer.size() <= kMaxTogether) {
      socket->append(answers, WebSocket::Kind::kText, answer);
    } else {
      const bool before = co_await send_answers(socket, &answers);
      const auto sent = co_await socket->send(WebSocket::Kind::kText, std::move(answer));
      there = before && sent;
    }
    if (answers.size() > kMaxTogether && there) there = co_await send_answers(socket, &answers);
    // Ended from outside while it was busy, or the server is to stop: after the answer.
    if (core->stopping && ended_by == CancelReason::kNone) ended_by = CancelReason::kStopping;
    if (ended_by != CancelReason::kNone) there = false;
  }
  co_await send_answers(socket, &answers);
  co_return close_for(ended_by);
}

// --- /mcp ----------------------------------------------------------------------------------------

// A JSON-RPC conversation. Requests are worked on one after the other; while one is, a reader goes
// on so that its cancellation is seen.
struct McpConversation : RunningRpc {
  struct Waiting {
    WebSocket::Message message;
    std::optional<RpcRequest> request;  // if it is one
    std::optional<std::string> answer;  // if it needs no work
    bool fatal = false;                 // the conversation ends with the answer
    size_t bytes = 0;
  };

  McpConversation(Core* c, WebSocket* s) : RunningRpc(c), socket(s) {}

  WebSocket* const socket;
  std::deque<Waiting> waiting;
  size_t waiting_bytes = 0;
  bool ended = false;
  bool flooded = false;

  // The request being worked on.
  json::Value running_id;
  bool running = false;
  CallHandle handle;
};

std::string rpc_error_text(int code, std::string message) {
  return to_text(rpc_error(nullptr, code, std::move(message)));
}

McpConversation::Waiting parse_mcp(Core* core, WebSocket::Message message) {
  McpConversation::Waiting one;
  if (message.kind == WebSocket::Kind::kBinary) {
    one.answer = rpc_error_text(-32000, "'text'");
    one.fatal = true;
    return one;
  }
  json::ParseLimits limits;
  limits.bytes = core->options.websocket.message_bytes;
  auto parsed = json::parse(message.data, limits);
  if (!parsed) {
    one.answer = rpc_error_text(-32700, "Parse error: " + parsed.error().message);
  } else if (!parsed->is_object()) {
    one.answer = rpc_error_text(-32000, "A request must be an object");
    one.fatal = true;
  } else if (auto request = parse_rpc(*parsed)) {
    one.request = std::move(*request);
  } else {
    one.answer = rpc_error_text(request.error().code, std::move(request.error().message));
  }
  return one;
}

// MCP's notifications/cancelled, if it is about the request being worked on.
bool cancels_running(McpConversation& talk, const RpcRequest& request) {
  if (!request.is_notification() || request.method != "notifications/cancelled") return false;
  const json::Value* id = request.params.if_contains("requestId");
  return talk.running && id != nullptr && *id == talk.running_id;
}

awaitable<void> read_mcp(McpConversation* talk) {
  for (;;) {
    auto message = co_await talk->socket->read();
    if (!message) break;
    const size_t bytes = message->data.size();
    McpConversation::Waiting one = parse_mcp(talk->core, std::move(*message));
    if (one.request && one.request->is_notification()) {
      if (cancels_running(*talk, *one.request)) talk->handle.cancel(CancelReason::kRequested);
      continue;
    }
    const size_t room = talk->core->options.websocket.waiting_bytes - talk->waiting_bytes;
    talk->flooded = talk->waiting.size() >= kMaxWaitingCalls || bytes > room;
    if (talk->flooded) break;
    one.bytes = bytes;
    talk->waiting_bytes += bytes;
    talk->waiting.push_back(std::move(one));
    talk->changed.notify();
  }
  talk->ended = true;
  talk->changed.notify();
}

// Works on one request to its end and answers it. False: the client is not there any more.
awaitable<bool> answer_mcp(McpConversation* talk, RpcRequest request,
                           std::shared_ptr<EnvSession> session) {
  RpcContext context;
  context.session = std::move(session);
  context.handle = &talk->handle;
  talk->handle = CallHandle();
  talk->running_id = request.id;
  talk->running = request.has_id;
  talk->start(std::move(request), std::move(context));
  bool there = true;
  while (!talk->reply || !talk->notes.empty()) {
    if (talk->notes.empty()) {
      const auto waited = co_await net::wait_for(&talk->changed);
      if (!waited) talk->handle.cancel(CancelReason::kStopping);
      continue;
    }
    std::string note = std::move(talk->notes.front());
    talk->notes.pop_front();
    const auto sent = co_await talk->socket->send(WebSocket::Kind::kText, std::move(note));
    there = there && sent;
  }
  talk->running = false;
  std::string text = to_text(*std::exchange(talk->reply, {}));
  const auto sent = co_await talk->socket->send(WebSocket::Kind::kText, std::move(text));
  co_return there&& sent;
}

// Until the client is gone, or the session is to end.
awaitable<void> talk_mcp(McpConversation* talk, std::shared_ptr<EnvSession> session,
                         CancelReason* ended_by) {
  for (bool there = true; there && !talk->flooded && *ended_by == CancelReason::kNone;) {
    if (talk->waiting.empty()) {
      if (talk->ended) co_return;
      const auto waited = co_await net::wait_for(&talk->changed);
      continue;
    }
    if (is_in_vain(talk->core, talk->socket)) co_return;
    McpConversation::Waiting one = std::move(talk->waiting.front());
    talk->waiting.pop_front();
    talk->waiting_bytes -= one.bytes;
    if (one.answer) {
      const auto sent = co_await talk->socket->send(WebSocket::Kind::kText, std::move(*one.answer));
      there = sent && !one.fatal;
      continue;
    }
    there = co_await answer_mcp(talk, std::move(*one.request), session);
    if (talk->core->stopping && *ended_by == CancelReason::kNone) {
      *ended_by = CancelReason::kStopping;
    }
  }
}

awaitable<SocketClose> converse_mcp(Core* core, WebSocket* socket, std::string client) {
  auto opened = co_await core->sessions.open(EnvSession::Kind::kMcpWebSocket, std::move(client));
  if (!opened) {
    std::string text = to_text(refusal_reply(nullptr, opened.error()));
    const auto sent = co_await socket->send(WebSocket::Kind::kText, std::move(text));
    co_return SocketClose{};
  }
  const std::shared_ptr<EnvSession> session = *opened;
  CancelReason ended_by = CancelReason::kNone;
  tie(core, socket, session, &ended_by);
  const Defer leave([&] { untie(core, socket, session, ended_by); });
  McpConversation talk(core, socket);
  talk.tasks.spawn(read_mcp(&talk));
  std::exception_ptr failure;
  try {
    co_await talk_mcp(&talk, session, &ended_by);
  } catch (...) {
    failure = std::current_exception();
  }
  socket->stop_reading();
  co_await talk.tasks.join();
  if (failure) std::rethrow_exception(failure);
  if (talk.flooded)
    co_return SocketClose{websocket::kPolicy, "too many requests wait for an answer"};
  co_return close_for(ended_by);
}

// To what is no handshake of a WebSocket, or one of another version, of HTTP too.
net::HttpResponse handshake_refusal(const Error& error) {
  const int status = error.code == ErrorCode::kUnsupported ? 426 : 400;
  net::HttpResponse refusal = detail_response(status, error.message);
  if (status == 426) {
    refusal.headers.add("Upgrade", "websocket");
    refusal.headers.add("Sec-WebSocket-Version", "13");
  }
  return refusal;
}

}  // namespace

awaitable<void> serve_socket(Core* core, net::HttpRequest request, net::ResponseWriter* writer,
                             Conversation conversation, std::string route, std::string protocol) {
  auto answer = net::websocket_answer(request, protocol);
  Result<net::ResponseWriter::Upgraded> upgraded;
  if (answer) {
    upgraded = co_await writer->upgrade(std::move(*answer));
  } else {
    upgraded = std::move(answer).error();
  }
  if (!upgraded) {
    // Else the connection broke.
    if (upgraded.error().origin != ErrorOrigin::kCaller) co_return;
    net::HttpResponse refusal = handshake_refusal(upgraded.error());
    core->count_request(route, refusal.status);
    const auto sent = co_await writer->send(std::move(refusal));
    co_return;
  }
  core->count_request(route, 101);
  WebSocket socket(core->shard, upgraded->stream, std::move(upgraded->already_read),
                   websocket::Role::kServer, core->options.websocket);
  SocketClose close;
  try {
    std::string client = core->access.client_of(request);
    close = co_await conversation(core, &socket, std::move(client));
  } catch (const std::exception& e) {
    core->log.error("env", "a conversation failed", {{"what", e.what()}});
    close = SocketClose{websocket::kServerError, "internal error"};
  }
  co_await socket.close(close.code, std::move(close.reason));
}

awaitable<void> serve_ws(Core* core, net::HttpRequest request, net::ResponseWriter* writer) {
  return serve_socket(core, std::move(request), writer, converse, "/ws");
}

awaitable<void> serve_mcp_ws(Core* core, net::HttpRequest request, net::ResponseWriter* writer) {
  return serve_socket(core, std::move(request), writer, converse_mcp, "/mcp", "mcp");
}

}  // namespace sluice::env
