#include "sluice/gate/http/serve.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "sluice/gate/http/heard.h"
#include "sluice/gate/http/mcp.h"
#include "sluice/gate/http/routes.h"
#include "sluice/json/text.h"
#include "sluice/net/content_coding.h"

namespace sluice::gate::http {
namespace {

using llm::Outcome;
using llm::Problem;
using net::awaitable;
using net::ResponseWriter;
using State = ParkedCall::State;

constexpr std::string_view kJson = "application/json";
constexpr size_t kMaxHeaderValue = 256;  // of those that are kept with a call

net::Headers stream_headers(const llm::Codec& codec, const llm::Envelope& envelope) {
  return {{"Content-Type", std::string(codec.stream_type(envelope))},
          {"Cache-Control", "no-cache"}};
}

net::HttpResponse error_response(const llm::Codec& codec, const Problem& problem) {
  llm::ErrorReply reply = codec.error(problem);
  return net::json_response(reply.status, std::move(reply.body));
}

net::HttpResponse ok(std::string_view content_type, Bytes body) {
  net::HttpResponse response;
  response.headers.add("Content-Type", std::string(content_type));
  response.body = std::move(body);
  return response;
}

std::string header(const net::HttpRequest& request, std::string_view name) {
  if (name.empty()) return {};
  const std::string_view value = request.headers.get_or(name, "");
  // Longer ones name nothing that an agent was ever seen to send; equal prefixes may not meet.
  return value.size() <= kMaxHeaderValue ? std::string(value) : xxh3_128(value).hex();
}

// Headers by which vendors version their API; nothing that authenticates.
std::vector<std::pair<std::string, std::string>> vendor_headers(const net::HttpRequest& request) {
  constexpr std::array<std::string_view, 2> kPrefixes{"openai-", "anthropic-"};
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& [name, value] : request.headers.fields()) {
    for (const std::string_view prefix : kPrefixes) {
      const std::string_view begin = std::string_view(name).substr(0, prefix.size());
      if (net::equal_ignoring_case(begin, prefix) && value.size() <= kMaxHeaderValue) {
        out.emplace_back(name, value);
      }
    }
  }
  return out;
}

Arrival arrival_of(const OpenRollout& rollout, const Route& route, net::HttpRequest request) {
  const SessionHeaders& names = rollout.registration().session_headers;
  Arrival arrival;
  arrival.codec = llm::find_codec(route.dialect);
  arrival.dialect = route.dialect;
  arrival.target = route.target;
  arrival.session = {header(request, names.session), header(request, names.parent)};
  for (const std::string_view name : {"x-client-request-id", "idempotency-key"}) {
    if (arrival.request_id.empty()) arrival.request_id = header(request, name);
  }
  const auto retries = parse_decimal(request.headers.get_or("x-stainless-retry-count", "0"));
  arrival.retry_count = static_cast<uint32_t>(std::min<uint64_t>(retries.value_or(0), 1000));
  arrival.headers = vendor_headers(request);
  arrival.body = std::make_shared<const Bytes>(std::move(request.body));
  return arrival;
}

// One connection's part in one call.
class Delivery final : public RelayProgress {
 public:
  Delivery(std::shared_ptr<OpenRollout> rollout, const llm::Codec& codec, ResponseWriter* writer)
      : rollout_(std::move(rollout)),
        codec_(codec),
        writer_(writer),
        keep_alive_(rollout_->shard().wheel()) {}

  ~Delivery() override {
    writer_->on_peer_closed({});
    if (relayed_) parked_->progress = nullptr;
    if (parked_) rollout_->detach(parked_, &waiter_);
  }
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;

  // Decides what the connection gets, and returns the work of giving it. Only the frames of that
  // work live while a call is parked: who decides is no coroutine.
  static awaitable<void> run(std::shared_ptr<OpenRollout> rollout, const llm::Codec& codec,
                             ResponseWriter* writer, Arrival arrival) {
    auto self = std::make_unique<Delivery>(std::move(rollout), codec, writer);
    if (auto body = self->rollout_->to_read_for(arrival)) {
      auto kept = std::make_unique<Arrival>(std::move(arrival));
      return begin_behind(std::move(*body), std::move(self), std::move(kept));
    }
    return begin(std::move(self), std::move(arrival));
  }

 private:
  // What the request is compared with is read first.
  static awaitable<void> begin_behind(llm::Body body, std::unique_ptr<Delivery> self,
                                      std::unique_ptr<Arrival> arrival) {
    auto held = co_await self->rollout_->bodies().read(std::move(body));
    awaitable<void> rest = begin(std::move(self), std::move(*arrival));
    held.clear();
    arrival.reset();
    co_await std::move(rest);
  }

  static awaitable<void> begin(std::unique_ptr<Delivery> self, Arrival arrival) {
    OpenRollout::Judged judged = self->rollout_->arrive(std::move(arrival), &self->waiter_);
    if (const auto* problem = std::get_if<Problem>(&judged)) {
      return self->writer_->send_or_abort(error_response(self->codec_, *problem));
    }
    if (auto* kept = std::get_if<KeptAnswer>(&judged)) {
      if (kept->received == Received::kNever) return send_late(std::move(self), std::move(*kept));
      return self->writer_->send_or_abort(self->repeat(*kept));
    }
    self->parked_ = std::get<std::shared_ptr<ParkedCall>>(std::move(judged));
    const ParkedCall& parked = *self->parked_;
    // Whoever is answered already is not waited for: that it leaves is seen when it is written to.
    if (parked.state == State::kOpen) self->watch();
    if (parked.relay) {
      self->relayed_ = std::make_unique<Relayed>();
      self->parked_->progress = self.get();
      return relay(std::move(self));
    }
    return wait_and_conclude(std::move(self));
  }

  bool stream() const { return parked_->call->stream; }

  void watch() {
    writer_->on_peer_closed([this](net::PeerClose how) {
      // While an answer is relayed, the end of the agent's side may be no more than that.
      if (how == net::PeerClose::kFin && relayed_) return;
      (how == net::PeerClose::kFin ? waiter_.finished : waiter_.hung_up) = true;
      waiter_.wake.notify();
    });
  }

  // The same answer again, to an agent that lost it.
  net::HttpResponse repeat(const KeptAnswer& kept) {
    net::HttpResponse response =
        kept.stream
            ? ok(codec_.stream_type(kept.envelope), codec_.streamed(kept.envelope, *kept.answer))
            : net::json_response(200, codec_.plain(kept.envelope, *kept.answer));
    rollout_->count_answer_bytes(response.body.size());
    return response;
  }

  // The same to one that never had it, of which books are kept.
  static awaitable<void> send_late(std::unique_ptr<Delivery> self, KeptAnswer kept) {
    net::HttpResponse response = self->repeat(kept);
    auto arrived = co_await self->writer_->send(std::move(response));
    if (arrived) {
      const Deadline deadline = Deadline::in(self->rollout_->options().delivery_timeout);
      arrived = co_await self->writer_->drained(deadline);
    }
    if (arrived) {
      self->rollout_->received_late(kept);
    } else {
      self->writer_->abort();
    }
  }

  llm::Envelope envelope() const {
    llm::Envelope out = llm::envelope(*parked_->call);
    out.keep_alives = keep_alives_;
    out.sent = sent_;
    return out;
  }

  bool waits() const {
    return parked_->state == State::kOpen && !waiter_.hung_up && !waiter_.displaced;
  }

  // Until the call is answered or ended, or the agent is gone; then whatever that comes to. Its
  // frame is what a parked call costs, so it waits in one place, whatever it waits for; all that is
  // done meanwhile has frames of its own.
  static awaitable<void> wait_and_conclude(std::unique_ptr<Delivery> self) {
    while (!self->concluded_) {
      awaitable<void> step = self->next_step();
      co_await std::move(step);
    }
  }

  [[gnu::noinline]] awaitable<void> next_step() {
    if (!waits()) {
      concluded_ = true;
      keep_alive_.disarm();
      return conclude();
    }
    // At once: some agents give up on a call without headers after a minute.
    if (stream() && !writer_->started()) return start_stream();
    if (Bytes piece = next_piece(); !piece.empty()) return send_piece(std::move(piece));
    if (waiter_.finished && !std::exchange(saw_finish_, true)) return find_out();
    if (waiter_.due) return send_keep_alive();
    arm_keep_alive();
    return waiter_.wake.wait();
  }

  // Of an answer that goes ahead while it is made: what the agent has not got of it.
  [[gnu::noinline]] Bytes next_piece() {
    if (!rollout_->goes_ahead(*parked_)) return {};
    llm::Envelope envelope = this->envelope();
    Bytes piece = codec_.piece(envelope, llm::whole_characters(*parked_->so_far));
    sent_ = envelope.sent;
    return piece;
  }

  [[gnu::noinline]] awaitable<void> start_stream() {
    net::Headers headers = stream_headers(codec_, envelope());
    const auto started = co_await writer_->start(200, std::move(headers));
    if (!started) waiter_.hung_up = true;
  }

  bool has_frames() const {
    return stream() || rollout_->options().plain_keep_alive == PlainKeepAlive::kWhiteSpace;
  }

  // The agent's side has ended: it may be gone, or wait for its answer. A frame tells, for a kernel
  // whose process is gone resets the connection; where there are none, who knows.
  [[gnu::noinline]] awaitable<void> find_out() {
    if (!has_frames()) {
      rollout_->finished(parked_);
      co_return;
    }
    co_await send_keep_alive();
    const Deadline deadline = Deadline::in(rollout_->options().delivery_timeout);
    const auto drained = co_await writer_->drained(deadline);
    waiter_.finished = false;
    if (!drained) waiter_.hung_up = true;
  }

  [[gnu::noinline]] void arm_keep_alive() {
    if (!has_frames() || keep_alive_.armed()) return;
    keep_alive_.arm(Deadline::in(rollout_->options().keep_alive), [this] {
      waiter_.due = true;
      waiter_.wake.notify();
    });
  }

  [[gnu::noinline]] awaitable<void> send_piece(Bytes piece) {
    rollout_->count_answer_bytes(piece.size());
    const auto written = co_await writer_->write(std::move(piece));
    if (!written) waiter_.hung_up = true;
  }

  [[gnu::noinline]] awaitable<void> send_keep_alive() {
    waiter_.due = false;
    if (!writer_->started()) {
      net::Headers headers({{"Content-Type", std::string(kJson)}});
      const auto started = co_await writer_->start(200, std::move(headers));
      if (!started) waiter_.hung_up = true;
      if (!started) co_return;
    }
    Bytes frame = stream() ? codec_.keep_alive(envelope()) : Bytes("\n");
    const auto written = co_await writer_->write(std::move(frame));
    if (!written) waiter_.hung_up = true;
    ++keep_alives_;
  }

  // Whatever the wait came to: the answer, an error, or nobody there to tell.
  [[gnu::noinline]] awaitable<void> conclude() {
    if (waiter_.hung_up) {
      rollout_->hung_up(parked_, &waiter_);
      writer_->abort();
      co_return;
    }
    if (waiter_.displaced) {
      const Problem problem =
          Problem::of(ErrorCode::kAlreadyExists, "this was asked for again, and is answered there");
      co_await send_problem(problem);
      co_return;
    }
    // A call that another connection's delivery has ended is answered here all the same.
    if (parked_->state == State::kEnded && !parked_->answer) {
      const Problem problem = parked_->problem ? *parked_->problem : superseded();
      co_await send_problem(problem);
      co_return;
    }
    const bool arrived = co_await send_answer();
    if (arrived) {
      rollout_->delivered(parked_, &waiter_);
    } else {
      rollout_->hung_up(parked_, &waiter_);
      writer_->abort();
    }
  }

  static Problem superseded() {
    return Problem::of(ErrorCode::kCancelled, "this call was ended in favour of another");
  }

  // True when the agent's side has acknowledged the last byte.
  awaitable<bool> send_answer() {
    const std::shared_ptr<const llm::Answer> answer = parked_->answer;
    Bytes body =
        stream() ? codec_.streamed(envelope(), *answer) : codec_.plain(envelope(), *answer);
    const size_t bytes = body.size();
    const auto sent = co_await send_body(std::move(body));
    rollout_->count_answer_bytes(bytes);
    if (!sent) co_return false;
    const Deadline deadline = Deadline::in(rollout_->options().delivery_timeout);
    const auto drained = co_await writer_->drained(deadline);
    co_return drained.has_value();
  }

  awaitable<Result<void>> send_body(Bytes body) {
    if (!writer_->started()) {
      net::HttpResponse response =
          ok(stream() ? codec_.stream_type(envelope()) : kJson, std::move(body));
      return writer_->send(std::move(response));
    }
    return writer_->finish(std::move(body));
  }

  awaitable<void> send_problem(Problem problem) {
    if (!writer_->started()) {
      net::HttpResponse response = error_response(codec_, problem);
      co_await writer_->send_or_abort(std::move(response));
      co_return;
    }
    // The status is spent.
    std::vector<std::string> pieces;
    if (stream()) {
      pieces = codec_.streamed_error(envelope(), problem);
    } else {
      pieces.push_back(codec_.error(problem).body);
    }
    const auto sent = co_await send_pieces(std::move(pieces));
    if (!sent) writer_->abort();
  }

  // Each alone, as some clients must read them; the last with the end.
  awaitable<Result<void>> send_pieces(std::vector<std::string> pieces) {
    for (size_t i = 0; i + 1 < pieces.size(); ++i) {
      SLUICE_CO_TRY_VOID(co_await writer_->write(std::move(pieces[i])));
      SLUICE_CO_TRY_VOID(co_await net::sleep_for(llm::kBetweenPieces));
    }
    co_return co_await writer_->finish(std::move(pieces.back()));
  }

  // An answer that comes through from elsewhere. Runs in a task of its own, which the agent's
  // leaving, or the rollout's end, cancels.
  static awaitable<void> relay(std::unique_ptr<Delivery> self) {
    net::TaskGroup task(self->rollout_->shard().executor());
    task.spawn(self->copy());
    while (!self->relayed_->over && self->waits()) co_await self->waiter_.wake.wait();
    if (!self->relayed_->over) task.cancel();
    co_await task.join();
    self->finish_relay();
  }

  awaitable<void> copy() {
    const auto copied = co_await copy_pieces();
    if (!copied) {
      relayed_->failure = copied.error();
      // Nothing sent: the agent can still be told. Else it must see that the answer is broken.
      if (writer_->started() || waiter_.hung_up || parked_->state != State::kOpen) {
        writer_->abort();
      } else {
        // A connection that was cut is for trying again.
        ErrorCode code = relayed_->failure->code;
        if (code == ErrorCode::kClosed) code = ErrorCode::kUnavailable;
        const Problem problem = Problem::of(code, "the model endpoint did not answer");
        co_await send_problem(problem);
      }
    }
    relayed_->over = true;
    waiter_.wake.notify();
  }

  awaitable<Result<void>> copy_pieces() {
    const std::shared_ptr<ParkedCall> parked = parked_;
    Relay* source = parked->relay.get();
    SLUICE_CO_TRY_VOID(co_await source->open());
    relayed_->status = source->status();
    relayed_->first_byte = Clock::now();
    net::Headers headers = source->headers();
    relayed_->encoded =
        !net::equal_ignoring_case(headers.get_or("Content-Encoding", "identity"), "identity");
    if (auto started = co_await writer_->start(relayed_->status, std::move(headers)); !started) {
      waiter_.hung_up = true;
      co_return std::move(started).error();
    }
    for (;;) {
      SLUICE_CO_TRY(Bytes piece, co_await source->read_some());
      relayed_->ended = piece.empty();
      if (relayed_->ended) break;
      relayed_->bytes += piece.size();
      relayed_->heard.pass(piece);
      if (auto written = co_await writer_->write(std::move(piece)); !written) {
        waiter_.hung_up = true;
        co_return std::move(written).error();
      }
    }
    auto finished = co_await writer_->finish();
    if (finished) {
      const Deadline deadline = Deadline::in(rollout_->options().delivery_timeout);
      finished = co_await writer_->drained(deadline);
    }
    if (!finished) waiter_.hung_up = true;
    co_return finished;
  }

  void finish_relay() {
    const auto ms = [this](Clock::time_point at) {
      return std::chrono::duration<double, std::milli>(at - relayed_->began).count();
    };
    Bytes detail = fmt::format(R"({{"call":"{}","status":{},"request_bytes":{},"answer_bytes":{},)",
                               parked_->call->id.value, relayed_->status,
                               parked_->call->body.size(), relayed_->bytes);
    if (relayed_->first_byte)
      detail += fmt::format(R"("head_ms":{:.3f},)", ms(*relayed_->first_byte));
    detail += fmt::format(R"("end_ms":{:.3f})", ms(Clock::now()));
    append_said(detail, relayed_->heard.said(codec_));
    detail.push_back('}');
    rollout_->event("relay", detail);
    rollout_->count_answer_bytes(relayed_->bytes);

    const auto part = upstreams_part();
    Outcome outcome = Outcome::kDelivered;
    std::string why = size_text();
    if (waiter_.hung_up) {
      outcome = Outcome::kUndelivered;
      why = "the agent hung up: " + why;
    } else if (!part || !part->empty()) {
      // Of what was cut the agent has a part, and may go on with that.
      const bool cut = relayed_->first_byte && relayed_->status < 400;
      outcome = cut ? Outcome::kUndelivered : Outcome::kFailed;
      why = part.value_or(why);
    }
    rollout_->relayed(parked_, outcome, why);
  }

  std::string size_text() const {
    return fmt::format("status {}, {} bytes", relayed_->status, relayed_->bytes);
  }

  std::optional<std::string> upstreams_part() const override {
    if (relayed_->failure && !waiter_.hung_up) return relayed_->failure->message;
    if (relayed_->status >= 400) return size_text();
    const llm::Said said = relayed_->heard.said(codec_);
    if (relayed_->heard.finished(said)) return "";
    if (!relayed_->ended) return std::nullopt;
    if (relayed_->encoded) return "";  // it cannot be looked into
    if (stream()) return "the stream ended before its finish: " + size_text();
    return relayed_->heard.answers(said) ? "" : "no answer of the dialect: " + size_text();
  }

  // Of keys, quotas, hurry and a wrong URL whoever asks is innocent.
  bool is_objection() const override {
    constexpr std::array kNotHis{401, 402, 403, 404, 407, 408, 429};
    const int status = relayed_->status;
    return status >= 400 && status < 500 && !relayed_->failure &&
           std::find(kNotHis.begin(), kNotHis.end(), status) == kNotHis.end();
  }

  // Of an answer that is relayed.
  struct Relayed {
    bool over = false;
    bool ended = false;  // the upstream's side
    bool encoded = false;
    int status = 0;
    uint64_t bytes = 0;
    Heard heard;
    std::optional<Error> failure;
    const Clock::time_point began = Clock::now();
    std::optional<Clock::time_point> first_byte;
  };

  const std::shared_ptr<OpenRollout> rollout_;
  const llm::Codec& codec_;
  ResponseWriter* const writer_;
  Waiter waiter_;
  net::Wheel::Timer keep_alive_;
  std::shared_ptr<ParkedCall> parked_;
  bool concluded_ = false;
  bool saw_finish_ = false;
  uint32_t keep_alives_ = 0;
  llm::Sent sent_;
  std::unique_ptr<Relayed> relayed_;
};

awaitable<void> send_problem(std::shared_ptr<OpenRollout> rollout, Route route, Problem problem,
                             int status, ResponseWriter* writer) {
  rollout->note_refusal(problem);
  net::HttpResponse response = error_response(route, status, problem);
  if (!route.allow.empty()) response.headers.add("Allow", std::string(route.allow));
  if (status == 415) response.headers.add("Accept-Encoding", std::string(net::kContentCodings));
  if (status == 426) response.headers.add("Upgrade", "HTTP/1.1");  // RFC 9110, section 15.5.22
  co_await writer->send_or_abort(std::move(response));
}

// No call: nobody is asked, nothing is kept.
net::HttpResponse count_tokens(OpenRollout& rollout, const llm::Codec& codec,
                               const llm::Target& target, const Bytes& body) {
  auto counted = codec.count_tokens(rollout.peeker(), body, target);
  if (counted) return net::json_response(200, std::move(*counted));
  const Problem problem = Problem::of(counted.error());
  rollout.note_refusal(problem);
  return error_response(codec, problem);
}

awaitable<void> serve_body(std::shared_ptr<OpenRollout> rollout, const Route& route,
                           net::HttpRequest request, ResponseWriter* writer) {
  const llm::Codec& codec = *llm::find_codec(route.dialect);
  if (route.kind == Route::Kind::kCount) {
    return writer->send_or_abort(count_tokens(*rollout, codec, route.target, request.body));
  }
  Arrival arrival = arrival_of(*rollout, route, std::move(request));
  return Delivery::run(std::move(rollout), codec, writer, std::move(arrival));
}

// Once it is inflated a body is like any other.
awaitable<void> serve_coded(std::shared_ptr<OpenRollout> rollout, Route route, std::string coding,
                            net::HttpRequest request, ResponseWriter* writer) {
  const size_t max = rollout->options().body_bytes;
  Bytes coded = std::move(request.body);
  auto body = co_await rollout->bodies().inflate(std::move(coding), std::move(coded), max);
  rollout->end_inflating();
  if (!body) {
    const int status = body.error().code == ErrorCode::kTooLarge ? 413 : 400;
    Problem problem = Problem::of(body.error().code, body.error().message);
    co_await send_problem(std::move(rollout), std::move(route), std::move(problem), status, writer);
    co_return;
  }
  request.body = std::move(*body);
  awaitable<void> rest = serve_body(std::move(rollout), route, std::move(request), writer);
  co_await std::move(rest);
}

}  // namespace

// No coroutine itself: its frame, with room for every kind of answer, would live as long as a
// parked call.
awaitable<void> handle(std::shared_ptr<OpenRollout> rollout, net::HttpRequest request,
                       ResponseWriter* writer) {
  const Registration& registration = rollout->registration();
  Route found = route(request, registration.id);
  const llm::Codec& codec = *llm::find_codec(found.dialect);
  const auto refuse = [&](ErrorCode kind, std::string message, int status) {
    return send_problem(rollout, found, Problem::of(kind, std::move(message)), status, writer);
  };
  switch (found.kind) {
    case Route::Kind::kCall:
    case Route::Kind::kCount: {
      if (!registration.dialects.contains(found.dialect)) {
        return refuse(
            ErrorCode::kNotFound,
            fmt::format("this endpoint does not speak the dialect {}", to_string(found.dialect)),
            404);
      }
      if (auto refused = rollout->charge()) {
        return writer->send_or_abort(error_response(codec, *refused));
      }
      std::string coding(request.headers.get_or("Content-Encoding", "identity"));
      if (net::equal_ignoring_case(coding, "identity")) {
        return serve_body(std::move(rollout), found, std::move(request), writer);
      }
      if (!net::is_content_coding(coding)) {
        return refuse(ErrorCode::kInvalidArgument,
                      fmt::format("a body is sent as it is, or as {}", net::kContentCodings), 415);
      }
      if (!rollout->begin_inflating()) {
        return refuse(ErrorCode::kUnavailable, "too many compressed bodies at once", 503);
      }
      return serve_coded(std::move(rollout), std::move(found), std::move(coding),
                         std::move(request), writer);
    }
    case Route::Kind::kModels:
      return writer->send_or_abort(net::json_response(200, codec.models(registration.models)));
    case Route::Kind::kModel: {
      const auto& models = registration.models;
      if (std::find(models.begin(), models.end(), found.target.model) != models.end()) {
        return writer->send_or_abort(net::json_response(200, codec.model(found.target.model)));
      }
      Problem problem = Problem::of(ErrorCode::kNotFound, "no such model");
      if (found.dialect == llm::Dialect::kChat) problem.code = "model_not_found";  // OpenAI's word
      return send_problem(std::move(rollout), std::move(found), std::move(problem), 404, writer);
    }
    case Route::Kind::kMcp:
      return serve_mcp(std::move(rollout), std::move(request), writer);
    case Route::Kind::kTool:
      return serve_tool(std::move(rollout), std::move(found.tool), std::move(request), writer);
    case Route::Kind::kExit:
      rollout->agent_exited();
      return writer->send_or_abort(net::json_response(200, R"({"status": "ok"})"));
    case Route::Kind::kAlive:
      return writer->send_or_abort(net::json_response(200, ""));
    case Route::Kind::kWrongMethod:
      return refuse(ErrorCode::kInvalidArgument,
                    fmt::format("{} is not allowed here; use {}", request.method, found.allow),
                    405);
    case Route::Kind::kWebSocket:
      // Codex then goes on by HTTP at once; after another error it dials for seconds.
      return refuse(ErrorCode::kInvalidArgument, "WebSocket is not spoken here; POST to this path",
                    426);
    case Route::Kind::kOtherRollout:
      return refuse(ErrorCode::kNotFound, "rollout not found", 404);
    case Route::Kind::kUnknown:
      break;
  }
  return refuse(ErrorCode::kNotFound, "no such path", 404);
}

net::HttpResponse refuse_early(OpenRollout& rollout, const net::HttpRequest& request, int status,
                               const Error& error) {
  const Problem problem = Problem::of(error.code, error.message);
  rollout.note_refusal(problem);
  return error_response(route(request, rollout.registration().id), status, problem);
}

net::HttpResponse error_response(const Route& route, int status, const Problem& problem) {
  if (route.errors == Route::Errors::kPlain) return plain_error(status, problem.message);
  net::HttpResponse response = error_response(*llm::find_codec(route.dialect), problem);
  response.status = status;
  return response;
}

}  // namespace sluice::gate::http
